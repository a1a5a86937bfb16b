"""`hwbench devices setup` and `clean`: what a target needs, put there and taken away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hwbench.devices import open_device
from hwbench.devices.base import Prepares
from hwbench.errors import UsageError


def setup_device(address: str, files: Mapping[str, Path] | None = None) -> None:
    """Put everything on a device that a measurement needs there.

    Args:
        address: Of the device.
        files: What the user supplies for it, by name, as its driver says (`aar` and `ndk` for
            `android`).

    Raises:
        UsageError: The device needs nothing.
        DeviceError: It cannot be reached, or does not take it.
    """
    _preparing(address).setup(files)


def clean_device(address: str) -> None:
    """Remove everything that hwbench ever put on a device, and restore its settings.

    Raises:
        UsageError: hwbench puts nothing on the device.
        DeviceError: It cannot be reached.
    """
    _preparing(address).clean()


def _preparing(address: str) -> Prepares:
    device = open_device(address)
    if not isinstance(device, Prepares):
        raise UsageError(
            f"nothing is ever put on {address}, so there is nothing to set up or clean"
        )
    return device
