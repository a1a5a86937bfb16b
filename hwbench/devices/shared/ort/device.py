"""What all devices that run ONNX Runtime on a CPU share: sessions in engines, and layer times joined to the network.

The sessions of all workloads of one block live in one engine; every new session of that kind begins
when the former ones are released, in a new process. With `isolate` each workload has a process of
its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import ClassVar

from hwbench.devices.base import Device, LayerSamples, Prepared, Samples
from hwbench.devices.shared.ort.engine import Engine
from hwbench.devices.shared.ort.graph import (
    block_workload,
    chain_workload,
    channel_block,
    executed_nodes,
    read_trace,
)
from hwbench.devices.shared.ort.layers import REST_CAUSE, ExecutedNode, join, layout_findings
from hwbench.devices.shared.ort.profile import ProfiledRuns
from hwbench.devices.shared.runner.protocol import CLOCK
from hwbench.errors import OutputParseError, UsageError
from hwbench.network.graph import Layer, layers, load, made_by
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings

KEPT_PARTS = 8
"""Models whose graphs are kept.

A table build prepares hundreds, a comparison the same two again and again.
"""
TURN = 4
"""Inferences in a row when profiled and unprofiled ones alternate."""
GRAIN_S = 1e-6
"""ONNX Runtime's profiler counts whole microseconds."""
SHORT_CHAIN, LONG_CHAIN, COST_RUNS, COST_S = 6, 30, 150, 1.0
"""Nodes and runs from which the profiler's own cost is learnt.

Fewer runs where they would take more than these seconds.
"""

_Parts = tuple[list[ExecutedNode], tuple[Layer, ...], dict[str, Layer]]


@dataclass(eq=False)
class Handle:
    """One session: its engine, and its name there."""

    engine: Engine
    name: str


