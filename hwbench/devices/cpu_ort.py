"""This computer's CPU through ONNX Runtime.

The sessions of all workloads of one block live in one process of the native runner, which times runs in C and does nothing
between them; every new session is a new process. With `isolate` each workload has a process of its own. Without a C compiler
ONNX Runtime runs inside this process instead, and a finding says what Python adds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import ClassVar, Protocol

from hwbench.devices import _host
from hwbench.devices._lock import DeviceLock
from hwbench.devices._ort_graph import chain_workload, channel_block, executed_graph, read_trace
from hwbench.devices._ort_layers import REST_CAUSE, ExecutedNode, join, layout_findings
from hwbench.devices._ort_python import PythonEngine
from hwbench.devices._runner import RunnerProcess
from hwbench.devices._runner_build import build_runner, ort_library
from hwbench.devices._runner_protocol import CLOCK
from hwbench.devices.base import Advice, Device, Found, LayerSamples, Prepared, Samples
from hwbench.errors import DeviceError, DeviceUnavailableError, OutputParseError, UsageError
from hwbench.formats.ort_profile import ProfiledRuns
from hwbench.measurement import Conditions, DeviceInfo, Settings
from hwbench.onnx_graph import Layer, layers, load, made_by
from hwbench.ort import onnxruntime
from hwbench.workload import Finding, Workload

PATIENCE_S, PATIENCE = 60.0, 10.0
"""Seconds a request to the runner may take beyond this many times what it should."""
KEPT_PARTS, KEPT_MODELS = 8, 4
"""Models whose graphs and whose files are kept; a table build prepares hundreds, a comparison the same two again and again."""
TURN = 4
"""Inferences in a row when profiled and unprofiled ones alternate."""
GRAIN_S = 1e-6
"""ONNX Runtime's profiler counts whole microseconds."""
SHORT_CHAIN, LONG_CHAIN, COST_RUNS = 6, 30, 150
"""Nodes and runs from which the profiler's own cost is learnt."""
NOT_PINNED = Finding("not_pinned", "this system cannot pin threads to cores; expect wider intervals")
IN_PYTHON = Finding(
    "python_calls", "no C compiler for the native runner: each latency holds 1 to 2 us of Python (apt install gcc)"
)


_Parts = tuple[list[ExecutedNode], tuple[Layer, ...], dict[str, Layer]]


