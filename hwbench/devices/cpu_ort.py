"""This computer's CPU through ONNX Runtime, in this process or (`isolate`) through the native runner in processes of its own.

A session is an InferenceSession with inputs and outputs bound once, so that a sample holds nothing but the run. Python's part
of a call is about 1.2 us (study `results/fidelity/`); for models below 100 us `isolate` measures without it.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwbench.devices import _host
from hwbench.devices._lock import DeviceLock
from hwbench.devices._ort_layers import REST_CAUSE, ExecutedNode, ProfiledRuns, join, layout_findings, read_profile
from hwbench.devices._runner import RunnerProcess
from hwbench.devices._runner_build import build_runner, ort_library
from hwbench.devices._runner_protocol import CLOCK
from hwbench.devices.base import Advice, Device, Found, LayerSamples, Prepared, Samples
from hwbench.errors import BuildError, DeviceUnavailableError, UnsupportedLayerError, UsageError
from hwbench.measurement import Conditions, DeviceInfo, Settings
from hwbench.onnx_graph import layers, load, made_by
from hwbench.ort import onnxruntime
from hwbench.workload import Finding, TensorSpec, Workload

MODEL = "model"
"""What the single model of an isolated session is called in its runner."""
PROFILE_WARM_UP = 3
GRAIN_S = 1e-6
"""ONNX Runtime's profiler counts whole microseconds."""
SHORT_CHAIN, LONG_CHAIN, COST_RUNS = 20, 120, 50
"""Nodes and runs from which the profiler's own cost per node is measured."""
CALL_OVERHEAD_S = 1.2e-6
"""Python's part of one run in this process (study `results/fidelity/`); never subtracted, reported where it matters."""


@dataclass(eq=False)
class _InProcess:
    """A session in this process with its inputs and outputs bound."""

    run: Callable[[], None]
    keep: tuple[Any, ...]  # session and buffers must outlive the binding


