"""What the page says is what the records say."""

from __future__ import annotations

import shlex

import pytest

from hwbench.cli import main
from hwbench.lookup_tables.repository import find_table
from hwbench.render.documents import compare_document, profile_document
from hwbench.report import make_report
from hwbench.report.numbers import layer_macs
from hwbench.store import open_store
from tests.report.support import VIRTUAL, data_of, figure_of, page_of


def facts(page):
    return dict(page["facts"])


def record_of(report, page):
    return next(
        record for record in report.contents.measurements if page["id"] == f"model/{record.id[:12]}"
    )


def test_a_model_page_has_the_numbers_of_its_profile(report, data):
    pages = [page for page in data["pages"] if page["id"].startswith("model/")]
    assert len(pages) >= 5
    for page in pages:
        document = profile_document(record_of(report, page))
        latency = facts(page)["latency"]
        assert latency[0] == document["median_s"]
        assert facts(page)["MACs"][0] == document["macs"]
        assert [code for code, _ in page["findings"]] == [
            finding["code"] for finding in document["findings"]
        ]
        distribution = figure_of(page, "Distribution")["charts"][0]["sets"][0]
        assert (distribution["estimate"], tuple(distribution["ci"])) == (
            document["median_s"],
            document["median_ci_s"],
        )
        assert sum(row[2][0] for row in figure_of(page, "Distribution")["rows"]) == len(
            document["samples_s"]
        )


def test_layers_add_up_to_the_latency(report, data):
    page = next(
        page
        for page in data["pages"]
        if any(figure["title"] == "Layers" for figure in page["figures"])
    )
    record = record_of(report, page)
    document = profile_document(record)
    rows = figure_of(page, "Layers")["rows"]
    assert [row[3][0] for row in rows[:-1]] == [
        layer["median_s"] * layer["calls"] for layer in document["layers"]
    ]
    assert [row[4][0] for row in rows[:-1]] == pytest.approx(
        [layer["share"] for layer in document["layers"]]
    )
    assert sum(row[3][0] for row in rows) == pytest.approx(document["median_s"])
    assert sum(row[5][0] or 0 for row in rows[:-1]) == record.macs


def test_macs_of_keys_are_those_of_the_network(report):
    layered = [record for record in report.contents.measurements if record.profile is not None]
    assert layered
    for record in layered:
        assert sum(layer_macs(layer.key) or 0 for layer in record.profile.layers) == record.macs


def test_a_compare_page_has_the_numbers_of_its_comparison(report, data):
    # Three that were asked for; the search's own best, and the baseline that did better.
    assert len(report.contents.comparisons) == 5
    for comparison in report.contents.comparisons:
        document = compare_document(comparison)
        page = page_of(data, f"compare/{comparison.candidate.id[:12]}")
        assert facts(page)["speed-up"][0] == document["speedup"]
        assert facts(page)["verdict"] == document["verdict"]
        assert facts(page)["fewer MACs"][0] == document["macs_ratio"]
        shown, verdict = figure_of(page, "Interval")["charts"][0]["rows"]
        assert (shown["low"], shown["high"]) == pytest.approx(document["speedup_ci"])
        assert [verdict["low"], verdict["high"]] == [
            end if end < float("inf") else None for end in document["verdict_ci"]
        ]
        if document["layers"]:
            saved = [row[3][0] for row in figure_of(page, "Layer by layer")["rows"]]
            assert saved == [layer["saved_s"] for layer in document["layers"]]


def test_the_baseline_is_the_one_that_was_given_first(report):
    pairs = {
        (one.baseline.model.rpartition("/")[2], one.candidate.model.rpartition("/")[2])
        for one in report.contents.comparisons
    }
    assert {("big.onnx", "odd.onnx"), ("big.onnx", "big.onnx"), ("Tiny", "Tiny, pruned")} <= pairs


def test_a_table_page_has_its_grade_and_every_held_out_network(url, report, data):
    page = page_of(data, "table/")
    with open_store(url) as store:
        table = find_table(store, VIRTUAL)
    grade = table.grades[-1]
    assert facts(page)["mean error"][0] == grade.mean_error
    rows = figure_of(page, "Predicted against measured")["rows"]
    assert len(rows) == grade.networks == 6
    errors = [abs(row[3][0]) for row in rows]
    assert sum(errors) / len(errors) == pytest.approx(grade.mean_error)
    assert {row[0]: row[1][0] for row in figure_of(page, "Channel steps")["rows"]} == dict(
        table.steps
    )
    curves = figure_of(page, "Latency over width")["charts"]
    assert curves
    assert all(
        len(line["x"]) == len(line["y"]) == len(line["low"])
        for curve in curves
        for line in curve["lines"]
    )


