"""`hw_benchmark` without pytest-benchmark: workloads are measured and kept, without its table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import pytest

if TYPE_CHECKING:
    from torch import nn

    from hwbench.devices.base import Device
    from hwbench.network.intake import ModelOptions
    from hwbench.records.measurement import Measurement, Settings


@pytest.fixture
def hw_benchmark(request: pytest.FixtureRequest, hw_device: Device) -> Callable[..., Measurement]:
    """Measure the workload of a test: `hw_benchmark(model)` gives its Measurement.

    It takes the arguments of `hwbench.profile`.
    """
    from hwbench.pytest_plugin.bench import FixtureMeter

    meter = FixtureMeter(request.node, hw_device)

    def benchmark(
        model: str | Path | nn.Module,
        *,
        settings: Settings | None = None,
        **options: Unpack[ModelOptions],
    ) -> Measurement:
        return meter.profile(model, settings=settings, **options)

    return benchmark
