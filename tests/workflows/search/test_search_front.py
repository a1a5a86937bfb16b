"""One search for several budgets: what is shared, what each ends with, and how it goes on."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import UsageError
from hwbench.records.measurement import Settings
from hwbench.render.fronts import front_document, front_view
from hwbench.store import open_store
from hwbench.workflows.search import jobs
from hwbench.workflows.search.callback import SearchCallback
from hwbench.workflows.search.front import RECORD, pareto
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_front, run_search
from tests.support.tiny_net import DEVICE, example, table, tiny

BUDGETS = [Limit("latency", share=share) for share in (0.8, 0.5, 0.65)]
KNAPSACK = Plan.of("knapsack", BUDGETS[0], trials=20, levels=2)


def search_front(plan: Plan, store, limits=BUDGETS, **more):
    return run_front(
        tiny(),
        plan,
        limits,
        example_inputs=example(),
        settings=Settings(budget_s=1.0, layers=False),
        store=str(store),
        **({"table": table()} | more),
    )


def search_one(plan: Plan, store):
    return run_search(tiny(), plan, example_inputs=example(), table=table(), store=str(store))


@pytest.fixture
def evaluated(monkeypatch):
    """How often each network was evaluated."""
    counts = Counter()
    evaluate = jobs.evaluate_candidate

    def counted(objective, candidate):
        counts[candidate.network] += 1
        return evaluate(objective, candidate)

    monkeypatch.setattr(jobs, "evaluate_candidate", counted)
    return counts


class Killed(SearchCallback):
    """Interrupts after some trials."""

    def __init__(self, after: int) -> None:
        self.left = after

    def tried(self, part, trial, best) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["knapsack", "amc", "practise"])
def test_no_network_is_evaluated_twice_and_each_budget_is_searched_as_by_itself(
    method, tmp_path, evaluated
):
    plans = {
        "knapsack": KNAPSACK,
        "amc": Plan.of("amc", BUDGETS[0], trials=6),
        "practise": Plan.of("practise", BUDGETS[0], adaptor_steps=2, images=16, tune="none"),
    }
    plan = plans[method]
    limits = [Limit("latency", share=share) for share in (0.9, 0.8, 0.7)]
    found = search_front(plan, tmp_path / "s.db", limits)
    assert max(evaluated.values()) == 1
    assert [result.plan.limit.share for result in found.results] == [0.7, 0.8, 0.9]
    for result in found.results:
        assert result.best.outcome.latency_s <= result.limit * (1 + 1e-9)
    alone = search_one(found.results[-1].plan, tmp_path / "alone.db")
    assert alone.key == found.results[-1].key
    assert alone.trials == found.results[-1].trials
    with open_store(str(tmp_path / "s.db")) as store:
        (record,) = store.records(RECORD).values()
    assert record["searches"] == [result.key for result in found.results]


def test_sensitivities_are_shared(tmp_path, evaluated):
    found = search_front(KNAPSACK.changed(baselines=False), tmp_path / "s.db")
    sensitivities: set[object] = set()
    for trial in found.results[0].trials:
        if trial.candidate.note == "sensitivity":
            sensitivities.add(trial.candidate.network)
    assert len(sensitivities) >= 5
    for result in found.results:
        # A policy for one budget may be what another one's sensitivity is.
        assert sensitivities <= {trial.candidate.network for trial in result.trials}
    assert len(evaluated) < sum(len(result.trials) for result in found.results)


def test_sensitivities_of_blocks_are_shared_too(tmp_path, evaluated):
    plan = KNAPSACK.changed(blocks=True, levels=1, baselines=False)
    found = search_front(plan, tmp_path / "s.db")
    assert max(evaluated.values()) == 1
    alone = {("network", (32, 32, 32, 32, 64), (f"blocks.{place}",), None) for place in range(3)}
    for result in found.results:
        assert alone <= {trial.candidate.network for trial in result.trials}


def test_a_larger_budget_is_never_worse(tmp_path):
    found = search_front(KNAPSACK.changed(baselines=False), tmp_path / "s.db")
    qualities = [result.best.outcome.quality for result in found.results]
    assert qualities == sorted(qualities)
    assert found.on_front == (True, True, True)


@pytest.mark.parametrize("after", [3, 45])
def test_a_killed_front_goes_on_and_judges_nothing_twice(after, tmp_path, evaluated):
    whole = search_front(KNAPSACK, tmp_path / "whole.db")
    evaluated.clear()
    with pytest.raises(KeyboardInterrupt):
        search_front(KNAPSACK, tmp_path / "killed.db", callback=Killed(after))
    again = search_front(KNAPSACK, tmp_path / "killed.db")
    assert max(evaluated.values()) == 1
    assert sum(result.resumed for result in again.results) == after
    for one, other in zip(again.results, whole.results, strict=True):
        assert (one.trials, one.best, one.baselines) == (other.trials, other.best, other.baselines)


def test_a_search_for_one_budget_goes_on_as_one_of_several(tmp_path, evaluated):
    one = search_one(KNAPSACK, tmp_path / "s.db")
    found = search_front(KNAPSACK, tmp_path / "s.db")
    assert max(evaluated.values()) == 1
    assert found.results[-1].trials == one.trials
    assert found.results[-1].resumed > len(one.trials)


def test_networks_are_written_side_by_side(tmp_path):
    limits = [Limit("latency", share=0.6), Limit("latency", amount=table_latency_s() * 0.8)]
    found = search_front(KNAPSACK, tmp_path / "s.db", limits, device=DEVICE, out=tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "front.json").read_text())
    assert [row["budget"] for row in rows] == [str(limit) for limit in limits]
    for row, result in zip(rows, found.results, strict=True):
        assert (tmp_path / "out" / row["folder"] / "network.onnx").exists()
        assert result.out == tmp_path / "out" / row["folder"]
        assert result.comparison is not None
    document = front_document(found)
    assert [row["budget"] for row in document["front"]] == [row["budget"] for row in rows]
    shown = str(front_view(found))
    assert "speed-up" in shown
    assert str(tmp_path / "out") in shown


def table_latency_s() -> float:
    """Latency of the unpruned network."""
    from hwbench.network.graph import layers, load
    from hwbench.network.intake import load_workload

    workload = load_workload(tiny(), example_inputs=example())
    return table().predict([layer.key for layer in layers(load(workload.onnx))]).latency_s


def test_an_impossible_budget_among_several_is_refused_before_anything_is_tried(
    tmp_path, evaluated
):
    limits = [Limit("latency", share=0.7), Limit("latency", share=0.01)]
    with pytest.raises(UsageError, match="the least on this grid is"):
        search_front(KNAPSACK, tmp_path / "s.db", limits)
    assert not evaluated


def test_budgets_of_several_kinds_are_refused(tmp_path):
    limits = [Limit("latency", share=0.7), Limit("macs", share=0.5)]
    with pytest.raises(UsageError, match="budgets of latency, macs were given"):
        search_front(KNAPSACK, tmp_path / "s.db", limits)
    with pytest.raises(UsageError, match="budgets of no kind"):
        search_front(KNAPSACK, tmp_path / "s.db", [])


POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


@given(POINTS)
def test_whatever_is_off_the_front_is_beaten_by_what_is_on_it(points):
    on_front = pareto(points)
    chosen = [point for point, is_on in zip(points, on_front, strict=True) if is_on]
    assert chosen
    assert len(set(chosen)) == len(chosen)
    for cost, quality in points:
        assert any(other <= cost and better >= quality for other, better in chosen)
    for cost, quality in chosen:
        others = [point for point in chosen if point != (cost, quality)]
        assert not any(other <= cost and better >= quality for other, better in others)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("latency", "0.3"), ("latency", "12ms"), ("latency", "350us"), ("macs", "285M"),
     ("params", "900"), ("size", "4MB"), ("size", "12B"), ("latency", "1.5s")],
)  # fmt: skip
def test_limits_are_written_as_they_are_read(kind, text):
    assert str(Limit.parse(kind, text)) == text
