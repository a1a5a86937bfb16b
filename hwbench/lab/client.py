"""A lab as its clients see it: what is there, and a crew of devices that carries out tasks."""

from __future__ import annotations

import getpass
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.lab.actors import answer
from hwbench.lab.kinds import info_from, kind_id, one_kind
from hwbench.lab.nodes import connect, disconnect, pool_of
from hwbench.lab.tasks import Outcome, Task
from hwbench.network.workload import Workload
from hwbench.records.device import DeviceInfo

LISTEN_S = 1.0
"""How long the pool is waited for at a time.

It takes a client for gone that does not ask for a while.
"""
PATIENCE_S = 600.0
"""Longest wait while no device is left that may do the work."""
TAKE_OVER_S = 30.0
"""Longest wait for the pool to notice that an earlier client, which did the same work, is gone."""


@contextmanager
def open_lab(address: str) -> Iterator[Lab]:
    """Connect to a lab; the computer must be its head, or have joined.

    Args:
        address: `HOST:PORT` of its head.

    Raises:
        DeviceUnavailableError: It cannot be reached, refuses the token, or Ray is not installed.
        UsageError: There is no token.
    """
    connect(address)
    try:
        yield Lab(address, pool_of(address))
    finally:
        disconnect()


class Lab:
    """A lab one is connected to, from `open_lab`.

    Args:
        address: Of its head.
        pool: Handle of the pool.
    """

    def __init__(self, address: str, pool: Any) -> None:
        self.address, self._pool = address, pool

    def devices(self, wanted: str) -> dict[str, DeviceInfo]:
        """The devices meant by `wanted` that are there and have not failed, by name (`ADDRESS@HOST`)."""
        return {
            name: info_from(info)
            for name, info in answer(self._pool.devices.remote(wanted)).items()
        }

    def status(self) -> dict[str, Any]:
        """Devices, queue, health, and who holds what, as plain JSON types."""
        return {"address": self.address, **answer(self._pool.status.remote())}

    def crew(self, wanted: str, title: str, *, of_one_kind: bool = False) -> RayCrew:
        """The devices meant by `wanted`, for work called `title`.

        Raises:
            UsageError: There are none, or they are of several kinds where one is asked for.
        """
        found = self.devices(wanted)
        if not found:
            there = (
                ", ".join(sorted(device["name"] for device in self.status()["devices"])) or "none"
            )
            raise UsageError(
                f"no device of the lab at {self.address} is meant by {wanted!r}; there are: {there}"
            )
        kind = one_kind(found, wanted) if of_one_kind else next(iter(found.values()))
        return RayCrew(
            self._pool,
            wanted,
            title,
            kind_id(kind) if of_one_kind else "",
            replace(kind, address=wanted),
        )


class RayCrew:
    """Devices that carry out tasks; a context manager.

    Leaving it by an error leaves the work to be gone on with.

    Attributes:
        info: What the devices have in common, under the address they were asked for by.
    """

    def __init__(self, pool: Any, wanted: str, title: str, kind: str, info: DeviceInfo) -> None:
        self._pool, self.info = pool, info
        self._client = (
            f"{getpass.getuser()}@{platform.node()}, process {os.getpid()}, {uuid4().hex[:6]}"
        )
        self._about = {"title": title, "client": self._client, "wanted": wanted, "kind": kind}
        self._jobs: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        reference = self._pool.part.remote(sorted(self._jobs), self._client, error is None)
        if error is None:
            answer(reference)

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def carry_out(
        self, job: str, tasks: Sequence[Task], *workloads: Workload
    ) -> Iterator[tuple[str, Outcome]]:
        """Outcomes of the tasks of a job by id, in whatever order they come.

        Each counts as safe when the next is asked for.

        Raises:
            DeviceUnavailableError: The lab does not answer, or no device that may do it was left
                for too long.
            UsageError: Another client does the same work.
        """
        pending, taken, alone_s = {task.id: task for task in tasks}, list[str](), 0.0
        self._submit(job, tasks, workloads)
        while pending:
            told = answer(self._pool.collect.remote(job, self._client, taken, LISTEN_S), LISTEN_S)
            if "refused" in told:
                raise UsageError(told["refused"])
            if told["results"] is None:  # the pool was lost, and all it knew
                self._submit(job, list(pending.values()), workloads)
                continue
            taken = list(told["results"])
            for task_id in taken:
                if pending.pop(task_id, None) is not None:
                    yield task_id, told["results"][task_id]
            alone_s = 0.0 if told["devices"] else alone_s + LISTEN_S
            if alone_s > PATIENCE_S:
                wanted = self._about["wanted"]
                raise DeviceUnavailableError(
                    f"no device that is meant by {wanted!r} was in the lab for {PATIENCE_S:.0f} s;"
                    " see hwbench lab status, then repeat the command: it goes on where it stopped"
                )
        answer(self._pool.collect.remote(job, self._client, taken, 0.0))

    def _submit(self, job: str, tasks: Sequence[Task], workloads: Sequence[Workload]) -> None:
        models = {workload.sha256: workload.artifact for workload in workloads}
        for sha256 in answer(self._pool.missing.remote(list(models))):
            answer(self._pool.offer.remote(sha256, models[sha256]))
        until_s = time.monotonic() + TAKE_OVER_S
        while refused := answer(
            self._pool.submit.remote(job, [task.to_dict() for task in tasks], self._about)
        ):
            if time.monotonic() > until_s:
                raise UsageError(refused)
            time.sleep(LISTEN_S)
        self._jobs.add(job)
