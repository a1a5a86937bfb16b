"""The site is built without a warning, and a reader of it needs no network."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.docs.pages import DOCS

pytest.importorskip("sphinx")
FETCHED = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//|@import|url\([\"']?(?:https?:)?//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-E",
        "-d",
        str(folder / "trees"),
        "-b",
        "html",
    ]
    done = subprocess.run(
        [*command, str(DOCS), str(folder / "html")], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_is_in_the_navigation(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    pages = {
        path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")
    } - {"index.html"}
    assert pages <= set(re.findall(r'href="([\w/-]+\.html)"', index))


def test_nothing_is_fetched_from_elsewhere(site):
    for path in (*site.rglob("*.html"), *site.rglob("*.css"), *DOCS.rglob("*.svg")):
        assert not FETCHED.search(path.read_text(encoding="utf-8")), path


def test_public_names_are_described(site):
    import hwbench

    told = (site / "api.html").read_text(encoding="utf-8")
    for name in hwbench.__all__:
        assert f'id="hwbench.{name}"' in told, name
