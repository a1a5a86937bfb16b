"""Networks measured on several devices of one kind, brought to one scale.

Two specimens of a phone differ by a few percent. Each measures the unpruned network (the anchor)
beside every other one, so what its seconds are worth is known: its times are multiplied by one
factor, which makes its anchor as long as that of all devices on average. What one factor leaves
lies in the networks and widens the table's intervals as any error does; how far the devices are
apart is added to them, since nobody knows which of them a prediction will be used for.
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
        levels_s: Latency of the anchor on each device, seconds.
        reference_s: Their geometric mean, every device counting alike.
    """

    levels_s: Mapping[str, float]
    reference_s: float

    @property
    def deviation(self) -> float:
        """Relative standard deviation of one device from another of the kind.

        0 where there is one.
        """
        logs = np.log(list(self.levels_s.values()))
        return float(logs.std(ddof=1)) if len(logs) > 1 else 0.0

    @property
    def note(self) -> str:
        """How far they are apart, in a sentence."""
        ratios = [level_s / self.reference_s - 1 for level_s in self.levels_s.values()]
        if len(ratios) == 1:
            return "measured on 1 device of its kind"
        spread = f"{min(ratios):+.1%} to {max(ratios):+.1%}"
        return (
            f"measured on {len(ratios)} devices of one kind, whose unpruned networks lie {spread}"
            " off their mean"
        )


def scales_of(samples: Sequence[NetworkSample]) -> Scales:
    """The scale of every device that measured one of these networks.

    Args:
        samples: At least one.
    """
    seen: dict[str, list[float]] = {}
    for sample in samples:
        seen.setdefault(sample.by, []).append(sample.level_s)
    levels_s = {by: float(np.median(values_s)) for by, values_s in sorted(seen.items())}
    return Scales(levels_s, math.exp(float(np.mean(np.log(list(levels_s.values()))))))


def reconciled(samples: Sequence[NetworkSample], scales: Scales) -> tuple[NetworkSample, ...]:
    """The samples in seconds of one and the same device."""
    return tuple(
        _times(sample, scales.reference_s / scales.levels_s[sample.by]) for sample in samples
    )


def _times(sample: NetworkSample, factor: float) -> NetworkSample:
    return replace(
        sample,
        anchor_s=tuple(value_s * factor for value_s in sample.anchor_s),
        whole_s=tuple(value_s * factor for value_s in sample.whole_s),
        beside_s=sample.beside_s * factor,
        layers=tuple(replace(layer, latency_s=layer.latency_s * factor) for layer in sample.layers),
    )


def widened(table: LookupTable, scales: Scales) -> LookupTable:
    """The table with intervals for any device of the kind: for one more of them, and for their mean being known from so many."""
    apart = scales.deviation * math.sqrt(1 + 1 / len(scales.levels_s))
    calibration = replace(
        table.calibration, shared_sd=math.hypot(table.calibration.shared_sd, apart)
    )
    provenance = replace(table.provenance, note=scales.note)
    return replace(
        table, metadata=replace(table.metadata, calibration=calibration, provenance=provenance)
    )
