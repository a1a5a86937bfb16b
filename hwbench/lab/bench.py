"""One opened device that carries out tasks, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from hwbench.devices.base import Device, MovesTime, Prepared
from hwbench.errors import (
    DeviceError,
    DeviceLostError,
    HwbenchError,
    MeasurementError,
    SchemaError,
    error_to_dict,
)
from hwbench.lab.tasks import Outcome, Task, TaskKind, digest, rebuild_workload
from hwbench.lookup_tables.making.channel_steps import channel_steps
from hwbench.lookup_tables.making.networks import (
    Effort,
    NetworkSample,
    PrunedNetwork,
    Quiet,
    measure_network,
)
from hwbench.measuring.sessions import measure_interleaved
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.workload import Workload


class Bench:
    """A device at work.

    The anchor of a table's networks stays prepared from one task to the next, as long as they are
    of one model and settings.

    Args:
        device: Opened.
        name: What the lab calls it.
    """

    def __init__(self, device: Device, name: str) -> None:
        self.device, self.name = device, name
        self.now: Callable[[], float] = (
            device.time_s if isinstance(device, MovesTime) else time.monotonic
        )
        self.rest: Callable[[float], None] = (
            device.idle if isinstance(device, MovesTime) else time.sleep
        )
        self._anchor: _Anchor | None = None

    def carry_out(self, task: Task, models: Mapping[str, bytes]) -> Outcome | None:
        """Do a task; what is wrong with the task itself is its outcome.

        Args:
            task: What to do.
            models: The models it needs, by SHA-256.

        Returns:
            None where the device slowed itself down meanwhile: what was measured then is not
            believed, and others may do it.

        Raises:
            DeviceError: The device failed, or answered what cannot be.
        """
        begun_s = self.now()
        try:
            workloads = [
                rebuild_workload(facts, models[str(facts["sha256"])]) for facts in task.workloads
            ]
            result = self._done(task, workloads)
        except DeviceError:
            raise
        except MeasurementError as error:
            raise DeviceLostError(f"{self.name} cannot be believed: {error}") from error
        except HwbenchError as error:
            return error_to_dict(error)
        if (
            task.kind is not TaskKind.MEASURE and self.hot()
        ):  # a measurement waits for the device to cool by itself
            return None
        return {"result": result, "by": self.name, "took_s": self.now() - begun_s}

    def hot(self) -> bool:
        """Whether the device says that it is slowing itself down.

        Also the check that it is still there.

        Raises:
            DeviceError: It is not.
        """
        return bool(self.device.conditions().throttled)

    def clear(self) -> None:
        """Release what is kept between tasks."""
        if self._anchor is not None and self.device.usable:
            self.device.release(self._anchor.prepared)
        self._anchor = None

    def _done(self, task: Task, workloads: list[Workload]) -> dict[str, Any]:
        if task.kind is TaskKind.NETWORK:
            return self._network(task, workloads[0])
        self.clear()
        if task.kind is TaskKind.STEPS:
            return {"steps": channel_steps(self.device, workloads[0], task.settings)}
        return {
            "records": [
                record.to_dict()
                for record in measure_interleaved(self.device, workloads, task.settings)
            ]
        }

    def _network(self, task: Task, workload: Workload) -> dict[str, Any]:
        try:
            number, every = int(task.arguments["number"]), int(task.arguments["anchor_every"])
            widths, effort = (
                tuple(map(int, task.arguments["widths"])),
                Effort(**task.arguments["effort"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"damaged task of a lab: {error!r}") from error
        samples: list[NetworkSample] = []
        identity = digest(task.to_dict()["workloads"], task.to_dict()["settings"])
        anchor = self._anchor
        if anchor is None or anchor.identity != identity or anchor.since >= every:
            anchor = self._fresh(identity, workload, task)
            samples.append(
                self._measured(anchor, -1 - number, anchor.network.structure.widths, effort)
            )
        samples.append(self._measured(anchor, number, widths, effort))
        anchor.since += 1
        return {"samples": [sample.to_dict() for sample in samples]}

    def _fresh(self, identity: str, workload: Workload, task: Task) -> _Anchor:
        """A new session of the anchor; what is known of it from earlier ones is kept."""
        before = self._anchor
        self.clear()
        known = before if before is not None and before.identity == identity else None
        self._anchor = _Anchor(identity, self.device.prepare(workload, task.settings), known)
        return self._anchor

    def _measured(
        self, anchor: _Anchor, number: int, widths: tuple[int, ...], effort: Effort
    ) -> NetworkSample:
        pruned = PrunedNetwork.of(anchor.network, number, widths)
        return measure_network(self.device, anchor.prepared, pruned, effort, anchor.quiet)


class _Anchor:
    """The unpruned network, prepared, and what is known of it."""

    def __init__(self, identity: str, prepared: Prepared, before: _Anchor | None) -> None:
        self.identity, self.prepared, self.since = identity, prepared, 0
        if before is None:
            self.network, self.quiet = PrunableNetwork(prepared.workload), Quiet()
        else:
            self.network, self.quiet = before.network, before.quiet
