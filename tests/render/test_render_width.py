"""Whatever names a model file holds: nothing is wider than the terminal, and nothing reaches it but
text.
"""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from hwbench.render.blocks import Column, Notes, Table, write_text
from hwbench.render.units import shorten
from tests.support.render_support import NAMES, measured, patiently, tabled, text

LONG = "backbone/编码器." * 20


def widest(shown: str) -> int:
    return max(map(cell_len, shown.split("\n")))


@pytest.mark.slow
@given(NAMES)
@settings(patiently, max_examples=50)
def test_no_name_makes_a_line_wider_than_80_columns(name):
    for what, view in measured(name).items():
        assert widest(text(view)) <= 80, what


@given(NAMES)
@settings(patiently, max_examples=10)
def test_nor_does_it_in_a_lookup_table(name):
    for what, view in tabled(name).items():
        assert widest(text(view)) <= 80, what


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_the_width_of_the_terminal_is_used(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = {
        what: widest(text(view, None)) for what, view in (measured(LONG) | tabled(LONG)).items()
    }
    assert max(shown.values()) <= columns
    assert shown["profile"] > columns - 20, "and it is used"


@given(st.lists(NAMES, min_size=1, max_size=12), st.integers(30, 120))
@patiently
def test_a_table_of_names_fits(names, columns):
    table = Table(
        tuple(Column(name, path=bool(n % 2)) for n, name in enumerate(names)), (tuple(names),)
    )
    assert widest(text([table], columns)) <= columns


@given(NAMES, st.integers(1, 40))
@patiently
def test_shortened_names_have_at_most_the_columns_given(name, columns):
    short = shorten(name, columns)
    assert cell_len(short) <= columns
    assert short == name or "…" in short


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(view) -> str:
    file = Terminal()
    write_text(view, file, 80)
    return file.getvalue()


@pytest.fixture(autouse=True)
def _a_terminal_with_colours(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def test_the_code_of_a_finding_is_coloured_and_its_text_is_not():
    assert "\x1b[33mdrift: \x1b[0mit drifts" in on_a_terminal([Notes((("drift", "it drifts"),))])


@pytest.mark.parametrize("what", measured("a"))
def test_escape_codes_are_for_terminals_that_want_them(what, monkeypatch):
    view = measured("conv\x1b[31m1")[what]
    plain = text(view)
    assert "\x1b" not in plain
    styled = on_a_terminal(view)
    assert ("\x1b[1m" in styled) or what == "store"
    monkeypatch.setenv("NO_COLOR", "1")
    assert on_a_terminal(view) == plain
    monkeypatch.setenv("NO_COLOR", "")  # https://no-color.org: only when not empty
    assert on_a_terminal(view) == styled
