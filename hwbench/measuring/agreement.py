"""Whether two networks compute the same: both are run on the same inputs, and compared.

A version of a network (quantised, pruned and trained again) gives outputs that follow those of the
original. Outputs of another shape, or that have nothing to do with each other, mean that something
went wrong on the way, however fast the candidate is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.devices.shared.inputs import random_input
from hwbench.errors import HwbenchError
from hwbench.network.run_outputs import NetworkRunner
from hwbench.network.workload import TFLITE, Workload
from hwbench.records.findings import Finding
from hwbench.records.outputs import Likeness, OutputAgreement
from hwbench.records.scratch import scratch_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwbench.records.tensors import TensorSpec

Arrays = Sequence["NDArray[Any]"]

DRAWS = 8
"""Random inputs that both networks are run on."""
FEWEST_VALUES, MOST_DRAWS = 64, 64
"""Values of each output that there should be, and inputs that are drawn for that at most.

An output of one value gives eight of them, whose correlation varies by chance: where it is truly
0.65, it is below `UNRELATED` in every fifth case; of 64 values, in 3 of 1,000 (Fisher's
transformation: its deviation is 1 / sqrt(n - 3)).
"""
LONGEST_S = 20.0
"""Seconds that running both networks may take."""
UNRELATED = 0.4
"""Correlation of the outputs below which a candidate is said to compute something else.

Trained networks of which channels or a layer were removed, and that were tuned afterwards, came to
0.5 to 0.8 (one of nine to 0.2); those with permuted outputs, with a layer left out or trained from
other weights to 0.3 at most (decision 65).
"""
RELATED = 0.5
"""Correlation from which outputs are related even if no input has the same class in both."""
FEWEST_INPUTS = 3
"""Inputs from which on the correlation is that of what they change."""
LEAST_CHANGE = 0.01
"""Share of the outputs' power, as an amplitude, that inputs have to change for that: of outputs
that hardly depend on the input, rounding would be compared."""
SAME_NETWORK_DB = 10.0
"""Signal-to-noise ratio that a network of as much work and as many parameters should keep.

