"""`hwbench doctor`: what would spoil a measurement on a device, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.devices import open_device
from hwbench.devices.base import Advice
from hwbench.records.device import Conditions, DeviceInfo


@dataclass(frozen=True)
class Diagnosis:
    """State of a device and everything that was checked on it."""

    device: DeviceInfo
    conditions: Conditions
    advice: tuple[Advice, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing stands in the way of a good measurement."""
        return all(item.ok for item in self.advice)


def doctor(device: str = "cpu", threads: int = 1) -> Diagnosis:
    """Open a device and look it over.

    Args:
        device: Address of the device.
        threads: Threads that are to be measured with.

    Raises:
        DeviceUnavailableError: It cannot be opened; the message says what is missing.
    """
    with open_device(device) as opened:
        return Diagnosis(opened.info(), opened.conditions(), tuple(opened.doctor(threads)))
