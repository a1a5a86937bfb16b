"""The life of a device in a lab: lock, open, join, work, cool, fail, come back.

Knows the pool by its words only, and no Ray.
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
"""Longest wait for work, after which the device is looked at and work is asked for again.

Also between two looks at a hot one.
"""
BACK_S, BACK_MOST_S = 5.0, 300.0
"""Wait before a device that failed is opened again.

Doubled each time until it has worked for a while.
"""
MODELS_KEPT = 4


class Office(Protocol):
    """The pool, as a device sees it.

    Every call raises `DeviceUnavailableError` where it cannot be reached.
    """

    def join(self, name: str, info: DeviceInfo) -> int:
        """See `Pool.join`."""
        ...

    def lease(self, name: str, incarnation: int, *, hot: bool, wait_s: float) -> Lease:
        """See `Pool.lease`; waits so long for work."""
        ...

    def report(self, name: str, incarnation: int, task_id: str, outcome: Outcome) -> bool:
        """See `Pool.report`."""
        ...

    def fail(self, name: str, incarnation: int, reason: str) -> None:
        """See `Pool.fail`."""
        ...

    def model(self, sha256: str) -> bytes:
        """The model of that SHA-256; empty if it is not known."""
        ...


class Service:
    """Serves one device until its process ends.

    Args:
        address: Of the device.
        name: What the lab calls it: `ADDRESS@HOST`.
        office: The pool.
        sleep: Waits so many seconds.
        open_: Gives the closed device.
    """

    def __init__(
        self,
        address: str,
        name: str,
        office: Office,
        sleep: Callable[[float], None] = time.sleep,
        open_: Callable[[str], Device] = open_device,
    ) -> None:
        self.address, self.name, self.office = address, name, office
        self._sleep, self._open = sleep, open_
        self._models: dict[str, bytes] = {}

    def run(self) -> None:
        """Serve for good: a device that fails is opened again after a while, and joins anew.

        Raises:
            UsageError: The address names no device, which no waiting mends.
        """
        back_s = BACK_S
        while True:
            begun = time.monotonic()
            try:
                self.once()
            except DeviceError as error:
                logger.warning("%s failed: %s", self.name, error)
            if time.monotonic() - begun > BACK_MOST_S:
                back_s = BACK_S
            self._sleep(back_s)
            back_s = min(2 * back_s, BACK_MOST_S)

    def once(self) -> None:
        """Serve until the device or the pool fails.

        Raises:
            DeviceError: It did.
        """
        # The lab holds a device for as long as it is part of it, also one whose driver locks
        # nothing.
        with DeviceLock(f"lab {self.address}"), self._open(self.address) as device:
            bench, info = Bench(device, self.name), device.info()
            incarnation = self.office.join(self.name, info)
            try:
                while True:
                    hot = bench.hot()
                    lease = self.office.lease(self.name, incarnation, hot=hot, wait_s=ASK_S)
                    if lease.expelled:
                        incarnation = self.office.join(self.name, info)
                    elif hot:
                        bench.clear()
                        bench.rest(ASK_S)
                    else:
                        self._work(bench, incarnation, lease)
            except DeviceError as error:
                self.office.fail(self.name, incarnation, str(error))
                raise

    def _work(self, bench: Bench, incarnation: int, lease: Lease) -> None:
        """Do what was leased, until something is in the way.

        What is left goes back when work is asked for again.
        """
        for task in lease.tasks:
            outcome = bench.carry_out(task, self._fetched(task))
            if outcome is None or not self.office.report(self.name, incarnation, task.id, outcome):
                return

    def _fetched(self, task: Task) -> Mapping[str, bytes]:
        """The models of a task; the last few are kept, each checked whenever it is used."""
        for sha256 in task.models:
            self._models[sha256] = self._models.pop(sha256, b"") or self.office.model(sha256)
        for old in list(self._models)[: -max(MODELS_KEPT, len(task.models))]:
            del self._models[old]
        return self._models
