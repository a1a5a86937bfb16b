"""One line on standard error that says how far the work is."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hwbench.cli.options import Keeping
from hwbench.render.units import printable

PLAIN_S = 30.0
"""Seconds between two lines where standard error is no terminal."""


class LiveLine:
    """A line that is drawn again in its place; where standard error is no terminal, now and then.

    It is drawn only when told of something, which is between timed rounds: a thread that redraws by
    the clock would take the interpreter away from the rounds themselves.
    """

    def __init__(self) -> None:
        self._live: Live | None = None
        self._begun_s = self._written_s = time.monotonic()

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees the line being drawn."""
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
        """Draw the line with this text; on no terminal, write it if none was written for long."""
        if self._live is not None:
            line = Text(printable(text), no_wrap=True, overflow="ellipsis")
            self._live.update(line, refresh=True)
        elif time.monotonic() - self._written_s >= PLAIN_S:
            self.write(text)

    def write(self, text: str) -> None:
        """Write a line that stays."""
        self._written_s = time.monotonic()
        if self._live is not None:
            self._live.console.print(Text(printable(text)))
            return
        passed_s = self._written_s - self._begun_s
        sys.stderr.write(f"hwbench: {passed_s:.0f} s: {printable(text)}\n")
        sys.stderr.flush()


class Ticker:
    """Calls a function every `PLAIN_S` seconds, from a thread, between `start` and `stop`.

    For work that tells nobody how far it is, as training; never while rounds are timed.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._stopped: threading.Event | None = None

    def start(self) -> None:
        """Begin to call, unless it has begun."""
        if self._stopped is None:
            self._stopped = threading.Event()
            threading.Thread(target=self._run, args=(self._stopped,), daemon=True).start()

    def stop(self) -> None:
        """Call no more."""
        if self._stopped is not None:
            self._stopped.set()
            self._stopped = None

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.wait(PLAIN_S):
            self._tick()


def describe_kept(done: str, keeping: Keeping) -> str:
    """Say what is left of work that was ended early: `3 trials so far; nothing is kept`."""
    kept = "nothing is kept" if keeping.no_save else "the same command goes on from there"
    return f"{done} so far; {kept}"
