"""What every way to a phone offers: a link that opens services, each a stream of bytes both ways, all bounded in time.

`_adb_direct` (TCP, USB) and `_adb_server` (a running adb server) implement these two protocols; the
shell and file services above them (`_adb_shell`, `_adb_sync`) know of nothing else, so they are
written and tested once. A deadline is a value of `time.monotonic()`, in seconds.
"""

from __future__ import annotations

import time
from typing import Protocol

FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"
"""What hwbench tells a phone that it understands.

Neither delayed acknowledgement nor compression is among it.
"""


class Stream(Protocol):
    """One open service of the phone."""

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of `data`.

        Silently if the phone has closed the stream, as its last words can still be received.

        Raises:
            DeviceTimeoutError: It was not taken in time.
            DeviceLostError: The connection is gone.
        """
        ...

    def receive(self, deadline: float) -> bytes:
        """The next bytes; none at the end of the stream.

        Raises:
            DeviceTimeoutError: Nothing came in time.
            DeviceLostError: The connection is gone.
        """
        ...

    def close(self) -> None:
        """Close it, which ends what runs behind it on the phone.

        Never raises; closing twice is fine.
        """
        ...


class Link(Protocol):
    """One authorised connection to one phone."""

    serial: str
    route: str
    features: frozenset[str]

    @property
    def closed(self) -> bool:
        """Whether it can no longer be used: closed here, lost, or out of step."""
        ...

    def open(self, service: str, deadline: float) -> Stream:
        """Open a service (`sync:`, `shell,v2,raw:COMMAND`).

        Raises:
            DeviceUnavailableError: The phone refuses it.
            DeviceTimeoutError: No answer in time.
            DeviceLostError: The connection is gone.
        """
        ...

    def close(self) -> None:
        """Close it and every stream on it. Never raises; closing twice is fine."""
        ...


def left_s(deadline: float) -> float:
    """Seconds left until the deadline, at least one millisecond, so that what has already come is still taken."""
    return max(deadline - time.monotonic(), 1e-3)


def one_line(text: str) -> str:
    """Text of a phone, fit for an error message: one line, nothing but printable characters, its end if it is long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 400 else f"...{line[-400:]}"
