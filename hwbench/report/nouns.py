"""What the report consists of: pages, pictures with a table each, numbers with sources.

`encode` turns them into plain types for the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwbench.render.documents import to_json_types
from hwbench.render.units import printable

Chart = Mapping[str, Any]
"""What a picture is drawn from: `kind`, a function of `charts.js`, and its data in seconds."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where numbers came from.

    Attributes:
        records: Ids in the store.
        device: Address of the device.
        target: The hardware.
        runtime: Inference engine and version.
        date: When, for people.
        command: What repeats it.
    """

    records: tuple[str, ...]
    device: str
    target: str
    runtime: str
    date: str
    command: str


@dataclass(frozen=True, slots=True)
class Number:
    """One number.

    Attributes:
        value: What tables are sorted by: seconds, a count, a ratio; None where it is unknown.
        text: The same in its unit.
        note: Its interval, or what else there is to know of it.
        source: Where it came from, if not from where its table or page did.
    """

    value: float | None
    text: str
    note: str = ""
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A way to another page."""

    text: str
    page: str


Cell = str | Number | Link


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        title: Heading.
        numeric: Holds numbers, which stand to the right.
        minor: Is left out on narrow screens.
    """

    title: str
    numeric: bool = False
    minor: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings.

    Attributes:
        columns: The headings.
        rows: One cell per column each.
        sources: Where the numbers of each row came from; empty where that is the page's source.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """Pictures and the table that says the same.

    Attributes:
        title: Heading.
        text: What is seen, and how to read it.
        table: The text alternative of the pictures.
        charts: The pictures, drawn from the same numbers.
        source: Where the numbers came from, if not from where those of the page did.
    """

    title: str
    text: str
    table: Table
    charts: tuple[Chart, ...] = ()
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What is seen at one address.

    Attributes:
        id: Address behind the hash.
        title: Heading.
        lead: The answer, in a sentence.
        facts: Numbers with their names.
        findings: Codes and sentences: reasons to distrust, and explanations.
        figures: In order.
        closing: How all this was measured.
        source: Where its numbers came from.
    """

    id: str
    title: str
    lead: str
    facts: tuple[tuple[str, Cell], ...] = ()
    findings: tuple[tuple[str, str], ...] = ()
    figures: tuple[Figure, ...] = ()
    closing: str = ""
    source: Source | None = None


def encode(pages: Sequence[Page]) -> dict[str, Any]:
    """Pages as plain JSON types, in printable characters alone.

    A source that many numbers share is written once.
    """
    encoder = _Encoder()
    encoded = [encoder.page(page) for page in pages]
    sources = [_plain(asdict(source)) for source in encoder.sources]
    return {"sources": sources, "pages": encoded}


class _Encoder:
    """Encodes pages, and numbers the sources in the order in which they are met."""

    def __init__(self) -> None:
        self.sources: dict[Source, int] = {}

    def page(self, page: Page) -> dict[str, Any]:
        return {
            "id": page.id,
            "title": printable(page.title),
            "lead": printable(page.lead),
            "facts": [[name, self._cell(cell)] for name, cell in page.facts],
            "findings": _plain(page.findings),
            "figures": [self._figure(figure) for figure in page.figures],
            "closing": printable(page.closing),
            "source": self._number_of(page.source),
        }

    def _figure(self, figure: Figure) -> dict[str, Any]:
        table = figure.table
        return {
            "title": printable(figure.title),
            "text": printable(figure.text),
            "charts": [_plain(chart) for chart in figure.charts],
            "columns": [_plain(asdict(column)) for column in table.columns],
            "rows": [[self._cell(cell) for cell in row] for row in table.rows],
            "sources": [self._number_of(source) for source in table.sources],
            "source": self._number_of(figure.source),
        }

    def _cell(self, cell: Cell) -> Any:
        """A cell for the page.

        Text stays as it is, and a link is an object. A number is [value, text, note, source],
        without what is empty at its end.
        """
        match cell:
            case str():
                return printable(cell)
            case Link():
                return {"text": printable(cell.text), "page": cell.page}
            case Number():
                parts = [
                    _plain(cell.value),
                    printable(cell.text),
                    printable(cell.note),
                    self._number_of(cell.source),
                ]
                while len(parts) > 2 and parts[-1] in {"", None}:
                    parts.pop()
                return parts

    def _number_of(self, source: Source | None) -> int | None:
        return None if source is None else self.sources.setdefault(source, len(self.sources))


def _plain(value: Any) -> Any:
    """JSON types: printable text, and null for what is not finite."""
    return to_json_types(value, printable)
