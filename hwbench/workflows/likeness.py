"""What two networks compute beside how fast they are: their outputs, and their quality on data."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench import stats
from hwbench.errors import Argument, HwbenchError, UsageError
from hwbench.measuring.agreement import check_outputs, classes_of, describe_runtime, fit_inputs
from hwbench.network.run_outputs import NetworkRunner
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings
from hwbench.records.outputs import ACCURACY, Likeness, QualityChange
from hwbench.records.scratch import scratch_folder
from hwbench.workflows.search.original import choose_preprocessing, describe_assumed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from hwbench.search.data import Data, Images

LOG = logging.getLogger("hwbench")
LOAD_S = 120.0
"""Seconds that loading a network and its first batch may take."""
TOLD_EVERY_S = 2.0
"""Seconds between two words on how far an evaluation is."""


@dataclass(frozen=True)
class Answers:
    """What a network says of data.

    Attributes:
        values: One number for each sample, whose mean is the quality: 1 where the class is right;
            None where there is no number for each.
        classes: The class that is answered for each sample; None where there are none.
        quality: The mean; None without labels.
    """

    values: NDArray[np.float64] | None
    classes: NDArray[Any] | None
    quality: float | None


def find_likeness(
    baseline: Workload,
    candidate: Workload,
    settings: Settings,
    data: str | Path | None = None,
    evaluate: str | Callable[[nn.Module], Any] | None = None,
) -> Likeness:
    """How far two networks compute the same.

    Args:
        baseline: The reference.
        candidate: The new one; its inputs have the same shapes.
        settings: How they are to be measured.
        data: Images to evaluate both on, as `hwbench.search.data.load_data` takes them.
        evaluate: What evaluates a network in place of its accuracy, or its name.

    Raises:
        UsageError: There are no such images, or the networks do not take them.
        WorkloadError: A network does not run in ONNX Runtime.
    """
    LOG.info("running both networks on the same inputs")
    likeness = check_outputs(baseline, candidate, settings.seed, settings.budget_s)
    if data is None and evaluate is None:
        return likeness
    quality, findings = _compare_quality(baseline, candidate, settings, data, evaluate)
    return replace(likeness, quality=quality, findings=(*likeness.findings, *findings))


def _compare_quality(
    baseline: Workload,
    candidate: Workload,
    settings: Settings,
    data: str | Path | None,
    evaluate: str | Callable[[nn.Module], Any] | None,
) -> tuple[QualityChange, tuple[Finding, ...]]:
    answers: list[Answers]
    finding = None
    with scratch_folder() as folder, NetworkRunner(folder, os.cpu_count() or 1) as runner:
        networks = [EvaluatedNetwork(runner, work, baseline) for work in (baseline, candidate)]
        if evaluate is not None:
            function, measure = find_function(evaluate)
            answers = [ask_function(function, measure, network) for network in networks]
            name = measure if data is None else str(data)
        else:
            images = load_images(str(data), baseline, settings.seed)
            images, finding = normalise_images(images, networks[0], settings.seed)
            answers = [classify(network, images.test, images.classes) for network in networks]
            name, measure = images.name, ACCURACY
    runtime = describe_runtime(baseline, candidate)
    quality = compare_answers(answers[0], answers[1], name, measure, runtime)
    return quality, () if finding is None else (finding,)


def compare_answers(
    first: Answers, second: Answers, data: str, measure: str, runtime: str
) -> QualityChange:
    """The difference between two networks on the same samples, with its paired interval.

    Raises:
        UsageError: They are not on the same samples.
    """
    if first.values is not None and second.values is not None:
        counts = len(first.values), len(second.values)
        if counts[0] != counts[1]:
            raise UsageError(
                f"{measure} gives {counts[0]} numbers for one network and {counts[1]} for the"
                " other; it has to give one for each sample, or a single one"
            )
    drop = None
    if first.quality is not None and second.quality is not None:
        drop = first.quality - second.quality
    samples, interval = 0, None
    if first.values is not None and second.values is not None:
        samples = len(first.values)
        interval = _find_paired_interval(first.values, second.values)
    agreement, agreement_ci = None, None
    if first.classes is not None and second.classes is not None:
        samples = len(first.classes)
        equal = int(np.sum(first.classes == second.classes))
        agreement, agreement_ci = equal / samples, stats.share_interval(equal, samples)
    return QualityChange(
        data,
        samples,
        measure,
        runtime,
        first.quality,
        second.quality,
        drop,
        interval,
        agreement,
        agreement_ci,
    )


def _find_paired_interval(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[float, float] | None:
    """The 95 % interval of the mean difference, paired by sample; None for a single sample."""
    if len(first) < 2:
        return None
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        only_first, only_second = int(np.sum(first > second)), int(np.sum(first < second))
        return stats.paired_difference_interval(only_first, only_second, len(first))
    differences = first - second
    centre, half = float(differences.mean()), stats.t_half_width(differences)
    return centre - half, centre + half


class EvaluatedNetwork:
    """One of the networks, on samples of any number.

    Args:
        runner: What runs it.
        workload: The network.
        drawn_for: The network whose inputs the samples have the types of.
    """

    def __init__(self, runner: NetworkRunner, workload: Workload, drawn_for: Workload) -> None:
        self.workload = workload
        self._runner, self._drawn_for = runner, drawn_for

    def run(self, samples: NDArray[Any]) -> NDArray[Any]:
        """The first output for samples (n, ...), in batches of the workload's size."""
        batch = self.workload.batch
        outputs = []
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            full = part
            if len(part) < batch:
                full = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
            values = fit_inputs([full], self._drawn_for.inputs, self.workload.inputs)
            output, *_ = self._runner.run(self.workload, values, LOAD_S)
            outputs.append(output[: len(part)])
        return np.concatenate(outputs)


