"""Progress of a table build on a terminal: networks, time left, the error so far."""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hwbench.cli.options import Keeping
from hwbench.render.units import bar, percent, plural, printable
from hwbench.workflows.build_table import TableCallback

if TYPE_CHECKING:
    from hwbench.lookup_tables import Progress

BAR = 20
"""Width of the bar in characters."""


class TableProgress:
    """A context manager around a build or a validation; gives the callback to hand to the workflow.

    Args:
        model: What is read first.
        keeping: Where networks go, so that they outlive an interruption.
    """

    def __init__(self, model: str, keeping: Keeping) -> None:
        self._keeping = keeping
        self._stack = ExitStack()
        self.line = _Line(model)

    def __enter__(self) -> TableCallback:
        if sys.stderr.isatty():
            console = Console(stderr=True, highlight=False)
            self.line.live = self._stack.enter_context(
                Live(console=console, auto_refresh=False, transient=True)
            )
        self._stack.enter_context(redirect_stdout(sys.stderr))
        self.line.draw("reading, preparing ...")
        return self.line

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if error is not None and self.line.networks:
            kept = (
                "nothing is kept"
                if self._keeping.no_save
                else "the same command goes on from there"
            )
            error.add_note(f"{plural(self.line.networks, 'network')} measured so far; {kept}")


class _Line(TableCallback):
    """One line that says how far the work is."""

    def __init__(self, model: str) -> None:
        self.live: Live | None = None
        self.networks = 0
        self._model = model

    def measured(self, progress: Progress) -> None:
        self.networks = progress.networks
        done = bar(progress.networks / progress.most, BAR).ljust(BAR)
        error = "" if progress.rmspe is None else f", error {percent(progress.rmspe)} so far"
        self.draw(
            f"{progress.networks} of at most {progress.most} networks |{done}| at most"
            f" {progress.left_s:.0f} s left{error}"
        )

    def validated(self, done: int, total: int) -> None:
        self.draw(f"validating |{bar(done / total, BAR).ljust(BAR)}|")

    def draw(self, text: str) -> None:
        if self.live is not None:
            self.live.update(
                Text(printable(f"{self._model}  {text}"), no_wrap=True, overflow="ellipsis"),
                refresh=True,
            )
