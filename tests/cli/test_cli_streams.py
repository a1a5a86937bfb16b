"""Standard streams that are closed, full, or whose reader left never change what a command found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwbench.cli.streams import usable_streams
from tests.support.models import conv_net

pytestmark = pytest.mark.slow  # starts dozens of processes, or searches

VIRTUAL = ("--device", "virtual")
COMMANDS = {
    "help": (("--help",), 0),
    "doctor": (("doctor",), 0),
    "devices": (("devices",), 0),
    "store": (("store", "list"), 0),
    "export": (("store", "export"), 0),
    "table": (("table", "list"), 0),
    "profile": (("profile", "big.onnx", *VIRTUAL), 0),
    "json": (("profile", "big.onnx", *VIRTUAL, "--json", "-"), 0),
    "slower": (("compare", "small.onnx", "big.onnx", *VIRTUAL), 1),
    "faster": (("compare", "big.onnx", "small.onnx", *VIRTUAL), 0),
    "wrong": (("profile", "missing.onnx", *VIRTUAL), 2),
    "lost": (("profile", "big.onnx", "--device", "virtual:fault=lost@500"), 3),
}
"""Cheap commands, and how each of them ends."""
WRITING = ["help", "export", "table", "profile", "json", "slower"]
"""One of each way in which commands write their result to standard output."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models and a store with one measurement."""
    path = tmp_path_factory.mktemp("streams")
    (path / "big.onnx").write_bytes(conv_net((64, 64)))
    (path / "small.onnx").write_bytes(conv_net((32, 32)))
    assert run(path, COMMANDS["profile"][0], "").returncode == 0
    return path


def run(folder: Path, words: tuple[str, ...], redirection: str, before: str = ""):
    """Run a command in a shell that redirects its streams."""
    environment = {**os.environ, "HWBENCH_STORE": str(folder / "store.db")}
    script = f'{before}"$0" -m hwbench "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", script, sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "redirection"),
    [
        *((name, ">&- 2>&- <&-") for name in COMMANDS),
        ("slower", "2>/dev/full"),
        ("lost", "2>/dev/full"),
        ("slower", "2>&-"),
    ],
)
def test_a_closed_or_full_stream_does_not_change_the_exit_code(folder, name, redirection):
    words, code = COMMANDS[name]
    assert run(folder, words, redirection).returncode == code


@pytest.mark.parametrize("name", WRITING)
def test_a_full_standard_output_is_one_line_and_code_2(folder, name):
    done = run(folder, COMMANDS[name][0], ">/dev/full")
    assert (
        done.stderr == "hwbench: error: cannot write to standard output: No space left on device\n"
    )
    assert done.returncode == 2


@pytest.mark.parametrize("name", WRITING)
def test_a_reader_that_left_ends_a_command_quietly(folder, name):
    # Its reader closes the pipe before anything is written.
    done = run(folder, COMMANDS[name][0], "| true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (141, "")


def test_a_closed_standard_error_is_not_given_to_the_store(folder):
    store = folder / "fresh.db"
    words = (*COMMANDS["profile"][0], "--store", str(store))
    assert run(folder, words, "2>&- >&-").returncode == 0
    assert run(folder, ("store", "list", "--store", str(store)), "").stdout.count("virtual") == 1


def test_streams_of_others_are_left_alone(capsys):
    before = sys.stdout, sys.stderr
    with usable_streams():
        assert (sys.stdout, sys.stderr) == before
        sys.stdout.write("seen")
    assert capsys.readouterr().out == "seen"