def load_images(data: str, workload: Workload, seed: int) -> Data:
    """Images in the shape that a network takes.

    Raises:
        UsageError: There are none, or the network takes no images.
    """
    from hwbench.search.data import load_data

    shapes = [spec.shape for spec in workload.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UsageError(
            f"{workload.name} does not take one batch of images, so it cannot be evaluated on"
            f" {data}; evaluate it by a function of your own",
            Argument("evaluate", "package.module:function"),
        )
    return load_data(data, shapes[0][1:], seed=seed)


def normalise_images(
    images: Data, baseline: EvaluatedNetwork, seed: int
) -> tuple[Data, Finding | None]:
    """Normalise pictures as the baseline answers them best, and say so; others come as inputs."""
    if images.preprocessing is None:
        return images, None
    if not images.classes:
        return images, describe_assumed(images)
    return choose_preprocessing(_make_module(baseline), images, seed)


def classify(network: EvaluatedNetwork, images: Images, classes: int) -> Answers:
    """What a network answers images.

    Args:
        network: The network.
        images: The images.
        classes: Number of their classes; 0 for images without labels.

    Raises:
        UsageError: It gives no class for an image.
    """
    answered_classes, labels = [], []
    begun_s = told_s = time.monotonic()
    total = len(images)
    step = max(network.workload.batch, 64 // network.workload.batch * network.workload.batch)
    for batch, expected in images.batches(step):
        answered = classes_of(network.run(batch.numpy()))
        if answered is None or answered.ndim != 1:
            raise UsageError(
                f"{network.workload.name} gives no class for an image; evaluate it by a function"
                " of your own",
                Argument("evaluate", "package.module:function"),
            )
        answered_classes.append(answered)
        labels.append(expected.numpy())
        if time.monotonic() > told_s + TOLD_EVERY_S:
            told_s = time.monotonic()
            done = sum(map(len, answered_classes))
            left_s = (told_s - begun_s) / done * (total - done)
            name = network.workload.name
            LOG.info("evaluating %s: %d of %d images, %.0f s left", name, done, total, left_s)
    answers, expectations = np.concatenate(answered_classes), np.concatenate(labels)
    if not classes:
        return Answers(None, answers, None)
    right = (answers == expectations).astype(np.float64)
    return Answers(right, answers, float(right.mean()))


def find_function(
    evaluate: str | Callable[[nn.Module], Any],
) -> tuple[Callable[[nn.Module], Any], str]:
    """A function that evaluates networks, and its name.

    Raises:
        UsageError: There is none of that name.
    """
    if not isinstance(evaluate, str):
        return evaluate, getattr(evaluate, "__qualname__", type(evaluate).__name__)
    from hwbench.search.data import imported

    function = imported(evaluate)
    if not callable(function):
        raise UsageError(f"{evaluate} is a {type(function).__name__}, not a function")
    return function, evaluate


def ask_function(
    function: Callable[[nn.Module], Any], name: str, network: EvaluatedNetwork
) -> Answers:
    """What a user's function says of a network: one number, or one for each sample.

    Args:
        function: The function; it takes a torch module.
        name: Its name.
        network: The network.

    Raises:
        UsageError: It says something else, or fails.
    """
    try:
        said = function(_make_module(network))
        numbers = np.atleast_1d(np.asarray(said, dtype=np.float64))
    except HwbenchError:
        raise
    except Exception as error:
        raise UsageError(
            f"{name} fails on {network.workload.name}: {type(error).__name__}: {error}"
        ) from error
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise UsageError(
            f"{name} gives no finite number for {network.workload.name}, nor one for each sample"
        )
    values = numbers if len(numbers) > 1 else None
    return Answers(values, None, math.fsum(numbers.tolist()) / len(numbers))


def _make_module(network: EvaluatedNetwork) -> nn.Module:
    """The network as a torch module, as functions that evaluate networks of a search take it."""
    import torch

    class RuntimeNetwork(torch.nn.Module):
        def forward(self, samples: Tensor) -> Tensor:
            return torch.from_numpy(network.run(samples.detach().cpu().numpy()))

    return RuntimeNetwork().eval()
