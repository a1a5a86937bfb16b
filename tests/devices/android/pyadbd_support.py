"""Small aids of the tests of the adb transport."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable


def free_port() -> int:
    """A port that nobody listens at, and that no adb server takes for an emulator's."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            if not 5554 <= probe.getsockname()[1] <= 5585:
                return int(probe.getsockname()[1])


def soon(what: Callable[[], object], within_s: float = 30.0) -> bool:
    """Whether it becomes true within that time."""
    deadline = time.monotonic() + within_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
