"""What a lab may be asked to do: an enumerated set of tasks, whose arguments are plain data.

A task never holds a callable, and a model travels apart from it, named by its SHA-256 and checked
against that on arrival. So a host runs nothing but hwbench's own code, whatever a client sends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, Self

from hwbench.errors import SchemaError, WorkloadError, error_from_dict
from hwbench.network.workload import ONNX, Workload
from hwbench.records.codec import from_plain, to_plain
from hwbench.records.measurement import Settings

Outcome = dict[str, Any]
"""What became of a task: `{"result": ..., "by": DEVICE, "took_s": ...}`, or an error.

An error is what `error_to_dict` makes of it.
"""


class TaskKind(StrEnum):
    """All that a device of the lab does for clients."""

    MEASURE = "measure"
    """One workload, or several interleaved: `hwbench profile` and `hwbench compare`."""
    NETWORK = "network"
    """One pruned version of a model in turns with the unpruned one: a network of a lookup table."""
    STEPS = "steps"
    """The channel steps of the device, before a table is built."""


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work for one device.

    Attributes:
        id: Its name within the job.
        kind: What to do.
        workloads: The descriptions of the workloads, without their models.
        settings: How to measure.
        limit_s: Seconds after which the device that does it is taken to hang.
        arguments: What else this kind of task needs, as plain JSON types.
    """

    id: str
    kind: TaskKind
    workloads: tuple[Mapping[str, Any], ...]
    settings: Settings
    limit_s: float
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """The SHA-256 of each model that the task needs."""
        return tuple(str(workload["sha256"]) for workload in self.workloads)

    def to_dict(self) -> dict[str, Any]:
        """Write the task as plain JSON types."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a task from what `to_dict` wrote.

        Raises:
            SchemaError: It is no task of hwbench's.
        """
        try:
            json.dumps(data["arguments"])  # plain data, and nothing that could be called
            return from_plain(cls, data, "task of a lab")
        except (KeyError, TypeError, ValueError, SchemaError) as error:
            kinds = ", ".join(TaskKind)
            raise SchemaError(f"{error}; hosts do nothing but {kinds}") from error


def describe_workload(workload: Workload) -> dict[str, Any]:
    """Describe a workload as plain JSON types, its model left out but for the SHA-256.

    The format is named only where it is not ONNX, and values only where there are some: job names
    are made of descriptions, and those of jobs that can be resumed must not change.

    Raises:
        WorkloadError: Its weights stay in files of this computer, which a lab does not send.
    """
    if workload.weights is not None:
        raise WorkloadError(
            f"{workload.name} keeps over 2 GiB of weights, which are not sent to the hosts of a"
            " lab; measure it on the host itself, without the lab"
        )
    facts = to_plain(workload)
    del facts["artifact"], facts["weights"]
    if workload.format == ONNX:
        del facts["format"]
    if not workload.values:
        del facts["values"]
    del facts["node_names"]  # nothing is joined by them where it is measured
    return {**facts, "sha256": workload.sha256}


def rebuild_workload(facts: Mapping[str, Any], model: bytes) -> Workload:
    """Rebuild a workload from its description and its model.

    Args:
        facts: What `describe_workload` gave.
        model: The model.

    Raises:
        SchemaError: The model is another one, or the description is damaged.
    """
    arrived, wanted = sha256(model).hexdigest(), facts.get("sha256")
    if arrived != wanted:
        raise SchemaError(
            f"the model that arrived has SHA-256 {arrived[:12]}..., not {str(wanted)[:12]}..., and"
            " was refused: send it again"
        )
    fields = {name: value for name, value in facts.items() if name != "sha256"}
    return from_plain(Workload, fields | {"artifact": model}, "description of a workload")


def task_result(outcome: Outcome) -> dict[str, Any]:
    """Give the result of a task.

    Raises:
        HwbenchError: The task failed; the error is of the class that was raised on the host of the
            device.
    """
    if "error" in outcome:
        raise error_from_dict(outcome)
    result: dict[str, Any] = outcome["result"]
    return result


def digest(*facts: object) -> str:
    """Hash plain JSON types: equal facts have the same digest."""
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
