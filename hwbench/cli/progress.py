"""Progress on standard error, and only on a terminal: stage, session, time, the estimate so far."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hwbench.cli.options import Keeping
from hwbench.errors import StoreUnavailableError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.render.units import bar, interval, interval_s, printable, seconds, times
from hwbench.render.views import SHORT_ID
from hwbench.stats import Estimate, Ratio

if TYPE_CHECKING:
    from hwbench.records.measurement import Measurement

REDRAW_S = 0.25
"""Seconds between two redraws."""
BAR = 20
"""Width of the bar in characters."""


class Progress:
    """A context manager around one workflow; gives the callback to hand to the workflow.

    It draws only when told of something, which is between timed rounds: a thread that redraws by
    the clock would take the interpreter away from the rounds themselves. Whatever a model's code
    prints meanwhile goes to standard error, so that standard output holds the result alone.

    Args:
        models: What is read first.
        keeping: Where samples go, so that they outlive an interruption.
    """

    def __init__(self, models: str, keeping: Keeping) -> None:
        self._keeping = keeping
        self._stack = ExitStack()
        self.line = _Line(models)

    def __enter__(self) -> _Line:
        if sys.stderr.isatty():
            console = Console(stderr=True, highlight=False)
            self.line.live = self._stack.enter_context(
                Live(console=console, auto_refresh=False, transient=True)
            )
            self._stack.enter_context(_noted_on(self.line))
        self._stack.enter_context(redirect_stdout(sys.stderr))
        self.line.draw()
        return self.line

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if error is None or isinstance(
            error, StoreUnavailableError
        ):  # which says itself what is kept where
            return
        if self.line.samples and not self._keeping.no_save:
            error.add_note(
                "what was measured is kept:"
                f" {self._keeping.show(self.line.records[0].id[:SHORT_ID])}"
            )
        elif isinstance(error, KeyboardInterrupt):
            error.add_note("nothing is kept" if self.line.samples else "nothing was measured yet")


@contextmanager
def _noted_on(line: _Line) -> Iterator[None]:
    """Show on the line what the library logs: what it fetches, builds or copies first."""
    logger, handler = logging.getLogger("hwbench"), _Notes(line)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Notes(logging.Handler):
    def __init__(self, line: _Line) -> None:
        super().__init__(logging.INFO)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        self._line.note(record.getMessage())


class _Line(MeasuringCallback):
    """One line that says how far a measurement is."""

    def __init__(self, models: str) -> None:
        self.live: Live | None = None
        self.records: Sequence[Measurement] = ()
        self.samples = 0
        self._before = f"reading {models}, warming up"
        self._models, self._part, self._doing, self._so_far = models, "", "", ""
        self._begun = self._drawn = time.monotonic()

    def say(self, part: str) -> None:
        """Name the part of the work that begins, where it has several."""
        self._part = part

    def note(self, doing: str) -> None:
        """Say what is being done before samples come."""
        self._before = doing
        self.draw()

    def started(self, records: Sequence[Measurement]) -> None:
        self.records, self.samples, self._doing, self._so_far = records, 0, "first session", ""
        self._begun = time.monotonic()
        self.draw()

    def sampled(
        self,
        record: int,  # noqa: ARG002
        session: int,
        samples_s: Sequence[float],
        blocks: Sequence[int],  # noqa: ARG002
        *,
        warm_up: bool,
    ) -> None:
        self.samples += len(samples_s)
        self._doing = f"session {session + 1}{', warming up' if warm_up else ''}"
        if time.monotonic() - self._drawn > REDRAW_S:
            self.draw()

    def session_ended(
        self,
        sessions: int,
        elapsed_s: float,  # noqa: ARG002
        so_far: Estimate | Sequence[Ratio],
    ) -> None:
        self._so_far = _estimate(so_far) if sessions > 1 else ""
        self.draw()

    def draw(self) -> None:
        if self.live is None:
            return
        self._drawn = time.monotonic()
        self.live.update(
            Text(printable(self._text()), no_wrap=True, overflow="ellipsis"), refresh=True
        )

    def _text(self) -> str:
        if not self.records:
            return f"{self._before} ..."
        elapsed_s, budget_s = time.monotonic() - self._begun, self.records[0].settings.budget_s
        done = bar(elapsed_s / budget_s, BAR).ljust(BAR)
        parts = (
            self._part or self._models,
            f"{elapsed_s:.0f} of at most {budget_s:g} s |{done}|",
            self._doing,
            self._so_far,
        )
        return "  ".join(filter(None, parts))


def _estimate(so_far: Estimate | Sequence[Ratio]) -> str:
    """What is known after a session, with its 95 % interval."""
    if isinstance(so_far, Estimate):
        return f"{seconds(so_far.estimate)} ({interval_s(so_far.ci, so_far.estimate)})"
    return ", ".join(f"ratio {times(one.ratio)} ({interval(one.ci, one.ratio)})" for one in so_far)
