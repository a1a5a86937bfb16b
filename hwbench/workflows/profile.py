"""`hwbench profile`: end-to-end and per-layer latency of one model on one device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.devices import open_device
from hwbench.measurement import Measurement, Settings
from hwbench.model_files import load_workload
from hwbench.profiling import Watch, measure
from hwbench.workflows._recording import recording

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "zoo:mobilenet_v1"
DEFAULT_SETTINGS = Settings(budget_s=10)
"""A first number within 15 s, export included; a comparison takes up to 30."""


def profile(
    model: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    device: str = "cpu",
    inputs: Sequence[str] = (),
    example_inputs: Sequence[Any] | None = None,
    batch: int | None = None,
    precision: str = "fp32",
    arch: str | None = None,
    trust_pickle: bool = False,
    settings: Settings | None = None,
    store: str | None = None,
    save: bool = True,
    watch: Watch | None = None,
) -> Measurement:
    """Measure one model, end to end and layer by layer.

    Args:
        model: A path (`.onnx`, `.pt`, `.pt2`), `zoo:NAME[@WIDTH]`, `module:factory`, or a torch module in memory.
        device: Address of the device (`cpu`, `virtual`, ...).
        inputs: Input shapes as text where the model does not hold them: `1x3x224x224` or `NAME=1x3x224x224`.
        example_inputs: Tensors to export a torch module in memory with.
        batch: Fixes the leading dimension of the inputs.
        precision: `fp32` or `int8`.
        arch: `module:factory` that builds the network of a bare state_dict.
        trust_pickle: Allow the model file to execute code while it loads.
        settings: How to measure.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to keep the record in the store.
        watch: Told about progress.

    Returns:
        The record, raw samples included.

    Raises:
        HwbenchError: The model cannot be read, or the device cannot run it; the message says what to do.
    """
    settings = settings or DEFAULT_SETTINGS
    workload = load_workload(
        model,
        inputs=inputs,
        example_inputs=example_inputs,
        batch=batch,
        precision=precision,
        arch=arch,
        trust_pickle=trust_pickle,
        seed=settings.seed,
    )
    with open_device(device) as opened, recording(store, save=save, watch=watch) as watching:
        return measure(opened, workload, settings, watching)
