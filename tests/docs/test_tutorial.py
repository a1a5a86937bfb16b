"""Every command of the tutorial is run, exactly as shown, one after the other in a fresh folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks

VERDICTS = {"0", "1", "5"}
"""Exit codes of a comparison that was made; which one, a noisy machine decides."""

GOES_ON = "the same command goes on from there"
"""What hwbench says when its budget was too short: on a busy machine little fits into it."""
REPEATS = 10


def run(
    command: str, folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_works(tmp_path):
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "LANG": "C.UTF-8",
    }
    folder = tmp_path / "tutorial"
    folder.mkdir()
    commands = blocks("tutorial.md", "shell")
    assert len(commands) > 5
    for command in commands:
        done = run(command, folder, environment)
        for _ in range(REPEATS):
            if GOES_ON not in done.stderr:
                break
            done = run(command, folder, environment)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert set(re.findall(r"^exit code (\d+)$", done.stdout, re.MULTILINE)) <= VERDICTS, (
            f"{command}\n{done.stderr[-2000:]}"
        )
        assert "hwbench: error" not in done.stderr, done.stderr
