"""What leaving out blocks of a network saves, by a lookup table or by measurement."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench import stats
from hwbench.measuring.callback import MeasuringCallback
from hwbench.search.blocks import Gain

if TYPE_CHECKING:
    from hwbench.lookup_tables import LookupTable
    from hwbench.network.prunable import PrunableNetwork
    from hwbench.records.layer_key import LayerKey
    from hwbench.records.measurement import Settings
    from hwbench.store import Store
    from hwbench.workflows.meter import Meter

RECORD = "search_gains"
BLOCK_S = 4.0
"""Seconds that the measurement of one block's gain may take."""


class TableGains:
    """Gains by a lookup table.

    The latencies with and without a block share their errors, all but those of the block's own
    layers; so the interval is that of the layers that go, taken by themselves.
    """

    def __init__(self, table: LookupTable, network: PrunableNetwork) -> None:
        self._table, self._network = table, network
        self._known: dict[tuple[str, ...], float] = {}

    def latency_s(self, dropped: Sequence[str]) -> float:
        """Seconds without the blocks `dropped`."""
        blocks = tuple(sorted(dropped))
        if blocks not in self._known:
            self._known[blocks] = self._table.predict(self._keys(blocks)).latency_s
        return self._known[blocks]

    def interval_s(self, dropped: Sequence[str]) -> tuple[float, float]:
        """The 95 % interval of that, seconds."""
        return self._table.predict(self._keys(tuple(sorted(dropped)))).ci_s

    def gain(self, block: str) -> Gain:
        """What leaving out one block saves."""
        whole_s = self.latency_s(())
        share = 1 - self.latency_s((block,)) / whole_s
        gone = list((Counter(self._keys(())) - Counter(self._keys((block,)))).elements())
        parts = self._table.layers(gone)
        own_s = sum(part.latency_s for part in parts)
        if not own_s > 0:
            return Gain(share, min(share, 0.0), share)
        reach = stats.t_quantile(self._table.calibration.degrees_of_freedom)
        half = abs(share) * reach * self._table.deviation(parts, own_s)
        return Gain(share, share - half, share + half)

    def _keys(self, dropped: Sequence[str]) -> tuple[LayerKey, ...]:
        return self._network.keys_without(dropped)


@dataclass(frozen=True)
class MeasuredGains:
    """Gains that were measured; several blocks save what each of them saves.

    Attributes:
        original_s: Latency with all blocks.
        gains: By block.
    """

    original_s: float
    gains: Mapping[str, Gain]

    def gain(self, block: str) -> Gain:
        """What leaving out one block saves."""
        return self.gains[block]

    def latency_s(self, dropped: Sequence[str]) -> float:
        """Seconds without the blocks `dropped`."""
        return self.original_s * (1 - sum(self.gains[block].share for block in dropped))

    def interval_s(self, dropped: Sequence[str]) -> tuple[float, float]:
        """The 95 % interval of that, seconds: errors of the blocks' gains are independent."""
        gains = [self.gains[block] for block in dropped]
        below = math.hypot(*(gain.high - gain.share for gain in gains))
        above = math.hypot(*(gain.share - gain.low for gain in gains))
        latency_s = self.latency_s(dropped)
        return latency_s - self.original_s * below, latency_s + self.original_s * above


def measure_gains(
    meter: Meter,
    network: PrunableNetwork,
    blocks: Sequence[str],
    settings: Settings,
    *,
    limit_s: float | None = None,
) -> MeasuredGains:
    """Measure a network with and without each of its blocks, all interleaved.

    Args:
        meter: What to measure with.
        network: The network.
        blocks: Names of the blocks to leave out, one at a time.
        settings: How to measure; the time grows with the number of blocks.
        limit_s: Seconds it may take at most; None for no limit.

    Raises:
        DeviceError: Measuring failed.
    """
    candidates = [network.without([block]) for block in blocks]
    budget_s = BLOCK_S * (len(blocks) + 1)
    if limit_s is not None:
        budget_s = min(budget_s, limit_s)
    longer = replace(settings, layers=False, budget_s=budget_s, stop_at_difference=False)
    original, *others = meter.measure([network.workload, *candidates], longer, MeasuringCallback())
    gains = {}
    for block, record in zip(blocks, others, strict=True):
        ratio = record.series.ratio_to(original.series)
        low, high = ratio.ci
        gains[block] = Gain(1 - ratio.ratio, 1 - high, 1 - low)
    return MeasuredGains(float(np.median(original.series.samples_s)), gains)


def load_gains(store: Store | None, key: str) -> MeasuredGains | None:
    """Gains that an earlier run of the same search measured."""
    if store is not None:
        # Damaged gains are measured again.
        records = store.read_records(RECORD, _read_gains, key, [])
        for search, measured in records.values():
            if search == key:
                return measured
    return None


def _read_gains(data: Mapping[str, Any]) -> tuple[str, MeasuredGains]:
    gains = {block: Gain(**gain) for block, gain in data["gains"].items()}
    return str(data.get("search")), MeasuredGains(float(data["original_s"]), gains)


def save_gains(store: Store | None, key: str, measured: MeasuredGains) -> None:
    """Keep gains for a run that goes on."""
    if store is not None:
        gains = {block: asdict(gain) for block, gain in measured.gains.items()}
        data = {"search": key, "original_s": measured.original_s, "gains": gains}
        store.save_record(RECORD, data)
