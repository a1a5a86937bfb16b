"""The page of a search for several budgets: what the records say, drawn and as a table."""

from __future__ import annotations

import shlex

import pytest

from hwbench.cli import main
from hwbench.report import make_report
from hwbench.store import open_store
from hwbench.workflows.search.front import RECORD
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_front
from tests.report.support import data_of, figure_of, page_of
from tests.support.tiny_net import example, table, tiny

LIMITS = [Limit("latency", share=share) for share in (0.5, 0.7)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A front that was searched twice, and a record of one whose searches are gone."""
    url = str(tmp_path_factory.mktemp("front") / "s.db")
    plan = Plan.of("knapsack", trials=8, levels=1, limit=LIMITS[0], baselines=False)
    for _ in range(2):
        front = run_front(tiny(), plan, LIMITS, table=table(), example_inputs=example(), store=url)
    with open_store(url) as store:
        store.save_record(RECORD, {"searches": ["gone"], "created_utc": "2026-01-01T00:00:00"})
    return front, data_of(make_report(store=url).html)


def test_a_front_is_a_picture_and_a_table_with_the_same_numbers(searched):
    front, data = searched
    figure = figure_of(page_of(data, "front/"), "Pareto front")
    shares = [result.best.outcome.latency_s / result.original.latency_s for result in front.results]
    assert [row[2][0] for row in figure["rows"]] == pytest.approx(shares)
    assert [row[0]["text"] for row in figure["rows"]] == ["0.5", "0.7"]
    (chart,) = figure["charts"]
    assert chart["kind"] == "front"
    assert [point["x"] for point in chart["points"]] == pytest.approx(shares, rel=1e-4)
    assert [point["on_front"] for point in chart["points"]] == list(front.on_front)
    for row in figure["rows"]:
        assert page_of(data, row[0]["page"])


def test_a_front_is_listed_once_and_those_without_searches_are_not(searched):
    _, data = searched
    pages = [page for page in data["pages"] if page["id"].startswith("front/")]
    rows = figure_of(page_of(data, "searches"), "Fronts")["rows"]
    assert len(pages) == len(rows) == 1
    assert rows[0][2] == "0.5, 0.7"
    assert rows[0][0]["page"] == pages[0]["id"]


def test_its_command_names_all_budgets(searched, capsys):
    _, data = searched
    source = data["sources"][page_of(data, "front/")["source"]]
    words = shlex.split(source["command"])
    assert words[words.index("--latency") + 1] == "0.5,0.7"
    assert main([*words[1:3], "--help"]) == 0
