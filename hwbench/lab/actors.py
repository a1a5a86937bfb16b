"""The pool and the devices as Ray actors, which exchange plain JSON types.

One detached, named actor holds the pool. Each device is an actor on its own host, bound there by a
custom resource of the node. It asks the pool for work, and Ray tells the pool when it dies.
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
"""Longest wait for an answer of the pool in seconds, beyond what it was asked to wait."""
MOST_MODELS = 32
"""Models that the pool keeps for devices; the one used longest ago goes first."""


def resource_name(device: str) -> str:
    """Name the custom resource of a node that has a device."""
    return f"hwbench {device}"


class PoolActor:
    """The pool, called by devices and clients, some of whose calls wait.

    All methods run in one event loop, so each step of the pool is atomic.

    Args:
        rules: The fields of the pool's `Rules`.
    """

    def __init__(self, rules: Mapping[str, float]) -> None:
        self._pool = Pool(time.monotonic, Rules(**rules))  # type: ignore[arg-type]
        self._work, self._results = _Signal(), _Signal()
        self._models: dict[str, Any] = {}
        self._handles: dict[tuple[str, int], Any] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def join(self, name: str, info: Mapping[str, Any], handle: Any) -> int:
        """See `Pool.join`; `handle` is the device's actor."""
        incarnation = self._pool.join(name, info_from(info))
        for device in list(self._handles):
            if device[0] == name:
                del self._handles[device]
        self._handles[name, incarnation] = handle
        if not self._running:
            self._start(self._end_what_hangs())
        self._start(self._watch(name, incarnation, handle))
        return incarnation

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something beside the calls; asyncio itself keeps no task alive that nobody holds."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _end_what_hangs(self) -> None:
        """Let time pass in the pool, and end the processes of devices that it expels."""
        import ray

        while True:
            await asyncio.sleep(TICK_S)
            for expelled in self._pool.tick():
                handle = self._handles.pop(expelled, None)
                if handle is not None:
                    ray.kill(handle)
                self._wake_all()

    async def _watch(self, name: str, incarnation: int, handle: Any) -> None:
        """Wait until the process of a device ends, and tell the pool."""
        import ray

        try:
            await handle.stay.remote()
        except ray.exceptions.RayError:
            self._pool.fail(name, incarnation, "its process or its host went away")
            self._wake_all()

    async def lease(self, name: str, incarnation: int, hot: bool, wait_s: float) -> dict[str, Any]:
        """See `Pool.lease`; it waits up to `wait_s` seconds for work."""
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
        believed = self._pool.report(name, incarnation, task_id, outcome)
        self._results.wake()
        return believed

    async def fail(self, name: str, incarnation: int, reason: str) -> None:
        """See `Pool.fail`."""
        self._pool.fail(name, incarnation, reason)
        self._wake_all()

    async def leave(self, names: Sequence[str]) -> None:
        """Take devices out of the lab."""
        for name in names:
            self._pool.leave(name)
        self._wake_all()

    async def offer(self, model_sha256: str, model: bytes) -> None:
        """Keep a model for the devices.

        Args:
            model_sha256: The SHA-256 of the model, hexadecimal.
            model: The model.

        Raises:
            SchemaError: The SHA-256 is not that of the model.
        """
        import ray

        if sha256(model).hexdigest() != model_sha256:
            raise SchemaError(
                f"a model was offered as {model_sha256[:12]}..., which is not its SHA-256; send it"
                " again"
            )
        # Taken out and put back, so that the models stand in the order of their last use.
        self._models[model_sha256] = self._models.pop(model_sha256, None) or ray.put(model)
        for old in list(self._models)[:-MOST_MODELS]:
            del self._models[old]

    async def model(self, model_sha256: str) -> list[Any]:
        """Give Ray's reference to a model in a list, which is empty if the model is not known.

        In a list Ray hands the reference on as it is; by itself it would fetch the model.
        """
        return [self._models[model_sha256]] if model_sha256 in self._models else []

    async def missing(self, models: Sequence[str]) -> list[str]:
        """List which models of these SHA-256 the pool has not."""
        return [model_sha256 for model_sha256 in models if model_sha256 not in self._models]

    async def submit(
        self, job: str, tasks: Sequence[Mapping[str, Any]], about: Mapping[str, str]
    ) -> str:
        """See `Pool.submit`; returns the reason of a refusal, or an empty text."""
        try:
            self._pool.submit(job, [Task.from_dict(task) for task in tasks], **about)
        except HwbenchError as error:
            return str(error)
        self._wake_all()
        return ""

    async def collect(
        self, job: str, client: str, taken: Sequence[str], wait_s: float
    ) -> dict[str, Any]:
        """See `Pool.collect`; it waits up to `wait_s` seconds for the first result.

        Returns:
            The `results` and the number of `devices` that may do the work, or why the client was
            `refused`.
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
        """Let a client go: for good if it is done, else it may come back for the rest."""
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

    def _wake_all(self) -> None:
        """Wake devices and clients: work came back, or was given up for good."""
        self._work.wake()
        self._results.wake()


class _Signal:
    """Wakes all who wait for it; whoever comes later waits for the next time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, most_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), most_s)


class DeviceActor:
    """A device on its host.

    One thread works (`serve`); another stands for the process (`stay`), whose end Ray tells the
    pool.

    Args:
        address: The address of the device on its host.
        name: Its name in the lab, `ADDRESS@HOST`.
    """

    def __init__(self, address: str, name: str) -> None:
        self._address, self._name = address, name

    def serve(self, pool: Any) -> None:
        """Serve the device for as long as the process lives."""
        import ray

        own = ray.get_runtime_context().current_actor
        Service(self._address, self._name, RayPool(pool, own)).run()

    def stay(self) -> None:
        """Wait until the process ends."""
        Event().wait()


class RayPool:
    """The pool, as a device's actor calls it.

    Args:
        pool: The handle of the pool.
        own: The handle of the device's actor.
    """

    def __init__(self, pool: Any, own: Any) -> None:
        self._pool, self._own = pool, own

    def join(self, name: str, info: DeviceInfo) -> int:
        """See `DevicePool.join`."""
        return int(fetch_answer(self._pool.join.remote(name, asdict(info), self._own)))

    def lease(self, name: str, incarnation: int, *, hot: bool, wait_s: float) -> Lease:
        """See `DevicePool.lease`.

        A task that is none of hwbench's is refused here, on the device's host.
        """
        answer = fetch_answer(self._pool.lease.remote(name, incarnation, hot, wait_s), wait_s)
        tasks = tuple(Task.from_dict(task) for task in answer["tasks"])
        return Lease(answer["job"], tasks, answer["expelled"])

    def report(self, name: str, incarnation: int, task_id: str, outcome: Outcome) -> bool:
        """See `DevicePool.report`."""
        return bool(fetch_answer(self._pool.report.remote(name, incarnation, task_id, outcome)))

    def fail(self, name: str, incarnation: int, reason: str) -> None:
        """See `DevicePool.fail`."""
        fetch_answer(self._pool.fail.remote(name, incarnation, reason))

    def model(self, sha256: str) -> bytes:
        """See `DevicePool.model`."""
        references = fetch_answer(self._pool.model.remote(sha256))
        if not references:
            return b""
        return bytes(fetch_answer(references[0]))


def fetch_answer(reference: Any, wait_s: float = 0.0) -> Any:
    """Wait for the answer of an actor.

    Args:
        reference: Ray's reference to the answer.
        wait_s: How long the actor was asked to wait, in seconds.

    Raises:
        DeviceUnavailableError: The actor does not answer, or is gone.
        HwbenchError: The actor refuses.
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
