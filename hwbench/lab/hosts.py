"""What `hwbench lab start` and `hwbench lab join` do until they are ended: the head of a lab, and a host with its devices."""

from __future__ import annotations

import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from hwbench.devices import driver_class, list_devices
from hwbench.devices.shared.lock import DeviceLock
from hwbench.errors import DeviceError, DeviceUnavailableError, UsageError
from hwbench.lab.actors import (
    NAMESPACE,
    POOL,
    POOL_RESOURCE,
    DeviceActor,
    PoolActor,
    answer,
    resource,
)
from hwbench.lab.nodes import (
    START_S,
    connect,
    disconnect,
    environment,
    find_pool,
    head_words,
    host_words,
    make_token,
    pool_of,
    ray_node,
    tail,
)
from hwbench.lab.records import Rules

LOOK_S = 2.0
"""Seconds between two looks at the devices' processes."""
POLL_S = 0.2
TRIES = 3
"""Ray gives a host half a minute to start, which a busy one may not make."""
AGAIN_S, AGAIN_MOST_S = 2.0, 300.0
"""Wait before the process of a device is started again.

Doubled each time it ended within that time.
"""

Say = Callable[[str], None]


def serve_head(host: str, port: int, say: Say, rules: Rules | None = None) -> None:
    """Be the head of a lab until this process is told to end.

    Args:
        host: This computer's address, as the others reach it; 127.0.0.1 for this computer alone.
        port: Of the lab.
        say: Called with each line that people should read.
        rules: Of the pool.

    Raises:
        DeviceUnavailableError: Ray is not installed, or does not start.
    """
    where = make_token()
    environment()
    with _until_told(), TemporaryDirectory() as folder:
        log = Path(folder) / "ray.log"
        with ray_node(head_words(host, port), log) as process, ExitStack() as stack:
            address = f"{host}:{port}"
            connect(address, process, log)
            _heed_signals()
            stack.callback(disconnect)  # first, as Ray ends a process that loses its node
            import ray

            if find_pool() is not None:
                raise UsageError(f"a lab is at {address} already; join it, or give another --port")
            actor = ray.remote(PoolActor).options(
                name=POOL, namespace=NAMESPACE, lifetime="detached", num_cpus=0, resources={POOL_RESOURCE: 1}, max_restarts=-1,
                max_concurrency=10_000,
            )  # fmt: skip
            pool: Any = actor.remote(asdict(rules or Rules()))
            answer(pool.status.remote(), START_S)
            if process.poll() is not None:
                raise DeviceUnavailableError(
                    f"Ray does not start at {address}; give another --port ({tail(log)})"
                )
            say(f"a lab is at {address}; on each host: hwbench lab join {address}")
            if where is not None:
                say(f"hosts and clients need the token in {where}")
            process.wait()
            raise DeviceUnavailableError(
                f"Ray ended, and with it the lab; start it again ({tail(log)})"
            )


def serve_host(
    address: str,
    devices: Sequence[str],
    say: Say,
    *,
    own: str | None = None,
    name: str | None = None,
) -> None:
    """Offer devices to a lab until this process is told to end.

    Args:
        address: `HOST:PORT` of the lab's head.
        devices: Addresses of the devices; none for all that are ready.
        say: Called with each line that people should read.
        own: This computer's address, as the others reach it; None to let Ray find it.
        name: What the lab calls this computer.

    Raises:
        UsageError: There is no token, no device is ready, or an address names no driver.
        DeviceUnavailableError: The lab cannot be reached, refuses the token, or is gone.
    """
    environment()
    host = name or platform.node()
    names = {f"{device}@{host}": device for device in devices or _ready()}
    for device in names.values():
        driver_class(device.partition(":")[0])
    wanted = {resource(one): 1.0 for one in names}
    with _until_told(), TemporaryDirectory() as folder, ExitStack() as stack:
        log = Path(folder) / "ray.log"
        process = _join(stack, address, own, wanted, log)
        pool = pool_of(address)
        say(f"{host} joined the lab at {address} with {', '.join(names.values())}")
        try:
            _supervise(pool, names, process)
            raise DeviceUnavailableError(
                f"Ray ended here; is the lab gone? join again ({tail(log)})"
            )
        finally:
            with suppress(DeviceError):
                answer(pool.leave.remote(list(names)))


