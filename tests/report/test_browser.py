"""The page in a real browser: every section renders, tables sort and filter, colours change, a
phone is wide enough.
"""

from __future__ import annotations

import pytest

from tests.report.support import HOSTILE, figure_of, page_of

PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


def go(page, address: str, title: str) -> None:
    """Follow a hash, as a link would."""
    page.evaluate("address => { location.hash = address }", address)
    page.wait_for_function("title => document.title === `${title} · hwbench report`", arg=title)


def layered(data):
    """The page of a model with harmless names and layers."""
    return next(
        one
        for one in data["pages"]
        if one["title"].endswith(".onnx") and any(f["title"] == "Layers" for f in one["figures"])
    )


def section(page, title: str):
    """The section under a heading."""
    return page.locator("section").filter(has=page.get_by_role("heading", name=title, exact=True))


def column(section, index: int) -> list[str]:
    """Texts of one column of the table in a section."""
    return section.locator("tbody tr").evaluate_all(
        "(rows, index) => rows.map((row) => row.cells[index].textContent)", index
    )


def test_every_section_renders(visit, data):
    page = visit()
    for one in data["pages"]:
        go(page, one["id"], one["title"])
        assert page.locator("h1").inner_text() == one["title"]
        sections = page.locator("section").filter(has=page.locator("table"))
        assert sections.count() == len(one["figures"])
        for index, figure in enumerate(one["figures"]):
            shown = sections.nth(index)
            assert shown.locator("h2").inner_text() == figure["title"]
            assert shown.locator("tbody tr").count() == min(len(figure["rows"]), 24)
            pictures = shown.locator("svg[role=img]")
            expected = len([chart for chart in figure["charts"] if chart["kind"] != "work"])
            assert expected <= pictures.count() <= len(figure["charts"])
            assert all(picture.get_attribute("aria-label") for picture in pictures.all())
            assert all(
                picture.locator("path, rect, circle, line").count() for picture in pictures.all()
            )


def test_names_are_text_and_nothing_more(visit, data):
    hostile = next(page for page in data["pages"] if page["title"].startswith(HOSTILE[:9]))
    page = visit(hostile["id"])
    assert page.locator("h1").inner_text() == hostile["title"]
    assert page.title() == f"{hostile['title']} · hwbench report"
    assert page.locator("img").count() == 0


def test_an_unknown_address_shows_the_overview_and_back_goes_back(visit, data):
    page = visit("nowhere/%3Cb%3E")
    assert page.locator("h1").inner_text() == "Overview"
    page.get_by_role("link", name="Comparisons", exact=True).click()
    page.wait_for_function("document.querySelector('h1').textContent === 'Comparisons'")
    assert (
        page.get_by_role("link", name="Comparisons", exact=True).get_attribute("aria-current")
        == "page"
    )
    page.go_back()
    page.wait_for_function("document.querySelector('h1').textContent === 'Overview'")


def test_tables_sort_by_value_and_back(visit, data):
    one = layered(data)
    figure = figure_of(one, "Layers")
    shown = section(visit(one["id"]), "Layers")
    places = [
        index for index, column in enumerate(figure["columns"]) if column["title"] == "latency"
    ]
    heading = shown.get_by_role("button", name="latency", exact=True)
    ordered = sorted(figure["rows"], key=lambda row: row[places[0]][0])
    for state, rows in (
        ("descending", ordered[::-1]),
        ("ascending", ordered),
        ("none", figure["rows"]),
    ):
        heading.click()
        assert shown.locator("th[scope=col]").nth(places[0]).get_attribute("aria-sort") == state
        assert [text.replace("\xa0", " ") for text in column(shown, places[0])] == [
            row[places[0]][1] for row in rows
        ]
    shown.get_by_role("button", name="layer", exact=True).click()
    names = column(shown, 0)
    assert names.index("fc") < names.index("pool") < names.index("rest")


def test_tables_are_filtered_by_words(visit, data):
    one = layered(data)
    shown = section(visit(one["id"]), "Layers")
    rows = len(figure_of(one, "Layers")["rows"])
    shown.get_by_role("searchbox").fill("FEATURES conv")
    names = column(shown, 0)
    assert len(names) == 8
    assert all(name.startswith("features.") for name in names)
    assert shown.get_by_role("status").inner_text() == f"8 of {rows} rows"
    shown.get_by_role("searchbox").fill("no such layer")
    assert column(shown, 0) == []
    shown.get_by_role("searchbox").fill("")
    assert len(column(shown, 0)) == rows


def test_long_tables_are_shown_whole_on_request(visit, data):
    one = next(
        page
        for page in data["pages"]
        if page["id"].startswith("search/") and page["title"].startswith("amc")
    )
    shown = section(visit(one["id"]), "Trials")
    rows = len(figure_of(one, "Trials")["rows"])
    assert rows > 24
    shown.get_by_role("button", name=f"Show all {rows} rows").click()
    assert shown.locator("tbody tr").count() == rows
    assert shown.get_by_role("button", name="Show all").count() == 0


def test_a_number_tells_its_interval_and_source(visit, data):
    one = page_of(data, "compare/")
    source = data["sources"][one["source"]]
    speedup = dict(one["facts"])["speed-up"]
    page = visit(one["id"])
    number = page.locator(".facts button").first
    number.hover()
    tip = page.get_by_role("tooltip")
    tip.wait_for(state="visible")
    told = tip.inner_text()
    for part in (
        speedup[2],
        source["command"],
        source["device"],
        source["runtime"],
        source["date"],
        source["records"][0][:12],
    ):
        assert part in told
    tip.hover()  # it stays while it is pointed at itself
    assert tip.is_visible()
    page.keyboard.press("Escape")
    tip.wait_for(state="hidden")
    page.mouse.move(0, 0)
    number.hover()
    tip.wait_for(state="visible")
    page.mouse.move(0, 0)
    tip.wait_for(state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_switch(visit, scheme):
    page = visit(color_scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    automatic = page.evaluate(paper)
    page.get_by_role("radio", name="Dark").check()
    dark = page.evaluate(paper)
    page.get_by_role("radio", name="Light").check()
    light = page.evaluate(paper)
    assert dark != light
    assert automatic == {"light": light, "dark": dark}[scheme]
    page.get_by_role("radio", name="Auto").check()
    assert page.evaluate(paper) == automatic


def test_no_section_is_wider_than_a_phone(visit, data):
    page = visit(**PHONE)
    for one in data["pages"]:
        go(page, one["id"], one["title"])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, one["id"]
        assert page.locator("h1").is_visible()


def test_a_touched_number_tells_its_source(visit):
    page = visit(**PHONE)
    page.locator("td.tells").first.tap()
    page.get_by_role("tooltip").wait_for(state="visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_pictures_follow_the_width_of_the_window(visit, data):
    page = visit(page_of(data, "model/")["id"])
    wide = page.locator("svg").first.bounding_box()["width"]
    page.set_viewport_size({"width": 600, "height": 900})
    page.wait_for_function(
        "wide => document.querySelector('svg').getBoundingClientRect().width < wide", arg=wide
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 600


def test_nothing_moves_for_those_who_asked_for_it(visit):
    page = visit(reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert page.evaluate("document.getAnimations().length") == 0
