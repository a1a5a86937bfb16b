"""Tuning does no harm: rates that ruin a network are noticed and lowered; a killed one goes on."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch import nn

from hwbench.errors import MeasurementError
from hwbench.search import tuning as tuning_module
from hwbench.search.data import Images
from hwbench.search.training import Schedule, accuracy, cross_entropy, tune
from hwbench.search.tuning import CHECKS, Guard, Progress, ProgressTimer, Tuning, renormalize
from tests.search.test_search_training import digits, trained

GUARD = Guard(
    is_ruined=lambda module: accuracy(module, digits()[1]) < 0.5,
    is_worse=lambda module: accuracy(module, digits()[1]) < 0.9,
)
"""For a network that answers nine of ten rightly."""


class Kept:
    """A checkpoint in memory."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None
        self.saved = 0

    def load(self) -> dict[str, Any] | None:
        return self.state

    def save(self, state: dict[str, Any]) -> None:
        self.state = copy.deepcopy(state)
        self.saved += 1

    def remove(self) -> None:
        self.state = None


def tuned(rate: float) -> tuple[nn.Module, Tuning]:
    module = copy.deepcopy(trained())
    return module, Tuning(module, images(), cross_entropy, Schedule(20, rate=rate), guard=GUARD)


def images() -> Images:
    return digits()[0]


def test_a_good_rate_is_kept_and_gives_what_training_gives() -> None:
    module, tuning = tuned(0.01)
    tuning.run()
    assert tuning.rates == []
    other = copy.deepcopy(trained())
    tune(other, images(), cross_entropy, Schedule(20, rate=0.01))
    for name, weight in module.named_parameters():
        torch.testing.assert_close(weight, other.get_parameter(name), rtol=0, atol=0)


def test_normalization_catches_up_with_the_weights() -> None:
    """After a few steps, moving averages are those of other weights; after tuning they are not."""
    module = copy.deepcopy(trained())
    schedule = Schedule(6, rate=0.05)
    tune(module, images(), cross_entropy, schedule)
    with torch.no_grad():
        inputs = images().sample(1000, 0)
        norm, seen = module[0][1], module[0][0](inputs)
    lag = (norm.running_var - seen.var(dim=(0, 2, 3))).abs().mean()
    renormalize(module, images())
    left = (norm.running_var - seen.var(dim=(0, 2, 3))).abs().mean()
    assert float(left) < 0.5 * float(lag)
    assert norm.momentum == 0.1
    assert not module.training


@pytest.mark.parametrize("rate", [3.0, 1e6])
def test_a_rate_that_ruins_the_network_is_lowered_whether_or_not_the_loss_stays_finite(
    rate: float,
) -> None:
    module, tuning = tuned(rate)
    with contextlib.suppress(MeasurementError):  # a hundredth of a million is still too high
        tuning.run()
    assert tuning.rates[0] == rate
    assert accuracy(module, digits()[1]) > 0.9


def test_a_rate_that_ruins_it_is_given_up_early() -> None:
    steps: list[int] = []
    tuning = Tuning(
        copy.deepcopy(trained()),
        images(),
        cross_entropy,
        Schedule(60, rate=3.0),
        guard=GUARD,
        report=lambda progress: steps.append(progress.step),
    )
    tuning.run()
    assert steps[steps[1:].index(1)] < 60


def test_a_network_that_is_worse_on_other_images_is_tuned_at_a_lower_rate() -> None:
    asked: list[nn.Module] = []

    def is_worse(module: nn.Module) -> bool:
        asked.append(module)
        return len(asked) == 1

    module = copy.deepcopy(trained())
    guard = Guard(lambda _: False, is_worse)
    tuning = Tuning(module, images(), cross_entropy, Schedule(5, rate=0.02), guard=guard)
    tuning.run()
    assert tuning.rates == [0.02]
    other = copy.deepcopy(trained())
    tune(other, images(), cross_entropy, Schedule(5, rate=0.002))
    torch.testing.assert_close(module[3].weight, other[3].weight, rtol=0, atol=0)


def test_a_network_that_every_rate_ruins_is_left_as_it_was() -> None:
    module, tuning = tuned(1e9)
    with pytest.raises(MeasurementError, match=r"harm at rates of 1e\+09, 1e\+08, 1e\+07"):
        tuning.run()
    torch.testing.assert_close(module.state_dict(), trained().state_dict(), rtol=0, atol=0)


class Killed(Exception):
    """As by a signal."""


def run(checkpoint: Kept, rate: float, kill: int | None) -> tuple[nn.Module, int]:
    """Tune a network; the number of steps that it took, or was killed after."""
    taken: list[int] = []

    def report(progress: Progress) -> None:
        taken.append(progress.step)
        if len(taken) == kill:
            raise Killed

    module = copy.deepcopy(trained())
    module[2] = nn.Sequential(nn.Flatten(), nn.Dropout(0.3))
    schedule = Schedule(20, rate=rate, batch=32, shift=1)
    tuning = Tuning(
        module, images(), cross_entropy, schedule, guard=GUARD, checkpoint=checkpoint, report=report
    )
    with contextlib.suppress(Killed, MeasurementError):
        tuning.run()
    return module, len(taken)


@pytest.mark.parametrize("rate", [0.001, 3.0])
def test_a_killed_tuning_goes_on_to_the_same_network(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_module, "KEEP_S", 0.0)
    whole, steps = run(Kept(), rate, None)
    for after in (3, 11):
        checkpoint = Kept()
        run(checkpoint, rate, after)
        assert checkpoint.saved
        again, more = run(checkpoint, rate, None)
        torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)
        assert more <= steps - after + 20 // CHECKS
        assert checkpoint.state is None


def test_progress_says_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(tuning_module.time, "monotonic", lambda: now[0])
    told: list[Progress] = []
    timer = ProgressTimer(50, told.append, done=10)
    now[0] += 4.0
    timer(12, 0.5)
    assert told == [Progress(12, 50, 0.5, 2.0 * 38)]
