"""What a lab may be asked to do: an enumerated set of tasks, whose arguments are plain data.

A task never holds a callable, and a model travels apart from it, named by its SHA-256 and checked
against that on arrival. So a host runs nothing but hwbench's own code, whatever a client sends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from hashlib import sha256
from typing import Any, Self

from hwbench.errors import HwbenchError, SchemaError, error_from_dict, error_to_dict
from hwbench.network.workload import ONNX, Workload
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec

Outcome = dict[str, Any]
"""What became of a task: `{"result": ..., "by": DEVICE, "took_s": ...}`, or `{"error": CLASS, "text": ...}`."""


class TaskKind(StrEnum):
    """All that a device of the lab does for others."""

    MEASURE = "measure"
    """One workload, or several interleaved: `hwbench profile` and `hwbench compare`."""
    NETWORK = "network"
    """One pruned version of a model beside the unpruned one: a network of a lookup table."""
    STEPS = "steps"
    """The channel steps of the device, before a table is built."""


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work for one device.

    Attributes:
        id: Its name within the job.
        kind: What to do.
        workloads: The workloads, without their models.
        settings: How to measure.
        limit_s: Seconds after which whoever does it is taken to hang.
        arguments: What else that kind of task needs, as plain JSON types.
    """

    id: str
    kind: TaskKind
    workloads: tuple[Mapping[str, Any], ...]
    settings: Settings
    limit_s: float
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """SHA-256 of each model that it needs."""
        return tuple(str(workload["sha256"]) for workload in self.workloads)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "kind": self.kind.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s form.

        Raises:
            SchemaError: It is no task of hwbench's.
        """
        try:
            if set(data) != {one.name for one in fields(cls)}:
                raise ValueError(f"its fields are {sorted(data)}")
            json.dumps(data["arguments"])
            kind, settings = TaskKind(data["kind"]), Settings(**data["settings"])
            workloads = tuple(dict(one) for one in data["workloads"])
            task = cls(
                str(data["id"]),
                kind,
                workloads,
                settings,
                float(data["limit_s"]),
                dict(data["arguments"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            known = ", ".join(TaskKind)
            raise SchemaError(
                f"not a task of a lab: {error!r}; hosts do nothing but {known}"
            ) from error
        return task


def described(workload: Workload) -> dict[str, Any]:
    """A workload as plain JSON types, its model left out but for the SHA-256.

    The format is said only where it is not ONNX: descriptions name jobs that can be resumed.
    """
    left_out = {"artifact", "inputs", "findings"}
    if workload.format == ONNX:
        left_out.add("format")
    facts = {
        one.name: getattr(workload, one.name)
        for one in fields(workload)
        if one.name not in left_out
    }
    inputs = [asdict(spec) for spec in workload.inputs]
    return facts | {
        "sha256": workload.sha256,
        "inputs": inputs,
        "findings": [asdict(one) for one in workload.findings],
    }


def workload_of(facts: Mapping[str, Any], model: bytes) -> Workload:
    """The workload that was `described`, with its model.

    Raises:
        SchemaError: The model is another one, or the description is damaged.
    """
    found = sha256(model).hexdigest()
    if found != facts.get("sha256"):
        wanted = str(facts.get("sha256"))
        raise SchemaError(
            f"the model that arrived has SHA-256 {found[:12]}..., not {wanted[:12]}..., and was"
            " refused: send it again"
        )
    try:
        given = {name: value for name, value in facts.items() if name != "sha256"}
        inputs = tuple(
            TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in given.pop("inputs")
        )
        findings = tuple(Finding(**one) for one in given.pop("findings"))
        return Workload(artifact=model, inputs=inputs, findings=findings, **given)
    except (KeyError, TypeError) as error:
        raise SchemaError(f"damaged description of a workload: {error!r}") from error


def failed(error: HwbenchError) -> Outcome:
    """An error as plain data, for whoever asked."""
    return error_to_dict(error)


def result_of(outcome: Outcome) -> dict[str, Any]:
    """The result of a task.

    Raises:
        HwbenchError: The task failed; the error is of the class that was raised on the device's
            host.
    """
    if "error" in outcome:
        raise error_from_dict(outcome)
    result: dict[str, Any] = outcome["result"]
    return result


def digest(*facts: object) -> str:
    """Identity of plain JSON types."""
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
