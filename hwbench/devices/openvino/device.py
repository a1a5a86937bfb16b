"""This computer's CPU through OpenVINO: address `openvino`.

Networks are ONNX, which OpenVINO reads as it is, and compute in fp32: without a word said it would
take bfloat16 on processors that can.

OpenVINO tells how long its nodes took as averages over all inferences since a model was compiled.
So layers are profiled in a freshly compiled model, and what the averages say of its first
inferences is taken off. That leaves one mean per node: it is taken to have the same share of each
profiled inference, whose latencies are known one by one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any, ClassVar

from hwbench.devices.base import Advice, Device, Found, LayerSamples, Prepared, Samples
from hwbench.devices.openvino.layers import Node, runtime_rows
from hwbench.devices.shared import host
from hwbench.devices.shared.address import read_address
from hwbench.devices.shared.chains import ChainProfile, node_cost_s, profile_chains
from hwbench.devices.shared.inputs import random_input
from hwbench.devices.shared.joining import join_rows
from hwbench.devices.shared.turns import take_turns
from hwbench.errors import (
    Argument,
    BuildError,
    DeviceLostError,
    DeviceUnavailableError,
    UsageError,
)
from hwbench.network.graph import load
from hwbench.network.workload import Workload
from hwbench.optional import import_optional
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings

WARM_UPS = 3
"""Inferences of a model that is profiled which do not count: the first ones allocate."""
COST_RUNS = 60
"""Inferences of each chain from which the profiler's own cost is learnt."""
MICROSECOND_S = 1e-6
PYTHON_CALLS = Finding(
    "python_calls", "timed from Python, which adds some microseconds to each latency"
)
REST_CAUSE = "OpenVINO's work between nodes and before the first one"


