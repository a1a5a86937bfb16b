"""The better of the result before and after tuning is delivered, with what goes on training it."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import sys
import time
from functools import cache

import pytest
import torch
from torch import nn

from hwbench.errors import MeasurementError
from hwbench.pruning import load
from hwbench.render.searching import search_document, search_view
from hwbench.search import tuning as tuning_module
from hwbench.search.data import Preprocessing, load_data
from hwbench.search.training import Schedule, accuracy, cross_entropy, tune
from hwbench.search.training_settings import TrainingSettings
from hwbench.search.tuning import Guard, Tuning
from hwbench.workflows.search.callback import SearchCallback
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from tests.support.paths import ROOT
from tests.support.tiny_net import Tiny, tiny


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def example() -> torch.Tensor:
    return torch.ones(1, 3, 8, 8)


@cache
def original() -> nn.Module:
    """The network of three blocks, knowing most digits."""
    module = tiny()
    data = load_data("digits", example().shape[1:])
    tune(module, data.train, cross_entropy, Schedule(40, rate=0.05))
    return module.eval()


def plan(**more) -> Plan:
    asked = {"trials": 2, "baselines": False, "data": "digits", "tune_epochs": 1} | more
    return Plan.of("amc", Limit("macs", share=0.5), **asked)


def search(asked: Plan, **more):
    return run_search(original(), asked, example_inputs=example(), **({"save": False} | more))


def codes(result) -> set[str]:
    return {finding.code for finding in result.findings}


def test_tuning_that_helps_is_delivered_and_said():
    result = search(plan(tune_epochs=3))
    assert result.tuned == "ce"
    assert result.quality > result.untuned_quality
    assert "tuning_undone" not in codes(result)
    assert "before tuning" in str(search_view(result))
    assert search_document(result)["untuned_quality"] == result.untuned_quality


@pytest.mark.parametrize("asked", [{"tune_epochs": 500}, {"tune_epochs": None, "tune_steps": 9000}])
def test_tuning_keeps_to_the_time_there_is(asked, monkeypatch):
    limits: list[float] = []

    def fit(limit_s: float, most: int, train) -> int:
        limits.append(limit_s)
        return min(most, 7)

    monkeypatch.setattr("hwbench.search.training.fitting_steps", fit)
    result = search(plan(budget_s=100.0, **asked))
    (said,) = (one for one in result.findings if one.code == "fewer_steps")
    assert "tuned for 7 steps, not " in said.text
    assert 0 < limits[0] < 100


def test_tuning_that_fits_is_not_shortened():
    assert "fewer_steps" not in codes(search(plan(budget_s=600.0)))


def test_no_rate_is_tried_that_there_is_no_time_for():
    data = load_data("digits", example().shape[1:])
    harm = Guard(is_ruined=lambda _: False, is_worse=lambda _: True)

    def rates(deadline_s: float | None) -> int:
        tuning = Tuning(
            tiny(),
            data.train,
            cross_entropy,
            Schedule(10),
            guard=harm,
            deadline_s=deadline_s,
        )
        with contextlib.suppress(MeasurementError):
            tuning.run()
        return len(tuning.rates)

    assert rates(time.monotonic()) == 1
    assert rates(time.monotonic() + 1000) == rates(None) == 3


def test_tuning_that_takes_longer_than_it_should_is_stopped():
    data = load_data("digits", example().shape[1:])
    module = tiny()
    before = copy.deepcopy(module.state_dict())
    tuning = Tuning(
        module, data.train, cross_entropy, Schedule(10**6), deadline_s=time.monotonic() + 0.5
    )
    tuning.run()
    assert 0 < tuning.step < 10**6
    assert any(not torch.equal(before[name], now) for name, now in module.state_dict().items())


def ruin(tuning: Tuning) -> None:
    """Tuning whose own loss says nothing of the harm that it does."""
    with torch.no_grad():
        tuning._module.fc.weight.mul_(-1)


def test_tuning_that_harms_is_taken_back(monkeypatch, tmp_path):
    untuned = search(plan(tune="none"), out=tmp_path / "untuned")
    monkeypatch.setattr(Tuning, "run", ruin)
    result = search(plan(), out=tmp_path / "out")
    assert (result.tuned, result.untuned_quality) == ("none", None)
    (said,) = (one for one in result.findings if one.code == "tuning_undone")
    assert "before and" in said.text
    assert "on 72 images that it did not see), so it is delivered as it was before" in said.text
    for name in ("untuned", "out"):
        assert (tmp_path / name / "recipe.json").is_file()
    first, second = (
        torch.load(tmp_path / name / "state_dict.pt", weights_only=True)
        for name in ("untuned", "out")
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    # Of the same network, on the images that did not decide.
    assert result.quality == pytest.approx(untuned.quality, abs=0.05)


def test_the_images_that_decide_are_not_reported_on(monkeypatch):
    seen = []

    def note(module, images, **more):
        seen.append(set(images.numbers))
        return accuracy(module, images, **more)

    monkeypatch.setattr("hwbench.search.training.accuracy", note)
    search(plan())
    data = load_data("digits", example().shape[1:])
    test = set(data.test.numbers)
    of_test = {frozenset(numbers) for numbers in seen if numbers <= test}
    assert len(of_test) == 2
    assert set.union(*map(set, of_test)) == test
    assert set.intersection(*map(set, of_test)) == set()


def test_features_that_go_further_away_are_taken_back_without_labels(monkeypatch):
    monkeypatch.setattr(Tuning, "run", lambda tuning: nn.init.zeros_(tuning._module.stem.weight))
    asked = Plan.of("practise", Limit("latency", share=0.8), adaptor_steps=2, images=16)
    result = run_search(
        original(), asked, example_inputs=example(), device="virtual:noise=none,step=4", save=False
    )
    assert result.tuned == "none"
    (said,) = (one for one in result.findings if one.code == "tuning_undone")
    assert "its features are" in said.text


def test_a_rate_that_was_too_high_is_lowered_and_said():
    result = search(plan(tune_epochs=2, tune_with=TrainingSettings(rate=1.0)))
    (said,) = (one for one in result.findings if one.code == "rate_lowered")
    assert said.text.startswith("training the result diverged at a rate of 1")
    assert result.quality > 0.5


def test_settings_reach_the_trainings(monkeypatch):
    schedules = []
    monkeypatch.setattr(Tuning, "run", lambda tuning: schedules.append(tuning._schedule))
    trials = []

    def caught(module, images, loss, schedule, **_):
        trials.append(schedule)

    monkeypatch.setattr("hwbench.search.training.tune", caught)
    search(
        plan(
            trial_epochs=0.5,
            trial_with=TrainingSettings(rate=0.5, batch=50),
            tune_with=TrainingSettings(schedule="cosine", batch=100, mirror=True),
        )
    )
    assert (trials[0].rate, trials[0].batch, trials[0].steps) == (0.5, 50, 11)
    (tuned,) = schedules
    assert (tuned.curve, tuned.batch, tuned.mirror, tuned.steps) == ("cosine", 100, True, 11)


class Killed(SearchCallback):
    """Interrupts the training after some steps."""

    def __init__(self, after: int) -> None:
        self.after, self.steps = after, []

    def trained(self, progress) -> None:
        self.steps.append(progress.step)
        if len(self.steps) == self.after:
            raise KeyboardInterrupt


def test_a_search_that_is_killed_while_tuning_goes_on_to_the_same_network(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning_module, "KEEP_S", 0.0)
    asked = plan(tune_epochs=2)
    search(asked, save=True, store=str(tmp_path / "whole.db"), out=tmp_path / "whole")
    places = {"save": True, "store": str(tmp_path / "killed.db")}
    with pytest.raises(KeyboardInterrupt):
        search(asked, callback=Killed(23), **places)
    again = Killed(1000)
    search(asked, callback=again, out=tmp_path / "out", **places)
    assert again.steps[0] > 15
    first, second = (
        torch.load(tmp_path / name / "state_dict.pt", weights_only=True)
        for name in ("whole", "out")
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_an_original_whose_training_is_killed_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning_module, "KEEP_S", 0.0)
    asked = plan(train_epochs=2, tune="none", train_with=TrainingSettings(batch=32))
    places = {"inputs": ("1x3x8x8",), "store": str(tmp_path / "s.db")}
    model = "zoo:resnet20"
    killed, again = Killed(20), Killed(1000)
    with pytest.raises(KeyboardInterrupt):
        run_search(model, asked, callback=killed, **places)
    run_search(model, asked, callback=again, **places)
    assert again.steps[0] > 10
    assert again.steps[-1] == 2 * -(-1078 // 32)


def test_the_folder_goes_on_training_by_its_script(tmp_path):
    torch.save(original().state_dict(), tmp_path / "weights.pt")
    result = run_search(
        "tests.support.tiny_net:tiny",
        plan(weights=str(tmp_path / "weights.pt"), tune="none"),
        inputs=("1x3x8x8",),
        save=False,
        out=tmp_path / "out",
    )
    facts = json.loads((tmp_path / "out" / "network.json").read_text())
    assert facts["model"] == "tests.support.tiny_net:tiny"
    assert (facts["shape"], facts["data"]) == ([3, 8, 8], "digits")
    assert facts["classes"] == list("0123456789")
    script = tmp_path / "out" / "finetune.py"
    assert len(script.read_text().splitlines()) <= 60
    ran = subprocess.run(
        [sys.executable, str(script), "--epochs", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert [line.split(":")[0] for line in ran.stdout.splitlines()[:3]] == [
        "before",
        "epoch 1",
        "epoch 2",
    ]
    further = load(tmp_path / "out" / "finetuned", Tiny())
    assert further.recipe.groups
    data = load_data(
        "digits", (3, 8, 8), preprocessing=Preprocessing.from_dict(facts["preprocessing"])
    )
    assert accuracy(further.module, data.test) > result.quality


def test_the_script_asks_for_an_original_that_was_in_memory(tmp_path):
    search(plan(tune="none"), out=tmp_path / "out")
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "out" / "finetune.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 2
    assert "--original" in ran.stderr
