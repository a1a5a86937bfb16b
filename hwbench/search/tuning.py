"""Tuning: training of a network that already works, which must not do harm.

A rate at which a network learns from scratch can ruin one that is nearly right, and its loss stays
finite meanwhile. So what the network is worth is looked at now and then, by images that it does not
learn from: where it is ruined, or worse in the end, it is taken back and tuned at a tenth of the
rate. The loss tells less: augmented images, a teacher and dropout raise it and do good. Batch
normalization, which lags behind the weights, is measured anew before that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwbench.errors import MeasurementError
from hwbench.search.training import RATES, Loss, Schedule, Training

if TYPE_CHECKING:
    from torch import Tensor

    from hwbench.search.data import Images

CHECKS = 10
"""Parts of a training after each of which the network is looked at."""
RENORMALIZED = 1024
"""Training images that batch normalization is measured on in the end."""
TIMES_RUINED = 2
"""Times in a row that it must look ruined: batch normalization, which lags behind the weights, can
do it once."""
STEPS_AT_ONCE = 10
"""Steps after which the time is looked at."""
KEEP_S = 30.0
"""Seconds between two checkpoints."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes:
        step: Number of steps that were taken.
        steps: Number of steps in all.
        loss: Loss of the last one.
        left_s: Seconds that the others will take, at the speed so far.
    """

    step: int
    steps: int
    loss: float
    left_s: float


class Checkpoint(Protocol):
    """Where the state of a training outlives the process."""

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None where there is none."""
        ...

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state in place of the last one."""
        ...

    def remove(self) -> None:
        """Keep nothing any more."""
        ...


@dataclass(frozen=True, slots=True)
class Guard:
    """Tells what training did to a network, by images that it does not learn from.

    Attributes:
        is_ruined: Whether going on is no use.
        is_worse: Whether the trained network is worse than it was before.
    """

    is_ruined: Callable[[nn.Module], bool]
    is_worse: Callable[[nn.Module], bool]


class ProgressTimer:
    """Tells how long a training will still take.

    Args:
        steps: Number of its steps.
        report: Called after each step.
        done: Number of steps that were taken before the clock began.
    """

    def __init__(self, steps: int, report: Callable[[Progress], None], done: int = 0) -> None:
        self._steps, self._report, self._done = steps, report, done
        self._begun = time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        """Report a step."""
        each_s = (time.monotonic() - self._begun) / max(step - self._done, 1)
        self._report(Progress(step, self._steps, loss, each_s * (self._steps - step)))


class Tuning:
    """Tunes one network.

    Args:
        module: The network, which is tuned in place.
        images: To learn from.
        loss: What is made small.
        schedule: How, with the first rate to try of `RATES`.
        guard: Tells what the training did; None for a network that nothing can be lost of.
        checkpoint: Where the state is kept; None to keep it nowhere.
        report: Called after each step.
        deadline_s: When it has to be over, by `time.monotonic`: it is stopped then, and another
            rate is only tried if it will take no longer than that; None for no such time.

    Attributes:
        rates: Rates that were given up, as they did harm.
        step: Number of steps that were taken at the last rate.
    """

    def __init__(
        self,
        module: nn.Module,
        images: Images,
        loss: Loss,
        schedule: Schedule,
        *,
        guard: Guard | None = None,
        checkpoint: Checkpoint | None = None,
        report: Callable[[Progress], None] = lambda _: None,
        deadline_s: float | None = None,
    ) -> None:
        self._module, self._images, self._loss, self._schedule = module, images, loss, schedule
        self._guard, self._checkpoint, self._report = guard, checkpoint, report
        self._deadline_s = deadline_s
        self._kept_at = time.monotonic()
        self.rates: list[float] = []
        self.step = 0

    def run(self, *, forget: bool = True) -> None:
        """Tune the network.

        Args:
            forget: Whether to remove the checkpoint in the end; otherwise that is left to whoever
                keeps the network first.

        Raises:
            MeasurementError: Every rate did harm that there was time for; the network is as it
                was.
        """
        before = _copy(self._module)
        state = None if self._checkpoint is None else self._checkpoint.load()
        retry = 0 if state is None else int(state["retry"])
        self.rates = [self._schedule.rate / 10**number for number in range(retry)]
        for number in range(retry, RATES):
            schedule = replace(self._schedule, rate=self._schedule.rate / 10**number)
            begun_s = time.monotonic()
            try:
                self._train(schedule, number, state)
            except MeasurementError:
                self._module.load_state_dict(before)
                self.rates.append(schedule.rate)
                state = None
                if self._is_late(time.monotonic() - begun_s):
                    break
            else:
                if forget:
                    self._forget()
                return
        self._forget()
        tried = ", ".join(f"{rate:g}" for rate in self.rates)
        raise MeasurementError(f"training diverged or did harm at rates of {tried}")

    def _train(self, schedule: Schedule, retry: int, state: dict[str, Any] | None) -> None:
        """Train at one rate.

        Raises:
            MeasurementError: The loss is no longer finite, or the network is ruined or worse.
        """
        training = Training(self._module, self._images, self._loss, schedule)
        ruined = 0
        if state is not None:
            training.restore(state["training"])
            ruined = int(state["ruined"])
        timer = ProgressTimer(schedule.steps, self._report, training.step)
        part = -(-schedule.steps // CHECKS)

        def note(step: int, loss: float) -> None:
            timer(step, loss)
            is_due = time.monotonic() - self._kept_at >= KEEP_S
            # Where the loss is about to be looked at, that comes first.
            if self._checkpoint is not None and is_due and step % part:
                self._checkpoint.save(
                    {"retry": retry, "ruined": ruined, "training": training.state()}
                )
                self._kept_at = time.monotonic()

        # A few steps are taken however late it is.
        while not training.is_finished and not (training.step and self._is_late()):
            training.advance(min(part - training.step % part, STEPS_AT_ONCE), note)
            self.step = training.step
            is_due = training.step % part == 0 or training.is_finished
            if self._guard is None or not is_due:
                continue
            ruined = ruined + 1 if self._guard.is_ruined(self._module) else 0
            if ruined >= TIMES_RUINED:
                raise MeasurementError(
                    f"the network was ruined by step {training.step} of {schedule.steps} at a rate"
                    f" of {schedule.rate:g}"
                )
        renormalize(self._module, self._images.few(min(RENORMALIZED, len(self._images)), 0))
        if self._guard is not None and self._guard.is_worse(self._module):
            raise MeasurementError(f"the network is worse at a rate of {schedule.rate:g}")

    def _is_late(self, needed_s: float = 0.0) -> bool:
        """Whether there are no such seconds any more before it has to be over."""
        return self._deadline_s is not None and time.monotonic() + needed_s > self._deadline_s

    def _forget(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.remove()


def renormalize(module: nn.Module, images: Images, *, batch: int = 64) -> None:
    """Measure the statistics of batch normalization anew, with the weights as they are now.

    While a network is trained they are moving averages, which lag behind the weights: after a few
    steps the network is worse by them than by its batches. Here they are the means over batches,
    as Wu and Johnson propose (2021, arXiv 2105.07576, section 3).

    Args:
        module: The network, in place.
        images: Images to measure on; of a last batch of one there is no spread, so it is left out.
        batch: Images per batch.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    modes = {part: part.training for part in module.modules()}
    module.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        for inputs, _ in images.batches(batch):
            if len(inputs) > 1:
                module(inputs.to(next(module.parameters()).device))
    for part, mode in modes.items():
        part.training = mode
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _copy(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a network as they are now."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