def load_openvino() -> Any:
    """The library, without the telemetry that would write an id below the user's home.

    Raises:
        DeviceUnavailableError: It is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_optional(
        "openvino", "openvino", "measurements with OpenVINO", DeviceUnavailableError
    )


class OpenVino(Device):
    """The host's CPU; address `openvino`."""

    name = "openvino"
    precisions: ClassVar[frozenset[str]] = frozenset({"fp32"})

    def __init__(self, address: str = "") -> None:
        read_address(self.name, address, {}, has_place=False)
        super().__init__(address)

    @classmethod
    def discover(cls) -> list[Found]:
        """This computer, if openvino imports."""
        try:
            version = load_openvino().__version__
        except DeviceUnavailableError as error:
            return [Found(cls.name, host.cpu_name(), ready=False, hint=str(error))]
        return [Found(cls.name, f"{host.target()}, openvino {version}", ready=True)]

    def _open(self) -> None:
        self._openvino = load_openvino()
        self._lock_target(host.LOCKED_AS)
        self._cores = host.quiet_first(host.physical_cores(host.affinity()))
        self._core = self._openvino.Core()
        self._node_cost_s: dict[int, float] = {}  # by threads

    def _info(self) -> DeviceInfo:
        runtime = f"openvino {self._openvino.__version__}"
        details = (("isa", " ".join(host.cpu_flags())), ("kernel", host.kernel()))
        return DeviceInfo(self.address, host.target(), host.target_id(), runtime, details)

    def _conditions(self) -> Conditions:
        return host.conditions(self._cores)

    def _doctor(self, threads: int) -> list[Advice]:
        return host.doctor(self._cores, threads)

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        if settings.isolate:
            raise UsageError(
                f"{self.address} runs all sessions in one process, not isolated",
                Argument("isolate", change="no"),
            )
        return Prepared(workload, settings, self._compile(workload, settings), (PYTHON_CALLS,))

    def _compile(
        self, workload: Workload, settings: Settings, *, profiled: bool = False
    ) -> tuple[Any, Any]:
        """A freshly compiled model and a request for it with its inputs filled, run once."""
        config = {
            "INFERENCE_PRECISION_HINT": "f32",  # else it computes in bfloat16 where the CPU can
            "INFERENCE_NUM_THREADS": len(host.choose_cores(settings.threads, self._cores)),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": True,
            "PERF_COUNT": profiled,
        }
        # Named nodes are what the profile is joined by.
        onnx = load(workload.onnx).SerializeToString()
        try:
            compiled = self._core.compile_model(self._core.read_model(onnx), "CPU", config)
            request = compiled.create_infer_request()
            self._fill_inputs(request, workload, settings.seed)
            request.infer()
        except RuntimeError as error:
            raise BuildError(
                f"OpenVINO does not run {workload.name}: {first_words(error)}"
            ) from error
        return compiled, request

    def _fill_inputs(
        self, request: Any, workload: Workload, seed: int, exponent: int | None = None
    ) -> None:
        """Give a request inputs: those that were asked for, and random ones.

        Args:
            request: The request.
            workload: What it runs.
            seed: Seed of the random inputs.
            exponent: See `random_input`; None to take values that were asked for.
        """
        for index, spec in enumerate(workload.inputs):
            values = workload.values.get(spec.name) if exponent is None else None
            if values is None:
                values = random_input(spec, seed + index, exponent or 0)
            request.set_tensor(spec.name, self._openvino.Tensor(values))

    def _draw_inputs(self, prepared: Prepared, seed: int, exponent: int) -> None:
        self._fill_inputs(prepared.handle[1], prepared.workload, seed, exponent)

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        values_s = [infer_s(prepared.handle[1], loops) for prepared in order]
        return Samples(tuple(values_s), "perf_counter")

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        settings, workload = prepared.settings, prepared.workload
        if settings.threads not in self._node_cost_s:
            self._node_cost_s[settings.threads] = node_cost_s(
                *profile_chains(lambda chain: self._profile_chain(chain, settings))
            )
        nodes, whole_s, plain_s = self._profile(workload, prepared.handle, settings, runs)
        return LayerSamples(
            join_rows(*runtime_rows(nodes, workload, whole_s)),
            tuple(whole_s),
            tuple(plain_s),
            self._node_cost_s[settings.threads],
            REST_CAUSE,
            grain_s=MICROSECOND_S / runs,
        )

    def _profile_chain(self, chain: Workload, settings: Settings) -> ChainProfile:
        """What profiling costs is seen on whole inferences, as the nodes' times are means."""
        plain = self._compile(chain, settings)
        nodes, whole_s, plain_s = self._profile(chain, plain, settings, COST_RUNS)
        executed = sum(node.share > 0 for node in nodes)
        return ChainProfile(executed, whole_s, whole_s, plain_s)

    def _profile(
        self, workload: Workload, plain: tuple[Any, Any], settings: Settings, runs: int
    ) -> tuple[list[Node], list[float], list[float]]:
        """Nodes of a freshly compiled model, and its latencies beside those of a plain one."""
        compiled, request = self._compile(workload, settings, profiled=True)
        for _ in range(WARM_UPS - 1):  # compiling ran it once
            infer_s(request)
        before_s = averages_s(request)
        profiled_s: list[float] = []  # all of them, those too that do not count

        def run_profiled(count: int) -> list[float]:
            profiled_s.extend(infer_s(request) for _ in range(count))
            return profiled_s[-count:]

        plain_s, whole_s = take_turns(
            lambda count: [infer_s(plain[1]) for _ in range(count)], run_profiled, runs
        )
        after_s = averages_s(request)
        total = WARM_UPS + len(profiled_s)
        nodes = []
        for node in compiled.get_runtime_model().get_ordered_ops():
            name, facts = node.get_friendly_name(), node.get_rt_info()
            sum_s = total * after_s.get(name, 0.0) - WARM_UPS * before_s.get(name, 0.0)
            # Each time is cut off to whole microseconds, and so is their average: half of one is
            # missing each time, on average.
            mean_s = sum_s / len(profiled_s) + MICROSECOND_S if sum_s > 0 else 0.0
            kind, origins, primitive = (
                facts[fact].astype(str)
                for fact in ("layerType", "originalLayersNames", "primitiveType")
            )
            share = mean_s / fmean(profiled_s)
            nodes.append(Node(kind, primitive, origins.split(","), share))
        return nodes, whole_s, plain_s


def infer_s(request: Any, loops: int = 1) -> float:
    """Seconds of an inference, in the mean of `loops` in a row."""
    start = time.perf_counter()
    try:
        for _ in range(loops):
            request.infer()
    except RuntimeError as error:
        raise DeviceLostError(f"OpenVINO failed: {first_words(error)}") from error
    return (time.perf_counter() - start) / loops


def averages_s(request: Any) -> dict[str, float]:
    """Average seconds of each executed node over all inferences of its compiled model."""
    return {
        node.node_name: node.real_time.total_seconds()
        for node in request.get_profiling_info()
        if node.status == node.Status.EXECUTED
    }


def first_words(error: Exception) -> str:
    """The beginning of a message of OpenVINO, in one line."""
    return " ".join(str(error).split())[:300]
