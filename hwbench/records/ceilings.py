"""What a device can do at most, and how far layers are from it: the roofline model.

A layer takes at least the time of its multiply-accumulates at the device's best rate, and at least
that of the bytes that it reads and writes. The longer of the two binds (Williams, Waterman and
Patterson: Roofline, an insightful visual performance model for multicore architectures, CACM 2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from hwbench.records.comparison import IMPOSSIBLE
from hwbench.records.device import DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import LayerLatency, Measurement

RECORD = "ceilings"
"""Kind of the store's records."""
ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes of one value, by precision."""
POSSIBLE = 0.8
"""Share of the least possible latency below which a latency is none.

Ceilings are measured on a few shapes, so that another one may come out a little above them.
"""
COMPUTE, MEMORY = "compute", "memory"


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes read and written a second, by a layer that does nothing else.

    Attributes:
        bytes: That it reads and writes in one inference: what fits into a cache is faster.
        bytes_per_s: How many of them a second.
    """

    bytes: int
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a device can do at most in one precision.

    Attributes:
        precision: The precision.
        macs_per_s: Multiply-accumulates a second of the layer that had most.
        best: That layer.
        bandwidths: Bandwidth by the bytes moved, the fewest first.
    """

    precision: str
    macs_per_s: float
    best: LayerKey
    bandwidths: tuple[Bandwidth, ...]

    @property
    def bytes_per_s(self) -> float:
        """The highest bandwidth, of whatever many bytes."""
        return max(bandwidth.bytes_per_s for bandwidth in self.bandwidths)

    def bandwidth_for(self, moved: int) -> float:
        """Highest bandwidth at which so many bytes, or more, were moved.

        More bytes never move faster, so what was seen with more of them bounds fewer as well. Of
        more than were tried it is that of the most.
        """
        smaller = [band for band in self.bandwidths if band.bytes <= moved]
        least = smaller[-1].bytes if smaller else 0
        return max(band.bytes_per_s for band in self.bandwidths if band.bytes >= least)


@dataclass(frozen=True, slots=True)
class LayerBound:
    """How near a layer is to what the device can do.

    Attributes:
        share: The least time that it could take over the time that it takes.
        binds: `compute` or `memory`: which of the two makes the least time.
        macs_per_byte: Multiply-accumulates for each byte moved.
        macs_per_s: Multiply-accumulates that it does a second.
    """

    share: float
    binds: str
    macs_per_byte: float
    macs_per_s: float


@dataclass(frozen=True)
class Ceilings:
    """What a device can do at most, as measured through its driver.

    Attributes:
        device: The device.
        threads: Threads that it was measured with.
        ceilings: One for each precision.
        created_utc: When.
        hwbench_version: Version of hwbench that measured.
        left_out: Precisions, or layers of them, that the device could not run, with the reason.
    """

    device: DeviceInfo
    threads: int
    ceilings: tuple[Ceiling, ...]
    created_utc: str
    hwbench_version: str
    left_out: tuple[str, ...] = field(default=())

    def find(self, precision: str) -> Ceiling | None:
        """The ceiling of a precision; None where it was not measured."""
        return next((one for one in self.ceilings if one.precision == precision), None)

    def holds_for(self, device: DeviceInfo, threads: int) -> bool:
        """Whether they are of this hardware, runtime and number of threads."""
        return (self.device.target_id, self.device.runtime, self.threads) == (
            device.target_id,
            device.runtime,
            threads,
        )

    def bound(self, layer: LayerLatency) -> LayerBound | None:
        """How near a layer is to its ceiling.

        None for a row without a key, one whose latency is a bound itself, and a precision that was
        not measured.
        """
        if layer.key is None or layer.is_bound or not layer.median_s:
            return None
        ceiling = self.find(layer.key.precision)
        if ceiling is None:
            return None
        macs, moved = layer.key.macs, count_bytes(layer.key)
        compute_s = macs / ceiling.macs_per_s
        memory_s = moved / ceiling.bandwidth_for(moved)
        return LayerBound(
            max(compute_s, memory_s) / layer.median_s,
            COMPUTE if compute_s > memory_s else MEMORY,
            macs / moved,
            macs / layer.median_s,
        )

    def least_s(self, record: Measurement) -> float | None:
        """The least seconds that an inference of a network can take; None where that is unknown.

        Its multiply-accumulates have to be done, and its weights to be read. What else moves
        depends on what the runtime fuses.
        """
        ceiling = self.find(record.precision)
        if ceiling is None:
            return None
        weights = record.params * ELEMENT_BYTES.get(record.precision, 0)
        return max((record.macs or 0) / ceiling.macs_per_s, weights / ceiling.bytes_per_s)


def count_bytes(key: LayerKey) -> int:
    """Bytes that a layer reads and writes at least: activations once, and weights."""
    elements = key.weights + math.prod(key.output) + sum(map(math.prod, key.inputs))
    return elements * ELEMENT_BYTES.get(key.precision, 4)


def choose_ceilings(known: Iterable[Ceilings], device: DeviceInfo, threads: int) -> Ceilings | None:
    """The newest of those that hold for a device; None if none does."""
    fitting = [ceilings for ceilings in known if ceilings.holds_for(device, threads)]
    return max(fitting, key=lambda ceilings: ceilings.created_utc, default=None)


def find_impossible(record: Measurement, ceilings: Ceilings | None) -> Finding | None:
    """Whether a latency is below what the device can do at best.

    Args:
        record: The measurement.
        ceilings: Of its device; None where they are not known.

    Returns:
        The finding; None where the latency is possible, or nothing tells.
    """
    least_s = None if ceilings is None else ceilings.least_s(record)
    if least_s is None or not record.series or record.median_s >= POSSIBLE * least_s:
        return None
    text = (
        f"{record.median_s * 1e6:.4g} us is less than the {least_s * 1e6:.4g} us that"
        f" {record.device.address} needs at its best: something else was timed than the whole"
        " network, or the ceilings are of another state of the device; measure both again"
    )
    return Finding(IMPOSSIBLE, text)
