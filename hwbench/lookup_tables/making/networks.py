"""One pruned network measured for a table.

Its layers are measured in place, and the whole of it beside the unpruned network (the anchor).

The whole is a ratio to the anchor inside blocks, and the layers are relative to unprofiled
inferences that took turns with the profiled ones. So drift cancels twice, and layers of all
networks are seconds of one and the same state of the device.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwbench.devices.base import Device, LayerSamples, Prepared, ProfilesLayers
from hwbench.devices.shared.turns import count_inferences
from hwbench.errors import SchemaError, UsageError
from hwbench.lookup_tables.limits import check_entry, check_key
from hwbench.lookup_tables.metadata import Entry
from hwbench.measuring.layer_profile import row_latency
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.workload import Workload
from hwbench.records.codec import from_plain, to_plain, written_as_row
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import Settings
from hwbench.records.untrusted import MAX_SECONDS, MIN_SECONDS

TURN_S = 0.02
"""A turn of one network lasts at least this long and two rounds; its first half does not count.

A network that follows another finds the caches full of that one's data: the first round of one of
0.8 ms took 24 % longer, the second 3 %."""
QUIET, QUIET_SHARE = 1.03, 0.2
"""When a turn is quiet.

The anchor's turn takes at most `QUIET` times what the fastest `QUIET_SHARE` of the last ones took.
"""
CALM = 0.5
"""Share of profiled inferences that count: those that took least time in all.

Other programs only ever add time.
"""
MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, for normal values."""


def least_disturbed(*series_s: Sequence[float]) -> NDArray[np.intp]:
    """Places of the blocks that were disturbed least.

    Args:
        series_s: Latencies that took turns, seconds, in series of equal length.
    """
    total = np.sum([np.log(values_s) for values_s in series_s], axis=0)
    order: NDArray[np.intp] = np.argsort(total, kind="stable")[
        : max(2, math.ceil(CALM * len(total)))
    ]
    return order


def paired_ratio(anchor_s: Sequence[float], whole_s: Sequence[float]) -> float:
    """Latency of a network over that of the anchor, from turns that followed each other."""
    return math.exp(float(np.median(np.log(whole_s) - np.log(anchor_s))))


class Quiet:
    """Knows what the anchor takes while nothing disturbs the device.

    Other programs, and other guests of the same host, slow everything down for tenths of a second
    to minutes, large and small networks by different shares. So turns in which the anchor is slower
    than usual are not believed.

    Args:
        recent: Turns it remembers. The fewer, the sooner a device that has become slower for good
            is believed again.
        batches: How often as many turns are taken while too few were quiet; then those with the
            fastest anchor count.
    """

    def __init__(self, recent: int = 120, batches: int = 4) -> None:
        self.batches = batches
        self._recent: deque[float] = deque(maxlen=recent)

    def add(self, anchor_s: Iterable[float]) -> None:
        """Learn from turns of the anchor, seconds."""
        self._recent.extend(anchor_s)

    def among(self, anchor_s: Sequence[float]) -> NDArray[np.intp]:
        """Places of the quiet ones among turns of the anchor, seconds."""
        return np.flatnonzero(np.array(anchor_s) <= QUIET * np.quantile(self._recent, QUIET_SHARE))