class Engine(Protocol):
    """Where ONNX Runtime's sessions live, by name."""

    clock: str

    def load(self, name: str, workload: Workload, profile: Path | None = None) -> None:
        """Create a session, profiled into files with prefix `profile` if given, and run it once."""
        ...

    def run(self, order: Sequence[str], loops: int) -> tuple[float, ...]:
        """Seconds per inference of one round of `loops` for each name, in that order."""
        ...

    def unload(self, name: str) -> Path | None:
        """Free a session; the file of its profile, if it was profiled."""
        ...

    def memory(self) -> int | None:
        """Peak resident memory of the process in bytes; None if it holds more than the sessions."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class NativeEngine:
    """Sessions in one process of the native runner.

    Args:
        folder: Where model files for it lie; engines may share it.
        cores: One for each thread.
        seed: Of the random inputs.
    """

    clock = f"{CLOCK} in the native runner"

    def __init__(self, folder: Path, cores: Sequence[int], seed: int) -> None:
        self._folder = folder
        self._slowest_s = 0.0  # seconds of an inference, as far as is known
        self._runner = RunnerProcess.start([str(build_runner())])
        try:
            self._runner.library(ort_library())
            self._runner.configure(threads=len(cores), cpus=cores if _host.CAN_PIN else (), seed=seed)
        except BaseException:
            self.close()
            raise

    def load(self, name: str, workload: Workload, profile: Path | None = None) -> None:
        """Write the model where the runner can read it, unless it lies there from before, and load it.

        Raises:
            BuildError: ONNX Runtime refuses the model.
        """
        path = self._folder / f"{workload.sha256}.onnx"
        if not path.exists():
            older = sorted(self._folder.glob("*.onnx"), key=lambda file: file.stat().st_mtime_ns)
            for file in older[: max(0, len(older) + 1 - KEPT_MODELS)]:
                file.unlink()  # what is loaded no longer needs its file
            path.write_bytes(workload.onnx)
        loaded = self._runner.load(name, path, profile)
        self._slowest_s = max(self._slowest_s, loaded.first_run_s)

    def run(self, order: Sequence[str], loops: int) -> tuple[float, ...]:
        """Seconds per inference of one round of `loops` for each name, in that order."""
        timeout_s = PATIENCE_S + PATIENCE * self._slowest_s * len(order) * loops
        return self._runner.run(order, loops, timeout_s).values_s

    def unload(self, name: str) -> Path | None:
        """Free a session; the file of its profile, if it was profiled."""
        return self._runner.unload(name)

    def memory(self) -> int | None:
        """Peak resident memory of the process in bytes."""
        return self._runner.memory()

    def close(self) -> None:
        """End the process."""
        self._runner.close()


@dataclass(eq=False)
class _Handle:
    """One session: its engine, and its name there."""

    engine: Engine
    name: str


class CpuOrt(Device):
    """The host's CPU; address `cpu`."""

    name = "cpu"
    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "int8"})

    def __init__(self, address: str = "") -> None:
        if address:
            raise UsageError(f"device 'cpu' takes no address, got 'cpu:{address}'")
        super().__init__(address)
        self._lock = DeviceLock(self.name)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._sessions: dict[Engine, set[str]] = {}  # engines that live, and what is loaded in each
        self._kinds: dict[Engine, tuple[int, int]] = {}  # threads and seed of those that sessions may share
        self._findings: tuple[Finding, ...] = ()  # that hold for every session
        self._parts: dict[str, _Parts] = {}  # by SHA-256 of the model
        self._inside: dict[int, float] = {}  # share of the profiler's cost inside the nodes' times, by threads

    @classmethod
    def discover(cls) -> list[Found]:
        """This computer, if onnxruntime imports."""
        try:
            runtime = f"onnxruntime {onnxruntime().__version__}"
        except DeviceUnavailableError as error:
            return [Found(cls.name, _host.cpu_name(), ready=False, hint=str(error))]
        return [Found(cls.name, f"{_host.cpu_name()}, {_host.core_count()} cores, {runtime}", ready=True)]

    def _open(self) -> None:
        onnxruntime()
        self._lock.acquire()
        self._cores = _host.quiet_first(_host.physical_cores(_host.affinity()))
        self._folder = tempfile.TemporaryDirectory(prefix="hwbench-")
        self._path = Path(self._folder.name)
        self._count = 0
        self._throttles = _host.throttles(self._cores)
        self._findings = () if _host.CAN_PIN else (NOT_PINNED,)
        try:
            build_runner()
            self._native = True
        except DeviceError as error:
            self._native = False
            text = f"timed from Python, which adds 1 to 5 us to each latency: the native runner cannot be built ({error})"
            self._findings += (Finding("python_calls", text),)

    def _close(self) -> None:
        for engine in list(self._sessions):
            self._drop(engine)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._parts.clear()
        self._inside.clear()
        self._lock.release()

    def _info(self) -> DeviceInfo:
        flags = " ".join(_host.cpu_flags())
        details = {
            "isa": flags,
            "nchwc_block": str(channel_block()),
            "engine": "native runner" if self._native else "Python",
            "kernel": _host.kernel(),
            "graph_optimisation": "all",
            "execution": "sequential",
            "memory_arena": "on",
            "spinning": "stopped between runs",
            "virtual_machine": str(_host.is_virtual_machine()).lower(),
        }
        return DeviceInfo(
            address=self.address,
            target=f"{_host.cpu_name()}, {_host.core_count()} cores",
            target_id=f"{_host.cpu_name()}|{_host.core_count()} cores|{flags}",
            runtime=f"onnxruntime {onnxruntime().__version__}",
            details=tuple(details.items()),
        )

    def _conditions(self) -> Conditions:
        before, self._throttles = self._throttles, _host.throttles(self._cores)
        return replace(_host.conditions(self._cores), throttled=None if before is None else before != self._throttles)

    def doctor(self) -> list[Advice]:
        """What would spoil a measurement on this computer, with the command that mends it."""
        return _host.doctor(self._cores)

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        cores = _host.choose_cores(settings.threads, self._cores)
        if settings.isolate and not self._native:
            raise DeviceUnavailableError("--isolate needs a C compiler for the native runner: apt install gcc, or set CC")
        kind = (settings.threads, settings.seed)
        shared = None if settings.isolate else next((e for e, other in self._kinds.items() if other == kind), None)
        engine = shared or self._engine(cores, settings.seed)
        if not settings.isolate:
            self._kinds[engine] = kind
        handle = _Handle(engine, self._load(engine, workload))
        return Prepared(workload, settings, handle, self._findings)

    def _engine(self, cores: tuple[int, ...], seed: int) -> Engine:
        engine: Engine = NativeEngine(self._path, cores, seed) if self._native else PythonEngine(cores, seed)
        self._sessions[engine] = set()
        return engine

    def _load(self, engine: Engine, workload: Workload, profile: Path | None = None) -> str:
        self._count += 1
        name = f"session{self._count}"
        try:
            engine.load(name, workload, profile)
        except BaseException:  # the runner ends with the first model it cannot load
            self._drop(engine)
            raise
        self._sessions[engine].add(name)
        return name

    def _release(self, prepared: Prepared) -> None:
        self._unload(prepared.handle)

    def _unload(self, handle: _Handle) -> Path | None:
        """Free a session, and its engine with the last one; the file of its profile, if it was profiled."""
        names = self._sessions.get(handle.engine)
        if names is None or handle.name not in names:
            return None
        names.remove(handle.name)
        profile = handle.engine.unload(handle.name)
        if not names:
            self._drop(handle.engine)
        return profile

    def _drop(self, engine: Engine) -> None:
        del self._sessions[engine]
        self._kinds.pop(engine, None)
        engine.close()

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        handles: list[_Handle] = [prepared.handle for prepared in order]
        for handle in handles:
            if handle.name not in self._sessions.get(handle.engine, ()):
                raise UsageError(f"{self.address} was asked to run a session that was released or is another device's")
        values_s: list[float] = []
        for engine, part in groupby(handles, key=lambda handle: handle.engine):
            values_s += engine.run([handle.name for handle in part], loops)
        return Samples(tuple(values_s), handles[0].engine.clock if handles else NativeEngine.clock)

    def peak_memory_bytes(self, prepared: Prepared) -> int | None:
        """Peak resident memory of an isolated session; None where sessions share a process."""
        handle: _Handle = prepared.handle
        return handle.engine.memory() if prepared.settings.isolate else None

    def profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Per-layer times of `runs` inferences in a profiled session beside the timed one."""
        return self._guard(lambda: self._profile_layers(prepared, runs))

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        handle: _Handle = prepared.handle
        workload, block = prepared.workload, channel_block()
        beside_s, seen = self._profile(handle, workload, runs)
        parts = self._parts_of(workload, _host.choose_cores(prepared.settings.threads, self._cores))
        if prepared.settings.threads not in self._inside:
            self._inside[prepared.settings.threads] = self._measure_inside(handle.engine)
        extra_s = median(profiled - plain for profiled, plain in zip(seen.whole_s, beside_s, strict=True))
        node_cost_s = max(0.0, self._inside[prepared.settings.threads] * extra_s / len(seen.nodes_s))
        rows = join(*parts, seen, block)
        return LayerSamples(rows, seen.whole_s, beside_s, node_cost_s, REST_CAUSE, GRAIN_S, layout_findings(rows, block))

    def _parts_of(self, workload: Workload, cores: Sequence[int]) -> _Parts:
        """What the runtime executes for a workload and what it was made of, worked out once."""
        if workload.sha256 not in self._parts:
            model = load(workload.onnx)
            found = layers(model)
            while len(self._parts) >= KEPT_PARTS:
                del self._parts[next(iter(self._parts))]
            self._parts[workload.sha256] = executed_graph(workload.onnx, cores, self._path), found, made_by(model, found)
        return self._parts[workload.sha256]

    def _profile(self, plain: _Handle, workload: Workload, runs: int) -> tuple[tuple[float, ...], ProfiledRuns]:
        """Latencies of `plain` and a profile of the same workload, taken in turns so that both saw the same machine.

        A turn is a few inferences, of which the first finds the other session's data in the caches and is left out.
        """
        name = self._load(plain.engine, workload, self._path / "profile")
        turns = -(-runs // (TURN - 1))
        order = ([plain.name] * TURN + [name] * TURN) * turns
        values_s = plain.engine.run(order, 1)
        trace = self._unload(_Handle(plain.engine, name))
        if trace is None:
            raise OutputParseError("ONNX Runtime wrote no profile")
        plain_s = [value for value, whose in zip(values_s, order, strict=True) if whose == plain.name]
        counted = [index for index in range(TURN * turns) if index % TURN]
        return tuple(plain_s[index] for index in counted), read_trace(trace, TURN * turns).only(counted)

    def _measure_inside(self, engine: Engine) -> float:
        """The share of the profiler's cost that falls inside the nodes' own times; the rest falls between them.

        What the profiler costs a network in all is seen on the network itself, profiled and unprofiled in turns. Which part of
        it the nodes' times contain is seen on two chains of small convolutions that differ in length: what the further nodes
        take unprofiled is the slope of the latency, what the profiler says they take is the slope of its sums.
        """
        inside_s, whole_s = [], []
        for length in (SHORT_CHAIN, LONG_CHAIN):
            workload = chain_workload(length)
            handle = _Handle(engine, self._load(engine, workload))
            beside_s, seen = self._profile(handle, workload, COST_RUNS)
            self._unload(handle)
            sums_s = map(sum, zip(*seen.nodes_s.values(), strict=True))
            inside_s.append(median(profiled - plain for profiled, plain in zip(sums_s, beside_s, strict=True)))
            whole_s.append(median(profiled - plain for profiled, plain in zip(seen.whole_s, beside_s, strict=True)))
        share = (inside_s[1] - inside_s[0]) / (whole_s[1] - whole_s[0]) if whole_s[1] > whole_s[0] else 0.0
        return min(max(share, 0.0), 1.0)
