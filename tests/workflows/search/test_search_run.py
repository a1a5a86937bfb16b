"""One search from beginning to end: killed and resumed, measured, corrected, written."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from hwbench.errors import UsageError
from hwbench.network.intake import load_workload
from hwbench.network.prunable import PrunableNetwork
from hwbench.records.measurement import Settings
from hwbench.render.searching import search_view
from hwbench.search import training
from hwbench.search.base import Candidate
from hwbench.search.tuning import Tuning
from hwbench.store import open_store
from hwbench.workflows.search.callback import SearchCallback
from hwbench.workflows.search.journal import RECORD, Journal
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from hwbench.workflows.search.trials import TrialLoop
from tests.support.tiny_net import DEVICE, example, table, tiny

QUICK = Settings(budget_s=1.0, layers=False)
SMALL = {
    "amc": {"trials": 10},
    "abcpruner": {"sources": 3, "cycles": 2, "patience": 1},
    "practise": {"adaptor_steps": 2, "images": 16, "tune": "none"},
}


def plan(method: str = "amc", latency: float = 0.7, **more) -> Plan:
    return Plan.of(method, Limit("latency", share=latency), **(SMALL[method] | more))


def search(asked: Plan, store, **more):
    return run_search(
        tiny(),
        asked,
        example_inputs=example(),
        settings=QUICK,
        store=str(store),
        **({"table": table()} | more),
    )


class Killed(SearchCallback):
    """Interrupts after some trials."""

    def __init__(self, after: int) -> None:
        self.left = after

    def tried(self, part, trial, best) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize("after", [1, 4])
def test_killed_search_goes_on_to_the_same_result(method, after, tmp_path):
    whole = search(plan(method), tmp_path / "whole.db")
    with pytest.raises(KeyboardInterrupt):
        search(plan(method), tmp_path / "killed.db", callback=Killed(after))
    with open_store(str(tmp_path / "killed.db")) as store:
        assert len(store.records(RECORD)) == after
    again = search(plan(method), tmp_path / "killed.db")
    assert again.resumed == after
    assert (again.trials, again.best, again.baselines) == (
        whole.trials,
        whole.best,
        whole.baselines,
    )


def test_fresh_and_other_plans_begin_anew(tmp_path):
    first = search(plan(), tmp_path / "s.db")
    assert search(plan(), tmp_path / "s.db").resumed == len(first.trials) + 3 + len(first.trials)
    assert search(plan(), tmp_path / "s.db", fresh=True).resumed == 0
    assert search(plan(seed=1), tmp_path / "s.db").resumed == 0
    assert search(plan(), tmp_path / "s.db", save=False).resumed == 0


def test_budget_is_kept_by_prediction_and_by_measurement(tmp_path):
    result = search(plan(), tmp_path / "s.db", device=DEVICE)
    assert result.best.outcome.latency_s <= result.limit * (1 + 1e-9)
    assert result.comparison.ratio.ratio <= 0.7 * 1.03
    assert result.original.latency_s == pytest.approx(result.limit / 0.7)
    assert set(result.baselines) == {"uniform", "shallow", "deep", "random"}
    for trial in result.baselines.values():
        assert trial.outcome.latency_s <= result.limit * (1 + 1e-9)
    codes = [finding.code for finding in result.findings]
    assert codes == ["untrained", "table_ungraded", "objective_kept_weight", "baseline_better"]
    assert result.best in result.baselines.values()


def test_baselines_for_which_time_was_up_are_said(monkeypatch, tmp_path):
    real = TrialLoop.run
    monkeypatch.setattr(
        TrialLoop,
        "run",
        lambda self, part, *rest, **more: real(self, part, *rest, **more) if part == "amc" else [],
    )
    result = search(plan(), tmp_path / "s.db")
    (said,) = (finding.text for finding in result.findings if finding.code == "baselines_untried")
    assert said.startswith("time was up before uniform, shallow, deep, random could be tried")
    assert "no result" in str(search_view(result))


def test_missed_budget_is_corrected_and_searched_again(tmp_path):
    honest = table()
    # a table that takes no notice of all that is fixed: shares of small networks come out too small
    wrong = replace(
        honest,
        metadata=replace(honest.metadata, calibration=replace(honest.calibration, context=0.2)),
    )
    result = search(plan(latency=0.6), tmp_path / "s.db", device=DEVICE, table=wrong)
    assert "budget_corrected" in {finding.code for finding in result.findings}
    assert result.comparison.ratio.ratio <= 0.6 * 1.03
    assert len(result.trials) > 10


def test_images_of_more_classes_than_the_network_has_are_refused(tmp_path):
    for name in map(str, range(11)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (8, 8), 20 * number).save(tmp_path / "images" / name / f"{number}.png")
    with pytest.raises(
        UsageError,
        match="of 11 classes, but zoo:plain20 tells 10 apart; give a network with 11 outputs",
    ):
        run_search(
            "zoo:plain20",
            Plan("amc", Limit("macs", share=0.5), data=str(tmp_path / "images")),
            store=None,
            save=False,
        )


def test_a_budget_that_no_network_uses_up_is_said(tmp_path):
    spare = search(plan("abcpruner", latency=0.95, alpha=0.3), tmp_path / "s.db")
    (said,) = (finding for finding in spare.findings if finding.code == "budget_unused")
    assert said.text.endswith("of the budget; a larger alpha allows wider ones")


def test_unreachable_budget_names_the_least(tmp_path):
    with pytest.raises(UsageError, match="the least on this grid is"):
        search(plan(latency=0.01), tmp_path / "s.db")
    with pytest.raises(UsageError, match="dropping blocks: without all 3"):
        search(plan("practise", latency=0.01), tmp_path / "s.db")


def test_a_search_whose_every_trial_fails_says_why(tmp_path):
    with pytest.raises(
        UsageError, match=r"none of 10 trials of amc gave a network.*broken of candidate 9 is 2.0"
    ):
        search(
            plan(evaluate="tests.workflows.search.test_search_run:broken", explore="everywhere"),
            tmp_path / "s.db",
        )


def broken(module) -> float:
    return 2.0


def fussy(module) -> float:
    """Fails for some networks, likes many parameters."""
    size = sum(value.numel() for value in module.parameters())
    if size % 3 == 0:
        raise MemoryError("too large for me")
    return size / 1e6


def test_failed_trials_are_counted_and_do_not_end_the_search(tmp_path):
    result = search(
        plan(
            evaluate="tests.workflows.search.test_search_run:fussy",
            trials=16,
            baselines=False,
            explore="everywhere",
        ),
        tmp_path / "s.db",
    )
    failed = [trial for trial in result.trials if trial.error]
    assert len(result.trials) == 16
    assert 0 < len(failed) < 16
    assert result.objective.endswith("fussy")
    assert "too large for me" in str(search_view(result))


def test_practise_measures_and_drops_blocks(tmp_path):
    result = search(
        plan("practise", latency=0.8),
        tmp_path / "s.db",
        table=None,
        device=DEVICE,
        out=tmp_path / "out",
    )
    assert set(result.best.candidate.dropped) < {"blocks.0", "blocks.1", "blocks.2"}
    assert result.comparison.ratio.ratio <= 0.8 * 1.03
    scored = [trial for trial in result.trials if trial.candidate.task == "score"]
    assert all(trial.outcome.distance >= 0 for trial in scored)
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert set(recipe["dropped"]) == set(result.best.candidate.dropped)


def breadth(module) -> float:
    """Likes networks of few and wide layers."""
    widths = [part.out_channels for part in module.modules() if isinstance(part, nn.Conv2d)]
    return sum(widths) / len(widths) / 64


def knapsack_with_blocks(kind="macs", share=0.5) -> Plan:
    return Plan.of(
        "knapsack",
        Limit(kind, share=share),
        trials=20,
        levels=1,
        blocks=True,
        evaluate="tests.workflows.search.test_search_run:breadth",
    )


@pytest.mark.parametrize("kind", ["macs", "params", "size", "latency"])
def test_blocks_go_with_channels_within_budgets_of_every_kind(kind, tmp_path):
    plan = knapsack_with_blocks(kind)
    result = search(plan, tmp_path / "s.db", table=table() if kind == "latency" else None)
    cost = {"macs": "macs", "params": "params", "size": "size_bytes", "latency": "latency_s"}[kind]
    assert getattr(result.best.outcome, cost) <= 0.5 * getattr(result.original, cost) * (1 + 1e-9)
    assert result.best.candidate.dropped
    assert set(result.baselines) == {"uniform", "shallow", "deep", "random"}
    assert all(not trial.candidate.dropped for trial in result.baselines.values())
    shown = str(search_view(result))
    assert f"dropped: {', '.join(result.best.candidate.dropped)}; widths: " in shown


def test_a_network_without_blocks_and_narrower_is_written_as_it_was_judged(tmp_path):
    result = search(knapsack_with_blocks(share=0.05), tmp_path / "s.db", table=None, out=tmp_path)
    candidate = result.best.candidate
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert set(recipe["dropped"]) == set(candidate.dropped) != set()
    assert recipe["groups"]
    program = torch.export.load(tmp_path / "network.pt2").module()
    assert program(example()).shape == (1, 10)
    written = PrunableNetwork(load_workload(str(tmp_path / "network.onnx")))
    structure = PrunableNetwork(load_workload(tiny(), example_inputs=example())).structure
    assert written.keys(written.structure.widths) == structure.keys(
        candidate.widths, candidate.dropped
    )
    assert written.workload.macs == result.best.outcome.macs


def test_a_killed_search_over_blocks_goes_on_to_the_same_result(tmp_path):
    plan = knapsack_with_blocks()
    whole = search(plan, tmp_path / "whole.db", table=None)
    with pytest.raises(KeyboardInterrupt):
        search(plan, tmp_path / "killed.db", table=None, callback=Killed(15))
    again = search(plan, tmp_path / "killed.db", table=None)
    assert again.resumed == 15
    assert (again.trials, again.best) == (whole.trials, whole.best)


def test_budgets_that_widths_do_not_keep_to_have_no_baselines(tmp_path):
    plan = knapsack_with_blocks(share=0.05).changed(lower=0.4)
    with pytest.raises(UsageError, match="cannot be reached"):
        search(plan.changed(blocks=False), tmp_path / "s.db", table=None)
    result = search(plan, tmp_path / "s.db", table=None)
    assert result.best.candidate.dropped
    assert "no_baselines" in {finding.code for finding in result.findings}


def test_channels_are_ranked_as_asked(tmp_path):
    common = {"data": "digits", "accept_untrained": True, "tune": "none", "baselines": False}
    by = {}
    for importance in ("l1", "taylor"):
        asked = plan(importance=importance, trials=4, **common)
        search(asked, tmp_path / "s.db", out=tmp_path / importance)
        recipe = json.loads((tmp_path / importance / "recipe.json").read_text())
        by[importance] = [group["kept"] for group in recipe["groups"]]
    assert by["l1"] != by["taylor"]


def test_result_is_tuned_on_data_and_written(tmp_path):
    asked = plan(
        "abcpruner",
        data="digits",
        images=100,
        trial_epochs=0.5,
        tune_epochs=12,
        baselines=False,
        accept_untrained=True,
    )
    result = search(asked, tmp_path / "s.db", out=tmp_path / "out")
    assert result.objective == "accuracy"
    assert result.tuned == "ce"
    assert 0 <= result.quality <= 1
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "network.pt2",
        "network.onnx",
        "state_dict.pt",
        "recipe.json",
        "network.json",
        "finetune.py",
        "log.jsonl",
    }
    program = torch.export.load(tmp_path / "out" / "network.pt2").module()
    assert program(example()).shape == (1, 10)
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == len(result.trials)


def test_a_number_of_trials_is_kept_to_whatever_the_method_counts_by(tmp_path):
    result = search(plan("abcpruner", trials=5), tmp_path / "s.db")
    assert len(result.trials) == 5
    assert result.best in (*result.trials, *result.baselines.values())


def test_time_that_is_up_in_the_first_batch_leaves_what_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Journal, "elapsed_s", property(lambda journal: float(len(journal._known)))
    )  # every trial takes a second
    result = search(plan("abcpruner", sources=50, budget_s=4.5, baselines=False), tmp_path / "s.db")
    assert len(result.trials) >= 5
    assert {trial.candidate.note for trial in result.trials} == {"sources"}
    assert result.best in result.trials


def test_practise_is_tuned_without_images_and_counts_steps(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(training, "train_stably", lambda *words: steps.append(words[3].steps))
    monkeypatch.setattr(Tuning, "run", lambda tuning: steps.append(tuning._schedule.steps))
    few = Plan.of("practise", Limit("latency", share=0.7), images=16, adaptor_steps=2)
    for more, expected in (
        ({}, 2000),
        ({"tune_steps": 7}, 7),
        ({"tune_epochs": 3}, 3),
        ({"tune_epochs": 0}, None),
    ):
        steps.clear()
        result = search(few.changed(**more), tmp_path / "s.db")
        assert result.tuned == ("none" if expected is None else "features")
        assert steps[-1] == (2 if expected is None else expected)
    assert "there are no labelled images to tell its accuracy" in str(search_view(result))


def test_the_temperature_is_that_of_the_distillation(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(Tuning, "run", lambda tuning: given.append(tuning._loss.temperature))
    search(
        plan(
            data="digits",
            images=20,
            tune="kd",
            temperature=2.5,
            baselines=False,
            trials=1,
            accept_untrained=True,
        ),
        tmp_path / "s.db",
    )
    assert given == [2.5]


def test_single_weights_stay_zero_while_tuned(tmp_path):
    asked = Plan.of(
        "amc",
        Limit("size", share=0.3),
        single_weights=True,
        trials=3,
        data="digits",
        images=30,
        tune_epochs=1,
        accept_untrained=True,
    )
    result = run_search(tiny(), asked, example_inputs=example(), save=False, out=tmp_path / "out")
    assert result.best.outcome.size_bytes <= 0.3 * result.original.size_bytes + 1
    state = torch.export.load(tmp_path / "out" / "network.pt2").state_dict
    weights = [value for value in state.values() if value.ndim > 1]
    biases = result.original.params - sum(
        value.numel() for value in weights
    )  # normalization is part of them, none is pruned
    kept = sum(int(value.count_nonzero()) for value in weights) + biases
    assert kept <= 0.3 * result.original.params
    assert (
        4 * kept <= result.best.outcome.size_bytes + 1 <= 4 * (kept + len(weights)) + 1
    )  # each layer keeps whole weights


@pytest.mark.parametrize("kind", ["macs", "params", "size"])
def test_other_budgets_need_no_latency(kind, tmp_path):
    result = run_search(
        tiny(),
        Plan("amc", Limit(kind, share=0.5), trials=5),
        example_inputs=example(),
        store=str(tmp_path / "s.db"),
    )
    cost = {"macs": "macs", "params": "params", "size": "size_bytes"}[kind]
    assert getattr(result.best.outcome, cost) <= 0.5 * getattr(result.original, cost)
    assert result.comparison is None


def test_candidates_differ_by_what_is_asked_of_them():
    assert (
        Candidate(0, dropped=("a",)).network != Candidate(0, dropped=("a",), task="score").network
    )


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("latency", "0.5", Limit("latency", share=0.5)),
        ("latency", "50%", Limit("latency", share=0.5)),
        ("latency", "12ms", Limit("latency", amount=0.012)),
        ("latency", "300 us", Limit("latency", amount=pytest.approx(300e-6))),
        ("macs", "285M", Limit("macs", amount=285e6)),
        ("size", "4MB", Limit("size", amount=4e6)),
        ("params", "1", Limit("params", share=1.0)),
    ],
)
def test_limits_are_read(kind, text, expected):
    assert Limit.parse(kind, text) == expected


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("latency", "12"),
        ("latency", "0"),
        ("latency", "fast"),
        ("latency", "5MB"),
        ("size", "120%"),
    ],
)
def test_other_limits_are_refused(kind, text):
    with pytest.raises(UsageError, match="expected a share"):
        Limit.parse(kind, text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("annealing", Limit("latency", share=0.5)), "unknown search"),
        (("amc", None), "needs a budget"),
        (("practise", Limit("macs", share=0.5)), "drops blocks for latency"),
    ],
)
def test_impossible_plans_are_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        Plan(*arguments)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tune": "hard"}, "unknown tuning 'hard'; expected one of none, ce, kd, features"),
        ({"reward": "joy"}, "unknown reward 'joy'"),
        ({"importance": "l3"}, "unknown importance 'l3'"),
        ({"importance": "taylor"}, "'taylor' is told by images, and none were given; pass data="),
        ({"importance": "l2", "single_weights": True}, "single weights are pruned by their size"),
        ({"tune": "kd"}, "learns from labelled images, and none were given; pass data="),
        ({"temperature": 0.0}, "temperature of 0"),
        ({"tune_epochs": 1, "tune_steps": 1}, "give one of them"),
    ],
)
def test_what_would_be_noticed_in_the_end_is_refused_at_once(wrong, said):
    with pytest.raises(UsageError, match=said):
        plan(**wrong)


def test_practise_takes_as_many_steps_as_its_time_allows_and_the_same_when_it_goes_on(
    tmp_path, monkeypatch
):
    steps: list[int] = []
    monkeypatch.setattr(training, "train_stably", lambda *words: steps.append(words[3].steps))
    given = iter([17])
    monkeypatch.setattr(training, "fitting_steps", lambda *_: next(given))
    asked = plan("practise", adaptor_steps=500, budget_s=100.0)
    with pytest.raises(KeyboardInterrupt):
        search(asked, tmp_path / "s.db", callback=Killed(2))
    result = search(asked, tmp_path / "s.db")
    assert steps == [17, 17, 17]
    (said,) = [finding.text for finding in result.findings if finding.code == "fewer_steps"]
    assert "17 iterations for the score of each block, not 500" in said


@pytest.mark.parametrize(("limit_s", "expected"), [(10.0, 80), (1000.0, 500), (0.1, 10)])
def test_steps_that_fit_are_told_by_a_few(limit_s, expected, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def train(steps: int) -> None:
        now[0] += 1.9 + 0.1 * steps  # so long before the first

    assert training.fitting_steps(limit_s, 500, train) == expected
