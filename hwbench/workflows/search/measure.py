"""The result of a search beside its original, measured interleaved on the device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hwbench.errors import UsageError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.comparing import compare_measured
from hwbench.network.intake import load_workload
from hwbench.records.comparison import Comparison
from hwbench.workflows.recording import recording

if TYPE_CHECKING:
    from hwbench.pruning import Pruned
    from hwbench.workflows.search.latency import Latencies
    from hwbench.workflows.search.subject import Subject


def measure_result(
    subject: Subject, pruned: Pruned, places: Latencies, callback: MeasuringCallback
) -> Comparison:
    """Measure and compare the very network that is going to be delivered.

    Raises:
        DeviceError: The device failed.
    """
    if places.meter is None:
        raise UsageError("there is no device to measure on; give --device")
    smaller = replace(
        load_workload(pruned.module, example_inputs=subject.example), name=f"{subject.name}, pruned"
    )
    with recording(places.url, save=places.store is not None, callback=callback) as recorder:
        return compare_measured(
            *places.meter.measure([subject.workload, smaller], places.settings, recorder)
        )
