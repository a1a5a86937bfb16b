"""What a lookup table consists of.

Entries, how they add up to a network, where they came from, and how good they proved to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwbench.errors import SchemaError
from hwbench.records.codec import from_plain, to_plain
from hwbench.records.device import DeviceInfo

Floats = NDArray[np.float64]

TABLE_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """Measured latency of one layer key.

    Attributes:
        latency_s: Seconds that the layer adds to a network; 0 where the runtime computes it inside
            a neighbour.
        sd: Relative standard error of `latency_s`.
        samples: Networks it was measured in.
    """

    latency_s: float
    sd: float
    samples: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the layers add up to a network, and how well.

    Attributes:
        per_layer_s: Seconds between layers, per layer: what the sum of the layers leaves of whole
            networks.
        context: How much more a layer costs in a larger network, whose data leave less of the
            caches to it: layers that sum to `reference_s` times e**x take e**(context * x + bend *
            x**2) times that sum.
        bend: How that levels off: below 0 where small networks stay in a cache from one inference
            to the next and large ones never do.
        span: Smallest and largest x of the networks; beyond it nothing bends further.
        reference_s: Sum of the layers at which they cost what the entries say.
        shared_sd: Relative deviation that the layers of one session of a network share (memory
            layout, context, fit).
        networks: Whole networks this rests on; 0 for a table that never saw one.
    """

    per_layer_s: float = 0.0
    context: float = 0.0
    bend: float = 0.0
    span: tuple[float, float] = (0.0, 0.0)
    reference_s: float = 1.0
    shared_sd: float = 0.05
    networks: int = 0

    @property
    def degrees_of_freedom(self) -> int:
        """Of the t quantile behind intervals; 2 where few networks, or none, were seen."""
        return max(self.networks - 1, 2)

    def whole_s(self, sums_s: Floats, layers: NDArray[np.integer] | int) -> Floats:
        """Latencies of networks, seconds.

        Args:
            sums_s: Sum of the layers of each, seconds, of any shape; 0 where they explain nothing.
            layers: Number of layers of each.
        """
        size = np.log(np.maximum(sums_s / self.reference_s, np.finfo(float).tiny))
        whole_s: Floats = (
            sums_s * np.exp(self.context * size + self.bend * np.clip(size, *self.span) ** 2)
            + self.per_layer_s * layers
        )
        return whole_s


@dataclass(frozen=True, slots=True)
class Source:
    """One model whose pruned versions were measured.

    Attributes:
        model: As the user gave it.
        architecture: SHA-256 of the keys of its unpruned layers: what its weights are does not
            matter.
        latency_s: Its latency, against which drift was cancelled.
        layers: Number of its layers.
        step: Widths were multiples of it.
        lower: Smallest share of a width.
        networks: How many pruned versions.
        disturbed: Measurements left out of the table because the device was visibly busy with
            something else.
        records: Where they are in the store.
    """

    model: str
    architecture: str
    latency_s: float
    layers: int
    step: int
    lower: float
    networks: int
    disturbed: int = 0
    records: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grade:
    """How a table did on random pruned networks that it had not seen, measured end to end.

    Attributes:
        model: Whose pruned versions they were.
        networks: How many.
        bias: Mean relative error (predicted over measured, minus 1).
        mean_error: Mean absolute relative error.
        p95_error: 95th percentile of the absolute relative error.
        rmspe: Root of the mean squared relative error.
        within_5: Share of networks predicted within 5 %.
        within_10: Share of networks predicted within 10 %.
        rank: Spearman's correlation of predicted and measured latencies.
        coverage: Share of networks whose latency lay in its 95 % interval.
        noise: Mean absolute relative difference of two sessions of one network: no prediction can
            be seen to do better. 0 if each had one session.
    """

    model: str
    networks: int
    bias: float
    mean_error: float
    p95_error: float
    rmspe: float
    within_5: float
    within_10: float
    rank: float
    coverage: float
    noise: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a table came from.

    Two tables answer the same question if device, runtime and threads agree.

    Attributes:
        device: What was measured on.
        threads: Threads of the runtime.
        created_utc: ISO 8601 time in UTC.
        hwbench_version: Version of hwbench that made it.
        sources: The models it was made with.
        note: Further provenance of a foreign table (file, publication), for people.
    """

    device: DeviceInfo
    threads: int
    created_utc: str
    hwbench_version: str
    sources: tuple[Source, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Metadata:
    """All of a table but its entries."""

    provenance: Provenance
    calibration: Calibration
    grades: tuple[Grade, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {"schema": TABLE_SCHEMA, **to_plain(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s form.

        Raises:
            SchemaError: It is of another schema, or damaged.
        """
        if data.get("schema") != TABLE_SCHEMA:
            raise SchemaError(
                f"lookup table of schema {data.get('schema')!r}; this hwbench reads {TABLE_SCHEMA}"
            )
        fields = {name: value for name, value in data.items() if name != "schema"}
        return from_plain(cls, fields, "lookup table")
