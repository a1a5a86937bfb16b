"""Optional libraries: every way in which one can be missing is one error with a command that works."""

from __future__ import annotations

import shlex
import sys
import tomllib
from importlib.metadata import version

import pytest

from hwbench import optional
from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.optional import DISTRIBUTION, import_optional, install_command, requirements
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_the_distribution_is_ours():
    assert PROJECT["name"] == DISTRIBUTION
    assert version(DISTRIBUTION) == PROJECT["version"]


def _plain(requirement: str) -> str:
    return requirement.replace(" ", "").replace("'", "").replace('"', "")


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_installs_what_the_project_says(extra):
    names = {_plain(name).split(">")[0].split("=")[0] for name in requirements(extra)}
    assert names == {_plain(name).split(">")[0].split("=")[0] for name in EXTRAS[extra]}


def test_the_command_is_one_that_a_shell_takes_for_this_interpreter():
    words = shlex.split(install_command("android"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[4:] == list(requirements("android"))


def test_without_pip_the_command_is_that_of_uv(monkeypatch):
    monkeypatch.setattr(optional, "find_spec", lambda _: None)
    assert shlex.split(install_command("lab"))[:4] == ["uv", "pip", "install", "--python"]


def test_a_folder_that_was_never_installed_names_the_distribution(monkeypatch):
    monkeypatch.setattr(optional, "DISTRIBUTION", "no-such-distribution")
    assert requirements("android") == ()
    assert install_command("android").endswith("no-such-distribution[android]'")


@pytest.mark.parametrize(
    "code",
    [
        "import no_such_module_at_all",
        "raise ImportError('libfoo.so.1: cannot open shared object file')",
        "raise FileNotFoundError('no libusb-1.0')",
        "raise OSError('wrong ELF class')",
        "raise AttributeError('module has no attribute x')",
        "raise RuntimeError('numpy is too old')",
        "raise SystemError",
        "1 +",
    ],
)
def test_every_way_of_missing_is_one_error(code, tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_library", raising=False)
    with pytest.raises(DeviceUnavailableError) as caught:
        import_optional("broken_library", "android", "phones", DeviceUnavailableError)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith("phones need broken_library, which does not load")
    assert install_command("android") in text


def test_a_module_that_is_absent_is_a_usage_error():
    with pytest.raises(UsageError, match="pictures need no_such_module"):
        import_optional("no_such_module.sub", "report", "pictures")
