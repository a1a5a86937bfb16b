"""The pool and the devices as Ray actors. What is said between them crosses as plain JSON types.

One detached, named actor holds the pool. Each device is an actor on its own host, bound there by a
custom resource of the node. It asks the pool for work, and the pool hears from Ray when it dies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from threading import Event
from typing import Any

from hwbench.errors import DeviceUnavailableError, HwbenchError, SchemaError
from hwbench.lab.kinds import info_from
from hwbench.lab.pool import Pool
from hwbench.lab.records import Lease, Rules
from hwbench.lab.serving import Service
from hwbench.lab.tasks import Outcome, Task
from hwbench.records.device import DeviceInfo

NAMESPACE = "hwbench"
POOL = "pool"
POOL_RESOURCE = "hwbench_pool"
TICK_S = 1.0
CALL_S = 30.0
"""Longest wait for an answer of the pool, beyond what it was asked to wait."""
MODELS_KEPT = 32


def resource(name: str) -> str:
    """The custom resource of a node that has the device."""
    return f"hwbench {name}"


class PoolActor:
    """The pool, waited for by devices and clients.

    All methods run in one event loop, so each step of the pool is atomic.
    """

    def __init__(self, rules: Mapping[str, float]) -> None:
        self._pool = Pool(time.monotonic, Rules(**rules))  # type: ignore[arg-type]
        self._work, self._results = _Bell(), _Bell()
        self._models: dict[str, Any] = {}
        self._handles: dict[tuple[str, int], Any] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def join(self, name: str, info: Mapping[str, Any], handle: Any) -> int:
        """See `Pool.join`; `handle` is the device's actor."""
        incarnation = self._pool.join(name, info_from(info))
        self._handles = {who: one for who, one in self._handles.items() if who[0] != name}
        self._handles[name, incarnation] = handle
        if not self._running:
            self._run(self._tick())
        self._run(self._until_gone(name, incarnation, handle))
        return incarnation

    def _run(self, forever: Coroutine[Any, Any, None]) -> None:
        running = asyncio.get_running_loop().create_task(forever)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _tick(self) -> None:
        """Let time pass: end what hangs."""
        import ray

        while True:
            await asyncio.sleep(TICK_S)
            for expelled in self._pool.tick():
                handle = self._handles.pop(expelled, None)
                if handle is not None:
                    ray.kill(handle)
                self._ring()

    async def _until_gone(self, name: str, incarnation: int, handle: Any) -> None:
        import ray

        try:
            await handle.stay.remote()
        except ray.exceptions.RayError:
            self._pool.fail(name, incarnation, "its process or its host went away")
            self._ring()

    async def lease(self, name: str, incarnation: int, hot: bool, wait_s: float) -> dict[str, Any]:
        """See `Pool.lease`; waits so long for work."""
        until_s = time.monotonic() + wait_s
        while True:
            lease = self._pool.lease(name, incarnation, hot=hot)
            left_s = until_s - time.monotonic()
            if lease.tasks or lease.expelled or hot or left_s <= 0:
                return {
                    "job": lease.job,
                    "tasks": [task.to_dict() for task in lease.tasks],
                    "expelled": lease.expelled,
                }
            await self._work.wait(left_s)

    async def report(self, name: str, incarnation: int, task_id: str, outcome: Outcome) -> bool:
        """See `Pool.report`."""
        told = self._pool.report(name, incarnation, task_id, outcome)
        self._results.ring()
        return told

    async def fail(self, name: str, incarnation: int, reason: str) -> None:
        """See `Pool.fail`."""
        self._pool.fail(name, incarnation, reason)
        self._ring()

    async def leave(self, names: Sequence[str]) -> None:
        """Take devices out of the lab."""
        for name in names:
            self._pool.leave(name)
        self._ring()

    async def offer(self, wanted: str, model: bytes) -> None:
        """Keep a model for the devices.

        Raises:
            SchemaError: It is not the one it is said to be.
        """
        import ray

        if sha256(model).hexdigest() != wanted:
            raise SchemaError(
                f"a model was offered as {wanted[:12]}..., which is not its SHA-256; send it again"
            )
        self._models[wanted] = self._models.pop(wanted, None) or ray.put(model)
        for old in list(self._models)[:-MODELS_KEPT]:
            del self._models[old]

    async def model(self, wanted: str) -> list[Any]:
        """Where the model of that SHA-256 is; empty if it is not known."""
        return [self._models[wanted]] if wanted in self._models else []

    async def missing(self, wanted: Sequence[str]) -> list[str]:
        """Which of these models it has not."""
        return [one for one in wanted if one not in self._models]

    async def submit(
        self, job: str, tasks: Sequence[Mapping[str, Any]], about: Mapping[str, str]
    ) -> str:
        """See `Pool.submit`; returns why not, or nothing."""
        try:
            self._pool.submit(job, [Task.from_dict(task) for task in tasks], **about)
        except HwbenchError as error:
            return str(error)
        self._ring()
        return ""

    async def collect(
        self, job: str, client: str, taken: Sequence[str], wait_s: float
    ) -> dict[str, Any]:
        """See `Pool.collect`; waits so long for the first result.

        Also how many devices may do the work.
        """
        until_s = time.monotonic() + wait_s
        while True:
            try:
                results = self._pool.collect(job, client, taken)
            except HwbenchError as error:
                return {"refused": str(error)}
            left_s = until_s - time.monotonic()
            if results is None or results or left_s <= 0:
                devices = 0 if results is None else len(self._pool.jobs[job].members)
                return {"results": results, "devices": devices}
            await self._results.wait(left_s)

    async def part(self, jobs: Sequence[str], client: str, done: bool) -> None:
        """The client goes: for good, or to come back for the rest."""
        for job in jobs:
            if done:
                self._pool.close(job, client)
            else:
                self._pool.release(job, client)

    async def devices(self, wanted: str) -> dict[str, Any]:
        """See `Pool.devices`."""
        return {name: asdict(info) for name, info in self._pool.devices(wanted).items()}

    async def status(self) -> dict[str, Any]:
        """See `Pool.status`."""
        return self._pool.status()

    def _ring(self) -> None:
        """Work came back, or was given up for good."""
        self._work.ring()
        self._results.ring()


