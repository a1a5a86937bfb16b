"""The head of a lab, and a host with its devices, until their processes are ended."""

from __future__ import annotations

import errno
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from hwbench.devices import driver_class, list_devices
from hwbench.devices.shared.lock import DeviceLock
from hwbench.errors import Argument, Call, DeviceError, DeviceUnavailableError, UsageError
from hwbench.lab.actors import (
    NAMESPACE,
    POOL,
    POOL_RESOURCE,
    DeviceActor,
    PoolActor,
    fetch_answer,
    resource_name,
)
from hwbench.lab.nodes import (
    START_S,
    connect,
    disconnect,
    find_pool,
    head_arguments,
    host_arguments,
    make_token,
    ray_environment,
    ray_node,
    read_log_tail,
    require_pool,
)
from hwbench.lab.records import Rules
from hwbench.records.scratch import scratch_folder

CHECK_S = 2.0
"""Seconds between two checks of the devices' processes."""
POLL_S = 0.2
TRIES = 3
"""How often a host is started; Ray gives it half a minute, which is too little for a busy one."""
AGAIN_S, AGAIN_MOST_S = 2.0, 300.0
"""Wait before the process of a device is started again, in seconds.

It is doubled each time the process ended within that time.
"""

Announce = Callable[[str], None]
"""A callback that gets each line which people should read."""


def serve_head(host: str, port: int, announce: Announce, rules: Rules | None = None) -> None:
    """Be the head of a lab until this process is told to end.

    Args:
        host: The address of this computer, as the others reach it; 127.0.0.1 for this computer
            alone.
        port: The port of the lab.
        announce: Called with each line that people should read.
        rules: The rules of the pool; None for the usual ones.

    Raises:
        DeviceUnavailableError: Ray is not installed, or does not start.
        UsageError: There is a lab at this address already, or another program.
    """
    _check_port_is_free(host, port)
    token_file = make_token()
    ray_environment()
    with _until_signalled(), scratch_folder() as folder:
        log = folder / "ray.log"
        with ray_node(head_arguments(host, port), log) as process, ExitStack() as stack:
            address = f"{host}:{port}"
            connect(address, process, log)
            stack.callback(disconnect)  # first, as Ray ends a process that loses its node
            import ray

            if find_pool() is not None:
                raise UsageError(
                    f"a lab is at {address} already; join it", Argument("port", change="another")
                )
            options = {
                "name": POOL,
                "namespace": NAMESPACE,
                "lifetime": "detached",
                "num_cpus": 0,
                "resources": {POOL_RESOURCE: 1},
                "max_restarts": -1,
                "max_concurrency": 10_000,
            }
            pool: Any = ray.remote(PoolActor).options(**options).remote(asdict(rules or Rules()))
            fetch_answer(pool.status.remote(), START_S)
            if process.poll() is not None:
                raise DeviceUnavailableError(
                    f"Ray does not start at {address} ({read_log_tail(log)})",
                    Argument("port", change="another"),
                )
            announce(f"a lab is at {address}; on each host: hwbench lab join {address}")
            if token_file is not None:
                announce(f"hosts and clients need the token in {token_file}")
            process.wait()
            raise DeviceUnavailableError(
                f"Ray ended, and with it the lab; start it again ({read_log_tail(log)})"
            )


def _check_port_is_free(host: str, port: int) -> None:
    """Refuse a port on which another program listens; Ray would say so only after a minute.

    Raises:
        UsageError: It is taken.
    """
    found: list[Any] = []
    with suppress(OSError):  # a name that is not known is for Ray to judge
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A name may have several addresses (localhost: 127.0.0.1 and ::1); any may be taken.
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            # All else, such as an address that a router translates, is for Ray to judge too.
            if error.errno == errno.EADDRINUSE:
                raise UsageError(
                    f"port {port} of {host} is taken, by a lab or by another program",
                    Argument("port", change="another"),
                ) from error


def serve_host(
    address: str,
    devices: Sequence[str],
    announce: Announce,
    *,
    own: str | None = None,
    name: str | None = None,
) -> None:
    """Offer devices to a lab until this process is told to end.

    Args:
        address: The address of the lab's head, `HOST:PORT`.
        devices: The addresses of the devices; none for all that are ready.
        announce: Called with each line that people should read.
        own: The address of this computer, as the others reach it; None to let Ray find it.
        name: The name of this computer in the lab; None for that of its operating system.

    Raises:
        UsageError: There is no token, no device is ready, or an address names no driver.
        DeviceUnavailableError: The lab cannot be reached, refuses the token, or is gone.
    """
    ray_environment()
    host = name or platform.node()
    names = {f"{device}@{host}": device for device in devices or _list_ready_devices()}
    for device in names.values():
        driver_class(device.partition(":")[0])
    resources = {resource_name(device_name): 1.0 for device_name in names}
    with _until_signalled(), scratch_folder() as folder, ExitStack() as stack:
        log = folder / "ray.log"
        process = _join_lab(stack, address, own, resources, log)
        pool = require_pool(address)
        announce(f"{host} joined the lab at {address} with {', '.join(names.values())}")
        try:
            _supervise(pool, names, process)
            raise DeviceUnavailableError(
                f"Ray ended here; is the lab gone? join again ({read_log_tail(log)})"
            )
        finally:
            with suppress(DeviceError):
                fetch_answer(pool.leave.remote(list(names)))


