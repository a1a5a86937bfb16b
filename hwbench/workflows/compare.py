"""`hwbench compare`: the real speed-up of a candidate over a baseline, and the layers it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.comparison import Comparison
from hwbench.comparison import compare as compare_records
from hwbench.devices import open_device
from hwbench.errors import IncomparableError
from hwbench.measurement import Settings
from hwbench.model_files import load_workload
from hwbench.profiling import Watch, measure_interleaved
from hwbench.workflows._recording import recording
from hwbench.workload import Workload

if TYPE_CHECKING:
    from torch import nn


def compare(
    baseline: str | Path | nn.Module,
    candidate: str | Path | nn.Module,
    *,
    device: str = "cpu",
    inputs: Sequence[str] = (),
    example_inputs: Sequence[Any] | None = None,
    batch: int | None = None,
    precision: str = "fp32",
    candidate_precision: str | None = None,
    arch: str | None = None,
    candidate_arch: str | None = None,
    trust_pickle: bool = False,
    settings: Settings | None = None,
    store: str | None = None,
    save: bool = True,
    watch: Watch | None = None,
) -> Comparison:
    """Measure two models interleaved and compare them.

    Args:
        baseline: The reference; what `hwbench.profile` takes.
        candidate: The new one; what `hwbench.profile` takes.
        device: Address of the device.
        inputs: Input shapes as text, for both models.
        example_inputs: Tensors to export torch modules in memory with, for both.
        batch: Fixes the leading dimension of the inputs of both.
        precision: `fp32` or `int8`, for both.
        candidate_precision: Precision of the candidate if it differs.
        arch: `module:factory` that builds the network of a bare state_dict, for both.
        candidate_arch: The same for the candidate if it differs.
        trust_pickle: Allow the model files to execute code while they load.
        settings: How to measure.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to keep both records in the store.
        watch: Told about progress.

    Returns:
        The comparison with both records.

    Raises:
        IncomparableError: The models take inputs of different shapes or types.
        HwbenchError: A model cannot be read, or the device cannot run it; the message says what to do.
    """
    settings = settings or Settings()
    first, second = (
        load_workload(
            model,
            inputs=inputs,
            example_inputs=example_inputs,
            batch=batch,
            precision=chosen,
            arch=builder,
            trust_pickle=trust_pickle,
            seed=settings.seed,
        )
        for model, chosen, builder in (
            (baseline, precision, arch),
            (candidate, candidate_precision or precision, candidate_arch or arch),
        )
    )
    _check_inputs(first, second)
    with open_device(device) as opened, recording(store, save=save, watch=watch) as watching:
        records = measure_interleaved(opened, [first, second], settings, watching)
    return compare_records(*records)


def _check_inputs(baseline: Workload, candidate: Workload) -> None:
    before, after = ([(spec.shape, spec.dtype) for spec in workload.inputs] for workload in (baseline, candidate))
    if before != after:
        raise IncomparableError(
            f"{baseline.name} takes inputs {_text(before)} but {candidate.name} takes {_text(after)}; "
            "give both the same with --input or --batch"
        )


def _text(inputs: Sequence[tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{'x'.join(map(str, shape))} {dtype}" for shape, dtype in inputs)
