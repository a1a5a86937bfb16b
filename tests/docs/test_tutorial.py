"""Every command of the tutorial is run, exactly as shown, one after the other in a fresh folder."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import blocks
from tests.docs.shell import make_environment, run

VERDICTS = {"0", "1", "5"}
"""Exit codes of a comparison that was made; which one, a noisy machine decides."""

GOES_ON = "the same command goes on from there"
"""What hwbench says when its budget was too short: on a busy machine little fits into it."""
REPEATS = 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_works(tmp_path):
    environment = make_environment(tmp_path)
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
