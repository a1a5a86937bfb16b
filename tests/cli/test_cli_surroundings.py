"""What the operating system refuses is one line with the place and the remedy, never a fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import needs_compiler
from tests.support.models import conv_net

pytestmark = pytest.mark.slow  # starts dozens of processes, or searches

PROFILE = ("profile", "{folder}/big.onnx", "--device", "virtual")
ISOLATED = ("profile", "{folder}/big.onnx", "--device", "cpu", "--isolate", "--no-save")
ALL = [("doctor",), ("devices",), ("store", "list"), ("table", "list"), ("report",), PROFILE]
WRITING = [("report",), PROFILE, ("store", "export", "all.jsonl")]
NOWHERE = "/proc/nowhere"
"""A folder that nobody can make, root included."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and a store that holds its measurement."""
    path = tmp_path_factory.mktemp("surroundings")
    (path / "big.onnx").write_bytes(conv_net((64, 64)))
    done = run(path, "", PROFILE)
    assert done.returncode == 0, done.stderr
    return path


def run(folder: Path, before: str, words: tuple[str, ...], **variables: str | None):
    """Run a command in a shell, after other commands of the shell."""
    environment = {**os.environ, "HWBENCH_STORE": str(folder / "store.db")}
    for name, value in variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return subprocess.run(
        ["bash", "-c", f'{before}\n"$0" -m hwbench "$@"', sys.executable]
        + [word.format(folder=folder) for word in words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def check_one_line(done, said: str = "") -> None:
    """The command did what it was to do, or says in one line why not."""
    assert done.returncode in {0, 2, 3}, done.stderr
    if done.returncode:
        assert done.stderr.startswith("hwbench: error: "), done.stderr
        assert done.stderr.count("\n") == 1
        assert said in done.stderr


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_without_a_home_that_can_be_made(folder, words):
    variables = dict.fromkeys(("HWBENCH_STORE", "XDG_CACHE_HOME", "XDG_DATA_HOME"))
    check_one_line(run(folder, "", words, HOME=NOWHERE, **variables), NOWHERE)


STRANGER = (
    "setpriv --reuid 43210 --regid 43210 --clear-groups"
    " --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
)
"""A user without an entry in /etc/passwd; it may read everything, as Python may lie in a home."""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user without a name")
@pytest.mark.parametrize("words", [("doctor",), ("devices",), ("store", "list")], ids=" ".join)
def test_as_a_user_without_a_name_and_a_home(folder, tmp_path, words):
    tmp_path.chmod(0o777)
    gone = dict.fromkeys(("HOME", "HWBENCH_STORE", "XDG_CACHE_HOME", "XDG_DATA_HOME"))
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    done = subprocess.run(
        [*STRANGER.split(), sys.executable, "-m", "hwbench", *words],
        cwd=folder,
        env=environment | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if words[0] == "store":  # which is to be kept, so that it needs a place
        check_one_line(done, "HWBENCH_STORE")
        assert done.returncode == 2
    else:
        assert done.returncode == 0, done.stderr
    if words[0] == "doctor":
        assert "hwbench: no home folder" in done.stderr
        assert done.stderr.count("\n") == 1
        assert (tmp_path / "hwbench-43210").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_in_a_folder_that_is_gone(folder, words):
    before = "mkdir gone && cd gone && rmdir ../gone"
    check_one_line(run(folder, before, words, HWBENCH_STORE="store.db"), "folder is gone")


@pytest.mark.parametrize("words", WRITING, ids=" ".join)
def test_with_a_disk_that_is_full(folder, words):
    # The limit of a file's size stands in for it: 4 blocks of a kilobyte.
    done = run(folder, "ulimit -f 4; rm -f all.jsonl report.html", words)
    assert done.returncode == 2
    check_one_line(done)
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize(
    "words",
    [
        ("store", "list", "--store", f"{NOWHERE}/s.db"),
        (*PROFILE, "--store", "/proc/s.db"),
        ("report", "-o", "/proc/page.html"),
        ("store", "export", "/proc/all.jsonl"),
        (*PROFILE, "--json", "/proc/all.json"),
        (*PROFILE, "--store", "~nobody-of-this-name/s.db"),
    ],
    ids=" ".join,
)
def test_in_places_that_cannot_be_written(folder, words):
    done = run(folder, "", words)
    assert done.returncode == 2
    check_one_line(done, words[-1].partition("/s.db")[0])


@pytest.mark.parametrize("words", [PROFILE, ISOLATED], ids=["virtual", "isolated"])
@pytest.mark.parametrize("before", ["ulimit -n 64", "taskset -c 0 true && taskset -pc 0 $$ >&2"])
@needs_compiler
def test_with_few_files_or_one_core(folder, before, words):
    done = run(folder, f"{{ {before}; }} 2>/dev/null", words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("files", [6, 9, 12, 16])
def test_with_too_few_files(folder, files):
    check_one_line(run(folder, f"ulimit -n {files}", PROFILE))


@needs_compiler
def test_without_a_folder_for_temporary_files(folder):
    check_one_line(run(folder, "", ISOLATED, TMPDIR=NOWHERE))


def test_with_a_compiler_that_is_no_command(folder):
    done = run(folder, "", ISOLATED, CC="gcc '")
    assert done.returncode == 2
    check_one_line(done, "gcc '")


@pytest.mark.parametrize(
    "model",
    [
        "zoo:mobilenet_v1@1.0,classes=99999999999",
        "zoo:mobilenet_v1,classes=16777216",
        "zoo:vgg16@" + "-".join(["99999999999"] * 15),
        "zoo:vgg16@" + "-".join(["16777216"] * 15),
        "zoo:resnet18@" + "9" * 5000,
    ],
    ids=lambda model: model[:30],
)
def test_networks_of_the_zoo_that_fit_nowhere(folder, model):
    done = run(folder, "ulimit -v 16000000", ("profile", model, "--device", "virtual"))
    assert done.returncode == 2
    check_one_line(done, "zoo")