Such a candidate has the same layers, in another format or precision. One in int8 is not judged by
it: random inputs may lie far outside of the ranges that it was calibrated for.
"""
ZOO = "zoo:"


def check_outputs(baseline: Workload, candidate: Workload, seed: int, budget_s: float) -> Likeness:
    """Run two networks on the same inputs, once, and compare their outputs.

    Args:
        baseline: The reference.
        candidate: The new one; its inputs have the same shapes.
        seed: Of random inputs.
        budget_s: Seconds that measuring may take; a network that takes so long is not waited for.

    """
    random_ones = [work.name for work in (baseline, candidate) if work.name.startswith(ZOO)]
    if random_ones:
        text = (
            f"{' and '.join(dict.fromkeys(random_ones))}: networks of the zoo have random weights,"
            " so what they compute is not compared"
        )
        return Likeness(findings=(Finding("random_weights", text),))
    try:
        agreement = _run_and_compare(baseline, candidate, seed, budget_s)
    except (HwbenchError, OSError) as error:
        finding = Finding("outputs_not_compared", f"outputs are not compared: {error}")
        return Likeness(findings=(finding,))
    problems = agreement.problems or _judge(baseline, candidate, agreement)
    if not problems:
        return Likeness(agreement)
    text = f"the candidate computes something else on {agreement.inputs}: {'; '.join(problems)}"
    return Likeness(agreement, findings=(Finding("different_outputs", text),))


def _judge(baseline: Workload, candidate: Workload, agreement: OutputAgreement) -> tuple[str, ...]:
    """What differs in kind between outputs of equal shapes, in words."""
    correlation, snr_db = agreement.correlation, agreement.snr_db
    if correlation is None or snr_db is None:
        return ()
    if correlation < UNRELATED:
        which = "the outputs" if agreement.output is None else f"output {agreement.output}"
        return (f"the correlation of {which} is {correlation:.2f}",)
    if correlation < RELATED and agreement.agreement == 0:
        return (
            f"not one input has the same class in both, and the correlation is {correlation:.2f}",
        )
    work = baseline.macs, baseline.params
    if "int8" in {baseline.precision, candidate.precision}:
        return ()
    if work == (candidate.macs, candidate.params) and snr_db < SAME_NETWORK_DB:
        return (f"the same layers give outputs with a signal-to-noise ratio of {snr_db:.1f} dB",)
    return ()


def _run_and_compare(
    baseline: Workload, candidate: Workload, seed: int, budget_s: float
) -> OutputAgreement:
    limit_s = min(LONGEST_S, max(2.0, budget_s))
    end_s = time.monotonic() + limit_s
    pairs: list[tuple[Arrays, Arrays]] = []
    draws = 1 if _gives_all_values(baseline) else DRAWS
    with scratch_folder() as folder, NetworkRunner(Path(folder)) as runner:
        draw = 0
        while draw < draws:
            inputs = draw_inputs(baseline, seed + draw)
            outputs = []
            for workload in (baseline, candidate):
                left_s = max(0.1, end_s - time.monotonic())
                fitted = fit_inputs(inputs, baseline.inputs, workload.inputs)
                outputs.append(runner.run(workload, fitted, left_s))
            pairs.append((outputs[0], outputs[1]))
            draw += 1
            if draws == DRAWS:
                draws = _count_draws(outputs[0])
            if end_s - time.monotonic() < 0.5 * limit_s:
                break
    if draws == 1:
        noun = "given inputs"
    else:
        noun = "1 random input" if len(pairs) == 1 else f"{len(pairs)} random inputs"
    return compare_outputs(pairs, noun, describe_runtime(baseline, candidate))


def _count_draws(outputs: Arrays) -> int:
    """Inputs that it takes for enough values of the smallest output of floats."""
    sizes = [output.size for output in outputs if output.dtype.kind == "f" and output.size]
    if not sizes:
        return DRAWS
    return min(max(DRAWS, math.ceil(FEWEST_VALUES / min(sizes))), MOST_DRAWS)


def describe_runtime(*workloads: Workload) -> str:
    """What runs networks for their outputs, and where."""
    names = dict.fromkeys(
        "ai-edge-litert" if workload.format == TFLITE else "onnxruntime" for workload in workloads
    )
    runtimes = " and ".join(f"{name} {version(name)}" for name in names)
    return f"{runtimes} on this computer"


def _gives_all_values(workload: Workload) -> bool:
    return all(spec.name in workload.values for spec in workload.inputs)


def draw_inputs(workload: Workload, seed: int) -> list[NDArray[Any]]:
    """The values of all inputs: those that a network came with, else random ones."""
    values = []
    for spec in workload.inputs:
        value = workload.values.get(spec.name)
        values.append(random_input(spec, seed) if value is None else value)
    return values


def fit_inputs(
    values: Arrays, drawn_for: Sequence[TensorSpec], specs: Sequence[TensorSpec]
) -> list[NDArray[Any]]:
    """The same values in the types that another network takes them in.

    Args:
        values: The values.
        drawn_for: The inputs that they have the types of.
        specs: The inputs that they are for.
    """
    fitted = []
    for value, before, after in zip(values, drawn_for, specs, strict=True):
        if before.dtype == after.dtype:
            fitted.append(value)
            continue
        # A bfloat16 comes as the upper half of the float32 with the same value.
        number = value
        if before.dtype == "bfloat16":
            number = (value.astype(np.uint32) << 16).view(np.float32)
        if after.dtype == "bfloat16":
            fitted.append((number.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
        else:
            fitted.append(number.astype(after.dtype))
    return fitted


def compare_outputs(
    pairs: Sequence[tuple[Arrays, Arrays]], inputs: str, runtime: str
) -> OutputAgreement:
    """Compare outputs of two networks.

    Args:
        pairs: The outputs of both for each input, in order.
        inputs: What both were run on, in words.
        runtime: What ran them.
    """
    problems = _find_problems(pairs[0])
    if problems:
        return OutputAgreement(inputs, runtime, None, None, None, problems)
    agreement = _share_of_equal_classes(pairs)
    errors: list[float] = []
    correlations: dict[int, float] = {}  # by number of the output, from 1
    outputs = len(pairs[0][0])
    for number, reference in enumerate(pairs[0][0]):
        if reference.dtype.kind != "f":
            continue
        signal = _join_values([before[number] for before, _ in pairs])
        other = _join_values([after[number] for _, after in pairs])
        problems = _find_empty_values(signal, other)
        if problems:
            return OutputAgreement(inputs, runtime, None, None, agreement, problems)
        power = float(np.mean(signal**2))
        if power > 0:
            errors.append(float(np.sqrt(np.mean((signal - other) ** 2) / power)))
        signal, other = _take_off_means(signal, other, len(pairs))
        if signal.std() > 0 and other.std() > 0:
            correlations[number + 1] = float(np.corrcoef(signal, other)[0, 1])
    # A wrong output may be small beside the others, so the worst one counts.
    error, correlation = max(errors, default=None), min(correlations.values(), default=None)
    worst = None
    if outputs > 1 and correlations:
        worst = min(correlations, key=correlations.__getitem__)
    return OutputAgreement(inputs, runtime, error, correlation, agreement, output=worst)


def _take_off_means(
    signal: NDArray[np.float64], other: NDArray[np.float64], inputs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the inputs change in an output: the mean over all of them is taken off at each place.

    Two networks for the same classes may agree in which ones are frequent and in nothing else.

    Args:
        signal: The values of the baseline for all inputs, one after the other.
        other: Those of the candidate.
        inputs: Number of the inputs.

    Returns:
        The changes; the values as they are where there are too few inputs, or hardly any changes.
    """
    if inputs < FEWEST_INPUTS or len(signal) % inputs:
        return signal, other
    changes = []
    for values in (signal, other):
        rows = values.reshape(inputs, -1)
        change = rows - rows.mean(axis=0)
        if np.mean(change**2) < LEAST_CHANGE**2 * np.mean(values**2):
            return signal, other
        changes.append(change.ravel())
    return changes[0], changes[1]