class CpuOrt(Device):
    """The host's CPU; address `cpu`."""

    name = "cpu"
    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "int8"})

    def __init__(self, address: str = "") -> None:
        if address:
            raise UsageError(f"device 'cpu' takes no address, got 'cpu:{address}'")
        super().__init__(address)
        self._lock = DeviceLock(self.name)
        self._affinity = _host.affinity()
        self._cores = _host.physical_cores(self._affinity)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._isolated: list[RunnerProcess] = []
        self._graphs: dict[str, list[ExecutedNode]] = {}

    @classmethod
    def discover(cls) -> list[Found]:
        """This computer, if onnxruntime imports."""
        try:
            runtime = f"onnxruntime {onnxruntime().__version__}"
        except DeviceUnavailableError as error:
            return [Found(cls.name, _host.cpu_name(), ready=False, hint=str(error))]
        return [
            Found(cls.name, f"{_host.cpu_name()}, {len(_host.physical_cores(_host.affinity()))} cores, {runtime}", ready=True)
        ]

    def _open(self) -> None:
        onnxruntime()
        self._lock.acquire()
        self._affinity = _host.affinity()
        self._cores = _host.quiet_first(_host.physical_cores(self._affinity))
        self._folder = tempfile.TemporaryDirectory(prefix="hwbench-")
        self._node_cost_s: float | None = None

    def _close(self) -> None:
        for runner in list(self._isolated):
            self._stop(runner)
        if _host.CAN_PIN:
            os.sched_setaffinity(0, self._affinity)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._graphs.clear()
        self._lock.release()

    def _info(self) -> DeviceInfo:
        flags, cores = _host.cpu_flags(), self._cores
        details = {
            "isa": " ".join(flags),
            "nchwc_block": str(channel_block()),
            "kernel": os.uname().release,
            "graph_optimisation": "all",
            "execution": "sequential",
            "memory_arena": "on",
            "spinning": "stopped between runs",
            "virtual_machine": str(_host.is_virtual_machine()).lower(),
        }
        return DeviceInfo(
            address=self.address,
            target=f"{_host.cpu_name()}, {len(cores)} cores",
            target_id=f"{_host.cpu_name()}|{len(cores)} cores|{' '.join(flags)}",
            runtime=f"onnxruntime {onnxruntime().__version__}",
            details=tuple(details.items()),
        )

    def _conditions(self) -> Conditions:
        return _host.conditions(self._cores)

    def doctor(self) -> list[Advice]:
        """What would spoil a measurement on this computer, with the command that mends it."""
        return _host.doctor(self._cores)

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        cores = self._pin(settings.threads)
        findings = [] if _host.CAN_PIN else [Finding("not_pinned", "this system cannot pin threads to cores")]
        if settings.isolate:
            return Prepared(workload, settings, self._start(workload, settings, cores), tuple(findings))
        session = _session(workload.onnx, _options(cores))
        return Prepared(workload, settings, _bind(session, workload, settings.seed), tuple(findings))

    def _pin(self, threads: int) -> tuple[int, ...]:
        """Bind the calling thread to the first of the cores that a run with `threads` threads gets."""
        cores = _host.choose_cores(threads, self._cores)
        if _host.CAN_PIN:
            os.sched_setaffinity(0, {cores[0]})
        return cores

    def _start(self, workload: Workload, settings: Settings, cores: tuple[int, ...]) -> RunnerProcess:
        model = self._path(f"{workload.sha256[:16]}.onnx")
        if not model.exists():
            model.write_bytes(workload.onnx)
        runner = RunnerProcess.start([str(build_runner())])
        self._isolated.append(runner)
        runner.library(ort_library())
        runner.configure(threads=settings.threads, cpus=cores, seed=settings.seed)
        runner.load(MODEL, model)
        return runner

    def _stop(self, runner: RunnerProcess) -> None:
        self._isolated.remove(runner)
        runner.close()

    def _release(self, prepared: Prepared) -> None:
        if isinstance(prepared.handle, RunnerProcess):
            self._stop(prepared.handle)
        prepared.handle = None

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        if order and isinstance(order[0].handle, RunnerProcess):
            return self._run_isolated(order, loops)
        runs = [prepared.handle.run for prepared in order]
        values_s, now = [], time.perf_counter_ns
        collecting = gc.isenabled()
        gc.disable()
        try:
            for run in runs:
                start = now()
                for _ in range(loops):
                    run()
                values_s.append((now() - start) * 1e-9 / loops)
        finally:
            if collecting:
                gc.enable()
        return Samples(tuple(values_s), "perf_counter")

    def _run_isolated(self, order: Sequence[Prepared], loops: int) -> Samples:
        values_s = [prepared.handle.run([MODEL], loops).values_s[0] for prepared in order]
        return Samples(tuple(values_s), f"{CLOCK} in the native runner")

    def peak_memory_bytes(self, prepared: Prepared) -> int | None:
        """Peak resident memory of an isolated session; None where the session lives in this process."""
        return prepared.handle.memory() if isinstance(prepared.handle, RunnerProcess) else None

    def profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Per-layer times of `runs` inferences in a profiled session of its own in this process."""
        return self._guard(lambda: self._profile_layers(prepared, runs))

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        workload, cores = prepared.workload, self._pin(prepared.settings.threads)
        options = _profiled(_options(cores), self._path("profile"))
        new = workload.sha256 not in self._graphs
        if new:
            options.optimized_model_filepath = str(self._path("optimised.onnx"))
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.bin")
        session = _session(workload.onnx, options)
        if new:
            self._graphs[workload.sha256] = _read_graph(self._path("optimised.onnx"))
        bound = _bind(session, workload, prepared.settings.seed)
        seen = _profile(session, bound, runs)
        model = load(workload.onnx)
        parts = layers(model)
        block = channel_block()
        rows = join(self._graphs[workload.sha256], parts, made_by(model, parts), seen, block)
        if self._node_cost_s is None:
            self._node_cost_s = _measure_node_cost_s(self._path("cost"), cores)
        return LayerSamples(rows, seen.whole_s, self._node_cost_s, REST_CAUSE, GRAIN_S, layout_findings(rows, block))

    def _path(self, name: str) -> Path:
        if self._folder is None:
            raise DeviceUnavailableError("device cpu is not open")
        return Path(self._folder.name) / name


def _options(cores: Sequence[int]) -> Any:
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = len(cores)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads spin while a run lasts and sleep between runs, so that two sessions do not take each other's cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if len(cores) > 1:
        rest = ";".join(str(core + 1) for core in cores[1:])  # the calling thread is the first; processors count from 1
        options.add_session_config_entry("session.intra_op_thread_affinities", rest)
    return options


def _profiled(options: Any, prefix: Path) -> Any:
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return options


def _session(model: bytes, options: Any) -> Any:
    ort = onnxruntime()
    errors = ort.capi.onnxruntime_pybind11_state
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except errors.NotImplemented as error:
        raise UnsupportedLayerError(f"ONNX Runtime has no CPU kernel for a layer of the model: {_first_line(error)}") from error
    except (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.RuntimeException) as error:
        raise BuildError(f"ONNX Runtime refuses the model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def random_input(spec: TensorSpec, seed: int) -> np.ndarray[Any, Any]:
    """Values for one input: floats uniform in [-1, 1), integers 0 or 1 (valid as index, token and mask); never denormal."""
    random = np.random.default_rng(seed)
    kind = np.dtype(spec.dtype)
    if kind.kind == "f":
        return random.uniform(-1, 1, spec.shape).astype(kind)
    return random.integers(0, 2, spec.shape).astype(kind)


def _bind(session: Any, workload: Workload, seed: int) -> _InProcess:
    ort = onnxruntime()
    binding = session.io_binding()
    values = [ort.OrtValue.ortvalue_from_numpy(random_input(spec, seed)) for spec in workload.inputs]
    for spec, value in zip(workload.inputs, values, strict=True):
        binding.bind_ortvalue_input(spec.name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    try:
        session.run_with_iobinding(binding)
    except Exception as error:  # a first run shows what building did not
        raise BuildError(f"ONNX Runtime cannot run the model: {_first_line(error)}") from error
    results = binding.get_outputs()
    for output, value in zip(session.get_outputs(), results, strict=True):
        binding.bind_ortvalue_output(output.name, value)  # later runs write into the same buffers
    # The wrapper around this call costs 0.35 us of checks on every run; below it is the same entry point.
    run = partial(session._sess.run_with_iobinding, binding._iobinding, None)  # noqa: SLF001
    return _InProcess(run, (session, binding, values, results))


def _read_graph(path: Path) -> list[ExecutedNode]:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    for file in path.parent.glob("optimised.*"):
        file.unlink()
    return [ExecutedNode(n.name, n.op_type, n.domain, tuple(filter(None, n.input)), tuple(n.output)) for n in graph.node]


def _profile(session: Any, bound: _InProcess, runs: int) -> ProfiledRuns:
    """Run a profiled session and read what its profiler wrote; binding has run it once already."""
    for _ in range(PROFILE_WARM_UP - 1 + runs):
        bound.run()
    trace = Path(session.end_profiling())
    events = json.loads(trace.read_bytes())
    trace.unlink()
    return read_profile(events, PROFILE_WARM_UP)


@cache
def channel_block() -> int:
    """Channels in a block of the blocked layout on this processor (16 with AVX-512 and on ARM, 8 with AVX2).

    Read off the weights of an optimised convolution with one output channel, which the runtime pads to a whole block.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
        path = Path(folder) / "block.onnx"
        options = onnxruntime().SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(path)
        _session(_chain(["Conv"], channels=64), options)
        weights = onnx.load(path).graph.initializer
    return max((w.dims[0] for w in weights if len(w.dims) == 4 and w.dims[0] % 8 == 0), default=1)


