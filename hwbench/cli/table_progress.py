"""Progress of a table build on a terminal: networks, time left, the error so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hwbench.cli.live_line import LiveLine, describe_kept
from hwbench.cli.options import Keeping
from hwbench.render.units import bar, percent, plural
from hwbench.workflows.build_table import TableCallback

if TYPE_CHECKING:
    from hwbench.lookup_tables import Progress

BAR = 20
"""Width of the bar in characters."""


@contextmanager
def show_table(model: str, keeping: Keeping) -> Iterator[TableCallback]:
    """Show how far a build or a validation is; gives the callback to hand to the workflow.

    Args:
        model: What is read first.
        keeping: Where networks go, so that they outlive an interruption.
    """
    line = _Line(model)
    try:
        with line.display():
            line.draw("reading, preparing ...")
            yield line
    except BaseException as error:
        if line.networks:
            networks = plural(line.networks, "network")
            error.add_note(describe_kept(f"{networks} measured", keeping))
        raise


class _Line(LiveLine, TableCallback):
    """One line that says how far the work is."""

    def __init__(self, model: str) -> None:
        super().__init__()
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
        self.show(f"{self._model}  {text}")
