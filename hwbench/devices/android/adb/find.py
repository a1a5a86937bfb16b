"""Which phone an address means, by which way it is reached, and what cures each bad state of it."""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.devices.android.adb.direct import DirectLink, TcpPipe
from hwbench.devices.android.adb.link import AdbLink, one_line
from hwbench.devices.android.adb.server import ServerLink, list_server_phones
from hwbench.devices.android.adb.usb import UsbPhone, UsbPipe, find_usb_phones
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
        usb: The phone on USB; None if an adb server lists it.
    """

    address: str
    state: str
    usb: UsbPhone | None = None

    @property
    def cure(self) -> str:
        """What to do about its state; empty for `device`."""
        return find_cure(self.state)


def find_phones(deadline: float) -> tuple[list[Sighting], str]:
    """Find the phones that an adb server lists, and those on USB that it does not.

    Args:
        deadline: Until when it may take.

    Returns:
        The phones, and what keeps USB from being searched (empty if nothing does).
    """
    phones = [Sighting(phone.serial, phone.state) for phone in list_server_phones(deadline) or []]
    listed = {phone.address for phone in phones}
    usb_phones, missing = find_usb_phones()
    for phone in usb_phones:
        # A phone that an adb server holds cannot be opened on USB as well.
        if phone.serial in listed:
            continue
        phones.append(Sighting(phone.serial, phone.state, phone))
    return phones, missing


def find_cure(state: str) -> str:
    """Say what to do about a phone in some state; empty for `device`."""
    if state == "device":
        return ""
    for name, text in _CURES.items():
        if state.startswith(name):
            return text
    return f"its state is {one_line(state)!r}: look at it with: adb devices -l"


def open_link(address: str, deadline: float) -> AdbLink:
    """Connect to the phone at `address` by the first way that leads to it: adb server, TCP, USB.

    Args:
        address: A serial, HOST:PORT, or an empty text if there is only one phone.
        deadline: Until when to try.

    Raises:
        UsageError: Several phones are in sight and none is named.
        DeviceUnavailableError: There is no phone, or it is not ready; the message has the cure.
    """
    if address:
        states = {phone.serial: phone.state for phone in list_server_phones(deadline) or []}
        if address in states:
            return _link_to(Sighting(address, states[address]), deadline)
        host, _, port = address.rpartition(":")
        if host and port.isdecimal() and 0 < int(port) < 1 << 16:
            pipe = TcpPipe(host.strip("[]"), int(port), deadline)
            return DirectLink(pipe, address, "tcp", deadline)
    phones, missing = find_phones(deadline)
    if address:
        return _link_to(_pick_named_phone(address, phones, missing), deadline)
    return _link_to(_pick_only_phone(phones, missing), deadline)


def _link_to(phone: Sighting, deadline: float) -> AdbLink:
    """Connect to a phone in sight."""
    if phone.cure:
        raise DeviceUnavailableError(
            f"phone {phone.address} is {one_line(phone.state)}: {phone.cure}"
        )
    if phone.usb is None:
        return ServerLink(phone.address, deadline)
    return DirectLink(UsbPipe(phone.usb, deadline), phone.address, "usb", deadline)


def _pick_named_phone(address: str, phones: list[Sighting], missing: str) -> Sighting:
    for phone in phones:
        if phone.address == address:
            return phone
    if phones:
        others = f"in sight: {', '.join(phone.address for phone in phones)}"
    else:
        others = missing or "none is in sight"
    raise DeviceUnavailableError(
        f"no phone {address!r} ({others}); plug it in with USB debugging on, or give HOST:PORT"
    )


def _pick_only_phone(phones: list[Sighting], missing: str) -> Sighting:
    if len(phones) > 1:
        listing = ", ".join(
            f"android:{phone.address} ({one_line(phone.state)})" for phone in phones
        )
        raise UsageError(
            f"{len(phones)} phones are in sight and none is named: {listing}; name one"
        )
    if not phones:
        why = f" ({missing})" if missing else ""
        raise DeviceUnavailableError(
            f"no phone is in sight{why}; plug one in and switch on USB debugging, or name one by"
            " android:HOST:PORT"
        )
    return phones[0]