class OrtDevice(Device):
    """A CPU that runs ONNX Runtime.

    A driver says what the target is and where its engines come from.
    """

    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "int8"})

    def __init__(self, address: str = "") -> None:
        super().__init__(address)
        self._count = 0
        self._sessions: dict[Engine, set[str]] = {}  # engines that live, and what is loaded in each
        self._kinds: dict[
            Engine, tuple[int, int]
        ] = {}  # threads and seed of those that sessions may share
        self._findings: tuple[Finding, ...] = ()  # that hold for every session
        self._parts: dict[str, _Parts] = {}  # by SHA-256 of the model
        self._inside: dict[
            int, float
        ] = {}  # share of the profiler's cost inside the nodes' times, by threads
        self._block = 0  # channels of the blocked layout; 0 until it is known

    @abstractmethod
    def _engine(self, settings: Settings) -> Engine:
        """A new place for sessions with these threads and this seed.

        Raises:
            UsageError: The target has not as many cores as threads.
        """

    def _free(self) -> None:
        """End all engines and forget what was learnt of the target."""
        for engine in list(self._sessions):
            self._drop(engine)
        self._parts.clear()
        self._inside.clear()
        self._block = 0

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        kind = (settings.threads, settings.seed)
        engine = (
            None
            if settings.isolate
            else next((e for e, other in self._kinds.items() if other == kind), None)
        )
        if engine is None:
            engine = self._engine(settings)
            self._sessions[engine] = set()
            if not settings.isolate:
                self._kinds[engine] = kind
        return Prepared(
            workload, settings, Handle(engine, self._load(engine, workload)), self._findings
        )

    def _load(self, engine: Engine, workload: Workload, *, profile: bool = False) -> str:
        self._count += 1
        name = f"session{self._count}"
        learn = profile and workload.sha256 not in self._parts
        try:
            graph = engine.load(name, workload, profile=profile, graph=learn)
        except BaseException:  # the runner ends with the first model it cannot load
            self._drop(engine)
            raise
        self._sessions[engine].add(name)
        if graph is not None:
            self._learn(workload, graph)
        return name

    def _release(self, prepared: Prepared) -> None:
        self._unload(prepared.handle)

    def _unload(self, handle: Handle) -> bytes | None:
        """Free a session, and its engine with the last one; its profile, if it was profiled."""
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
        handles: list[Handle] = [prepared.handle for prepared in order]
        for handle in handles:
            if handle.name not in self._sessions.get(handle.engine, ()):
                raise UsageError(
                    f"{self.address} was asked to run a session that was released or is another"
                    " device's"
                )
        values_s: list[float] = []
        for engine, part in groupby(handles, key=lambda handle: handle.engine):
            values_s += engine.run([handle.name for handle in part], loops)
        return Samples(tuple(values_s), handles[0].engine.clock if handles else CLOCK)

    def peak_memory_bytes(self, prepared: Prepared) -> int | None:
        """Peak resident memory of an isolated session; None where sessions share a process."""
        handle: Handle = prepared.handle
        return self._guard(handle.engine.memory) if prepared.settings.isolate else None

    def profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Per-layer times of `runs` inferences in a profiled session beside the timed one."""
        return self._guard(lambda: self._profile_layers(prepared, runs))

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        handle: Handle = prepared.handle
        workload, threads = prepared.workload, prepared.settings.threads
        beside_s, seen = self._profile(handle, workload, runs)
        executed, found, maker = self._parts[workload.sha256]
        if threads not in self._inside:
            self._inside[threads] = self._measure_inside(handle.engine)
        self._block = self._block or self._channel_block(handle.engine)
        extra_s = median(
            profiled - plain for profiled, plain in zip(seen.whole_s, beside_s, strict=True)
        )
        node_cost_s = max(0.0, self._inside[threads] * extra_s / len(seen.nodes_s))
        rows = join(executed, found, maker, seen, self._block)
        return LayerSamples(
            rows,
            seen.whole_s,
            beside_s,
            node_cost_s,
            REST_CAUSE,
            GRAIN_S,
            layout_findings(rows, self._block),
        )

    def _learn(self, workload: Workload, graph: bytes) -> None:
        """What the runtime executes for a workload and what it was made of, worked out once."""
        model = load(workload.onnx)
        found = layers(model)
        while len(self._parts) >= KEPT_PARTS:
            del self._parts[next(iter(self._parts))]
        self._parts[workload.sha256] = executed_nodes(graph), found, made_by(model, found)

    def _channel_block(self, engine: Engine) -> int:
        """Channels that the runtime keeps side by side."""
        handle = Handle(engine, "block")
        graph = engine.load(handle.name, block_workload(), graph=True)
        engine.unload(handle.name)
        return channel_block(graph or b"")

    def _profile(
        self, plain: Handle, workload: Workload, runs: int
    ) -> tuple[tuple[float, ...], ProfiledRuns]:
        """Latencies of `plain` and a profile of the same workload, taken in turns so that both saw the same machine.

        A turn is a few inferences, of which the first finds the other session's data in the caches
        and is left out.
        """
        name = self._load(plain.engine, workload, profile=True)
        turns = -(-runs // (TURN - 1))
        order = ([plain.name] * TURN + [name] * TURN) * turns
        values_s = plain.engine.run(order, 1)
        trace = self._unload(Handle(plain.engine, name))
        if trace is None:
            raise OutputParseError("ONNX Runtime wrote no profile")
        plain_s = [
            value for value, whose in zip(values_s, order, strict=True) if whose == plain.name
        ]
        counted = [index for index in range(TURN * turns) if index % TURN]
        return tuple(plain_s[index] for index in counted), read_trace(trace, TURN * turns).only(
            counted
        )

    def _measure_inside(self, engine: Engine) -> float:
        """The share of the profiler's cost that falls inside the nodes' own times.

        The rest falls between them.

        What the profiler costs a network in all is seen on the network itself, profiled and
        unprofiled in turns. Which part of it the nodes' times contain is seen on two chains of
        small convolutions that differ in length: what the further nodes take unprofiled is the
        slope of the latency, what the profiler says they take is the slope of its sums.
        """
        inside_s, whole_s = [], []
        for length in (SHORT_CHAIN, LONG_CHAIN):
            workload = chain_workload(length)
            handle = Handle(engine, self._load(engine, workload))
            runs = min(COST_RUNS, max(TURN, round(COST_S / engine.run([handle.name] * 2, 1)[1])))
            beside_s, seen = self._profile(handle, workload, runs)
            self._unload(handle)
            sums_s = map(sum, zip(*seen.nodes_s.values(), strict=True))
            inside_s.append(
                median(profiled - plain for profiled, plain in zip(sums_s, beside_s, strict=True))
            )
            whole_s.append(
                median(
                    profiled - plain for profiled, plain in zip(seen.whole_s, beside_s, strict=True)
                )
            )
        share = (
            (inside_s[1] - inside_s[0]) / (whole_s[1] - whole_s[0])
            if whole_s[1] > whole_s[0]
            else 0.0
        )
        return min(max(share, 0.0), 1.0)