def _join_values(outputs: Arrays) -> NDArray[np.float64]:
    return np.concatenate([output.astype(np.float64).ravel() for output in outputs])


def _find_problems(pair: tuple[Arrays, Arrays]) -> tuple[str, ...]:
    before, after = ([output.shape for output in side] for side in pair)
    if len(before) != len(after):
        return (f"{len(after)} outputs against {len(before)} of the baseline",)
    problems = []
    for number, (shape, other) in enumerate(zip(before, after, strict=True), 1):
        if shape != other:
            problems.append(f"output {number} is {_text(other)} against {_text(shape)}")
    return tuple(problems)


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _find_empty_values(signal: NDArray[Any], other: NDArray[Any]) -> tuple[str, ...]:
    """Values that say nothing where the other side's do: not finite, or all of them equal."""
    wrong, wrong_before = ~np.isfinite(other), ~np.isfinite(signal)
    if wrong.any() and not wrong_before.any():
        return (f"{wrong.mean():.0%} of its outputs are no finite numbers",)
    if wrong_before.any():
        return (f"{wrong_before.mean():.0%} of the baseline's outputs are no finite numbers",)
    if signal.std() > 0 and other.std() == 0:
        return ("all values of its outputs are equal",)
    return ()


def classes_of(output: NDArray[Any]) -> NDArray[Any] | None:
    """The classes that an output names: whole numbers, or the places of the largest values.

    Args:
        output: Of shape (samples, classes, ...), or whole numbers of any shape.

    Returns:
        The classes; None where the output names none.
    """
    if output.dtype.kind in "iub":
        return output
    if output.ndim >= 2 and output.shape[1] > 1:
        classes: NDArray[Any] = output.argmax(axis=1)
        return classes
    return None


def _share_of_equal_classes(pairs: Sequence[tuple[Arrays, Arrays]]) -> float | None:
    equal = []
    for before, after in pairs:
        if not before:
            return None
        reference, output = classes_of(before[0]), classes_of(after[0])
        if reference is None or output is None:
            return None
        equal.append(float(np.mean(reference == output)))
    return float(np.mean(equal))
