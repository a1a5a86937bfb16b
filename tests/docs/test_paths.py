"""Every command of the pages that begin where a reader stands is run, exactly as shown."""

from __future__ import annotations

import pytest

from tests.docs.pages import blocks
from tests.docs.shell import make_environment, run

PAGES = ("ci.md",)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_works(tmp_path, page):
    environment = make_environment(tmp_path)
    folder = tmp_path / "work"
    folder.mkdir()
    commands = blocks(page, "shell")
    assert commands
    for command in commands:
        done = run(command, folder, environment)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "hwbench: error" not in done.stderr, done.stderr
