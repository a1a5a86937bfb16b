"""Progress on standard error, and only on a terminal: stage, session, time, the estimate so far."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hwbench.cli.options import Keeping
from hwbench.profiling import Watch
from hwbench.render.units import bar, interval, interval_s, printable, seconds, times
from hwbench.render.views import SHORT_ID
from hwbench.stats import Estimate, Ratio

if TYPE_CHECKING:
    from hwbench.measurement import Measurement

REDRAW_S = 0.25
"""Seconds between two redraws."""
BAR = 20
"""Width of the bar in characters."""


class Progress(Watch):
    """A context manager around one workflow.

    It draws only when told of something, which is between timed rounds: a thread that redraws by the clock would take the
    interpreter away from the rounds themselves. Whatever a model's code prints meanwhile goes to standard error, so that
    standard output holds the result alone.

    Args:
        stage: What happens first.
        keeping: Where samples go, so that they outlive an interruption.
    """

    def __init__(self, stage: str, keeping: Keeping) -> None:
        self._stage, self._keeping = stage, keeping
        self._records: Sequence[Measurement] = ()
        self._samples, self._session, self._so_far = 0, 0, ""
        self._begun = self._drawn = time.monotonic()
        self._stack = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            console = Console(stderr=True, highlight=False)
            self._live = self._stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
        self._stack.enter_context(redirect_stdout(sys.stderr))
        self._draw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        if error is None:
            return
        if self._samples and not self._keeping.no_save:
            error.add_note(f"what was measured is kept: {self._keeping.show(self._records[0].id[:SHORT_ID])}")
        elif isinstance(error, KeyboardInterrupt):
            error.add_note("nothing is kept" if self._samples else "nothing was measured yet")

    def stage(self, text: str) -> None:
        """Say what happens next."""
        self._stage = text
        self._draw()

    def started(self, records: Sequence[Measurement]) -> None:
        self._records, self._session, self._so_far, self._samples = records, 0, "", 0
        self._begun = time.monotonic()
        self._draw()

    def sampled(self, record: int, session: int, samples_s: Sequence[float], blocks: Sequence[int], *, warm_up: bool) -> None:
        self._session, self._samples = session, self._samples + len(samples_s)
        if time.monotonic() - self._drawn > REDRAW_S:
            self._draw()

    def looked(self, sessions: int, elapsed_s: float, so_far: Estimate | Sequence[Ratio]) -> None:
        self._so_far = _estimate(so_far) if sessions > 1 else ""
        self._draw()

    def _draw(self) -> None:
        if self._live is None:
            return
        self._drawn = time.monotonic()
        self._live.update(Text(printable(self._line()), no_wrap=True, overflow="ellipsis"), refresh=True)

    def _line(self) -> str:
        if not self._records:
            return f"{self._stage} ..."
        elapsed_s, budget_s = time.monotonic() - self._begun, self._records[0].settings.budget_s
        done = bar(elapsed_s / budget_s, BAR).ljust(BAR)
        said = f"{self._stage}: session {self._session + 1} |{done}| {elapsed_s:.0f} of at most {budget_s:g} s"
        return f"{said}, {self._so_far}" if self._so_far else said


def _estimate(so_far: Estimate | Sequence[Ratio]) -> str:
    """What is known after a session, with its 95 % interval."""
    if isinstance(so_far, Estimate):
        return f"{seconds(so_far.estimate)} ({interval_s(so_far.ci, so_far.estimate)})"
    return ", ".join(f"ratio {times(one.ratio)} ({interval(one.ci, one.ratio)})" for one in so_far)
