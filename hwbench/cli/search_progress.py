"""Progress of a search on standard error, and only on a terminal: trials, the best so far."""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hwbench.cli.options import Keeping
from hwbench.render.units import percent, plural, printable, seconds
from hwbench.workflows.search.callback import SearchCallback

if TYPE_CHECKING:
    from hwbench.search.base import Trial


class SearchProgress:
    """A context manager around a search; gives the callback to hand to the workflow.

    Args:
        model: What is searched.
        keeping: Where trials go, so that they outlive an interruption.
    """

    def __init__(self, model: str, keeping: Keeping) -> None:
        self._keeping = keeping
        self._stack = ExitStack()
        self.line = _Line(model)

    def __enter__(self) -> SearchCallback:
        if sys.stderr.isatty():
            console = Console(stderr=True, highlight=False)
            self.line.live = self._stack.enter_context(
                Live(console=console, auto_refresh=False, transient=True)
            )
        self._stack.enter_context(redirect_stdout(sys.stderr))
        return self.line

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if error is not None and self.line.trials:
            kept = (
                "nothing is kept"
                if self._keeping.no_save
                else "the same command goes on from there"
            )
            error.add_note(f"{plural(self.line.trials, 'trial')} so far; {kept}")


class _Line(SearchCallback):
    """One line that says how far the work is."""

    def __init__(self, model: str) -> None:
        self.live: Live | None = None
        self.trials = 0
        self._model = model

    def say(self, doing: str) -> None:
        self._draw(f"{doing} ...")

    def tried(self, part: str, trial: Trial, best: Trial | None) -> None:
        self.trials += 1
        outcome = best.outcome if best is not None else None
        so_far = ""
        if outcome is not None:
            so_far = f", best so far {percent(outcome.quality)}"
            so_far += f" at {seconds(outcome.latency_s)}" if outcome.latency_s is not None else ""
        self._draw(
            f"{part}: trial {trial.candidate.number + 1}{' failed' if trial.error else ''}{so_far}"
        )

    def _draw(self, text: str) -> None:
        if self.live is not None:
            self.live.update(
                Text(printable(f"{self._model}  {text}"), no_wrap=True, overflow="ellipsis"),
                refresh=True,
            )