@written_as_row
@dataclass(frozen=True, slots=True)
class LayerSample:
    """One layer of one network, profiled in place; what the runtime inserted for it is part of it.

    Attributes:
        key: The layer.
        latency_s: Median latency in seconds, profiler's cost taken off; 0 where a neighbour's row
            holds it.
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
        anchor_s: Median latency of each of the anchor's turns, seconds; they pair with `whole_s`.
        whole_s: Median latency of each of the network's turns, profiler off, seconds.
        beside_s: Latency of the network, profiler off, among the profiled inferences, seconds.
        layers: In execution order.
        by: Which of several devices of one kind measured it; empty where there is one.
    """

    number: int
    widths: tuple[int, ...]
    anchor_s: tuple[float, ...]
    whole_s: tuple[float, ...]
    beside_s: float
    layers: tuple[LayerSample, ...]
    by: str = ""

    @property
    def level_s(self) -> float:
        """Latency of the anchor around this measurement, seconds."""
        return float(np.median(self.anchor_s))

    @property
    def ratio(self) -> float:
        """Latency of the network over that of the anchor."""
        return paired_ratio(self.anchor_s, self.whole_s)

    @property
    def ratio_variance(self) -> float:
        """Variance of the log of `ratio` that the scatter of turns leaves."""
        logs = np.log(self.whole_s) - np.log(self.anchor_s)
        return float(
            (MEDIAN_ERROR * 1.4826 * np.median(np.abs(logs - np.median(logs)))) ** 2 / len(logs)
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s form.

        Raises:
            SchemaError: It is damaged.
        """
        names = [field.name for field in fields(cls)]  # the journal adds fields of its own
        own = {name: data[name] for name in names if name in data}
        sample = from_plain(cls, own, "record of a table build")
        rounds = (*sample.anchor_s, *sample.whole_s, sample.beside_s)
        if not 0 < len(sample.anchor_s) == len(sample.whole_s) or not all(
            MIN_SECONDS <= value <= MAX_SECONDS for value in rounds
        ):
            raise SchemaError(
                "damaged record of a table build: rounds do not pair, or are not positive seconds"
            )
        for layer in sample.layers:
            check_key(layer.key)
            check_entry(layer.key, Entry(layer.latency_s, layer.sd, 1))
        if not any(layer.latency_s for layer in sample.layers):
            raise SchemaError("damaged record of a table build: no layer takes any time")
        return sample


@dataclass(frozen=True, slots=True)
class Effort:
    """What one network is given.

    Attributes:
        turns: Of network and anchor.
        runs: Profiled inferences.
    """

    turns: int = 6
    runs: int = 9

    def cost_s(self, latency_s: float) -> float:
        """Seconds that a network about as slow as the anchor takes, if its turns are quiet.

        Each of the two runs before the turns and in them, and the network also as it is prepared
        and while it is profiled.

        Args:
            latency_s: Latency of the anchor.
        """
        turns_s = 2 * self.turns * max(TURN_S, 2 * latency_s)
        return turns_s + latency_s * (6 + count_inferences(self.runs))


EFFORTS = (Effort(4, 6), Effort(2, 3), Effort(1, 1))
"""What a network is given where time is short."""


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

    @classmethod
    def of(cls, network: PrunableNetwork, number: int, widths: tuple[int, ...]) -> Self:
        """The version of `network` with these widths; the original for its own."""
        return cls(number, widths, network.version(widths), network.keys_by_name(widths))


def measure_network(
    device: Device, anchor: Prepared, network: PrunedNetwork, effort: Effort, quiet: Quiet
) -> NetworkSample:
    """Measure one pruned network beside the prepared anchor.

    Args:
        device: An opened device that profiles layers.
        anchor: The unpruned network, prepared.
        network: The pruned network, or the anchor's own.
        effort: How much to measure.
        quiet: Of this anchor.

    Raises:
        UsageError: The device cannot profile layers.
        DeviceError: The device failed.
        WorkloadError: It cannot run the network.
    """
    if not isinstance(device, ProfilesLayers):
        raise UsageError(
            f"{device.address} cannot time layers inside a network, which a lookup table needs"
        )
    itself = network.workload.sha256 == anchor.workload.sha256
    prepared = anchor if itself else device.prepare(network.workload, anchor.settings)
    try:
        anchor_s, whole_s = measure_turns(
            device, anchor, prepared, effort.turns, quiet=quiet, seed=network.number
        )
        profile = device.profile_layers(prepared, effort.runs)
    finally:
        if device.usable and not itself:
            device.release(prepared)
    profile = _select_calm_runs(profile)
    beside_s = float(np.median(profile.reference_s or whole_s))
    return NetworkSample(
        network.number,
        network.widths,
        anchor_s,
        whole_s,
        beside_s,
        layer_samples(profile, network.keys),
    )


def _select_calm_runs(profile: LayerSamples) -> LayerSamples:
    """The profiled inferences that were disturbed least, and the unprofiled ones beside them."""
    paired = len(profile.reference_s) == len(profile.whole_s)
    kept = least_disturbed(profile.whole_s, *([profile.reference_s] if paired else []))

    def select(values_s: Sequence[float]) -> tuple[float, ...]:
        return tuple(np.array(values_s)[kept].tolist())

    rows = tuple(replace(row, samples_s=select(row.samples_s)) for row in profile.rows)
    reference_s = select(profile.reference_s) if paired else profile.reference_s
    return replace(profile, rows=rows, whole_s=select(profile.whole_s), reference_s=reference_s)


def measure_turns(
    device: Device, anchor: Prepared, prepared: Prepared, turns: int, *, quiet: Quiet, seed: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Median latencies of quiet turns of anchor and network, seconds.

    The two follow each other in random order. Turns are taken until enough of them were quiet, or
    `quiet.batches` times as many; then those with the fastest anchor count.
    """
    warm_s = device.run([anchor, prepared] * 2).values_s[2:]
    loops = loops_for(warm_s, anchor.settings)
    counts = [max(2, math.ceil(TURN_S / (value_s * loops))) for value_s in warm_s]
    rng = np.random.default_rng(abs(seed))
    anchor_s: list[float] = []
    whole_s: list[float] = []
    for _ in range(quiet.batches):
        for ours, theirs in _run_turns(
            device, [anchor, prepared], counts, loops, rng.integers(0, 2, turns)
        ):
            anchor_s.append(ours)
            whole_s.append(theirs)
        quiet.add(anchor_s[-turns:])
        chosen = quiet.among(anchor_s)
        if len(chosen) >= turns:
            break
    else:
        chosen = np.argsort(anchor_s, kind="stable")
    kept = chosen[:turns].tolist()
    return tuple(anchor_s[index] for index in kept), tuple(whole_s[index] for index in kept)


def _run_turns(
    device: Device,
    pair: Sequence[Prepared],
    counts: Sequence[int],
    loops: int,
    firsts: NDArray[np.integer],
) -> Iterator[tuple[float, float]]:
    """One turn of each of a pair per entry of `firsts`, which says who begins.

    The second half of a turn's rounds counts.
    """
    order = [which for first in firsts.tolist() for which in (first, 1 - first)]
    values_s = device.run(
        [pair[which] for which in order for _ in range(counts[which])], loops
    ).values_s
    ends = np.cumsum([counts[which] for which in order])
    medians_s = [
        float(np.median(values_s[end - (counts[which] + 1) // 2 : end]))
        for which, end in zip(order, ends, strict=True)
    ]
    for place, first in enumerate(firsts.tolist()):
        two = medians_s[2 * place : 2 * place + 2]
        yield (two[first], two[1 - first])


def loops_for(latencies_s: Sequence[float], settings: Settings) -> int:
    """Inferences in a round, so that the shortest of these latencies fills one."""
    return max(1, math.ceil(settings.min_round_s / min(latencies_s)))


def layer_samples(profile: LayerSamples, keys: Mapping[str, LayerKey]) -> tuple[LayerSample, ...]:
    """One sample per layer of the network.

    Rows the runtime inserted count for the layer they serve.

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
        value_s = row_latency(row, profile) * row.calls
        latency_s[owner] += value_s
        variance[owner] += (value_s * _relative_error(row.samples_s)) ** 2
    return tuple(
        LayerSample(
            key,
            latency_s[name],
            math.sqrt(variance[name]) / latency_s[name] if latency_s[name] else 0.0,
        )
        for name, key in keys.items()
    )


def _relative_error(samples_s: Sequence[float]) -> float:
    """Relative standard error of the median, from the median absolute deviation."""
    values_s = np.asarray(samples_s)
    centre = float(np.median(values_s))
    spread = 1.4826 * float(np.median(np.abs(values_s - centre)))
    return MEDIAN_ERROR * spread / math.sqrt(len(values_s)) / centre if centre > 0 else 0.0