def _join_lab(
    stack: ExitStack, address: str, own: str | None, resources: Mapping[str, float], log: Path
) -> subprocess.Popen[bytes]:
    """Start Ray's processes of this computer, in the lab, until a stack is closed.

    Args:
        stack: The stack that ends them.
        address: The address of the lab's head.
        own: The address of this computer, or None.
        resources: The custom resources that stand for its devices.
        log: The file that Ray's processes write to.

    Raises:
        DeviceUnavailableError: They do not start, or the lab refuses.
    """
    for tries_left in reversed(range(TRIES)):
        with ExitStack() as attempt:
            # Of two hosts that start at once on one computer, Ray lets one fail.
            attempt.enter_context(DeviceLock("ray", wait_s=TRIES * START_S))
            node = ExitStack()
            attempt.push(node)
            process = node.enter_context(ray_node(host_arguments(address, own, resources), log))
            try:
                connect(address, process, log)
                _await_node(process, resources, log)
            except DeviceUnavailableError:
                disconnect()
                if not tries_left or process.poll() is None:
                    raise
            else:
                # It worked: what would end the processes with this attempt moves to the stack.
                stack.push(node.pop_all())
                stack.callback(disconnect)  # first, as Ray ends a process that loses its node
                return process
    raise DeviceUnavailableError(f"Ray did not start here {TRIES} times ({read_log_tail(log)})")


def _await_node(
    process: subprocess.Popen[bytes], resources: Mapping[str, float], log: Path
) -> None:
    """Wait until the lab knows of this computer and its devices.

    Raises:
        DeviceUnavailableError: It does not within the time allowed, or Ray ended.
    """
    until_s = time.monotonic() + START_S
    while not resources.keys() <= _list_lab_resources():
        if process.poll() is not None or time.monotonic() > until_s:
            raise DeviceUnavailableError(
                f"Ray does not start here; try again ({read_log_tail(log)})"
            )
        time.sleep(POLL_S)


def _list_lab_resources() -> set[str]:
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return set(resources)


def _list_ready_devices() -> list[str]:
    ready = [device.address for device in list_devices() if device.ready]
    addresses = [address for address in ready if address != "virtual"]
    if not addresses:
        raise UsageError(
            "no device is ready here",
            Call("list_devices", purpose="see what is missing"),
            Argument("device", purpose="name one"),
        )
    return addresses


class _DeviceKeeper:
    """Keeps the process of one device alive."""

    def __init__(self, pool: Any, name: str, address: str) -> None:
        self._pool, self._name, self._address = pool, name, address
        self._again_s, self._begun = AGAIN_S, 0.0
        self._actor: Any = None
        self.serving: Any = None

    def start(self) -> None:
        """Start the process."""
        import ray

        options = {
            "num_cpus": 0,
            "resources": {resource_name(self._name): 1},
            "max_concurrency": 2,
            "max_restarts": 0,
        }
        self._actor = ray.remote(DeviceActor).options(**options).remote(self._address, self._name)
        self.serving = self._actor.serve.remote(self._pool)
        self._begun = time.monotonic()

    def stop(self) -> None:
        """End the process for good."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)

    def check(self) -> None:
        """Start the process again if it ended, after a while.

        Raises:
            UsageError: It ended because its address names no device.
        """
        import ray

        if self.serving is not None:
            if not ray.wait([self.serving], timeout=0)[0]:
                return
            try:
                ray.get(self.serving)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UsageError):
                    raise error.cause from error
            except ray.exceptions.RayError:
                pass
            lasted_s = time.monotonic() - self._begun
            if lasted_s > AGAIN_MOST_S:
                self._again_s = AGAIN_S
            else:
                self._again_s = min(2 * self._again_s, AGAIN_MOST_S)
            self.serving, self._begun = None, time.monotonic()
        elif time.monotonic() - self._begun > self._again_s:
            self.start()


def _supervise(pool: Any, names: dict[str, str], process: subprocess.Popen[bytes]) -> None:
    """Keep all devices served, as long as Ray's processes live on this computer."""
    keepers = [_DeviceKeeper(pool, name, address) for name, address in names.items()]
    for keeper in keepers:
        keeper.start()
    try:
        while process.poll() is None:
            for keeper in keepers:
                keeper.check()
            with suppress(subprocess.TimeoutExpired):
                process.wait(CHECK_S)
    finally:
        for keeper in keepers:
            keeper.stop()


@contextmanager
def _until_signalled() -> Iterator[None]:
    """End a block quietly on SIGINT, and on SIGTERM as a service manager sends it."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
