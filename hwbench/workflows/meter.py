"""What workflows measure with: one device, or what can do the same (the devices of a lab)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from hwbench.devices import open_device
from hwbench.errors import Argument, DeviceError, IncomparableError, UsageError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.sessions import measure_interleaved, measure_on
from hwbench.network.workload import ONNX, TFLITE

if TYPE_CHECKING:
    from hwbench.devices.base import Device
    from hwbench.lookup_tables import LookupTable, Plan, Progress, Validation
    from hwbench.lookup_tables.making.fit import Fitted
    from hwbench.network.workload import Workload
    from hwbench.records.device import DeviceInfo
    from hwbench.records.measurement import Measurement, Settings
    from hwbench.store import Store

    Measures = Callable[[Sequence[Workload], Settings, MeasuringCallback], tuple[Measurement, ...]]


class TableBuilder(Protocol):
    """A lookup table in the making. The methods raise DeviceError where measuring fails."""

    def run(self) -> Fitted:
        """Measure and fit; see `lookup_tables.build`."""
        ...

    def grade(
        self, table: LookupTable, networks: int, *, callback: Callable[[int, int], None]
    ) -> Validation:
        """Measure networks that the table has not seen; see `lookup_tables.validate`."""
        ...


class Meter(Protocol):
    """Measures for a workflow. All methods raise DeviceError where that fails."""

    @property
    def address(self) -> str:
        """What the user called it."""
        ...

    def info(self) -> DeviceInfo:
        """The device, or what the devices have in common."""
        ...

    def accept(self, workload: Workload, settings: Settings) -> Workload:
        """The network in a format that runs there, converted where it has to be."""
        ...

    def channel_step(self, workload: Workload, settings: Settings) -> int:
        """Channels at a time that its operators work on."""
        ...

    def begin_table(
        self,
        workload: Workload,
        settings: Settings,
        plan: Plan,
        store: Store | None,
        callback: Callable[[Progress], None],
        *,
        forget: bool = False,
    ) -> TableBuilder:
        """Begin the lookup table of a network; the arguments are those of `lookup_tables.build`."""
        ...

    def measure(
        self, workloads: Sequence[Workload], settings: Settings, callback: MeasuringCallback
    ) -> tuple[Measurement, ...]:
        """Measure networks interleaved; see `measuring.sessions.measure_interleaved`."""
        ...


class DeviceMeter:
    """One opened device.

    Args:
        device: Opened.
        address: What the user called it.
    """

    def __init__(self, device: Device, address: str) -> None:
        self.device, self.address = device, address

    def info(self) -> DeviceInfo:
        """See `Meter`."""
        return self.device.info()

    def accept(self, workload: Workload, settings: Settings) -> Workload:
        """See `Meter`."""
        return in_format(workload, self.device, settings)

    def channel_step(self, workload: Workload, settings: Settings) -> int:
        """See `Meter`."""
        # Tables take as long to load as all the rest, and most measurements need none.
        from hwbench.lookup_tables.making.channel_steps import channel_steps, grid_step

        workload = self.accept(workload, settings)
        return grid_step(channel_steps(self.device, workload, settings))

    def begin_table(
        self,
        workload: Workload,
        settings: Settings,
        plan: Plan,
        store: Store | None,
        callback: Callable[[Progress], None],
        *,
        forget: bool = False,
    ) -> TableBuilder:
        """See `Meter`."""
        # Converted once: versions of other widths are cut from the file that came of it.
        workload = self.accept(workload, settings)
        return DeviceTable(self.device, workload, settings, plan, store, callback, forget)

    def measure(
        self, workloads: Sequence[Workload], settings: Settings, callback: MeasuringCallback
    ) -> tuple[Measurement, ...]:
        """See `Meter`."""
        fitted = [self.accept(workload, settings) for workload in workloads]
        return measure_interleaved(self.device, fitted, settings, callback)


@dataclass(frozen=True)
class DeviceTable:
    """A lookup table that one device measures; the attributes are arguments of `build`."""

    device: Device
    workload: Workload
    settings: Settings
    plan: Plan
    store: Store | None
    callback: Callable[[Progress], None]
    forget: bool

    def run(self) -> Fitted:
        """See `TableBuilder`."""
        from hwbench.lookup_tables import build

        return build(
            self.device,
            self.workload,
            self.settings,
            plan=self.plan,
            store=self.store,
            forget=self.forget,
            callback=self.callback,
        )

    def grade(
        self, table: LookupTable, networks: int, *, callback: Callable[[int, int], None]
    ) -> Validation:
        """See `TableBuilder`."""
        from hwbench.lookup_tables import validate

        return validate(
            self.device, table, self.workload, self.settings, networks=networks, callback=callback
        )


def in_format(workload: Workload, device: Device, settings: Settings) -> Workload:
    """Bring a network into a format that a device runs, if it can be converted.

    Raises:
        WorkloadError: The conversion is not possible, or made something else.
    """
    return _convert(workload, device.formats, settings.seed)


def in_format_of_table(workload: Workload, table: LookupTable, seed: int = 0) -> Workload:
    """Bring a network into the format that the networks of a table were in.

    Tables that no device made know networks as they are.

    Raises:
        WorkloadError: The conversion is not possible, or made something else.
    """
    from hwbench.lookup_tables.table import IMPORTED

    device = table.provenance.device
    if IMPORTED in dict(device.details):
        return workload
    try:
        formats = open_device(device.address).formats
    except (UsageError, DeviceError):  # it was made where there are other drivers
        return workload
    return _convert(workload, formats, seed)


def _convert(workload: Workload, formats: Collection[str], seed: int) -> Workload:
    if workload.format == ONNX and ONNX not in formats and TFLITE in formats:
        from hwbench.network.intake.to_tflite import convert_to_tflite

        return convert_to_tflite(workload, seed)
    return workload


def _measure_on(
    devices: Sequence[Device],
    workloads: Sequence[Workload],
    settings: Settings,
    callback: MeasuringCallback,
) -> tuple[Measurement, ...]:
    """Measure each network on its device; see `measuring.sessions.measure_on`."""
    fitted = []
    for workload, device in zip(workloads, devices, strict=True):
        fitted.append(in_format(workload, device, settings))
    return measure_on(devices, fitted, settings, callback)


@contextmanager
def open_meter(device: str | Meter) -> Iterator[Meter]:
    """What to measure with: a meter as it was given, or the device of an address, opened."""
    if not isinstance(device, str):
        yield device
        return
    with open_device(device) as opened:
        yield DeviceMeter(opened, device)


@contextmanager
def opened_to_compare(device: str | Meter, candidate_device: str | None) -> Iterator[Measures]:
    """What measures a baseline and a candidate interleaved, as `Meter.measure` does.

    Its devices are open as long as the block.

    Args:
        device: Address of the device, or another `Meter`.
        candidate_device: Address of the device for the candidate, if it differs: another runtime of
            the same target.

    Raises:
        UsageError: A meter cannot measure on two devices.
        IncomparableError: The devices are different hardware.
    """
    if candidate_device is None or candidate_device == device:
        with open_meter(device) as meter:
            yield meter.measure
        return
    if not isinstance(device, str):
        raise UsageError(
            f"{device.address} measures both models on one device; compare runtimes on a device"
            " that is reached from here",
            Argument("candidate_device", change="no"),
        )
    with open_device(device) as first:
        second = open_device(candidate_device)
        second.open(beside=first)
        try:
            targets = first.info(), second.info()
            if targets[0].target_id != targets[1].target_id:
                raise IncomparableError(
                    f"{device} is {targets[0].target} and {candidate_device} is"
                    f" {targets[1].target}; only runtimes of one target are compared",
                    Argument("candidate_device", change="another"),
                )
            yield partial(_measure_on, [first, second])
        finally:
            second.close()