class _Bell:
    """Wakes all who wait for it; who comes later waits for the next time."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait(self, most_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), most_s)


class DeviceActor:
    """A device on its host: one thread works, another stands for the process, whose end Ray tells the pool."""

    def __init__(self, address: str, name: str) -> None:
        self._address, self._name = address, name

    def serve(self, pool: Any) -> None:
        """Serve the device for as long as the process lives."""
        import ray

        own = ray.get_runtime_context().current_actor
        Service(self._address, self._name, RayOffice(pool, own)).run()

    def stay(self) -> None:
        """Never returns."""
        Event().wait()


class RayOffice:
    """The pool, as a device's actor calls it.

    Args:
        pool: Its handle.
        own: The device's own.
    """

    def __init__(self, pool: Any, own: Any) -> None:
        self._pool, self._own = pool, own

    def join(self, name: str, info: DeviceInfo) -> int:
        """See `Office.join`."""
        return int(answer(self._pool.join.remote(name, asdict(info), self._own)))

    def lease(self, name: str, incarnation: int, *, hot: bool, wait_s: float) -> Lease:
        """See `Office.lease`.

        A task that is none of hwbench's is refused here, on the device's host.
        """
        told = answer(self._pool.lease.remote(name, incarnation, hot, wait_s), wait_s)
        return Lease(
            told["job"], tuple(Task.from_dict(task) for task in told["tasks"]), told["expelled"]
        )

    def report(self, name: str, incarnation: int, task_id: str, outcome: Outcome) -> bool:
        """See `Office.report`."""
        return bool(answer(self._pool.report.remote(name, incarnation, task_id, outcome)))

    def fail(self, name: str, incarnation: int, reason: str) -> None:
        """See `Office.fail`."""
        answer(self._pool.fail.remote(name, incarnation, reason))

    def model(self, sha256: str) -> bytes:
        """See `Office.model`."""
        found = answer(self._pool.model.remote(sha256))
        return bytes(answer(found[0])) if found else b""


def answer(reference: Any, wait_s: float = 0.0) -> Any:
    """What an actor answers.

    Raises:
        DeviceUnavailableError: It does not, or is gone.
        HwbenchError: It refuses.
    """
    import ray

    try:
        return ray.get(reference, timeout=CALL_S + wait_s)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HwbenchError):
            raise error.cause from error
        raise
    except (ray.exceptions.RayError, ConnectionError) as error:
        reason = str(error).strip().partition("\n")[0]
        text = (
            f"the lab does not answer ({type(error).__name__}: {reason}); see: hwbench lab status"
        )
        raise DeviceUnavailableError(text) from error
