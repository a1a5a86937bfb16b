"""Phones on USB, through adb-shell's transport and libusb.

Both are optional, so their absence is a hint and never a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

from hwbench.devices.android.adb.link import left_s, one_line
from hwbench.errors import DeviceLostError, DeviceTimeoutError, DeviceUnavailableError
from hwbench.optional import install_command, load_library

T = TypeVar("T")

NO_PERMISSIONS = "no permissions"


@dataclass(frozen=True, slots=True)
class UsbPhone:
    """An adb interface on USB.

    Attributes:
        serial: The phone's serial; `usb:BUS-PORT` if this user may not ask for it.
        state: `device`, or `no permissions`.
        device: The UsbTransport of adb-shell, not yet connected.
    """

    serial: str
    state: str
    device: Any


def find_usb_phones() -> tuple[list[UsbPhone], str]:
    """Find the phones on USB.

    Returns:
        The phones, and what keeps USB from being searched (empty if nothing does).
    """
    try:
        usb_error = _load_usb_error()
        transport = load_library("adb_shell.transport.usb_transport").UsbTransport
    except ImportError as error:
        return [], f"USB is not searched ({one_line(str(error))}): {_name_missing()}"
    try:
        return [_describe_device(device) for device in transport.find_all_adb_devices()], ""
    except usb_error as error:
        return [], f"USB cannot be searched ({one_line(repr(error))}); look at it with: adb devices"
    except OSError as error:  # usb1 may look for the system's library only now
        return [], f"USB is not searched ({one_line(str(error))}): {_name_missing()}"


def _name_missing() -> str:
    """What to install: our package for USB, or the system's library that it wraps."""
    if find_spec("usb1") is None:
        return install_command("android")
    return "install libusb (apt install libusb-1.0-0)"


def _load_usb_error() -> type[Exception]:
    """Import libusb's error; raises ImportError without the package or without libusb itself."""
    error: type[Exception] = load_library("usb1").USBError
    return error


def _describe_device(device: Any) -> UsbPhone:
    try:
        return UsbPhone(device.serial_number, "device", device)
    except _load_usb_error():
        return UsbPhone(f"usb:{'-'.join(map(str, device.port_path))}", NO_PERMISSIONS, device)


class UsbPipe:
    """A phone's adb interface on USB; see `direct.Pipe`.

    Args:
        phone: The phone.
        deadline: Until when to try.

    Raises:
        DeviceUnavailableError: Another process holds the phone, or it may not be opened.
    """

    def __init__(self, phone: UsbPhone, deadline: float) -> None:
        self._device = phone.device
        try:
            self._device.connect(left_s(deadline))
        except _load_usb_error() as error:
            self._device.close()
            cause = type(error).__name__
            hint = "look at it with: adb devices"
            if cause == "USBErrorBusy":
                hint = (
                    "another process holds it, usually an adb server; once that lists it (adb"
                    " devices) hwbench goes through it"
                )
            raise DeviceUnavailableError(
                f"phone {phone.serial} cannot be opened on USB ({cause}); {hint}"
            ) from error

    def write(self, data: bytes, deadline: float) -> None:
        """See `Pipe`."""
        # A bulk transfer may take only a part.
        rest = memoryview(data)
        while rest:
            written = self._transfer(partial(self._write_some, bytes(rest), deadline))
            rest = rest[written:]

    def read(self, size: int, deadline: float) -> bytes:
        """See `Pipe`."""
        data = b""
        while len(data) < size:
            data += self._transfer(partial(self._read_some, size - len(data), deadline))
        return data

    def _write_some(self, data: bytes, deadline: float) -> int:
        written: int = self._device.bulk_write(data, left_s(deadline))
        return written

    def _read_some(self, size: int, deadline: float) -> bytes:
        data: bytes = self._device.bulk_read(size, left_s(deadline))
        return data

    @staticmethod
    def _transfer(action: Callable[[], T]) -> T:
        """Run a transfer, and turn the errors of adb-shell into ours."""
        from adb_shell.exceptions import UsbReadFailedError, UsbWriteFailedError

        try:
            return action()
        except (UsbReadFailedError, UsbWriteFailedError) as error:
            cause = repr(error.args[-1])
            if "Timeout" in cause or "TIMEOUT" in cause:
                raise DeviceTimeoutError(
                    "the phone did not answer on USB in the time allowed; allow more"
                ) from error
            raise DeviceLostError(
                f"the phone was lost on USB ({one_line(cause)}); plug it in again"
            ) from error

    def close(self) -> None:
        """See `Pipe`."""
        self._device.close()
