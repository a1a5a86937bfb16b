"""One pruned network measured for a table: its layers in place, and the whole of it beside the unpruned one (the anchor).

The whole is a ratio to the anchor inside blocks, and the layers are relative to unprofiled inferences that took turns with the
profiled ones. So drift cancels twice, and layers of all networks are seconds of one and the same state of the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hwbench.devices.base import Device, LayerSamples, Prepared, ProfilesLayers
from hwbench.errors import SchemaError, UsageError
from hwbench.layer_profile import row_s
from hwbench.measurement import Settings
from hwbench.onnx_graph import count
from hwbench.workload import LayerKey, Workload

if TYPE_CHECKING:
    from onnx import ModelProto

WARM_UP_ROUNDS = 3
TURN = 3
"""Rounds of one network in a row, the first of which does not count."""
CALM = 0.5
"""Share of blocks, and of profiled inferences, that count: those that took least time in all. Other programs only ever add
time, and more to longer rounds: on a busy machine the median over all blocks made an anchor of 11 ms 4 % slower beside a
pruned network of 5 ms than it is on an idle one."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, for normal values."""


def calm(*series_s: Sequence[float]) -> NDArray[np.intp]:
    """Places of the blocks that were disturbed least, from series of equal length that took turns."""
    total = np.sum([np.log(values_s) for values_s in series_s], axis=0)
    order: NDArray[np.intp] = np.argsort(total, kind="stable")[: max(2, math.ceil(CALM * len(total)))]
    return order


def paired_ratio(anchor_s: Sequence[float], whole_s: Sequence[float]) -> float:
    """Latency of a network over that of the anchor, from rounds that took turns."""
    logs = np.log(whole_s) - np.log(anchor_s)
    return math.exp(float(np.median(logs[calm(anchor_s, whole_s)])))


@dataclass(frozen=True, slots=True)
class LayerSample:
    """One layer of one network, profiled in place; what the runtime inserted for it is part of it.

    Attributes:
        key: The layer.
        latency_s: Median latency in seconds, profiler's cost taken off; 0 where a neighbour's row holds it.
        sd: Relative standard error of the median.
    """

    key: LayerKey
    latency_s: float
    sd: float


