"""`make setup` takes PyTorch's build for the CPU where no NVIDIA GPU is, and says what it does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FAKE_PYTHON = """#!/bin/sh
# Python as the Makefile calls it: writes down what it was asked for.
echo "$*" >> "$CALLS"
case "$*" in
    *"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
    *download.pytorch.org*) exit "${CPU_BUILD:-0}";;
esac
"""


def set_up(folder: Path, *, gpu: bool = False, cpu_build: int = 0) -> tuple[str, list[str]]:
    """Run `make setup` with a fake Python; what it says, and what it asked of pip."""
    programs = folder / "programs"
    programs.mkdir()
    python = programs / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    if gpu:
        shutil.copy("/bin/true", programs / "nvidia-smi")
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(folder / "calls"),
        "CPU_BUILD": str(cpu_build),
    }
    done = subprocess.run(
        ["make", ".venv/.done", f"PYTHON={python}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    calls = (folder / "calls").read_text().splitlines()
    return done.stdout, [call for call in calls if "pip install" in call]


pytestmark = [
    pytest.mark.skipif(shutil.which("make") is None, reason="needs make"),
    pytest.mark.skipif(
        shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists(),
        reason="needs a computer without an NVIDIA GPU",
    ),
]


def test_without_a_gpu_the_cpu_build_comes_first(tmp_path):
    said, installed = set_up(tmp_path)
    assert [line.split(":")[0] for line in said.splitlines()] == [
        f"setup {step}/4" for step in (1, 2, 3, 4)
    ]
    assert installed[1].endswith("--index-url https://download.pytorch.org/whl/cpu torch")
    assert installed[2].endswith("-e .[android,litert,search,report,pytest,lab]")


def test_where_it_cannot_be_fetched_the_index_decides(tmp_path):
    said, installed = set_up(tmp_path, cpu_build=1)
    assert "the CPU build cannot be fetched; that of the package index comes next" in said
    assert installed[2].endswith("-e .[android,litert,search,report,pytest,lab]")


def test_with_a_gpu_the_index_decides(tmp_path):
    said, installed = set_up(tmp_path, gpu=True)
    assert "setup 2/4: PyTorch as the package index has it" in said
    assert not [call for call in installed if "pytorch.org" in call]
