"""Networks measured on several devices of one kind, brought to one scale.

Two specimens of a phone differ by a few percent. Each measures the unpruned network (the anchor) in
turns with every other one, so its speed is known: its times are multiplied by one factor, which
makes its anchor as long as that of all devices on average. What one factor leaves over lies in the
networks and widens the table's intervals as any error does. How far the devices are apart is added
to them, since nobody knows which of them a prediction will be used for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwbench.lookup_tables import LookupTable
from hwbench.lookup_tables.making.networks import NetworkSample


@dataclass(frozen=True, slots=True)
class Scales:
    """How long the same network takes on each device.

    Attributes:
        levels_s: The latency of the anchor on each device, in seconds, by name of the device.
        reference_s: Their geometric mean, in which every device counts alike, in seconds.
    """

    levels_s: Mapping[str, float]
    reference_s: float

    @property
    def deviation(self) -> float:
        """The relative standard deviation of one device from another of the kind.

        It is 0 where there is only one.
        """
        logs = np.log(list(self.levels_s.values()))
        if len(logs) < 2:
            return 0.0
        return float(logs.std(ddof=1))

    @property
    def note(self) -> str:
        """A sentence on how far the devices are apart."""
        ratios = [level_s / self.reference_s - 1 for level_s in self.levels_s.values()]
        if len(ratios) == 1:
            return "measured on 1 device of its kind"
        spread = f"{min(ratios):+.1%} to {max(ratios):+.1%}"
        return (
            f"measured on {len(ratios)} devices of one kind, whose unpruned networks lie {spread}"
            " off their mean"
        )


def find_scales(samples: Sequence[NetworkSample]) -> Scales:
    """Find the scale of every device that measured some networks.

    Args:
        samples: The networks, at least one.
    """
    anchors_s: dict[str, list[float]] = {}
    for sample in samples:
        anchors_s.setdefault(sample.by, []).append(sample.level_s)
    levels_s = {
        device: float(np.median(values_s)) for device, values_s in sorted(anchors_s.items())
    }
    logs = np.log(list(levels_s.values()))
    return Scales(levels_s, math.exp(float(np.mean(logs))))


def rescale_samples(samples: Sequence[NetworkSample], scales: Scales) -> tuple[NetworkSample, ...]:
    """Express the times of all samples in seconds of the average device.

    Args:
        samples: The networks, as the devices measured them.
        scales: The scale of every device.
    """
    rescaled = []
    for sample in samples:
        factor = scales.reference_s / scales.levels_s[sample.by]
        layers = [replace(layer, latency_s=layer.latency_s * factor) for layer in sample.layers]
        rescaled.append(
            replace(
                sample,
                anchor_s=tuple(value_s * factor for value_s in sample.anchor_s),
                whole_s=tuple(value_s * factor for value_s in sample.whole_s),
                beside_s=sample.beside_s * factor,
                layers=tuple(layers),
            )
        )
    return tuple(rescaled)


def widen_intervals(table: LookupTable, scales: Scales) -> LookupTable:
    """Widen the intervals of a table so that they hold for any device of the kind.

    Args:
        table: A table fitted to rescaled samples.
        scales: The scale of every device.
    """
    # A prediction of a new device: the spread of one more device, and the uncertainty of the mean
    # of n of them, s * sqrt(1 + 1/n), independent of the table's own error.
    device_sd = scales.deviation * math.sqrt(1 + 1 / len(scales.levels_s))
    shared_sd = math.hypot(table.calibration.shared_sd, device_sd)
    calibration = replace(table.calibration, shared_sd=shared_sd)
    provenance = replace(table.provenance, note=scales.note)
    return replace(
        table, metadata=replace(table.metadata, calibration=calibration, provenance=provenance)
    )
