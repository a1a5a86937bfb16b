"""`hwbench profile`: end-to-end and per-layer latency of one model on one device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hwbench.measuring.callback import MeasuringCallback
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.records.measurement import Measurement, Settings
from hwbench.workflows.defaults import DEFAULT_MODEL
from hwbench.workflows.meter import Meter, open_meter
from hwbench.workflows.recording import recording

if TYPE_CHECKING:
    from torch import nn

DEFAULT_SETTINGS = Settings(budget_s=10)
"""A first number within 15 s, export included; a comparison takes up to 30."""


def profile(
    model: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    device: str | Meter = "cpu",
    settings: Settings | None = None,
    store: str | None = None,
    save: bool = True,
    callback: MeasuringCallback | None = None,
    **options: Unpack[ModelOptions],
) -> Measurement:
    """Measure one model, end to end and layer by layer.

    Args:
        model: A path (`.onnx`, `.pt`, `.pt2`), `zoo:NAME[@WIDTH]`, `module:factory`, or a torch
            module in memory.
        device: Address of the device (`cpu`, `virtual`, ...), or another `Meter`.
        settings: How to measure.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to keep the record in the store.
        callback: Called while the work goes on, to show or store how far it is.
        options: How the model is read, see `load_workload`.

    Returns:
        The record, raw samples included.

    Raises:
        HwbenchError: The model cannot be read, or the device cannot run it; the message says what
            to do.
    """
    settings = settings or DEFAULT_SETTINGS
    workload = load_workload(model, seed=settings.seed, **options)
    with open_meter(device) as meter, recording(store, save=save, callback=callback) as recorder:
        (record,) = meter.measure([workload], settings, recorder)
    return record
