"""ONNX's reference interpreter as a device: a driver in a package of its own, with layers.

It measures with the ONNX project's own interpreter in NumPy: every operator, no speed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.reference import ReferenceEvaluator

from hwbench.devices.base import Device, Found, LayerSamples, Prepared, Samples
from hwbench.devices.shared import host
from hwbench.devices.shared.address import read_address
from hwbench.devices.shared.inputs import input_values
from hwbench.devices.shared.joining import RuntimeRow, join_rows, layers_served
from hwbench.devices.shared.turns import take_turns
from hwbench.errors import BuildError, UsageError
from hwbench.network.graph import layers, load
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.measurement import Settings


class Reference(Device):
    """This computer, through onnx.reference; address `reference`."""

    name = "reference"

    def __init__(self, address: str = "") -> None:
        read_address(self.name, address, {}, has_place=False)
        super().__init__(address)

    @classmethod
    def discover(cls) -> list[Found]:
        """Always there: onnx is needed by hwbench itself."""
        return [Found(cls.name, f"onnx {onnx.__version__} in NumPy on this computer", ready=True)]

    def _open(self) -> None:
        self._lock_target(host.LOCKED_AS)

    def _info(self) -> DeviceInfo:
        runtime = f"onnx.reference {onnx.__version__} in NumPy {np.__version__}"
        return DeviceInfo(self.address, host.target(), host.target_id(), runtime)

    def _conditions(self) -> Conditions:
        return Conditions(at_utc=datetime.now(UTC).isoformat())

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        if settings.isolate or settings.threads != 1:
            raise UsageError(f"{self.address} runs in this process with one thread")
        names = [spec.name for spec in workload.inputs]
        feeds = {
            name: input_values(workload, place, settings.seed) for place, name in enumerate(names)
        }
        try:
            # Named nodes are what the layers are joined by.
            session = ReferenceEvaluator(load(workload.onnx))
            session.run(None, feeds)
        except (DecodeError, RuntimeError, TypeError, ValueError, LookupError) as error:
            raise BuildError(
                f"{workload.name}: onnx.reference cannot run it ({type(error).__name__})"
            ) from error
        return Prepared(workload, settings, (session, feeds))

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        values_s = [infer_s(*prepared.handle, loops) for prepared in order]
        return Samples(tuple(values_s), "perf_counter")

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        session, feeds = prepared.handle
        profiles: list[list[float]] = []  # of all inferences, those too that do not count

        def run_profiled(count: int) -> list[float]:
            profiles.extend(node_times_s(session, feeds) for _ in range(count))
            return [sum(times_s) for times_s in profiles[-count:]]

        plain_s, whole_s = take_turns(
            lambda count: [infer_s(session, feeds) for _ in range(count)], run_profiled, runs
        )
        network = layers(load(prepared.workload.onnx))
        rows = []
        for place, node in enumerate(session.rt_nodes_):
            samples_s = tuple(times_s[place] for times_s in profiles[-runs:])
            name = node.onnx_node.name
            rows.append(
                RuntimeRow(node.op_type, "numpy", samples_s, layers_served([name], network))
            )
        return LayerSamples(
            join_rows(rows, network),
            tuple(whole_s),
            tuple(plain_s),
            node_cost_s=0.0,
            rest_cause="the interpreter's work between nodes",
        )


def infer_s(session: Any, feeds: Mapping[str, Any], loops: int = 1) -> float:
    """Seconds of an inference, in the mean of `loops` in a row."""
    start = time.perf_counter()
    for _ in range(loops):
        session.run(None, feeds)
    return (time.perf_counter() - start) / loops


def node_times_s(session: Any, feeds: Mapping[str, Any]) -> list[float]:
    """Seconds of each node in one inference, which is run node by node as the interpreter does."""
    values = {"": None, **session.rt_inits_, **feeds}
    times_s = []
    for node in session.rt_nodes_:
        start = time.perf_counter()
        outputs = node.run(*[values[name] for name in node.input])
        times_s.append(time.perf_counter() - start)
        values.update(zip(node.output, outputs, strict=False))
    return times_s
