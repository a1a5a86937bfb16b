"""The HTML report: everything in a store as one self-contained page.

`contents` reads the store; `models`, `comparisons`, `tables` and `searches` make pages of figures
and numbers (`nouns`, `numbers`, `commands`) of what it holds, `overview` the first one; `page` puts
them, the style, the scripts and the charting library of `assets/` into one file. The scripts draw
what the data say and decide nothing: each number comes with its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwbench.errors import Argument, UsageError
from hwbench.render.units import size
from hwbench.report.contents import Contents, read
from hwbench.report.overview import make_pages
from hwbench.report.page import html
from hwbench.store import open_store

__all__ = ["Report", "make_report"]

LIMIT_BYTES = 3_000_000
"""Largest page."""
DRAWN, FEWEST_DRAWN = 1000, 60
"""Samples of each set that are drawn at most.

Fewer, down to the second number, where the page would be too large.
"""


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        html: The whole file.
        contents: What it tells of.
        drawn: Samples of each set that are drawn at most.
    """

    html: str
    contents: Contents
    drawn: int

    def save(self, path: str | Path) -> None:
        """Write the file, or replace it; it appears only when it is complete.

        Raises:
            UsageError: It cannot be written.
        """
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            part.write_text(self.html, encoding="utf-8", newline="\n")
            part.replace(target)
        except OSError as error:
            raise UsageError(
                f"cannot write the report to {target}: {error.strerror or error}; give another -o"
                " FILE"
            ) from error


def make_report(*, since: str | None = None, store: str | None = None) -> Report:
    """Everything that a store holds as one HTML file. The same store gives the same bytes.

    Args:
        since: Only what was measured from then on: a date, or `7d` for the last seven days.
        store: SQLAlchemy URL of the store.

    Raises:
        UsageError: The store holds nothing to report, or the page would be too large.
        SchemaError: A record is damaged.
    """
    with open_store(store) as opened:
        contents = read(opened, since)
    drawn = DRAWN
    while True:
        text = html(make_pages(contents, drawn), contents, since, _notes(contents, drawn))
        if len(text.encode()) <= LIMIT_BYTES:
            return Report(text, contents, drawn)
        if drawn <= FEWEST_DRAWN:
            has = (
                f"{len(contents.measurements)} measurements and {len(contents.comparisons)}"
                " comparisons"
            )
            most = size(LIMIT_BYTES)
            raise UsageError(
                f"the page of {has} would take {size(len(text))}, more than {most}",
                Argument("since", change="a later"),
            )
        drawn = max(FEWEST_DRAWN, drawn // 2)


def _notes(contents: Contents, drawn: int) -> list[str]:
    """What was left out of the pictures."""
    most = max((len(record.series) for record in contents.measurements), default=0)
    if most <= drawn:
        return []
    return [
        (
            f"Pictures hold at most {drawn} samples of each set, evenly by rank; every number is"
            " computed from all of them."
        )
    ]
