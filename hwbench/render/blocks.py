"""What a view is made of, and the two ways to write it: a terminal (Rich) and Markdown.

A view is a list of blocks. It is written once, whatever the format; widths, colours and escapes are
decided here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement as Width
from rich.table import Table as RichTable
from rich.text import Text

from hwbench.render.units import printable, shorten_apart

NARROWEST = 12
"""Characters to which a long name may be shortened."""
WIDE = 100
"""Columns of a terminal on which nothing is limited."""
FOLDED = 20
"""Rows from which a table is folded in Markdown: a pull request is read for its first lines."""
_MARKS = re.compile(r"([\\`*_|<>\[\]~&#$])")
"""Characters that mean something in Markdown, wherever they stand."""
_LIST_MARK = re.compile(r"^(?:(?=[-+])|(\d+)(?=[.)](?:\s|$)))")
"""Where a line would begin a list: before a dash or plus, or between a number and its point."""


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence or two.

    Attributes:
        text: Plain text.
        style: Rich style on a terminal (`bold`, `dim`); bold stays bold in Markdown.
    """

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Notes:
    """Remarks, each with a code that tools select by.

    Attributes:
        rows: (code, text).
        style: Rich style of the codes.
    """

    rows: tuple[tuple[str, str], ...]
    style: str = "yellow"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        title: Heading.
        right: Align to the right (numbers).
        path: Holds module paths or other names, cut in the middle where the terminal is narrow.
        wrap: Holds sentences, broken over several lines where the terminal is narrow.
        limit: Most characters on a terminal of less than 100 columns, so that more important ones
            keep theirs.
    """

    title: str
    right: bool = False
    path: bool = False
    wrap: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings; the rows of `footer` are set apart."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: tuple[tuple[str, ...], ...] = field(default=())


Block = Line | Notes | Table
View = Sequence[Block]


def write_text(view: View, file: TextIO, width: int | None = None) -> None:
    """Write a view for a terminal.

    Colours and bold only if `file` is one and NO_COLOR is not set (https://no-color.org).

    Args:
        view: What to write.
        file: Where to.
        width: Columns; None for those of the terminal, or 80 where there is none.
    """
    plain = bool(os.environ.get("NO_COLOR"))  # Rich alone would leave out colours, but write bold
    console = Console(
        file=file,
        width=width,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )
    for index, block in enumerate(view):
        if index:
            console.print()
        console.print(_make_renderable(block, wide=console.width >= WIDE))


def write_markdown(view: View, file: TextIO) -> None:
    """Write a view as Markdown, ready for a pull request."""
    file.write("\n\n".join(_to_markdown(block) for block in view) + "\n")


class _Column:
    """The names of a column, which are shortened together.

    Args:
        names: What is to be shown.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self._short_by_width: dict[int, dict[str, str]] = {}

    def shorten(self, name: str, width: int) -> str:
        """Write one of the names in at most `width` columns, unlike the others."""
        if width not in self._short_by_width:
            self._short_by_width[width] = shorten_apart(self.names, width)
        return self._short_by_width[width][name]


class _Path:
    """A name that gives up its middle when its column is narrow."""

    def __init__(self, name: str, column: _Column) -> None:
        self.name, self.column = name, column

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Width:
        columns = cell_len(self.name)
        return Width(min(columns, NARROWEST), columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.column.shorten(self.name, max(options.max_width, 1)), no_wrap=True)


def _make_renderable(block: Block, *, wide: bool) -> RenderableType:
    match block:
        case Line():
            return Text(printable(block.text), style=block.style)
        case Notes():
            # Each remark is `code: text`, further lines indented: long codes cost no column.
            grid = RichTable.grid()
            for code, text in block.rows:
                line = Text.assemble((f"{code}: ", block.style), printable(text))
                grid.add_row(Text("! ", style=block.style), line)
            return grid
        case Table():
            return _make_rich_table(block, wide=wide)


def _make_rich_table(table: Table, *, wide: bool) -> RenderableType:
    rich = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in table.columns:
        rich.add_column(
            printable(column.title),
            justify="right" if column.right else "left",
            no_wrap=not (column.wrap or column.path),
            overflow="fold" if column.wrap else "ellipsis",
            max_width=None if wide else column.limit,
        )
    rows = (*table.rows, *table.footer)
    columns = [
        _Column(printable(row[index]) for row in rows) for index in range(len(table.columns))
    ]
    for row in table.rows:
        rich.add_row(*_rich_cells(table, row, columns))
    if table.footer:
        rich.add_section()
    for row in table.footer:
        rich.add_row(*_rich_cells(table, row, columns), style="dim")
    return rich


def _rich_cells(
    table: Table, row: Sequence[str], columns: Sequence[_Column]
) -> list[RenderableType]:
    cells: list[RenderableType] = []
    for column, names, cell in zip(table.columns, columns, row, strict=True):
        text = printable(cell)
        cells.append(_Path(text, names) if column.path else Text(text))
    return cells


def _to_markdown(block: Block) -> str:
    match block:
        case Line():
            text = _escape(block.text)
            return f"**{text}**" if "bold" in block.style else _LIST_MARK.sub(r"\1\\", text)
        case Notes():
            return "\n".join(f"- `{code}`: {_escape(text)}" for code, text in block.rows)
        case Table():
            return _make_markdown_table(block)


def _make_markdown_table(table: Table) -> str:
    titles = [_escape(column.title) for column in table.columns]
    rules = ["---:" if column.right else "---" for column in table.columns]
    rows = [list(map(_escape, row)) for row in (*table.rows, *table.footer)]
    markdown = "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows))
    if len(table.rows) <= FOLDED:
        return markdown
    return f"<details><summary>{len(table.rows)} rows</summary>\n\n{markdown}\n\n</details>"


def _escape(text: str) -> str:
    """Text whose characters mean themselves in Markdown and inside a cell of a table."""
    return _MARKS.sub(r"\\\1", printable(text))
