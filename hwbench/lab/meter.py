"""Measuring with the devices of a lab as with one device.

Networks are measured interleaved on any one of them, tables are built with all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hwbench.errors import Argument, MeasurementError
from hwbench.lab.tables import TableBuild, TableRequest
from hwbench.lab.tasks import Task, TaskKind, describe_workload, digest, task_result
from hwbench.lookup_tables.making.channel_steps import grid_step
from hwbench.measuring.callback import MeasuringCallback
from hwbench.records.measurement import Measurement

if TYPE_CHECKING:
    from hwbench.lab.tables import Crew
    from hwbench.lookup_tables import Plan, Progress
    from hwbench.network.workload import Workload
    from hwbench.records.device import DeviceInfo
    from hwbench.records.measurement import Settings
    from hwbench.store import Store

logger = logging.getLogger(__name__)

SLOW, SLOW_S = 4.0, 300.0
"""A measurement is taken to hang after so many times its budget, and so many seconds more.

It may wait for a device to cool.
"""


class LabMeter:
    """Some devices of a lab, as `workflows.meter.Meter` describes.

    Args:
        crew: The devices; of one kind for all but `measure`.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    @property
    def address(self) -> str:
        """The selector of the devices."""
        return self._crew.info.address

    def info(self) -> DeviceInfo:
        """Describe what the devices have in common."""
        return self._crew.info

    def accept(self, workload: Workload, settings: Settings) -> Workload:  # noqa: ARG002
        """Take the network as it is: the devices of a lab convert none."""
        return workload

    def channel_step(self, workload: Workload, settings: Settings) -> int:
        """Find the channel step of the kind, on one device.

        Raises:
            DeviceError: No device is left.
        """
        task = Task("steps", TaskKind.STEPS, (describe_workload(workload),), settings, SLOW_S)
        job = digest(
            "steps", self.info().target_id, self.info().runtime, workload.sha256, settings.threads
        )
        for _, outcome in self._crew.carry_out(job, [task], workload):
            return grid_step(task_result(outcome)["steps"])
        raise MeasurementError(
            "the lab gave no channel step",
            Argument("widths", 8, purpose="for a table"),
            Argument("step", 8, purpose="for a search"),
        )

    def begin_table(
        self,
        workload: Workload,
        settings: Settings,
        plan: Plan,
        store: Store | None,
        callback: Callable[[Progress], None],
        *,
        forget: bool = False,
    ) -> TableBuild:
        """Begin a table that all devices measure at once; see `TableBuild`."""
        return TableBuild(
            self._crew,
            TableRequest(workload, settings, plan),
            store,
            forget=forget,
            callback=callback,
        )

    def measure(
        self, workloads: Sequence[Workload], settings: Settings, callback: MeasuringCallback
    ) -> tuple[Measurement, ...]:
        """Have workloads measured interleaved on one of the devices.

        Args:
            workloads: The workloads.
            settings: How to measure.
            callback: Called when the records are there.

        Raises:
            DeviceError: No device is left.
            WorkloadError: The device cannot run one of the workloads.
            MeasurementError: The device measured something else.
        """
        descriptions = tuple(describe_workload(workload) for workload in workloads)
        task = Task(
            "measure",
            TaskKind.MEASURE,
            descriptions,
            settings,
            SLOW * (settings.budget_s + settings.sustain_s) + SLOW_S,
        )
        job = digest("measure", descriptions, asdict(settings), self.address)
        logger.info("waiting in the queue of the lab")
        for _, outcome in self._crew.carry_out(job, [task], *workloads):
            records = tuple(
                Measurement.from_dict(record) for record in task_result(outcome)["records"]
            )
            if [record.model_sha256 for record in records] != [
                workload.sha256 for workload in workloads
            ]:
                raise MeasurementError(
                    f"{outcome['by']} measured other models than it was asked to; update hwbench"
                    " there"
                )
            records = callback.examine(records)
            callback.finished(records)
            return records
        raise MeasurementError("the lab gave no measurement; measure again")