@dataclass(frozen=True, slots=True)
class NetworkSample:
    """One network as it was measured.

    Attributes:
        number: Place in the campaign's order; negative for the anchor itself.
        widths: One per group.
        anchor_s: Rounds of the anchor, seconds; they pair with `whole_s`.
        whole_s: Rounds of the network, profiler off, seconds.
        beside_s: Latency of the network, profiler off, among the profiled inferences, seconds.
        layers: In execution order.
    """

    number: int
    widths: tuple[int, ...]
    anchor_s: tuple[float, ...]
    whole_s: tuple[float, ...]
    beside_s: float
    layers: tuple[LayerSample, ...]

    @property
    def level_s(self) -> float:
        """Latency of the anchor around this measurement, seconds."""
        return float(np.median(np.array(self.anchor_s)[calm(self.anchor_s, self.whole_s)]))

    @property
    def ratio(self) -> float:
        """Latency of the network over that of the anchor."""
        return paired_ratio(self.anchor_s, self.whole_s)

    @property
    def ratio_variance(self) -> float:
        """Variance of the log of `ratio` that the scatter of rounds leaves."""
        logs = (np.log(self.whole_s) - np.log(self.anchor_s))[calm(self.anchor_s, self.whole_s)]
        return float((MEDIAN_ERROR * 1.4826 * np.median(np.abs(logs - np.median(logs)))) ** 2 / len(logs))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "number": self.number,
            "widths": list(self.widths),
            "anchor_s": list(self.anchor_s),
            "whole_s": list(self.whole_s),
            "beside_s": self.beside_s,
            "layers": [[str(layer.key), layer.latency_s, layer.sd] for layer in self.layers],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s form.

        Raises:
            SchemaError: It is damaged.
        """
        try:
            layers = tuple(LayerSample(LayerKey.parse(key), float(value), float(sd)) for key, value, sd in data["layers"])
            sample = cls(
                int(data["number"]),
                tuple(data["widths"]),
                tuple(data["anchor_s"]),
                tuple(data["whole_s"]),
                float(data["beside_s"]),
                layers,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"damaged record of a table build: {error!r}") from error
        rounds = (*sample.anchor_s, *sample.whole_s, sample.beside_s)
        if len(sample.anchor_s) != len(sample.whole_s) or not all(0 < value < math.inf for value in rounds):
            raise SchemaError("damaged record of a table build: rounds do not pair, or are not positive seconds")
        return sample


@dataclass(frozen=True, slots=True)
class Effort:
    """What one network is given.

    Attributes:
        turns: Of network and anchor, each of `TURN` rounds.
        runs: Profiled inferences.
    """

    turns: int = 4
    runs: int = 9


@dataclass(frozen=True, slots=True)
class PrunedNetwork:
    """One network to measure.

    Attributes:
        number: Place in the campaign's order; negative for the anchor itself.
        widths: One per group.
        workload: What is run.
        keys: Its layers by name, in execution order.
    """

    number: int
    widths: tuple[int, ...]
    workload: Workload
    keys: Mapping[str, LayerKey]


def measure_network(device: Device, anchor: Prepared, network: PrunedNetwork, effort: Effort) -> NetworkSample:
    """Measure one pruned network beside the prepared anchor.

    Args:
        device: An opened device that profiles layers.
        anchor: The unpruned network, prepared.
        network: The pruned network, or the anchor's own.
        effort: How much to measure.

    Raises:
        UsageError: The device cannot profile layers.
        DeviceError: The device failed.
        WorkloadError: It cannot run the network.
    """
    if not isinstance(device, ProfilesLayers):
        raise UsageError(f"{device.address} cannot time layers inside a network, which a lookup table needs")
    itself = network.workload.sha256 == anchor.workload.sha256
    prepared = anchor if itself else device.prepare(network.workload, anchor.settings)
    try:
        anchor_s, whole_s = rounds(device, anchor, prepared, effort.turns, network.number)
        profile = device.profile_layers(prepared, effort.runs)
    finally:
        if device.usable and not itself:
            device.release(prepared)
    profile = _calm_profile(profile)
    beside_s = float(np.median(profile.beside_s or whole_s))
    return NetworkSample(network.number, network.widths, anchor_s, whole_s, beside_s, layer_samples(profile, network.keys))


def _calm_profile(profile: LayerSamples) -> LayerSamples:
    """The profiled inferences that were disturbed least, and the unprofiled ones beside them."""
    paired = len(profile.beside_s) == len(profile.whole_s)
    kept = calm(profile.whole_s, *([profile.beside_s] if paired else []))

    def select(values_s: Sequence[float]) -> tuple[float, ...]:
        return tuple(np.array(values_s)[kept].tolist())

    rows = tuple(replace(row, samples_s=select(row.samples_s)) for row in profile.rows)
    beside_s = select(profile.beside_s) if paired else profile.beside_s
    return replace(profile, rows=rows, whole_s=select(profile.whole_s), beside_s=beside_s)


def rounds(
    device: Device, anchor: Prepared, prepared: Prepared, turns: int, seed: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Rounds of anchor and network in turns, each pair of turns in random order, seconds.

    The first round of a turn finds the other network's data in the caches and is left out: a small network alternating round
    by round with a large one was up to 20 % slower than by itself.
    """
    loops = loops_for(device.run([anchor, prepared]).values_s, anchor.settings)
    swapped = np.random.default_rng(abs(seed)).integers(0, 2, turns).astype(bool)
    order = [one for swap in swapped for first in ((prepared, anchor) if swap else (anchor, prepared)) for one in [first] * TURN]
    values_s = np.array(device.run(order, loops).values_s).reshape(turns, 2, TURN)
    values_s[swapped] = values_s[swapped][:, ::-1]
    anchor_s, whole_s = values_s[:, 0, 1:].ravel(), values_s[:, 1, 1:].ravel()
    return tuple(anchor_s.tolist()), tuple(whole_s.tolist())


def loops_for(latencies_s: Sequence[float], settings: Settings) -> int:
    """Inferences in a round, so that the shortest of these latencies fills one."""
    return max(1, math.ceil(settings.min_round_s / min(latencies_s)))


def layer_samples(profile: LayerSamples, keys: Mapping[str, LayerKey]) -> tuple[LayerSample, ...]:
    """One sample per layer of the network; rows the runtime inserted count for the layer they serve.

    Args:
        profile: What the device saw.
        keys: Keys of the network's layers by name, in execution order.
    """
    latency_s = dict.fromkeys(keys, 0.0)
    variance = dict.fromkeys(keys, 0.0)
    owner = next(iter(keys))
    for row in profile.rows:
        served = row.name if row.key is not None else row.name.rpartition("/")[0]
        owner = served if served in keys else owner
        value_s = row_s(row, profile) * row.calls
        latency_s[owner] += value_s
        variance[owner] += (value_s * _relative_error(row.samples_s)) ** 2
    return tuple(
        LayerSample(key, latency_s[name], math.sqrt(variance[name]) / latency_s[name] if latency_s[name] else 0.0)
        for name, key in keys.items()
    )


def _relative_error(samples_s: Sequence[float]) -> float:
    """Relative standard error of the median, from the median absolute deviation."""
    values_s = np.asarray(samples_s)
    centre = float(np.median(values_s))
    spread = 1.4826 * float(np.median(np.abs(values_s - centre)))
    return MEDIAN_ERROR * spread / math.sqrt(len(values_s)) / centre if centre > 0 else 0.0


def pruned_workload(workload: Workload, model: ModelProto) -> Workload:
    """The workload of a pruned version of `workload`, its own size counted."""
    data = model.SerializeToString()
    counts = count(model)
    return replace(workload, onnx=data, macs=counts.macs, params=counts.params, file_bytes=len(data), findings=())
