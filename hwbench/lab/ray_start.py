"""A `ray start` that leaves 127.0.0.1 as it is.

Ray itself puts an address in its place that the whole network reaches, and listens there. `nodes`
runs this as a program (`python -m hwbench.lab.ray_start ARGUMENTS`), and keeps its own process to
the same rule.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from typing import Any

from hwbench.errors import DeviceUnavailableError
from hwbench.optional import install_command

_PR_SET_PDEATHSIG = 1
"""See prctl(2)."""


def keep_loopback() -> None:
    """Make Ray listen on this computer alone where 127.0.0.1 is asked for, in this process.

    It also looks for labs there.

    Raises:
        DeviceUnavailableError: This version of Ray does it in another way, so that it would listen
            everywhere.
    """
    from ray._private import services

    if not hasattr(services, "resolve_ip_for_localhost"):
        raise DeviceUnavailableError(
            "this version of Ray cannot be kept to this computer; install the one that was"
            f" tried: {install_command('lab')}"
        )
    services.resolve_ip_for_localhost = _keep_address


def reload_variables() -> None:
    """Make Ray read its variables again, in a process that imported it before they were set."""
    from ray import _raylet

    core: Any = _raylet  # its types leave these out
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()


def end_with_parent() -> None:
    """Make this process end when the one that started it does, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _keep_address(host: str) -> str:
    return host


if __name__ == "__main__":
    end_with_parent()
    from ray.scripts.scripts import cli

    keep_loopback()
    cli()
