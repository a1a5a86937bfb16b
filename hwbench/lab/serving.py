"""The life of a device in a lab: lock, open, join, work, cool, fail, come back.

It knows the pool by a protocol only, and no Ray.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from hwbench.devices import open_device
from hwbench.devices.base import Device
from hwbench.devices.shared.lock import DeviceLock
from hwbench.errors import DeviceError
from hwbench.lab.bench import Bench
from hwbench.lab.records import Lease
from hwbench.lab.tasks import Outcome, Task
from hwbench.records.device import DeviceInfo

logger = logging.getLogger(__name__)

ASK_S = 5.0
"""Longest wait for work in seconds, after which the device is checked and work asked for again.

It is also the wait between two checks of a hot device.
"""
BACK_S, BACK_MOST_S = 5.0, 300.0
"""Wait before a device that failed is opened again, in seconds.

It is doubled each time until the device has worked for a while.
"""
MOST_MODELS = 4


class DevicePool(Protocol):
    """The pool, as a device sees it.

    Every call raises `DeviceUnavailableError` where it cannot be reached.
    """

    def join(self, name: str, info: DeviceInfo) -> int:
        """See `Pool.join`."""
        ...

    def lease(self, name: str, incarnation: int, *, hot: bool, wait_s: float) -> Lease:
        """See `Pool.lease`; it waits up to `wait_s` seconds for work."""
        ...

    def report(self, name: str, incarnation: int, task_id: str, outcome: Outcome) -> bool:
        """See `Pool.report`."""
        ...

    def fail(self, name: str, incarnation: int, reason: str) -> None:
        """See `Pool.fail`."""
        ...

    def model(self, sha256: str) -> bytes:
        """Give the model of that SHA-256; empty if it is not known."""
        ...


class Service:
    """Serves one device until its process ends.

    Args:
        address: The address of the device.
        name: Its name in the lab, `ADDRESS@HOST`.
        pool: The pool.
        sleep: Waits for so many seconds.
        open_: Makes the device of an address, not yet opened.
    """

    def __init__(
        self,
        address: str,
        name: str,
        pool: DevicePool,
        sleep: Callable[[float], None] = time.sleep,
        open_: Callable[[str], Device] = open_device,
    ) -> None:
        self.address, self.name, self.pool = address, name, pool
        self._sleep, self._open = sleep, open_
        self._models: dict[str, bytes] = {}

    def run(self) -> None:
        """Serve for ever: a device that fails is opened again after a while, and joins anew.

        Raises:
            UsageError: The address names no device, which no waiting mends.
        """
        back_s = BACK_S
        while True:
            begun = time.monotonic()
            try:
                self.serve_once()
            except DeviceError as error:
                logger.warning("%s failed: %s", self.name, error)
            if time.monotonic() - begun > BACK_MOST_S:
                back_s = BACK_S
            self._sleep(back_s)
            back_s = min(2 * back_s, BACK_MOST_S)

    def serve_once(self) -> None:
        """Serve until the device or the pool fails.

        Raises:
            DeviceError: The device or the pool failed.
        """
        # The lab holds a device for as long as it is part of it, also one whose driver locks
        # nothing.
        with DeviceLock(f"lab {self.address}"), self._open(self.address) as device:
            bench, info = Bench(device, self.name), device.info()
            incarnation = self.pool.join(self.name, info)
            try:
                while True:
                    hot = bench.hot()
                    lease = self.pool.lease(self.name, incarnation, hot=hot, wait_s=ASK_S)
                    if lease.expelled:
                        incarnation = self.pool.join(self.name, info)
                    elif hot:
                        bench.clear()
                        bench.rest(ASK_S)
                    else:
                        self._work(bench, incarnation, lease)
            except DeviceError as error:
                self.pool.fail(self.name, incarnation, str(error))
                raise

    def _work(self, bench: Bench, incarnation: int, lease: Lease) -> None:
        """Do the tasks of a lease until one cannot be finished or is not believed.

        The tasks left go back to the pool when work is asked for again.
        """
        for task in lease.tasks:
            outcome = bench.carry_out(task, self._fetch_models(task))
            if outcome is None or not self.pool.report(self.name, incarnation, task.id, outcome):
                return

    def _fetch_models(self, task: Task) -> Mapping[str, bytes]:
        """Fetch the models of a task; the last few are kept, and each is checked at every use."""
        for sha256 in task.models:
            self._models[sha256] = self._models.pop(sha256, b"") or self.pool.model(sha256)
        for old in list(self._models)[: -max(MOST_MODELS, len(task.models))]:
            del self._models[old]
        return self._models
