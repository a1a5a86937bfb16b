"""The page without a mouse and without eyes: keyboard, focus, contrast and names of controls."""

from __future__ import annotations

import pytest

from tests.report.support import page_of
from tests.report.test_browser import PHONE, go

FOCUSED = "document.activeElement"


def focused(page, what: str = "textContent"):
    return page.evaluate(f"{FOCUSED}.{what}")


def tab_until(page, wanted, most: int = 40) -> None:
    """Press Tab until a condition on the focused element holds."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(f"(({wanted}))({FOCUSED})"):
            return
    pytest.fail(f"no stop within {most} presses of Tab for which {wanted}")


def test_everything_is_reached_by_keyboard_alone(visit, data):
    page = visit()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the page"
    page.keyboard.press("Enter")
    assert focused(page, "id") == "main"
    tab_until(page, "(at) => at.closest('table') !== null")
    assert focused(page) == "device"
    page.keyboard.press("ArrowDown")
    assert focused(page) == data["pages"][0]["figures"][0]["rows"][0][0]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert focused(page) == "device"
    tab_until(
        page,
        "(at) => at.closest('section')?.querySelector('h2').textContent === 'Models' &&"
        " at.closest('table') !== null",
    )
    page.keyboard.press("ArrowDown")
    name = focused(page)
    page.keyboard.press("Enter")
    page.wait_for_function("name => document.querySelector('h1').textContent === name", arg=name)
    assert focused(page, "tagName") == "H1"


def test_a_table_is_one_stop_of_the_tab_key_and_sorts_by_keyboard(visit):
    page = visit()
    assert page.locator("table").evaluate_all(
        "tables => tables.map((t) => t.querySelectorAll('[tabindex=\"0\"]').length)"
    ) == [1 for _ in range(page.locator("table").count())]
    tab_until(
        page,
        "(at) => at.closest('section')?.querySelector('h2').textContent === 'Models' &&"
        " at.closest('table') !== null",
    )
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert focused(page) == "latency"
    page.keyboard.press("Enter")
    assert page.evaluate(f"{FOCUSED}.closest('th').getAttribute('aria-sort')") == "descending"
    assert focused(page) == "latency"


def test_a_focused_number_tells_its_source_until_escape(visit, data):
    page = visit(page_of(data, "model/")["id"])
    tab_until(page, "(at) => at.closest('.facts') !== null")
    tip = page.get_by_role("tooltip")
    tip.wait_for(state="visible")
    assert page.evaluate(f"{FOCUSED}.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("Escape")
    tip.wait_for(state="hidden")


def test_focus_is_visible(visit):
    page = visit()
    for wanted in (
        "at.tagName === 'A'",
        "at.type === 'radio'",
        "at.closest('.facts')",
        "at.closest('table')",
        "at.type === 'search'",
    ):
        tab_until(page, f"(at) => Boolean({wanted})")
        outline = page.evaluate(
            f"(() => {{ const at = {FOCUSED}; const seen = at.type === 'radio' ?"
            " at.nextElementSibling : at; return getComputedStyle(seen).outlineStyle; })()"
        )
        assert outline == "solid", wanted


@pytest.mark.parametrize(
    "screen",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"color_scheme": "dark", **PHONE}],
)
def test_axe_finds_nothing(visit, data, screen):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="needs axe-core: pip install axe-playwright-python",
    ).Axe()
    page = visit(**screen)
    for start in (
        "overview",
        "comparisons",
        "tables",
        "searches",
        "model/",
        "compare/",
        "table/",
        "search/",
    ):
        one = page_of(data, start)
        go(page, one["id"], one["title"])
        found = axe.run(
            page,
            options={
                "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
            },
        )
        problems = [
            (problem["id"], problem["nodes"][0]["html"][:300])
            for problem in found.response["violations"]
        ]
        assert problems == [], one["id"]
        assert found.response["passes"]
