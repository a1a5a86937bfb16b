"""Which phone, and by which way: what an address means, which phones are in sight, and the cure for each bad state."""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.devices.android.adb.direct import DirectLink, TcpPipe
from hwbench.devices.android.adb.link import Link, one_line
from hwbench.devices.android.adb.server import ServerLink, listed
from hwbench.devices.android.adb.usb import UsbPhone, UsbPipe, usb_phones
from hwbench.errors import DeviceUnavailableError, UsageError

_CURES = {
    "unauthorized": (
        "unlock it and confirm the dialog 'Allow USB debugging?' (tick 'Always allow'), then run"
        " this again"
    ),
    "authorizing": (
        "it is being asked for permission: unlock it, confirm the dialog, then run this again"
    ),
    "connecting": "the adb server is still connecting: try again in a few seconds",
    "offline": (
        "unplug it and plug it in again (or: adb reconnect offline); if that fails, switch USB"
        " debugging off and on"
    ),
    "no permissions": (
        "this user may not open it on USB: install udev rules (apt install"
        " android-sdk-platform-tools-common), be in group plugdev, plug it in again"
    ),
    "recovery": "it is in recovery: choose 'Reboot system now' on it",
    "sideload": "it is in recovery: choose 'Reboot system now' on it",
    "rescue": "it is in rescue mode: choose 'Reboot system now' on it",
    "bootloader": "it is in its bootloader: choose 'Start' on it, or run: fastboot reboot",
}


@dataclass(frozen=True, slots=True)
class Sighting:
    """A phone in sight.

    Attributes:
        address: Its serial, or HOST:PORT.
        state: `device` if it is ready, else what it is instead.
        usb: How it is found on USB; None if an adb server lists it.
    """

    address: str
    state: str
    usb: UsbPhone | None = None

    @property
    def cure(self) -> str:
        """What to do about its state; empty for `device`."""
        return cure(self.state)


def sightings(deadline: float) -> tuple[list[Sighting], str]:
    """The phones that an adb server lists and those on USB that it does not, and what keeps USB from being searched."""
    seen = [Sighting(phone.serial, phone.state) for phone in listed(deadline) or []]
    known = {phone.address for phone in seen}
    on_usb, missing = usb_phones()
    return (
        seen
        + [
            Sighting(phone.serial, phone.state, phone)
            for phone in on_usb
            if phone.serial not in known
        ],
        missing,
    )


def cure(state: str) -> str:
    """What to do about a phone in that state; empty for `device`."""
    if state == "device":
        return ""
    known = next((text for name, text in _CURES.items() if state.startswith(name)), None)
    return known or f"its state is {one_line(state)!r}: look at it with: adb devices -l"


def open_link(address: str, deadline: float) -> Link:
    """Connect to the phone at `address` by the first way that leads to it: adb server, TCP, USB.

    Args:
        address: A serial, HOST:PORT, or nothing if there is only one phone.
        deadline: Until when to try.

    Raises:
        UsageError: Several phones and none is named.
        DeviceUnavailableError: There is none, or it is not ready; the message has the cure.
    """
    if address:
        states = {phone.serial: phone.state for phone in listed(deadline) or []}
        if address in states:
            return _link(Sighting(address, states[address]), deadline)
        host, _, port = address.rpartition(":")
        if host and port.isdecimal() and 0 < int(port) < 1 << 16:
            return DirectLink(
                TcpPipe(host.strip("[]"), int(port), deadline), address, "tcp", deadline
            )
    seen, missing = sightings(deadline)
    return _link(_only(seen, missing) if not address else _named(address, seen, missing), deadline)


def _link(phone: Sighting, deadline: float) -> Link:
    if phone.cure:
        raise DeviceUnavailableError(
            f"phone {phone.address} is {one_line(phone.state)}: {phone.cure}"
        )
    if phone.usb is None:
        return ServerLink(phone.address, deadline)
    return DirectLink(UsbPipe(phone.usb, deadline), phone.address, "usb", deadline)


def _named(address: str, seen: list[Sighting], missing: str) -> Sighting:
    for phone in seen:
        if phone.address == address:
            return phone
    others = (
        f"in sight: {', '.join(phone.address for phone in seen)}"
        if seen
        else missing or "none is in sight"
    )
    raise DeviceUnavailableError(
        f"no phone {address!r} ({others}); plug it in with USB debugging on, or give HOST:PORT"
    )


def _only(seen: list[Sighting], missing: str) -> Sighting:
    if len(seen) > 1:
        several = ", ".join(f"android:{phone.address} ({one_line(phone.state)})" for phone in seen)
        raise UsageError(f"{len(seen)} phones are in sight and none is named: {several}; name one")
    if not seen:
        why = f" ({missing})" if missing else ""
        raise DeviceUnavailableError(
            f"no phone is in sight{why}; plug one in and switch on USB debugging, or name one by"
            " android:HOST:PORT"
        )
    return seen[0]
