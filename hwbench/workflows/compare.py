"""`hwbench compare`: the real speed-up over a baseline, and the layers it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hwbench.errors import Argument, IncomparableError, UsageError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.comparing import compare_measured
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.network.intake.input_texts import InputRequest
from hwbench.network.workload import Workload
from hwbench.records.comparison import RECORD as COMPARISON
from hwbench.records.comparison import Comparison, compare_apart
from hwbench.records.measurement import Settings
from hwbench.store import open_store
from hwbench.workflows.likeness import find_likeness
from hwbench.workflows.meter import Meter, opened_to_compare
from hwbench.workflows.recording import read_order, recording

if TYPE_CHECKING:
    from torch import nn


def compare(
    baseline: str | Path | nn.Module | Workload,
    candidate: str | Path | nn.Module,
    *,
    device: str | Meter = "cpu",
    candidate_device: str | None = None,
    candidate_precision: str | None = None,
    candidate_arch: str | None = None,
    data: str | Path | None = None,
    evaluate: str | Callable[[nn.Module], Any] | None = None,
    settings: Settings | None = None,
    store: str | None = None,
    save: bool = True,
    callback: MeasuringCallback | None = None,
    **options: Unpack[ModelOptions],
) -> Comparison:
    """Measure two models interleaved and compare them.

    Args:
        baseline: The reference; what `hwbench.profile` takes, or a `Workload`.
        candidate: The new one; what `hwbench.profile` takes.
        device: Address of the device, or another `Meter`.
        candidate_device: Address of the device for the candidate, if it differs: another runtime of
            the same target, `openvino` beside `cpu`.
        candidate_precision: Precision of the candidate if it differs.
        candidate_arch: What builds the network of the candidate's bare state_dict, if it differs.
        data: Images to evaluate both networks on, beside their latencies: a folder with one
            sub-folder per class, `package.module:factory` of torch datasets, or `digits`.
        evaluate: A function, or its name `package.module:function`, that evaluates a network in
            place of its accuracy. It takes a torch module that runs the network in ONNX Runtime,
            and gives a number, or one for each sample, which gives the difference an interval.
        settings: How to measure.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to keep both records in the store.
        callback: Called while the work goes on, to show or store how far it is.
        options: How both models are read, see `load_workload`.

    Returns:
        The comparison with both records.

    Raises:
        IncomparableError: The models take inputs of different shapes or types, or the devices are
            different hardware.
        HwbenchError: A model cannot be read, or the device cannot run it; the message says what to
            do.
    """
    settings = settings or Settings()
    pair = load_pair(
        baseline, candidate, candidate_precision, candidate_arch, seed=settings.seed, **options
    )
    with opened_to_compare(device, candidate_device) as measure:  # what is not there is told first
        likeness = find_likeness(*pair, settings, data, evaluate)
        with recording(store, save=save, callback=callback, likeness=likeness) as recorder:
            records = measure(pair, settings, recorder)
    return compare_measured(*records, likeness=likeness)


def compare_records(baseline: str, candidate: str, *, store: str | None = None) -> Comparison:
    """Compare two stored measurements.

    Where they were not interleaved there is no verdict, and a finding says so.

    Args:
        baseline: Id of the reference, or the beginning of it.
        candidate: Id of the new one, or the beginning of it.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.

    Raises:
        UsageError: There is no such measurement, or several.
    """
    with open_store(store) as opened:
        first, second = opened.get(baseline), opened.get(candidate)
        orders = opened.read_records(COMPARISON, read_order, damaged=[])  # of others, maybe
    for record in (first, second):
        if not record.series:
            raise UsageError(f"measurement {record.id[:12]} of {record.model} has no samples")
    if first.group_id == second.group_id:
        known = {group_id: likeness for group_id, _, likeness in orders.values()}
        return compare_measured(first, second, likeness=known.get(first.group_id))
    return compare_apart(first, second)


def load_pair(
    baseline: str | Path | nn.Module | Workload,
    candidate: str | Path | nn.Module,
    candidate_precision: str | None,
    candidate_arch: str | None,
    *,
    seed: int,
    **options: Unpack[ModelOptions],
) -> tuple[Workload, Workload]:
    """Read two models that are to be compared; see `compare`.

    Raises:
        IncomparableError: The models take inputs of different shapes or types.
        HwbenchError: A model cannot be read; the message says what to do.
    """
    changed = options.copy()
    if candidate_precision is not None:
        changed["precision"] = candidate_precision
    if candidate_arch is not None:
        changed["arch"] = candidate_arch
    first = baseline
    if not isinstance(first, Workload):
        first = load_workload(first, seed=seed, **options)
    second = load_workload(candidate, seed=seed, **changed)
    check_same_inputs(first, second)
    return first, second


_FLOATS = {"float16": "float32", "bfloat16": "float32"}
"""A network in half precision takes its inputs in it; precisions may differ in a comparison."""


def check_same_inputs(baseline: Workload, candidate: Workload) -> None:
    """Refuse two models that cannot be fed the same.

    Raises:
        IncomparableError: Their inputs differ in shape or type.
    """
    before, after = (
        [(spec.shape, _FLOATS.get(spec.dtype, spec.dtype)) for spec in w.inputs]
        for w in (baseline, candidate)
    )
    if before != after:
        remedies = [Argument("inputs", change="the same"), Argument("batch", change="the same")]
        more, fewer = (baseline, candidate) if len(before) > len(after) else (candidate, baseline)
        names = {spec.name for spec in more.inputs}
        if len(before) != len(after) and names > {spec.name for spec in fewer.inputs}:
            # The other may take them too, without needing them (masks of networks of text).
            texts = tuple(str(InputRequest(s.name, s.shape, s.dtype)) for s in more.inputs)
            remedies = [Argument("inputs", texts, purpose=f"if {fewer.name} takes them too")]
        raise IncomparableError(
            f"{baseline.name} takes inputs {_text(before)} but {candidate.name} takes"
            f" {_text(after)}",
            *remedies,
        )


def _text(inputs: Sequence[tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{'x'.join(map(str, shape))} {dtype}" for shape, dtype in inputs)
