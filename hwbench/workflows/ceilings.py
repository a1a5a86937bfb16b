"""`hwbench doctor --ceilings`: the most that a device can do, measured through its driver.

Matrix products and convolutions of several shapes, several in a row, give its multiply-accumulates
a second; layers that do nothing else than reading and writing give its bytes a second. The fixed
cost of an inference is taken off: that of a layer with next to nothing to do.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

from hwbench.devices import open_device
from hwbench.devices.base import Device, MovesTime
from hwbench.errors import (
    HwbenchError,
    MeasurementError,
    SchemaError,
    UsageError,
    WorkloadError,
)
from hwbench.network.single_layer import single_layer_workload
from hwbench.records.ceilings import (
    ELEMENT_BYTES,
    RECORD,
    Bandwidth,
    Ceiling,
    Ceilings,
    choose_ceilings,
    count_bytes,
    find_impossible,
)
from hwbench.records.codec import from_plain, to_plain
from hwbench.records.device import DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import Measurement, Settings
from hwbench.store import DamagedRecord, Store, open_store
from hwbench.version import __version__

LOG = logging.getLogger("hwbench")
DEFAULT_BUDGET_S = 40.0
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""Precisions that networks of a single layer can be made in."""
SIZES = (256, 512, 1024, 2048, 4096, 8192)
"""Rows and columns of square matrix products, until one takes too long."""
CHANNELS, MAPS, KERNELS = (64, 128, 256, 512), (7, 14, 28, 56), (1, 3)
"""Channels, height and width of the map, and kernel of convolutions: those that networks for
images have, as a runtime may be at its best with any of them."""
WIDE = ((256, 28, 1), (256, 28, 3), (512, 14, 3))
"""Convolutions (channels, map, kernel) that are tried with `WIDE_BATCH` images too: a GPU is idle
for most of one."""
WIDE_BATCH = 16
REPEATS = 8
"""Layers in a row: a runtime that arranges tensors in another way does so once for all of them."""
FEW_REPEATS, SLICE_S = 2, 0.002
"""Layers in a row that are tried as well where the usual number takes longer than this: on a busy
computer an inference is interrupted after some milliseconds, each time if it takes longer."""
MOVED = tuple(2**power for power in range(17, 29, 2))
"""Bytes that layers read and write: from those that fit into any cache to 128 MB."""
LONGEST_S = 0.1
"""Seconds of an inference from which on no larger shape is tried."""
ROUNDS = (5, 200)
"""Rounds of each layer, within these numbers."""
MOVING_SHARE, COMPUTING_SHARE, AGAIN_SHARE = 0.3, 0.5, 0.2
"""Shares of the time: layers that move bytes, those that compute, and the best of these again."""
PASSES = 3
"""The layers that compute are measured a third at a time."""
MEASURED_AGAIN = 4
"""The best layers, which are measured once more at another time: what disturbed all rounds of one
makes the ceiling too low."""
NEGLIGIBLE = 2.0
"""A layer counts if it takes at least so many times the fixed cost of an inference."""


def measure_ceilings(
    device: str = "cpu",
    *,
    threads: int = 1,
    budget_s: float = DEFAULT_BUDGET_S,
    store: str | None = None,
    save: bool = True,
) -> Ceilings:
    """Measure the most multiply-accumulates and bytes a second that a device can do.

    Args:
        device: Address of the device.
        threads: Threads to measure with.
        budget_s: Seconds that it should take; in a short time fewer and smaller layers are tried.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to keep them in the store, where `profile`, `compare` and the report find
            them.

    Raises:
        DeviceError: The device cannot be opened, or failed.
        UsageError: It runs none of the layers.
    """
    with open_device(device) as opened:
        ceilings = _measure(opened, Settings(threads=threads, layers=False), budget_s)
    if save:
        with open_store(store) as kept:
            kept.save_record(RECORD, to_plain(ceilings))
    return ceilings


def _measure(device: Device, settings: Settings, budget_s: float) -> Ceilings:
    probers, ceilings, left_out = [], [], []
    for precision in PRECISIONS:
        if precision not in device.precisions:
            left_out.append(f"{precision} is not run here")
            continue
        prober = _Prober(device, settings, precision)
        try:
            prober.find_fixed_cost()
        except WorkloadError as error:
            left_out.append(f"{precision} is not run here: {error.message}")
        else:
            probers.append(prober)
    for prober in probers:
        LOG.info("measuring the ceilings of %s", prober.precision)
        try:
            ceilings.append(prober.find_ceiling(budget_s / len(probers)))
        except (WorkloadError, MeasurementError) as error:
            left_out.append(f"{prober.precision}: {error.message}")
    if not ceilings:
        raise UsageError(f"{device.address} has no ceilings: {'; '.join(left_out)}")
    return Ceilings(
        device.info(),
        settings.threads,
        tuple(_share_bandwidths(ceilings)),
        datetime.now(UTC).isoformat(),
        __version__,
        tuple(left_out),
    )


