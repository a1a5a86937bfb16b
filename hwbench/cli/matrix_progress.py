"""Progress of a matrix on standard error: which cell is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hwbench.cli.live_line import LiveLine, describe_kept
from hwbench.cli.options import Keeping
from hwbench.render.matrix import describe_column
from hwbench.render.units import bar, plural
from hwbench.workflows.matrix import MatrixCallback

if TYPE_CHECKING:
    from hwbench.workflows.matrix import MatrixColumn

BAR = 20
"""Width of the bar in characters."""


@contextmanager
def show_cells(keeping: Keeping) -> Iterator[MatrixCallback]:
    """Show how far a matrix is; gives the callback to hand to the workflow."""
    line = _Line()
    try:
        with line.display():
            yield line
    except BaseException as error:
        if line.begun > 1:
            measured = plural(line.begun - 1, "cell")
            error.add_note(describe_kept(f"{measured} measured", keeping))
        raise


class _Line(LiveLine, MatrixCallback):
    """One line that says how far a matrix is."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    def cell_started(self, number: int, total: int, model: str, column: MatrixColumn) -> None:
        self.begun += 1
        done = bar(number / total, BAR).ljust(BAR)
        place = f"cell {number + 1} of {total} |{done}|"
        self.show(f"{place}  {model} on {describe_column(column)}")
