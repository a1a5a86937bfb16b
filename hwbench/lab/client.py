"""A lab as its clients see it: what is there, and a crew of devices that carries out tasks."""

from __future__ import annotations

import getpass
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self
from uuid import uuid4

from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.lab.actors import fetch_answer
from hwbench.lab.kinds import info_from, kind_id, one_kind
from hwbench.lab.nodes import connect, disconnect, require_pool
from hwbench.lab.tasks import Outcome, Task
from hwbench.network.workload import Workload
from hwbench.records.device import DeviceInfo

LISTEN_S = 1.0
"""How long the pool is waited for at a time, in seconds.

The pool takes a client that does not call for a while to be gone.
"""
PATIENCE_S = 600.0
"""Longest wait while no device is left that may do the work, in seconds."""
TAKE_OVER_S = 30.0
"""Longest wait for the pool to notice that an earlier client of the same work is gone, in seconds.
"""


@contextmanager
def open_lab(address: str) -> Iterator[Lab]:
    """Connect to a lab; the computer must be its head, or have joined.

    Args:
        address: The address of the lab's head, `HOST:PORT`.

    Raises:
        DeviceUnavailableError: The lab cannot be reached or refuses the token, or Ray is not
            installed.
        UsageError: There is no token.
    """
    connect(address)
    try:
        yield Lab(address, require_pool(address))
    finally:
        disconnect()


class Lab:
    """A lab that this process is connected to, from `open_lab`.

    Args:
        address: The address of its head.
        pool: The handle of the pool.
    """

    def __init__(self, address: str, pool: Any) -> None:
        self.address, self._pool = address, pool

    def devices(self, wanted: str) -> dict[str, DeviceInfo]:
        """Find the devices meant by a selector that are there and have not failed.

        Returns:
            What they are, by name (`ADDRESS@HOST`).
        """
        answer = fetch_answer(self._pool.devices.remote(wanted))
        return {name: info_from(info) for name, info in answer.items()}

    def status(self) -> dict[str, Any]:
        """Describe devices, queue, health, and who holds what, as plain JSON types."""
        return {"address": self.address, **fetch_answer(self._pool.status.remote())}

    def crew(self, wanted: str, title: str, *, of_one_kind: bool = False) -> RayCrew:
        """Gather the devices meant by a selector for some work.

        Args:
            wanted: The selector.
            title: The name of the work, for people.
            of_one_kind: Whether the devices must be of one kind.

        Raises:
            UsageError: There are none, or they are of several kinds where one is asked for.
        """
        devices = self.devices(wanted)
        if not devices:
            names = sorted(device["name"] for device in self.status()["devices"])
            raise UsageError(
                f"no device of the lab at {self.address} is meant by {wanted!r}; there are:"
                f" {', '.join(names) or 'none'}"
            )
        if of_one_kind:
            info = one_kind(devices, wanted)
            kind = kind_id(info)
        else:
            info = next(iter(devices.values()))
            kind = ""
        return RayCrew(self._pool, wanted, title, kind, replace(info, address=wanted))


class RayCrew:
    """Devices that carry out tasks; a context manager.

    If it is left by an error, the lab keeps the work, so that it can be gone on with.

    Args:
        pool: The handle of the pool.
        wanted: The selector of the devices.
        title: The name of the work, for people.
        kind: The identity of the only kind that may do it; empty for any.
        info: What the devices have in common.

    Attributes:
        info: What the devices have in common, with the selector as address.
    """

    def __init__(self, pool: Any, wanted: str, title: str, kind: str, info: DeviceInfo) -> None:
        self._pool, self.info = pool, info
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a user id without a name
            user = str(os.getuid())
        self._client = f"{user}@{platform.node()}, process {os.getpid()}, {uuid4().hex[:6]}"
        self._about = {"title": title, "client": self._client, "wanted": wanted, "kind": kind}
        self._jobs: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        reference = self._pool.part.remote(sorted(self._jobs), self._client, error is None)
        if error is None:
            fetch_answer(reference)

    def now(self) -> float:
        """Read the clock of this computer, in seconds."""
        return time.monotonic()

    def carry_out(
        self, job: str, tasks: Sequence[Task], *workloads: Workload
    ) -> Iterator[tuple[str, Outcome]]:
        """Have the tasks of a job done, and give their outcomes in whatever order they come.

        An outcome counts as safe when the next is asked for; until then the lab keeps it.

        Args:
            job: The identity of the work.
            tasks: The tasks.
            *workloads: The workloads that the tasks name.

        Yields:
            The id of a task and its outcome.

        Raises:
            DeviceUnavailableError: The lab does not answer, or no device that may do the work was
                left for too long.
            UsageError: Another client does the same work.
        """
        pending = {task.id: task for task in tasks}
        taken: list[str] = []
        without_devices_s = 0.0
        self._submit(job, tasks, workloads)
        while pending:
            reference = self._pool.collect.remote(job, self._client, taken, LISTEN_S)
            answer = fetch_answer(reference, LISTEN_S)
            if "refused" in answer:
                raise UsageError(answer["refused"])
            if answer["results"] is None:  # the pool was lost, and all it knew
                self._submit(job, list(pending.values()), workloads)
                continue
            taken = list(answer["results"])
            for task_id in taken:
                if pending.pop(task_id, None) is not None:
                    yield task_id, answer["results"][task_id]
            without_devices_s = 0.0 if answer["devices"] else without_devices_s + LISTEN_S
            if without_devices_s > PATIENCE_S:
                wanted = self._about["wanted"]
                raise DeviceUnavailableError(
                    f"no device that is meant by {wanted!r} was in the lab for {PATIENCE_S:.0f} s;"
                    " see hwbench lab status, then repeat the command: it goes on where it stopped"
                )
        fetch_answer(self._pool.collect.remote(job, self._client, taken, 0.0))

    def _submit(self, job: str, tasks: Sequence[Task], workloads: Sequence[Workload]) -> None:
        models = {workload.sha256: workload.artifact for workload in workloads}
        for sha256 in fetch_answer(self._pool.missing.remote(list(models))):
            fetch_answer(self._pool.offer.remote(sha256, models[sha256]))
        descriptions = [task.to_dict() for task in tasks]
        until_s = time.monotonic() + TAKE_OVER_S
        while True:
            refusal = fetch_answer(self._pool.submit.remote(job, descriptions, self._about))
            if not refusal:
                break
            if time.monotonic() > until_s:
                raise UsageError(refusal)
            time.sleep(LISTEN_S)
        self._jobs.add(job)
