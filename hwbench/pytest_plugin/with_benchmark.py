"""`hw_benchmark` with pytest-benchmark: the seconds of the device become the rounds of its table.

Only its public interface is used. pytest-benchmark times a call by reading a timer before and after
it. It is given a timer that stands still but for the recorded latency of one sample, and a call
that moves it on: one round for each sample. So its table, saved files, comparisons and histograms
hold seconds of the device and not of this computer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pytest

from hwbench.errors import HwbenchError, MeasurementError
from hwbench.pytest_plugin.options import OPTIONS

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import nn

    from hwbench.devices.base import Device
    from hwbench.network.intake import ModelOptions
    from hwbench.records.measurement import Measurement, Settings


class DeviceClock:
    """A clock that plays samples back.

    It reads 0 before a round and the sample after it, so that no sum rounds their difference.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._samples_s: Iterator[float] = iter(())

    def device_seconds(self) -> float:
        """Read the clock, in seconds; saved files name the timer by the name of this function."""
        return self._now_s

    def load(self, samples_s: tuple[float, ...]) -> None:
        """Play these samples, in seconds.

        They begin again where --benchmark-cprofile asks for more rounds.
        """
        self._samples_s = cycle(samples_s)

    def rewind(self) -> None:
        """Go back to 0, before a round."""
        self._now_s = 0.0

    def advance(self) -> None:
        """Move on by the next sample: the round that is timed."""
        self._now_s = next(self._samples_s)


_CLOCK = pytest.StashKey[DeviceClock]()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a clock to each test that measures.

    pytest-benchmark reads its timer from the marker closest to the test; the one put there repeats
    the test's own.
    """
    if "hw_benchmark" not in getattr(item, "fixturenames", ()):
        return
    clock = item.stash[_CLOCK] = DeviceClock()
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    own = item.get_closest_marker("benchmark")
    if own is not None:
        args, kwargs = own.args, dict(own.kwargs)
    kwargs["timer"] = clock.device_seconds
    item.add_marker(pytest.mark.benchmark.with_args(*args, **kwargs), append=False)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Let pytest-benchmark warn where a run is compared with one on another device."""
    options = config.stash[OPTIONS]
    if options.device_named:
        machine_info["hwbench_device"] = options.device


@pytest.fixture
def hw_benchmark(
    request: pytest.FixtureRequest, benchmark: BenchmarkFixture, hw_device: Device
) -> Callable[..., Measurement]:
    """Measure the workload of a test: `hw_benchmark(model)` gives its Measurement.

    It takes the arguments of `hwbench.profile`. The samples are rounds of pytest-benchmark too.
    With --benchmark-disable it is only seen that the workload runs.
    """
    from hwbench.pytest_plugin.bench import FixtureMeter

    clock = request.node.stash.get(_CLOCK, None)
    if clock is None:
        pytest.fail(
            "hw_benchmark must be an argument of the test or of a fixture, not asked for by"
            " getfixturevalue"
        )
    meter, option = FixtureMeter(request.node, hw_device), request.config.getoption
    # xdist disables the table, not the measurement, and sets both options.
    disabled = option("benchmark_disable") and not option("benchmark_enable")

    def measure(
        model: str | Path | nn.Module,
        *,
        settings: Settings | None = None,
        **options: Unpack[ModelOptions],
    ) -> Measurement:
        try:
            record = meter.profile(model, settings=settings, quick=disabled, **options)
        except HwbenchError:
            _publish_failure(benchmark)
            raise
        _publish(benchmark, clock, record)
        return record

    return measure


def _publish(benchmark: BenchmarkFixture, clock: DeviceClock, record: Measurement) -> None:
    """Hand the samples to pytest-benchmark, with what a saved file should say of them."""
    low_s, high_s = record.median_ci_s
    benchmark.extra_info["hwbench"] = {
        "record": record.id,
        "model": record.model,
        "model_sha256": record.model_sha256,
        "device": record.device.address,
        "target": record.device.target,
        "runtime": record.device.runtime,
        "clock": record.clock,
        "median_s": record.median_s,
        "median_ci_s": [low_s, high_s],
        "findings": [finding.code for finding in record.findings],
    }
    clock.load(record.series.samples_s)
    benchmark.pedantic(clock.advance, setup=clock.rewind, rounds=len(record.series))  # type: ignore[no-untyped-call]


def _publish_failure(benchmark: BenchmarkFixture) -> None:
    """Make it a benchmark that failed; of one never used pytest-benchmark would warn."""

    def fail() -> None:
        raise MeasurementError("the workload was not measured")

    with suppress(MeasurementError):
        benchmark.pedantic(fail)  # type: ignore[no-untyped-call]
