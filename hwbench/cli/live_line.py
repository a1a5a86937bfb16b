"""One line on standard error, and only on a terminal, that says how far the work is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hwbench.cli.options import Keeping
from hwbench.render.units import printable


class LiveLine:
    """A line that is drawn again in its place; nothing where standard error is no terminal.

    It is drawn only when told of something, which is between timed rounds: a thread that redraws by
    the clock would take the interpreter away from the rounds themselves.
    """

    def __init__(self) -> None:
        self._live: Live | None = None

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees the line."""
        return self._live is not None

    @contextmanager
    def display(self) -> Iterator[None]:
        """Show the line for as long as the block lasts.

        Whatever a model's code prints meanwhile goes to standard error, so that standard output
        holds the result alone.
        """
        if sys.stderr.isatty():
            console = Console(stderr=True, highlight=False)
            self._live = Live(console=console, auto_refresh=False, transient=True)
        with self._live or nullcontext(), redirect_stdout(sys.stderr):
            yield

    def show(self, text: str) -> None:
        """Draw the line with this text."""
        if self._live is not None:
            line = Text(printable(text), no_wrap=True, overflow="ellipsis")
            self._live.update(line, refresh=True)


def describe_kept(done: str, keeping: Keeping) -> str:
    """Say what is left of work that was ended early: `3 trials so far; nothing is kept`."""
    kept = "nothing is kept" if keeping.no_save else "the same command goes on from there"
    return f"{done} so far; {kept}"
