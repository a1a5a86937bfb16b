"""Progress of a search on standard error: what is done, trials, the best so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from hwbench.cli.live_line import LiveLine, Ticker, describe_kept
from hwbench.cli.options import Keeping
from hwbench.render.units import percent, plural, seconds
from hwbench.workflows.search.callback import SearchCallback

if TYPE_CHECKING:
    from hwbench.search.base import Trial
    from hwbench.search.tuning import Progress


@contextmanager
def show_search(model: str, keeping: Keeping) -> Iterator[SearchCallback]:
    """Show how far a search is; gives the callback to hand to the workflow.

    Args:
        model: What is searched.
        keeping: Where trials go, so that they outlive an interruption.
    """
    line = _Line(model)
    try:
        with line.display():
            yield line
    except BaseException as error:
        if line.trials:
            error.add_note(describe_kept(plural(line.trials, "trial"), keeping))
        raise
    finally:
        line.close()


class _Line(LiveLine, SearchCallback):
    """One line that says how far the work is.

    Training and evaluating may tell nothing for minutes, so the line is also written by the clock,
    but not while anything is measured.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self.trials = 0
        self._model, self._text = model, "begins"
        self._ticker = Ticker(self._draw)

    def close(self) -> None:
        """The work is over."""
        self._ticker.stop()

    def say(self, doing: str, *, timed: bool = False) -> None:
        self._text = f"{doing} ..."
        self._draw()
        if timed:
            self._ticker.stop()
        else:
            self._ticker.start()

    def planned(self, text: str) -> None:
        self.write(f"{self._model}  {text}")

    def tried(self, part: str, trial: Trial, best: Trial | None) -> None:
        self.trials += 1
        outcome = best.outcome if best is not None else None
        so_far = ""
        if outcome is not None:
            so_far = f", best so far {percent(outcome.quality)}"
            so_far += f" at {seconds(outcome.latency_s)}" if outcome.latency_s is not None else ""
        failed = " failed" if trial.error else ""
        self._text = f"{part}: trial {trial.candidate.number + 1}{failed}{so_far}"
        self._draw()

    def trained(self, progress: Progress) -> None:
        self._text = (
            f"training: step {progress.step} of {progress.steps}, loss {progress.loss:.3g},"
            f" {timedelta(seconds=round(progress.left_s))} left"
        )
        self._draw()

    def _draw(self) -> None:
        self.show(f"{self._model}  {self._text}")
