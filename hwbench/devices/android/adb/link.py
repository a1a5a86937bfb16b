"""What every way to a phone offers: a link that opens services, each a stream of bytes both ways.

`direct` (TCP, USB) and `server` (a running adb server) implement these two protocols; the shell and
file services above them (`shell`, `sync`) know of nothing else, so they are written and tested
once. Every call is bounded by a deadline, a value of `time.monotonic()` in seconds.
"""

from __future__ import annotations

import time
from typing import Protocol

FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"
"""The features that hwbench tells a phone it understands.

Neither delayed acknowledgement nor compression is among them.
"""


class Stream(Protocol):
    """One open service of the phone."""

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of `data`.

        If the phone has closed the stream nothing happens, as its last words can still be received.

        Raises:
            DeviceTimeoutError: The phone did not take it in time.
            DeviceLostError: The connection is gone.
        """
        ...

    def receive(self, deadline: float) -> bytes:
        """Receive the next bytes; none at the end of the stream.

        Raises:
            DeviceTimeoutError: Nothing came in time.
            DeviceLostError: The connection is gone.
        """
        ...

    def close(self) -> None:
        """Close the stream, which ends what runs behind it on the phone.

        Never raises; closing twice is fine.
        """
        ...


class AdbLink(Protocol):
    """One authorised connection to one phone.

    Attributes:
        serial: The phone's serial, or HOST:PORT.
        route: How it is reached: `server`, `tcp` or `usb`.
        features: The features that the phone says it has.
    """

    serial: str
    route: str
    features: frozenset[str]

    @property
    def closed(self) -> bool:
        """Whether the link can no longer be used: closed here, lost, or out of step."""
        ...

    def open(self, service: str, deadline: float) -> Stream:
        """Open a service (`sync:`, `shell,v2,raw:COMMAND`).

        Raises:
            DeviceUnavailableError: The phone refuses it.
            DeviceTimeoutError: There was no answer in time.
            DeviceLostError: The connection is gone.
        """
        ...

    def close(self) -> None:
        """Close the link and every stream on it. Never raises; closing twice is fine."""
        ...


def left_s(deadline: float) -> float:
    """Count the seconds left until a deadline.

    They are at least one millisecond, so that what has already come is still taken.
    """
    return max(deadline - time.monotonic(), 1e-3)


def one_line(text: str) -> str:
    """Make text of a phone fit for an error message.

    It becomes one line of printable characters, and only the end is kept of one that is long.
    """
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(printable.split())
    if len(line) > 400:
        return f"...{line[-400:]}"
    return line
