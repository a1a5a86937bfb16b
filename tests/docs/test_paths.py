"""Every command of the pages that begin where a reader stands is run, exactly as shown.

So are the blocks of Python of those that are about loops, one after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.docs.pages import blocks
from tests.docs.shell import make_environment, run

PAGES = ("ci.md", "two_files.md", "install.md")


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.timeout(1200)
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


@pytest.mark.slow
@pytest.mark.torch
def test_the_search_of_architectures_finds_networks_within_the_budget(
    monkeypatch, tmp_path, capsys
):
    pytest.importorskip("optuna")
    monkeypatch.setenv("HWBENCH_STORE", str(tmp_path / "store.db"))
    names: dict[str, Any] = {}
    for number, code in enumerate(blocks("architectures.md", "python")):
        exec(compile(code, f"architectures.md, {number}", "exec", dont_inherit=True), names)
    predicted_s = names["latency"].predict_widths(np.array(names["population"]))
    assert (predicted_s <= names["budget_s"]).all()
    assert len(names["study"].trials) == 12
    assert names["front"], "a front has at least one network"
    assert names["ranking"].best.ratio < 1
    assert names["comparison"].verdict.value == "FASTER"
    assert "fastest: " in capsys.readouterr().out
