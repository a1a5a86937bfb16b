"""Progress on standard error, and only on a terminal: stage, session, time, the estimate so far."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hwbench.cli.live_line import LiveLine
from hwbench.cli.options import Keeping
from hwbench.errors import StoreUnavailableError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.render.units import bar, ends_or_early, interval, interval_s, seconds, times
from hwbench.render.views import SHORT_ID
from hwbench.stats import Estimate, Ratio

if TYPE_CHECKING:
    from hwbench.records.measurement import Measurement

REDRAW_S = 0.25
"""Seconds between two redraws."""
BAR = 20
"""Width of the bar in characters."""


@contextmanager
def show_measuring(models: str, keeping: Keeping) -> Iterator[_Line]:
    """Show how far a measurement is; gives the callback to hand to the workflow.

    Args:
        models: What is read first.
        keeping: Where samples go, so that they outlive an interruption.
    """
    line = _Line(models)
    try:
        with line.display(), _noted_on(line):
            line.draw()
            yield line
    except StoreUnavailableError:  # it says itself what is kept where
        raise
    except BaseException as error:
        if line.samples and not keeping.no_save:
            shown = keeping.show(line.records[0].id[:SHORT_ID])
            error.add_note(f"what was measured is kept: {shown}")
        elif isinstance(error, KeyboardInterrupt):
            error.add_note("nothing is kept" if line.samples else "nothing was measured yet")
        raise


@contextmanager
def _noted_on(line: _Line) -> Iterator[None]:
    """Show on the line what the library logs: what it fetches, builds or copies first."""
    if not line.is_shown:
        yield
        return
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


class _Line(LiveLine, MeasuringCallback):
    """One line that says how far a measurement is."""

    def __init__(self, models: str) -> None:
        super().__init__()
        self.records: Sequence[Measurement] = ()
        self.samples = 0
        self._is_measuring = False
        self._before = f"reading {models}, warming up"
        self._models, self._part, self._doing, self._so_far = models, "", "", ""
        self._begun = self._drawn = time.monotonic()

    def say(self, part: str) -> None:
        """Name the part of the work that begins, where it has several."""
        self._part = part

    def note(self, doing: str) -> None:
        """Say what is being done before samples come, or between two measurements."""
        self._before, self._is_measuring = doing, False
        self.draw()

    def started(self, records: Sequence[Measurement]) -> None:
        self.records, self.samples, self._doing, self._so_far = records, 0, "first session", ""
        self._begun, self._is_measuring = time.monotonic(), True
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
        if self.is_shown:
            self._drawn = time.monotonic()
            self.show(self._text())

    def _text(self) -> str:
        if not self._is_measuring:
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
        ends = ends_or_early(so_far.ci, interval_s(so_far.ci, so_far.estimate))
        return f"{seconds(so_far.estimate)} ({ends})"
    ratios = []
    for ratio in so_far:
        ends = ends_or_early(ratio.ci, interval(ratio.ci, ratio.ratio))
        ratios.append(f"ratio {times(ratio.ratio)} ({ends})")
    return ", ".join(ratios)
