"""One opened device that carries out tasks, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    """Carries out tasks on a device.

    The anchor of a table's networks (the unpruned network) stays prepared from one task to the
    next, as long as they are of one model and settings.

    Args:
        device: The device, opened.
        name: Its name in the lab.
    """

    def __init__(self, device: Device, name: str) -> None:
        self.device, self.name = device, name
        self.now: Callable[[], float] = time.monotonic
        self.rest: Callable[[float], None] = time.sleep
        if isinstance(device, MovesTime):
            self.now, self.rest = device.time_s, device.idle
        self._anchor: _Anchor | None = None

    def carry_out(self, task: Task, models: Mapping[str, bytes]) -> Outcome | None:
        """Do a task; an error of the task itself is its outcome.

        Args:
            task: The task.
            models: The models that it needs, by SHA-256.

        Returns:
            The outcome; None where the device slowed itself down meanwhile. What was measured then
            is not believed, and others may do it.

        Raises:
            DeviceError: The device failed, or answered what cannot be.
        """
        begun_s = self.now()
        try:
            workloads = [
                rebuild_workload(facts, models[str(facts["sha256"])]) for facts in task.workloads
            ]
            result = self._dispatch(task, workloads)
        except DeviceError:
            raise
        except MeasurementError as error:
            raise DeviceLostError(f"{self.name} cannot be believed: {error}") from error
        except HwbenchError as error:
            return error_to_dict(error)
        # A measurement itself waits for the device to cool; anything else does not.
        if task.kind is not TaskKind.MEASURE and self.hot():
            return None
        return {"result": result, "by": self.name, "took_s": self.now() - begun_s}

    def hot(self) -> bool:
        """Tell whether the device says that it is slowing itself down.

        This is also the check that the device is still there.

        Raises:
            DeviceError: It is not there.
        """
        return bool(self.device.conditions().throttled)

    def clear(self) -> None:
        """Release the anchor that is kept between tasks."""
        if self._anchor is not None and self.device.usable:
            self.device.release(self._anchor.prepared)
        self._anchor = None

    def _dispatch(self, task: Task, workloads: list[Workload]) -> dict[str, Any]:
        """Do what the kind of a task says, and give its result as plain JSON types."""
        if task.kind is TaskKind.NETWORK:
            return self._measure_pruned_network(task, workloads[0])
        self.clear()
        if task.kind is TaskKind.STEPS:
            return {"steps": channel_steps(self.device, workloads[0], task.settings)}
        records = measure_interleaved(self.device, workloads, task.settings)
        return {"records": [record.to_dict() for record in records]}

    def _measure_pruned_network(self, task: Task, workload: Workload) -> dict[str, Any]:
        """Measure one pruned version of a model in turns with its anchor.

        The anchor gets a fresh session every few networks, as the speed of a session is luck. Each
        is then measured against itself first: such a sample has a negative number.
        """
        try:
            number, every = int(task.arguments["number"]), int(task.arguments["anchor_every"])
            widths = tuple(int(width) for width in task.arguments["widths"])
            effort = Effort(**task.arguments["effort"])
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"damaged task of a lab: {error!r}") from error
        samples: list[NetworkSample] = []
        identity = digest(task.to_dict()["workloads"], task.to_dict()["settings"])
        anchor = self._anchor
        if anchor is None or anchor.identity != identity or anchor.networks >= every:
            anchor = self._prepare_anchor(identity, workload, task)
            full_widths = anchor.network.structure.widths
            samples.append(self._measure_widths(anchor, -1 - number, full_widths, effort))
        samples.append(self._measure_widths(anchor, number, widths, effort))
        anchor.networks += 1
        return {"samples": [sample.to_dict() for sample in samples]}

    def _prepare_anchor(self, identity: str, workload: Workload, task: Task) -> _Anchor:
        """Prepare a new session of the anchor, and keep what earlier ones found out about it."""
        earlier = self._anchor
        self.clear()
        prepared = self.device.prepare(workload, task.settings)
        if earlier is not None and earlier.identity == identity:
            self._anchor = _Anchor(identity, prepared, earlier.network, earlier.quiet)
        else:
            self._anchor = _Anchor(identity, prepared, PrunableNetwork(workload), Quiet())
        return self._anchor

    def _measure_widths(
        self, anchor: _Anchor, number: int, widths: tuple[int, ...], effort: Effort
    ) -> NetworkSample:
        pruned = PrunedNetwork.of(anchor.network, number, widths)
        return measure_network(self.device, anchor.prepared, pruned, effort, anchor.quiet)


@dataclass
class _Anchor:
    """The unpruned network, prepared.

    Attributes:
        identity: The identity of the model and settings.
        prepared: The session of it on the device.
        network: The network, which makes its pruned versions.
        quiet: What is known of the layers that are too quick to be seen.
        networks: How many networks were measured in turns with this session.
    """

    identity: str
    prepared: Prepared
    network: PrunableNetwork
    quiet: Quiet
    networks: int = 0