def test_a_search_page_has_its_trials_and_what_was_kept(report, data):
    search = next(one for one in report.contents.searches if one.summary["plan"]["method"] == "amc")
    page = page_of(data, f"search/{search.summary['search'][:12]}")
    rows = figure_of(page, "Trials")["rows"]
    assert len(rows) == len(search.trials) >= 12
    assert any(row[-1] == "chosen" for row in rows)
    ratios = figure_of(page, "Preserve ratios")["rows"]
    assert [row[2][0] for row in ratios] == list(search.best.candidate.widths)
    assert all(0 < row[3][0] <= 1 for row in ratios)
    assert facts(page)["of original latency"][0] <= 0.7 * 1.0001
    best = next(row for row in figure_of(page, "Networks")["rows"] if row[0] == "amc")
    assert best[1][0] == search.best.outcome.quality


def test_dropped_blocks_are_named(report, data):
    search = next(
        one for one in report.contents.searches if one.summary["plan"]["method"] == "practise"
    )
    page = page_of(data, f"search/{search.summary['search'][:12]}")
    assert [row[0] for row in figure_of(page, "Dropped blocks")["rows"]] == list(
        search.best.candidate.dropped
    )


def test_every_number_has_a_source_or_says_what_it_is(data):
    for page in data["pages"]:
        for figure in page["figures"]:
            for index, row in enumerate(figure["rows"]):
                for cell in row:
                    if isinstance(cell, list) and cell[0] is not None:
                        sourced = (
                            len(cell) > 3
                            or figure["sources"][index : index + 1]
                            or figure["source"] is not None
                        )
                        assert sourced or page["source"] is not None or page["id"] == "overview"


def test_sources_name_record_device_runtime_date_and_command(report, data):
    ids = {record.id for record in report.contents.measurements}
    for source in data["sources"]:
        assert source["command"].startswith("hwbench ")
        assert all(source[name] for name in ("device", "runtime", "date"))
        assert source["records"]
    assert ids <= {record for source in data["sources"] for record in source["records"]}


@pytest.mark.parametrize("kind", ["profile", "compare"])
def test_the_command_beside_a_number_repeats_it(kind, report, data, tmp_path, capsys):
    pages = [
        page
        for page in data["pages"]
        if page["id"].startswith("model/") and page["title"].endswith(".onnx")
    ]
    commands = {
        page["id"]: shlex.split(data["sources"][page["source"]]["command"]) for page in pages
    }
    page = next(page for page in pages if commands[page["id"]][1] == kind)
    before, store = record_of(report, page), str(tmp_path / "again.db")
    assert commands[page["id"]][0] == "hwbench"
    assert main([*commands[page["id"]][1:], "--store", store]) in {0, 5}
    repeated = make_report(store=store).contents
    again = repeated.measurements[0]
    if kind == "compare":
        again = next(
            record
            for record in repeated.measurements
            if record.series.samples_s == before.series.samples_s
        )
    assert (again.model, again.model_sha256, again.settings) == (
        before.model,
        before.model_sha256,
        before.settings,
    )
    assert (again.device, again.inputs) == (before.device, before.inputs)
    assert (
        again.series.samples_s == before.series.samples_s
    )  # the simulated device repeats its noise


def test_commands_of_tables_and_searches_are_understood(data, capsys):
    for source in data["sources"]:
        words = shlex.split(source["command"])[1:]
        assert (
            main(
                [*words[:2], "--help"] if words[0] in {"table", "search"} else [words[0], "--help"]
            )
            == 0
        )


def test_fewer_drawn_samples_change_no_number(url, data, monkeypatch):
    monkeypatch.setattr("hwbench.report.DRAWN", 5)
    fewer = data_of(make_report(store=url).html)
    assert "at most 5 samples" in fewer["notes"][0]
    for before, after in zip(data["pages"], fewer["pages"], strict=True):
        assert before["facts"] == after["facts"]
        for one, other in zip(before["figures"], after["figures"], strict=True):
            assert one["rows"] == other["rows"]
            for drawn in (
                inner
                for chart in other["charts"]
                if chart["kind"] == "distribution"
                for inner in chart["sets"]
            ):
                assert len(drawn["samples"]) == 5
