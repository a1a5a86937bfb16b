"""Pages of matrices and histories: what the records say, drawn and as tables."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hwbench.cli import main
from hwbench.report import make_report
from hwbench.store import open_store
from hwbench.workflows.matrix import CELL, RUN, measure_matrix
from hwbench.workflows.profile import profile
from tests.report.support import QUICK, data_of, figure_of, page_of
from tests.support.models import conv_net

JUDGE = """
import torch

def largest(network):
    torch.manual_seed(0)
    with torch.no_grad():
        return network(torch.rand(1, 3, 16, 16)).softmax(1).max().item()
"""
HOSTILE = "<img src=x onerror=alert(1)>.onnx"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A matrix with a quality and a cell that failed, and twelve weeks of a model."""
    folder = tmp_path_factory.mktemp("matrices")
    url = str(folder / "s.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        (folder / "a_judge.py").write_text(JUDGE)
        for name, width in (("base.onnx", 64), (HOSTILE, 32), ("wide.onnx", 96)):
            (folder / name).write_bytes(conv_net((width, width)))
        models = ["base.onnx", HOSTILE, "wide.onnx", "absent.onnx"]
        matrix = measure_matrix(
            models,
            devices=["virtual"],
            threads=[1, 2],
            settings=replace(QUICK, layers=False),
            evaluate="a_judge:largest",
            store=url,
        )
        records = [
            profile(name, device="virtual", settings=QUICK, save=False)
            for name in ("base.onnx", "wide.onnx")
        ]
    with open_store(url) as store:
        for week in range(12):
            day = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=7 * week)
            store.save(
                replace(
                    records[week >= 7],
                    id=f"{week + 1:032x}",
                    model="net.onnx",
                    started_utc=day.isoformat(),
                    source_commit=f"{week:x}" * 40,
                )
            )
    return url, matrix, make_report(store=url)


def test_a_matrix_is_a_heat_map_and_a_table_with_the_same_numbers(measured):
    _, matrix, report = measured
    page = page_of(data_of(report.html), "matrix/")
    figure = figure_of(page, "Latency")
    (chart,) = figure["charts"]
    assert chart["kind"] == "heat"
    assert chart["columns"] == [["virtual fp32", "1 thread"], ["virtual fp32", "2 threads"]]
    assert len(chart["cells"]) == len(figure["rows"]) == len(matrix.cells) == 8
    for cell, drawn, row in zip(matrix.cells, chart["cells"], figure["rows"], strict=True):
        assert drawn["row"] == matrix.models.index(cell.model)
        if cell.record is None:
            assert (drawn["latency"], drawn["log"], row[4]) == ("failed", None, "failed")
        elif cell.comparison is not None:
            assert 2 ** drawn["log"] == pytest.approx(cell.comparison.speedup, rel=1e-4)
            assert row[3][0] == pytest.approx(cell.comparison.speedup)
            assert row[4]["text"] == cell.comparison.verdict.value
    assert "no such model file: absent.onnx" in page["findings"][0][1]


def test_quality_over_latency_has_a_front_in_every_column(measured):
    _, matrix, report = measured
    figure = figure_of(page_of(data_of(report.html), "matrix/"), "Quality and latency")
    assert [chart["plain"] for chart in figure["charts"]] == [True, True]
    for chart in figure["charts"]:
        assert len(chart["points"]) == 3
        points = {(point["x"], point["y"]): point["on_front"] for point in chart["points"]}
        for (cost, quality), on_front in points.items():
            beaten = any(
                other_cost <= cost and other >= quality and (other_cost, other) != (cost, quality)
                for other_cost, other in points
            )
            assert on_front is not beaten
    assert matrix.quality_of(matrix.cells[0]) == pytest.approx(figure["rows"][0][2][0])


def test_names_of_models_stay_text(measured):
    _, _, report = measured
    assert HOSTILE not in report.html
    page = page_of(data_of(report.html), "matrix/")
    assert HOSTILE in figure_of(page, "Latency")["charts"][0]["models"]


def test_its_command_repeats_it(measured, capsys):
    _, _, report = measured
    data = data_of(report.html)
    source = data["sources"][page_of(data, "matrix/")["source"]]
    words = shlex.split(source["command"])
    assert words[:6] == ["hwbench", "matrix", "base.onnx", HOSTILE, "wide.onnx", "absent.onnx"]
    assert words[words.index("--threads") + 1] == "1,2"
    main([*words[1:], "--help"])
    assert "Usage: hwbench matrix" in capsys.readouterr().out


def test_a_lasting_change_is_marked_with_what_changed(measured):
    _, _, report = measured
    page = page_of(data_of(report.html), "history/000000000000")
    (chart,) = figure_of(page, "Latency over time")["charts"]
    assert chart["kind"] == "timeline"
    assert len(chart["points"]) == 12
    assert [part["to_ms"] > part["from_ms"] for part in chart["parts"]] == [True, True]
    (change,) = chart["changes"]
    assert change["ms"] == datetime(2026, 4, 19, tzinfo=UTC).timestamp() * 1000
    (row,) = figure_of(page, "Lasting changes")["rows"]
    assert "slower" in row[1]
    assert "commit: 666666666666 → 777777777777" in row[4]
    listed = figure_of(page_of(data_of(report.html), "histories"), "History")["rows"]
    assert page["id"] in {row[0]["page"] for row in listed}


def test_damaged_matrices_are_named_and_left_out(measured):
    url, _, _ = measured
    with open_store(url) as store:
        (run,) = store.records(RUN)
        for kind, data in (
            (RUN, {"key": "k", "models": ["a"], "columns": [{"device": "x", "odd": 1}]}),
            (CELL, {"run": run, "number": "many", "measurements": [], "error": None}),
            (RUN, {"key": "of an older version"}),
        ):
            store.save_record(kind, data)
    report = make_report(store=url)
    assert [record.kind for record in report.damaged] == [CELL, RUN]
    assert len(figure_of(page_of(data_of(report.html), "matrices"), "Matrices")["rows"]) == 1


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (390, "dark")])
def test_the_pages_fit_the_screen(measured, chromium, tmp_path, width, scheme):
    _, _, report = measured
    target = tmp_path / "report.html"
    report.save(target)
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    for kind in ("matrix/", "history/000000000000"):
        address = page_of(data_of(report.html), kind)["id"]
        page.goto(f"{target.as_uri()}#{address}")
        page.reload()
        page.wait_for_selector(".pictures svg")
        root = "document.documentElement"
        assert not page.evaluate(f"{root}.scrollWidth > {root}.clientWidth")
        for text in page.locator(".pictures svg text").all_text_contents():
            assert "NaN" not in text
    page.close()
    assert said == []