def _measure_node_cost_s(prefix: Path, cores: Sequence[int]) -> float:
    """What the profiler adds inside each node's own time.

    Two chains of trivial nodes differ by 100 nodes. What these take unprofiled is the slope of the latency; what the profiler
    says they take is the slope of its sums; the difference is the profiler's.
    """
    slopes = []
    for length in (SHORT_CHAIN, LONG_CHAIN):
        model = _chain(["Sin", "Cos"] * (length // 2), channels=1)
        workload = Workload("chain", model, (TensorSpec("t0", (1, 1, 1, 1)),), 1, "fp32", 0, 0, len(model))
        plain = _bind(_session(model, _options(cores)), workload, 0)
        whole_s = []
        for _ in range(COST_RUNS):
            start = time.perf_counter_ns()
            plain.run()
            whole_s.append((time.perf_counter_ns() - start) * 1e-9)
        session = _session(model, _profiled(_options(cores), prefix))
        seen = _profile(session, _bind(session, workload, 0), COST_RUNS)
        slopes.append((float(np.median(whole_s)), float(np.median(np.sum(list(seen.nodes_s.values()), axis=0)))))
    (short_s, short_sum_s), (long_s, long_sum_s) = slopes
    return max(0.0, (long_sum_s - short_sum_s) - (long_s - short_s)) / (LONG_CHAIN - SHORT_CHAIN)


def _chain(ops: Sequence[str], channels: int) -> bytes:
    """A model of `ops` in a row on a map of 1 x channels x 1 x 1 (8 x 8 for a convolution to one channel)."""
    import onnx
    from onnx import TensorProto, helper

    side = 8 if "Conv" in ops else 1
    nodes = [
        helper.make_node(op, [f"t{i}", "w"] if op == "Conv" else [f"t{i}"], [f"t{i + 1}"], name=f"n{i}")
        for i, op in enumerate(ops)
    ]
    ends = [
        helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1, channels, side, side]),
        helper.make_tensor_value_info(f"t{len(ops)}", TensorProto.FLOAT, [1, 1, side, side]),
    ]
    weights = [onnx.numpy_helper.from_array(np.ones((1, channels, 1, 1), np.float32), "w")] if "Conv" in ops else []
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())
