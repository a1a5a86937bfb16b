"""One store and one page for all tests of the report."""

from __future__ import annotations

from shutil import which

import pytest

from hwbench.report import Report, make_report
from tests.report.support import data_of, fill

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 60_000
"""Of a step in the browser; on a busy machine each takes long."""


@pytest.fixture(scope="session")
def url(tmp_path_factory) -> str:
    return fill(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def report(url) -> Report:
    return make_report(store=url)


@pytest.fixture(scope="session")
def data(report) -> dict:
    return data_of(report.html)


@pytest.fixture(scope="module")
def chromium():
    """Headless Chromium from the system's packages."""
    program = which("chromium")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    driver = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    with driver.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def file(report, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "report.html"
    report.save(target)
    return target


@pytest.fixture
def visit(chromium, file):
    """Open the report at an address of it.

    In the end, no script may have failed and nothing else may have been asked for.
    """
    contexts, wrong = [], []

    def go(address: str = "overview", **screen):
        context = chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | screen))
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: (
                wrong.append(message.text) if message.type in {"error", "warning"} else None
            ),
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(file.as_uri()) else wrong.append(request.url)
            ),
        )
        page.goto(f"{file.as_uri()}#{address}")
        page.wait_for_selector("h1")
        return page

    yield go
    for context in contexts:
        context.close()
    assert wrong == []