def _share_bandwidths(ceilings: Iterable[Ceiling]) -> list[Ceiling]:
    """A byte is a byte: what moved in one precision bounds the others too."""
    best: dict[int, float] = {}
    known = list(ceilings)
    for ceiling in known:
        for band in ceiling.bandwidths:
            best[band.bytes] = max(best.get(band.bytes, 0.0), band.bytes_per_s)
    shared = tuple(Bandwidth(moved, rate) for moved, rate in sorted(best.items()))
    return [replace(ceiling, bandwidths=shared) for ceiling in known]


class _Prober:
    """Finds the ceiling of a device in one precision.

    Args:
        device: The opened device.
        settings: Threads and seed.
        precision: The precision.
    """

    def __init__(self, device: Device, settings: Settings, precision: str) -> None:
        self.device, self.settings, self.precision = device, settings, precision
        self.fixed_s = 0.0

    def find_fixed_cost(self) -> None:
        """Measure what an inference with next to nothing to do takes.

        Raises:
            WorkloadError: The device does not run the precision.
        """
        self.fixed_s = self._least_latency(self._elementwise("Relu", 64, inputs=1))

    def find_ceiling(self, budget_s: float) -> Ceiling:
        """Measure the layers that there is time for.

        Args:
            budget_s: Seconds that it should take. What has to be known is measured in any case.

        Raises:
            WorkloadError: The device runs none of them.
            MeasurementError: None of them takes longer than an inference does in any case.
        """
        moving = [
            self._elementwise(operator, moved // self._element_bytes // (inputs + 1), inputs)
            for moved in MOVED
            for operator, inputs in (("Relu", 1), ("Add", 2))
        ]
        bandwidths: dict[int, float] = {}
        for key, latency_s in self._time(moving, MOVING_SHARE * budget_s):
            moved = min(MOVED, key=lambda size: abs(size - count_bytes(key)))
            bandwidths[moved] = max(bandwidths.get(moved, 0.0), count_bytes(key) / latency_s)
        rates: dict[LayerKey, float] = {}
        self._time_computing(self._list_computing(), COMPUTING_SHARE * budget_s, rates)
        best = sorted(rates, key=rates.__getitem__, reverse=True)[:MEASURED_AGAIN]
        self._time_computing(best, AGAIN_SHARE * budget_s, rates)
        if not rates or not bandwidths:
            raise MeasurementError("no layer takes longer than an inference does in any case")
        highest = max(rates, key=rates.__getitem__)
        bands = [Bandwidth(moved, rate) for moved, rate in bandwidths.items()]
        return Ceiling(self.precision, rates[highest], highest, tuple(bands))

    def _time_computing(
        self, keys: Sequence[LayerKey], budget_s: float, rates: dict[LayerKey, float]
    ) -> None:
        """Note the most multiply-accumulates a second that were seen of each layer."""
        for key, latency_s in self._time(_sort_coarsely(keys), budget_s, REPEATS):
            rate = REPEATS * key.macs / latency_s
            if latency_s > SLICE_S:
                few_s = self._least_latency(key, FEW_REPEATS, budget_s / len(keys)) - self.fixed_s
                if few_s > NEGLIGIBLE * self.fixed_s:
                    rate = max(rate, FEW_REPEATS * key.macs / few_s)
            rates[key] = max(rates.get(key, 0.0), rate)

    @property
    def _element_bytes(self) -> int:
        return ELEMENT_BYTES[self.precision]

    def _time(
        self, keys: Sequence[LayerKey], budget_s: float, repeats: int = 1
    ) -> Iterator[tuple[LayerKey, float]]:
        """Layers with the seconds of so many in a row, as many as there is time for.

        The fixed cost of an inference is taken off. Layers that take little more than that, and
        those that the device does not run, are left out; where one takes long, larger ones are not
        tried.
        """
        # A simulated device has a clock of its own.
        now = self.device.time_s if isinstance(self.device, MovesTime) else time.monotonic
        end_s = now() + budget_s
        layer_s = budget_s / max(1, len(keys))
        timed, too_large = 0, math.inf
        for key in keys:
            if timed and now() > end_s:
                return
            if _size_of(key) >= too_large:
                continue
            try:
                latency_s = self._least_latency(key, repeats, layer_s)
            except WorkloadError:
                continue
            if latency_s >= NEGLIGIBLE * self.fixed_s:
                timed += 1
                yield key, latency_s - self.fixed_s
            if latency_s > LONGEST_S:
                too_large = min(too_large, _size_of(key))

    def _list_computing(self) -> list[LayerKey]:
        """Matrix products and convolutions."""
        keys = [
            LayerKey("Linear", ((size, size),), (size, size), (), self.precision) for size in SIZES
        ]
        shapes = [(1, *shape) for shape in product(CHANNELS, MAPS, KERNELS)]
        shapes += [(WIDE_BATCH, *shape) for shape in WIDE]
        for batch, channels, size, kernel in shapes:
            attributes = (
                ("group", "1"),
                ("kernel", f"{kernel}x{kernel}"),
                ("pads", ".".join([str(kernel // 2)] * 4)),
                ("strides", "1x1"),
            )
            shape = (batch, channels, size, size)
            keys.append(LayerKey("Conv", (shape,), shape, attributes, self.precision))
        return keys

    def _elementwise(self, operator: str, elements: int, inputs: int) -> LayerKey:
        """A layer that reads and writes tensors of about so many elements each."""
        shape = (1, 16, 1, max(1, elements // 16))
        return LayerKey(operator, (shape,) * inputs, shape, (), self.precision)

    def _least_latency(self, key: LayerKey, repeats: int = 1, layer_s: float = 0.1) -> float:
        """The shortest of several rounds: whatever disturbs one makes it longer."""
        prepared = self.device.prepare(single_layer_workload(key, repeats), self.settings)
        try:
            first_s = self.device.run([prepared, prepared]).values_s[1]
            loops = max(1, round(self.settings.min_round_s / first_s))
            least, most = ROUNDS
            rounds = min(max(int(layer_s / (first_s * loops)), least), most)
            return min(self.device.run([prepared] * rounds, loops).values_s)
        finally:
            if self.device.usable:
                self.device.release(prepared)


def _size_of(key: LayerKey) -> int:
    """What the time of a layer grows with."""
    return key.macs or count_bytes(key)


def _sort_coarsely(keys: Sequence[LayerKey]) -> list[LayerKey]:
    """Layers of growing size three times over, each time others.

    So a short time is enough for some of every size.
    """
    ordered = sorted(keys, key=_size_of)
    return [key for first in range(PASSES) for key in ordered[first::PASSES]]


def read_ceilings(
    store: Store, device: DeviceInfo, threads: int
) -> tuple[Ceilings | None, Finding | None]:
    """The newest ceilings of a device in a store.

    Args:
        store: An open store.
        device: The device.
        threads: Threads that are measured with.

    Returns:
        The ceilings; None if there are none. And the finding that there are none because records
        cannot be read.
    """
    damaged: list[DamagedRecord] = []
    records = store.read_records(RECORD, parse_ceilings, device.runtime, damaged=damaged)
    ceilings = choose_ceilings(records.values(), device, threads)
    if ceilings is not None or not damaged:
        return ceilings, None
    text = f"{'; '.join(map(str, damaged))}. Measure the ceilings of {device.address} again"
    return None, Finding("ceilings_damaged", text)


def parse_ceilings(data: object) -> Ceilings:
    """Read a record of kind `ceilings`.

    Raises:
        SchemaError: It is damaged, or a number in it is impossible.
    """
    ceilings = from_plain(Ceilings, data, "record of ceilings")
    for ceiling in ceilings.ceilings:
        rates = [ceiling.macs_per_s]
        for band in ceiling.bandwidths:
            rates += [band.bytes, band.bytes_per_s]
        if len(rates) == 1 or not all(0 < rate < math.inf for rate in rates):
            raise SchemaError("damaged record of ceilings: a rate is not a positive finite number")
    return ceilings


def find_ceilings(store: str | None, record: Measurement) -> Ceilings | None:
    """The newest ceilings of the device of a measurement, if there is a store that has some.

    Args:
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        record: The measurement.
    """
    try:
        with open_store(store, create=False) as opened:
            ceilings, _ = read_ceilings(opened, record.device, record.settings.threads)
            return ceilings
    except HwbenchError:  # there is none, or it is away: what was measured is shown without
        return None


def check_with_ceilings(store: Store, records: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """Records with the finding that a latency cannot be, where the ceilings do not allow it.

    Also with that ceilings cannot be read, which would have to be known for that.
    """
    checked = []
    for record in records:
        ceilings, damaged = read_ceilings(store, record.device, record.settings.threads)
        impossible = find_impossible(record, ceilings)
        findings = record.findings if impossible is None else (impossible, *record.findings)
        checked.append(with_damaged(replace(record, findings=findings), damaged))
    return tuple(checked)


def with_damaged(record: Measurement, damaged: Finding | None) -> Measurement:
    """A record with the finding that ceilings cannot be read, once."""
    if damaged is None or damaged.code in {finding.code for finding in record.findings}:
        return record
    return replace(record, findings=(*record.findings, damaged))


def check_with_kept_ceilings(
    store: str | None, records: Sequence[Measurement]
) -> tuple[Measurement, ...]:
    """The same for records that are not kept, if there is a store that has ceilings.

    Args:
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        records: The records.
    """
    try:
        with open_store(store, create=False) as opened:
            return check_with_ceilings(opened, records)
    except HwbenchError:  # there is none, or it is away: what was measured stands
        return tuple(records)
