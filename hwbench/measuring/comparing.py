"""Comparing measured records, explained by the driver that took them."""

from __future__ import annotations

from hwbench import devices
from hwbench.errors import HwbenchError
from hwbench.records.comparison import Comparison, compare
from hwbench.records.measurement import Measurement
from hwbench.records.outputs import Likeness


def compare_measured(
    baseline: Measurement, candidate: Measurement, *, likeness: Likeness | None = None
) -> Comparison:
    """Compare two records of one interleaved measurement, fresh or stored.

    What it means that a layer is executed in another way, the driver says that the baseline's
    address names. Where there is no such driver (a record of another computer, or of a package that
    is not installed), or the candidate's is
    another one, changes stay unexplained.

    Args:
        baseline: The reference.
        candidate: The new one.
        likeness: How far both networks compute the same, where that was looked into.
    """
    name = baseline.device.address.partition(":")[0]
    if candidate.device.address.partition(":")[0] != name:
        return compare(baseline, candidate, likeness=likeness)
    try:
        driver = devices.driver_class(name)
    except HwbenchError:
        return compare(baseline, candidate, likeness=likeness)
    return compare(baseline, candidate, explain_change=driver.explain_change, likeness=likeness)
