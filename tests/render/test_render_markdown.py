"""Markdown is read back by a parser: every table is one, and every name means itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hwbench.render.blocks import FOLDED, Column, Line, Notes, Table
from hwbench.render.units import printable
from tests.support.render_support import NAMES, markdown, measured, patiently, tabled

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
SEEN = NAMES.filter(printable)


def plain(token) -> str:
    """What a reader sees of a piece of text in which nothing may be markup."""
    children = token.children or []
    assert {child.type for child in children} <= {"text"}, token.content
    return "".join(child.content for child in children)


def rows_of(written: str) -> list[list[str]]:
    """Cells of all tables, row by row."""
    rows: list[list[str]] = []
    inside = False
    for token in PARSER.parse(written):
        if token.type == "tr_open":
            rows.append([])
        inside = {"td_open": True, "th_open": True, "td_close": False, "th_close": False}.get(
            token.type, inside
        )
        if inside and token.type == "inline":
            rows[-1].append(plain(token))
    return rows


@given(st.lists(st.tuples(SEEN, SEEN), min_size=1, max_size=4))
@patiently
def test_cells_are_read_back_as_they_were(names):
    table = Table((Column("|a|"), Column("`b`", right=True)), tuple(names))
    assert rows_of(markdown([table])) == [
        ["|a|", "`b`"],
        *([printable(a), printable(b)] for a, b in names),
    ]


@given(SEEN)
@patiently
def test_lines_are_paragraphs_of_plain_text(name):
    tokens = PARSER.parse(markdown([Line(name)]))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert plain(tokens[1]) == printable(name)


@given(SEEN)
@patiently
def test_a_headline_is_bold_as_a_whole(name):
    _, line, _ = PARSER.parse(markdown([Line(name, "bold")]))
    kinds = [child.type for child in line.children or [] if child.type != "text" or child.content]
    assert kinds == ["strong_open", "text", "strong_close"]


@pytest.mark.parametrize(
    "name", ["- a", "+ a", "1. a", "12) a", "# a", "> a", "--- ", "a & b &lt; c", "$x$ ~~y~~"]
)
def test_what_would_begin_a_block_does_not(name):
    first, line, _ = PARSER.parse(markdown([Line(name)]))
    assert first.type == "paragraph_open"
    assert plain(line) == printable(name)


def test_numbers_at_the_beginning_stay_as_they_are():
    assert markdown([Line("2.18x faster")]) == "2.18x faster\n"


def test_findings_are_a_list_with_their_codes():
    tokens = PARSER.parse(markdown([Notes((("drift", "a | b"), ("load", "*c*")))]))
    lines = [token for token in tokens if token.type == "inline"]
    assert [[child.content for child in line.children or []] for line in lines] == [
        ["drift", ": a | b"],
        ["load", ": *c*"],
    ]


@given(NAMES.filter(str.strip))
@settings(patiently, max_examples=20)
def test_tables_of_every_view_have_equally_long_rows(name):
    for what, view in measured(name).items():
        tables = [block for block in view if isinstance(block, Table)]
        expected = [
            len(table.columns)
            for table in tables
            for _ in (table.columns, *table.rows, *table.footer)
        ]
        # `(table.columns, *rows)` stands for the heading and the rows below it
        assert [len(row) for row in rows_of(markdown(view))] == expected, what


def test_lookup_tables_are_tables_too():
    for view in tabled("a|b").values():
        assert rows_of(markdown(view))


def test_long_tables_are_folded_and_still_tables():
    rows = tuple((f"layer|{n}", str(n)) for n in range(FOLDED + 1))
    columns = (Column("layer", path=True), Column("n", right=True))
    written = markdown([Table(columns, rows)])
    assert written.startswith(f"<details><summary>{FOLDED + 1} rows</summary>\n\n| layer | n |\n")
    assert written.endswith("\n\n</details>\n")
    assert rows_of(written)[1:] == [list(row) for row in rows]
    assert "<details>" not in markdown([Table(columns, rows[:-1])])
