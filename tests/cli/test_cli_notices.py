"""Warnings of libraries are shown with -v alone; those of hwbench are one line each, once."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from hwbench.cli.notices import notices


def warn_of_everything() -> None:
    warnings.warn_explicit("an old function", DeprecationWarning, "library.py", 7)
    logger = logging.getLogger("hwbench.some.part")
    for _ in range(2):
        logger.warning("a record is\nleft \x1b[31mout")
    logger.info("a detail")


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.filterwarnings("always::DeprecationWarning")
def test_what_is_shown(capsys, *, verbose):
    with notices(verbose=verbose):
        warn_of_everything()
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert sum("a record is left" in line for line in lines) == 1
    assert all(line.startswith("hwbench: ") for line in lines)
    assert "\x1b" not in shown.err
    assert "a detail" not in shown.err
    assert any("an old function" in line for line in lines) == verbose


def test_all_is_as_before_afterwards():
    loggers = [logging.getLogger(name) for name in ("hwbench", "py.warnings")]
    before = [(list(logger.handlers), logger.propagate) for logger in loggers]
    show = warnings.showwarning
    with notices(verbose=True):
        assert warnings.showwarning is not show
    assert warnings.showwarning is show
    assert [(list(logger.handlers), logger.propagate) for logger in loggers] == before
    assert sys.stderr
