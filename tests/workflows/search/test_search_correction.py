"""Budgets that are measured: results corrected until they keep theirs, or said not to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.records.measurement import Settings
from hwbench.search.limit import Limit
from hwbench.workflows.search import rounds
from hwbench.workflows.search.plan import Plan
from hwbench.workflows.search.run import run_search
from tests.support.tiny_net import DEVICE, example, table, tiny

QUICK = Settings(budget_s=0.5, layers=False)


def search(limit: Limit, **more):
    plan = Plan.of("amc", limit, trials=8, baselines=False)
    options = {"device": DEVICE, "table": table(), "settings": QUICK, "save": False} | more
    return run_search(tiny(), plan, example_inputs=example(), **options)


def measure(monkeypatch, excesses):
    """Let results measure so many times their budget, one after the other."""
    given = iter(excesses)
    monkeypatch.setattr(rounds, "measured_excess", lambda *_: next(given))


def text_of(result, code):
    (finding,) = [finding for finding in result.findings if finding.code == code]
    return finding.text


def test_a_budget_is_corrected_until_it_is_kept(monkeypatch):
    measure(monkeypatch, [1.1, 1.02, 0.99])
    result = search(Limit("latency", share=0.8))
    assert "corrected 2 times" in text_of(result, "budget_corrected")
    assert "budget_missed" not in {finding.code for finding in result.findings}


def test_where_corrections_do_not_help_the_nearest_is_delivered_and_said(monkeypatch):
    measure(monkeypatch, [1.2, 1.02, 1.1, 1.05])
    result = search(Limit("latency", share=0.9))
    said = text_of(result, "budget_missed")
    assert "measures 2.0% over its budget" in said
    assert "corrected it 3 times" in said


def test_a_budget_that_cannot_be_corrected_does_not_lose_the_result(monkeypatch):
    measure(monkeypatch, [4.0])
    result = search(Limit("latency", share=0.6))
    said = text_of(result, "budget_missed")
    assert "a corrected one cannot be kept" in said
    assert "the least on this grid" in said
    assert result.best.outcome is not None


def test_predictions_have_intervals_and_what_lies_outside_is_said():
    honest = table()
    result = search(Limit("macs", share=0.5))
    shown = result.intervals_s
    assert set(shown) == {"original", "amc"}
    low_s, high_s = shown["amc"]
    assert low_s < result.best.outcome.latency_s < high_s
    assert "prediction_off" not in {finding.code for finding in result.findings}
    wrong = replace(
        honest,
        metadata=replace(honest.metadata, calibration=replace(honest.calibration, context=0.2)),
    )
    assert "was predicted" in text_of(
        search(Limit("macs", share=0.5), table=wrong), "prediction_off"
    )


def test_predictions_are_shown_as_such_with_their_intervals():
    from hwbench.render.searching import search_document, search_view

    result = search(Limit("latency", share=0.8))
    shown = str(search_view(result))
    assert "predicted latency" in shown
    assert " ±" in shown
    assert set(search_document(result)["latency_ci_s"]) == {"original", "amc"}


@pytest.mark.parametrize("kind", ["latency", "macs"])
def test_a_table_that_nobody_graded_is_said(kind):
    result = search(Limit(kind, share=0.7))
    assert "nobody has graded the table" in text_of(result, "table_ungraded")


def test_files_that_cannot_be_written_do_not_lose_the_result(tmp_path, monkeypatch):
    from hwbench.errors import WorkloadError
    from hwbench.pruning import files
    from hwbench.store import open_store
    from hwbench.workflows.search.result import RECORD

    def fail(*_):
        raise WorkloadError("Tiny cannot be exported by torch.export: too odd")

    monkeypatch.setattr(files, "write_network", fail)
    result = search(
        Limit("macs", share=0.5), out=tmp_path / "out", save=True, store=str(tmp_path / "s.db")
    )
    said = text_of(result, "not_written")
    assert "too odd" in said
    assert result.out is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"log.jsonl", "recipe.json"}
    with open_store(str(tmp_path / "s.db")) as store:
        (record,) = store.records(RECORD).values()
    assert record["best"] == result.best.to_dict()
    monkeypatch.undo()
    again = search(
        Limit("macs", share=0.5), out=tmp_path / "other", save=True, store=str(tmp_path / "s.db")
    )
    assert again.resumed == len(result.trials)
    assert (tmp_path / "other" / "network.onnx").exists()
