"""What the view of a search says, and the hints that whoever shows it adds."""

from __future__ import annotations

from hwbench.render.searching import search_view
from tests.support.render_support import found, text


def test_hints_stand_where_something_is_left_out():
    shown = text(
        search_view(found("net"), save_hint="give --out DIR", layers_hint="see --json"), 400
    )
    assert "net: net; and 2 more, see --json" in shown
    assert "not written; give --out DIR" in shown


def test_without_hints_nothing_is_named():
    shown = text(search_view(found("net")), 400)
    assert "net: net; and 2 more" in shown
    assert "see --json" not in shown
    assert shown.rstrip().endswith("not written")
