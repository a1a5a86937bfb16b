"""A wheel works in an empty environment, far from the checkout, and brings the native runner's
source.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.needs import needs_compiler
from tests.support.models import conv_net

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


def run(*argv: str | Path, cwd: Path) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        "XDG_CACHE_HOME": str(cwd / "cache"),
        "XDG_DATA_HOME": str(cwd / "data"),
    }
    found = subprocess.run(
        [str(part) for part in argv],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    return found.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def wheel(place) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)],
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def python(place, wheel) -> Path:
    """An environment with the wheel alone.

    Its requirements, too large to install anew, are lent by ours.
    """
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(place / "venv")],
        check=True,
        timeout=120,
    )
    interpreter = place / "venv" / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(interpreter),
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(install, check=True, timeout=120)
    packages = next((place / "venv" / "lib").glob("python*/site-packages"))
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def test_wheel_holds_the_package_and_the_runner_but_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for source in ("hwbench_runner.c", "hwbench_litert.c", "plan.h"):
        assert f"hwbench/devices/shared/runner/{source}" in names
    assert "hwbench/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "runners/", "results/"))]


def test_the_installed_package_is_not_the_checkout(python, place):
    found = Path(run(python, "-c", "import hwbench; print(hwbench.__file__)", cwd=place).strip())
    assert found.is_relative_to(place)


@needs_compiler
def test_profile_works_from_the_wheel(python, place):
    (place / "net.onnx").write_bytes(conv_net())
    for budget in ("2", "60"):  # a busy computer has no time for layers within two seconds
        command = ["profile", "net.onnx", "--budget", budget, "--no-save", "--json", "-"]
        record = json.loads(run(python.parent / "hwbench", *command, cwd=place))
        assert record["median_s"] > 0
        if record["layers"]:
            break
    assert record["layers"]
    source = run(
        python,
        "-c",
        "from hwbench.devices.shared.runner.build import runner_source; print(runner_source())",
        cwd=place,
    )
    assert Path(source.strip()).is_relative_to(place)


def test_pinned_packages_run_on_the_oldest_python():
    """Debian 12 has Python 3.11.2; a package that needs a later 3.11 cannot be installed there."""
    too_new = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, pinned = line.partition("==")
        try:
            facts = metadata(name)
        except PackageNotFoundError:
            continue  # of another system
        needed = SpecifierSet(facts.get("Requires-Python") or "")
        if facts["Version"] == pinned and not needed.contains("3.11.2"):
            too_new.append(f"{line} needs Python {needed}")
    assert not too_new
