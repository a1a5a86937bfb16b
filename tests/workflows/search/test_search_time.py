"""The time of a search: shares, what cannot fit, and what is said of where it went."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwbench.errors import UsageError
from hwbench.records.measurement import Settings
from hwbench.search.limit import Limit
from hwbench.workflows.search import subject as subjects
from hwbench.workflows.search.callback import SearchCallback
from hwbench.workflows.search.plan import Plan
from hwbench.workflows.search.run import run_search
from hwbench.workflows.search.shares import Shares
from hwbench.workflows.search.time_budget import TimeBudget
from tests.support import table_support
from tests.support.tiny_net import DEVICE, example, table, tiny

HALF = Limit("latency", share=0.7)


def search(plan: Plan, **more):
    return run_search(tiny(), plan, example_inputs=example(), table=table(), save=False, **more)


@pytest.mark.parametrize("measures", [True, False])
@pytest.mark.parametrize("data", ["digits", None])
@pytest.mark.parametrize("baselines", [True, False])
def test_shares_add_up_to_the_time_there_is(measures, data, baselines):
    plan = Plan.of("amc", HALF, data=data, baselines=baselines)
    shares = Shares.divide(100.0, plan, plan.make_method(), measures=measures)
    parts = (shares.trials_s, shares.baselines_s, shares.measuring_s, shares.tuning_s)
    assert sum(parts) == pytest.approx(100)
    assert shares.trials_s >= 30
    assert [part > 0 for part in parts] == [True, baselines, measures, data is not None]
    assert ("tuning" in str(shares)) == (data is not None)


def test_time_before_a_kill_is_spent_too():
    clock = TimeBudget(100.0)
    with clock.spend("table"):
        pass
    clock.include(40.0)
    assert 59 < clock.left_s <= 60
    assert clock.describe_spent() == "table 0 s"
    assert TimeBudget().left_s is None


class Told(SearchCallback):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.plans: list[str] = []

    def say(self, doing: str, *, timed: bool = False) -> None:
        self.said.append(doing)

    def planned(self, text: str) -> None:
        self.plans.append(text)


def test_shares_are_said_and_what_the_time_went_to(tmp_path):
    told = Told()
    plan = Plan.of("amc", HALF, trials=4, budget_s=60.0)
    result = search(plan, callback=told, device=DEVICE, settings=Settings(budget_s=1.0))
    (said,) = told.plans
    assert "trials" in said
    assert "measuring" in said
    spent = result.spent_s
    assert list(spent)[:4] == ["reading", "latencies", "training", "original"]
    assert {"trials", "baselines", "measuring", "tuning"} <= set(spent)
    assert not search(plan.changed(budget_s=None), callback=(quiet := Told())).comparison
    assert quiet.plans == []


def test_a_search_without_time_is_refused_before_its_first_trial():
    with pytest.raises(UsageError, match=r"0\.001 s are too few for this search: .*reading"):
        search(Plan.of("amc", HALF, budget_s=0.001), callback=Told())


def test_an_impossible_latency_is_refused_before_the_original_is_trained(monkeypatch):
    """The table tells it; hours of training would not make it possible."""
    trained = []
    monkeypatch.setattr(subjects, "train_original", lambda *words, **_: trained.append(words))
    wanted = table_support.built(quiet=True).table
    impossible = Plan("amc", Limit("latency", share=0.01), data="digits")
    with pytest.raises(UsageError, match="the least on this grid is"):
        run_search("zoo:resnet20", impossible, table=wanted, save=False)
    assert trained == []


class Digits:
    """Images of which each epoch has two batches."""

    name = "digits"

    train = range(128)


@pytest.mark.parametrize("limit_s", [15.0, 25.0])
def test_training_that_takes_too_long_is_refused_by_a_few_steps(limit_s, monkeypatch):
    """20 epochs of two batches of half a second each take 20 s."""
    now, steps = [0.0], []

    def tune(module, images, loss, schedule):
        steps.append(schedule.steps)
        now[0] += 0.5 * schedule.steps + 3 * (len(steps) == 1)
        nn.init.constant_(module.weight, 7.0)

    def train_whole(tuning, **_):
        tune(tuning._module, tuning._images, tuning._loss, tuning._schedule)

    monkeypatch.setattr("hwbench.search.training.tune", tune)
    monkeypatch.setattr("hwbench.search.tuning.Tuning.run", train_whole)
    monkeypatch.setattr(subjects.time, "perf_counter", lambda: now[0])
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    plan = Plan("amc", HALF, data="digits")

    def train():
        subjects.train_original(module, Digits(), plan, None, "net", limit_s=limit_s)

    if limit_s < 20:
        with pytest.raises(UsageError, match="takes about 20 s, and the search may spend 15 s"):
            train()
        assert sum(steps) < 10
        assert float(module.weight.detach()[0, 0]) != 7.0
    else:
        train()
        assert steps[-1] == 40


def test_what_the_time_went_to_is_said_where_no_trial_was_reached(monkeypatch):
    from hwbench.workflows.search.trials import TrialLoop

    monkeypatch.setattr(TrialLoop, "run", lambda *_, **__: [])
    with pytest.raises(
        UsageError, match=r"time was up before there was one, as it went to reading"
    ):
        search(Plan.of("amc", HALF, budget_s=60.0))
