"""What a search measures with: one device, or what can do the same (the devices of a lab)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from hwbench.devices import open_device
from hwbench.lookup_tables.making.channel_steps import channel_steps, grid_step
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.sessions import measure_interleaved

if TYPE_CHECKING:
    from hwbench.devices.base import Device
    from hwbench.lookup_tables import Plan, Progress
    from hwbench.lookup_tables.making.fit import Fitted
    from hwbench.network.workload import Workload
    from hwbench.records.device import DeviceInfo
    from hwbench.records.measurement import Measurement, Settings
    from hwbench.store import Store


class Meter(Protocol):
    """Measures for a search. All methods raise DeviceError where that fails."""

    @property
    def address(self) -> str:
        """What the user called it."""
        ...

    def info(self) -> DeviceInfo:
        """The device, or what the devices have in common."""
        ...

    def channel_step(self, workload: Workload, settings: Settings) -> int:
        """Channels at a time that its operators work on."""
        ...

    def build_table(
        self,
        workload: Workload,
        settings: Settings,
        plan: Plan,
        store: Store | None,
        callback: Callable[[Progress], None],
    ) -> Fitted:
        """Build the lookup table of a network; see `lookup_tables.build`."""
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

    def channel_step(self, workload: Workload, settings: Settings) -> int:
        """See `Meter`."""
        return grid_step(channel_steps(self.device, workload, settings))

    def build_table(
        self,
        workload: Workload,
        settings: Settings,
        plan: Plan,
        store: Store | None,
        callback: Callable[[Progress], None],
    ) -> Fitted:
        """See `Meter`."""
        from hwbench.lookup_tables import build

        return build(self.device, workload, settings, plan=plan, store=store, callback=callback)

    def measure(
        self, workloads: Sequence[Workload], settings: Settings, callback: MeasuringCallback
    ) -> tuple[Measurement, ...]:
        """See `Meter`."""
        return measure_interleaved(self.device, workloads, settings, callback)


@contextmanager
def open_meter(device: str | Meter) -> Iterator[Meter]:
    """What to measure with: a meter as it was given, or the device of an address, opened."""
    if not isinstance(device, str):
        yield device
        return
    with open_device(device) as opened:
        yield DeviceMeter(opened, device)
