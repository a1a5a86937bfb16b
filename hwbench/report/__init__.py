"""The HTML report: everything in a store as one self-contained page.

`contents` reads the store; `models`, `comparisons`, `tables` and `searches` make pages of figures
and numbers (`nouns`, `numbers`, `commands`) of what it holds, `overview` the first one; `page` puts
them, the style, the scripts and the charting library of `assets/` into one file. The scripts draw
what the data say and decide nothing: each number comes with its text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hwbench.errors import Argument, UsageError
from hwbench.lookup_tables.repository import RECORD as TABLE
from hwbench.records.comparison import RECORD as COMPARISON
from hwbench.records.whole_files import whole_file
from hwbench.render.units import size
from hwbench.report.contents import Contents, read
from hwbench.report.overview import make_pages
from hwbench.report.page import html
from hwbench.store import FAULTS_OF_DATA, MEASUREMENT, DamagedRecord, open_store
from hwbench.workflows.matrix import RUN as MATRIX
from hwbench.workflows.search.result import RECORD as SEARCH

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
        damaged: Records that cannot be read, and are left out.
    """

    html: str
    contents: Contents
    drawn: int
    damaged: tuple[DamagedRecord, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write the file, or replace it; it appears only when it is complete.

        Raises:
            UsageError: It cannot be written.
        """
        target = Path(path)
        try:
            with whole_file(target) as file:
                file.write(self.html.encode())
        except OSError as error:
            raise UsageError(
                f"cannot write the report to {target}: {error.strerror or error}",
                Argument("path", change="another"),
            ) from error


def make_report(*, since: str | None = None, store: str | None = None) -> Report:
    """Everything that a store holds as one HTML file. The same store gives the same bytes.

    Args:
        since: Only what was measured from then on: a date, or `7d` for the last seven days.
        store: SQLAlchemy URL of the store.

    Raises:
        UsageError: The store holds nothing to report, or the page would be too large.
        SchemaError: The store is damaged; single records that are, are left out.
    """
    damaged: list[DamagedRecord] = []
    with open_store(store) as opened:
        contents = read(opened, since, damaged)
    drawn = DRAWN
    while True:
        try:
            text = html(make_pages(contents, drawn), contents, since, _notes(contents, drawn))
        except FAULTS_OF_DATA:
            usable = _leave_out_unusable(contents, damaged)
            if usable == contents or usable.is_empty:
                raise
            contents = usable
            continue
        if len(text.encode()) <= LIMIT_BYTES:
            return Report(text, contents, drawn, tuple(damaged))
        if drawn <= FEWEST_DRAWN:
            raise UsageError(
                f"the page of {len(contents.measurements)} measurements and"
                f" {len(contents.comparisons)} comparisons would take {size(len(text))}, more than"
                f" {size(LIMIT_BYTES)}",
                Argument("since", change="a later"),
            )
        drawn = max(FEWEST_DRAWN, drawn // 2)


def _leave_out_unusable(contents: Contents, damaged: list[DamagedRecord]) -> Contents:
    """The contents less the records of which no page can be made, which are named in `damaged`.

    What single values of a record mean is known only where they are drawn, so a page is the test.
    """

    def is_usable(kind: str, record_id: str, alone: Contents) -> bool:
        fault = _fault_of_pages(alone)
        if fault is not None:
            damaged.append(
                DamagedRecord(
                    kind, record_id, f"it cannot be shown: {type(fault).__name__}: {fault}"
                )
            )
        return fault is None

    measurements = tuple(
        record
        for record in contents.measurements
        if is_usable(MEASUREMENT, record.id, Contents((record,), (), (), ()))
    )
    known = {record.id for record in measurements}
    comparisons = []
    for comparison in contents.comparisons:
        pair = (comparison.baseline, comparison.candidate)
        if {record.id for record in pair} <= known and is_usable(
            COMPARISON, comparison.candidate.id, Contents(pair, (comparison,), (), ())
        ):
            comparisons.append(comparison)
    tables = tuple(
        stored
        for stored in contents.tables
        if is_usable(TABLE, stored.id, Contents((), (), (stored,), ()))
    )
    searches = tuple(
        search
        for search in contents.searches
        if is_usable(SEARCH, str(search.summary.get("search")), Contents((), (), (), (search,)))
    )
    shown = {str(search.summary.get("search")) for search in searches}
    fronts = tuple(front for front in contents.fronts if set(front.searches) <= shown)
    matrices = tuple(
        kept
        for kept in contents.matrices
        if is_usable(MATRIX, kept.id, Contents((), (), (), (), (), (kept,)))
    )
    return replace(
        contents,
        measurements=measurements,
        comparisons=tuple(comparisons),
        tables=tables,
        searches=searches,
        fronts=fronts,
        matrices=matrices,
    )


def _fault_of_pages(contents: Contents) -> Exception | None:
    """Why no pages can be made of these contents; None where they can."""
    try:
        html(make_pages(contents, FEWEST_DRAWN), contents, None, [])
    except FAULTS_OF_DATA as error:
        return error
    return None


def _notes(contents: Contents, drawn: int) -> list[str]:
    """What was left out of the pictures."""
    most = max((len(record.series) for record in contents.measurements), default=0)
    if most <= drawn:
        return []
    note = (
        f"Pictures hold at most {drawn} samples of each set, evenly by rank; every number is"
        " computed from all of them."
    )
    return [note]