def _join(
    stack: ExitStack, address: str, own: str | None, wanted: Mapping[str, float], log: Path
) -> subprocess.Popen[bytes]:
    """Ray's processes of this computer, in the lab, until the stack is closed.

    Raises:
        DeviceUnavailableError: They do not start, or the lab refuses.
    """
    for left in reversed(range(TRIES)):
        with ExitStack() as attempt:
            attempt.enter_context(
                DeviceLock("ray", wait_s=TRIES * START_S)
            )  # of two that start at once, Ray lets one fail
            node = ExitStack()
            attempt.push(node)
            process = node.enter_context(ray_node(host_words(address, own, wanted), log))
            try:
                connect(address, process, log)
                _heed_signals()
                _await_node(process, wanted, log)
            except DeviceUnavailableError:
                disconnect()
                if not left or process.poll() is None:
                    raise
            else:
                stack.push(node.pop_all())
                stack.callback(disconnect)  # first, as Ray ends a process that loses its node
                return process
    raise DeviceUnavailableError(f"Ray did not start here {TRIES} times ({tail(log)})")


def _await_node(process: subprocess.Popen[bytes], wanted: Mapping[str, float], log: Path) -> None:
    """Wait until the lab knows of this computer and its devices.

    Raises:
        DeviceUnavailableError: It does not within the time allowed, or Ray ended.
    """
    until_s = time.monotonic() + START_S
    while not wanted.keys() <= _resources():
        if process.poll() is not None or time.monotonic() > until_s:
            raise DeviceUnavailableError(f"Ray does not start here; try again ({tail(log)})")
        time.sleep(POLL_S)


def _resources() -> set[str]:
    import ray

    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return set(found)


def _ready() -> list[str]:
    found = [one.address for one in list_devices() if one.ready and one.address != "virtual"]
    if not found:
        raise UsageError("no device is ready here; see: hwbench devices, or name one with --device")
    return found


class _Keeper:
    """Keeps the process of one device alive."""

    def __init__(self, pool: Any, name: str, address: str) -> None:
        self._pool, self._name, self._address = pool, name, address
        self._again_s, self._begun = AGAIN_S, 0.0
        self._actor: Any = None
        self.serving: Any = None

    def start(self) -> None:
        """Start it."""
        import ray

        options = {
            "num_cpus": 0,
            "resources": {resource(self._name): 1},
            "max_concurrency": 2,
            "max_restarts": 0,
        }
        self._actor = ray.remote(DeviceActor).options(**options).remote(self._address, self._name)
        self.serving = self._actor.serve.remote(self._pool)
        self._begun = time.monotonic()

    def stop(self) -> None:
        """End it for good."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)

    def look(self) -> None:
        """Start it again if it ended, after a while.

        Raises:
            UsageError: It ended since its address names no device.
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
            self._again_s = (
                AGAIN_S if lasted_s > AGAIN_MOST_S else min(2 * self._again_s, AGAIN_MOST_S)
            )
            self.serving, self._begun = None, time.monotonic()
        elif time.monotonic() - self._begun > self._again_s:
            self.start()


def _supervise(pool: Any, names: dict[str, str], process: subprocess.Popen[bytes]) -> None:
    """Keep all devices served, as long as Ray's processes live on this computer."""
    keepers = [_Keeper(pool, name, address) for name, address in names.items()]
    for keeper in keepers:
        keeper.start()
    try:
        while process.poll() is None:
            for keeper in keepers:
                keeper.look()
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_S)
    finally:
        for keeper in keepers:
            keeper.stop()


@contextmanager
def _until_told() -> Iterator[None]:
    """Ends quietly on SIGTERM and SIGINT."""
    before = signal.getsignal(signal.SIGTERM)
    _heed_signals()
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _heed_signals() -> None:
    """End on SIGTERM as on SIGINT.

    To be said again after connecting, as Ray then has a process abort.
    """

    def told(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, told)
