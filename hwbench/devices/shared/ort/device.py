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
from hwbench.devices.shared.chains import ChainProfile, profile_chains, share_inside
from hwbench.devices.shared.ort.engine import Engine
from hwbench.devices.shared.ort.executed_graph import (
    ExecutedNode,
    block_workload,
    channel_block,
    executed_nodes,
)
from hwbench.devices.shared.ort.layers import REST_CAUSE, explain_change, join, layout_findings
from hwbench.devices.shared.ort.profile import ProfiledRuns, read_trace
from hwbench.devices.shared.runner.protocol import CLOCK
from hwbench.devices.shared.turns import TURN, counted, turn_order
from hwbench.errors import OutputParseError
from hwbench.network.graph import Layer, layers, load, made_by
from hwbench.network.workload import Workload
from hwbench.records.comparison import ChangeExplanation
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings

KEPT_PARTS = 8
"""Models whose graphs are kept.

A table build prepares hundreds, a comparison the same two again and again.
"""
GRAIN_S = 1e-6
"""ONNX Runtime's profiler counts whole microseconds."""
COST_RUNS, COST_S = 150, 1.0
"""Runs of each chain from which the profiler's own cost is learnt.

Fewer where they would take more than these seconds.
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
        # Engines that live, each with the threads and seed of the sessions that may join it; None if
        # none may.
        self._engines: dict[Engine, tuple[int, int] | None] = {}
        self._findings: tuple[Finding, ...] = ()  # that hold for every session
        self._parts: dict[str, _Parts] = {}  # by SHA-256 of the model
        self._inside: dict[
            int, float
        ] = {}  # share of the profiler's cost inside the nodes' times, by threads
        self._block = 0  # channels of the blocked layout; 0 until it is known

    @classmethod
    def explain_change(cls, baseline: str, candidate: str) -> ChangeExplanation | None:
        """See `Device.explain_change`."""
        return explain_change(baseline, candidate)

    @abstractmethod
    def _engine(self, settings: Settings) -> Engine:
        """A new place for sessions with these threads and this seed.

        Raises:
            UsageError: The target has not as many cores as threads.
        """

    def _close(self) -> None:
        """End all engines and forget what was learnt of the target."""
        for engine in list(self._engines):
            self._end(engine)
        self._parts.clear()
        self._inside.clear()
        self._block = 0

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        kind = None if settings.isolate else (settings.threads, settings.seed)
        engine = None
        if kind is not None:
            engine = next((known for known, its in self._engines.items() if its == kind), None)
        if engine is None:
            engine = self._engine(settings)
            self._engines[engine] = kind
        name = self._load(engine, workload)
        return Prepared(workload, settings, Handle(engine, name), self._findings)

    def _load(self, engine: Engine, workload: Workload, *, profile: bool = False) -> str:
        self._count += 1
        name = f"session{self._count}"
        learn = profile and workload.sha256 not in self._parts
        try:
            graph = engine.load(name, workload, profile=profile, graph=learn)
        except BaseException:  # the runner ends with the first model it cannot load
            self._end(engine)
            raise
        if graph is not None:
            self._learn(workload, graph)
        return name

    def _release(self, prepared: Prepared) -> None:
        """Free a session, and its engine with the last one, so that the next session has a new one."""
        engine: Engine = prepared.handle.engine
        engine.unload(prepared.handle.name)
        if not self._sessions_in(engine):
            self._end(engine)

    def _sessions_in(self, engine: Engine) -> set[Prepared]:
        return {prepared for prepared in self._live if prepared.handle.engine is engine}

    def _end(self, engine: Engine) -> None:
        """End an engine, and with it the sessions that still live there."""
        self._live -= self._sessions_in(engine)
        del self._engines[engine]
        engine.close()

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        handles: list[Handle] = [prepared.handle for prepared in order]
        values_s: list[float] = []
        for engine, part in groupby(handles, key=lambda handle: handle.engine):
            values_s += engine.run([handle.name for handle in part], loops)
        return Samples(tuple(values_s), handles[0].engine.clock if handles else CLOCK)

    def peak_memory_bytes(self, prepared: Prepared) -> int | None:
        """Peak resident memory of an isolated session; None where sessions share a process."""
        handle: Handle = prepared.handle
        return self._guard(handle.engine.memory) if prepared.settings.isolate else None

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Per-layer times of `runs` inferences in a profiled session beside the timed one."""
        handle: Handle = prepared.handle
        workload, threads = prepared.workload, prepared.settings.threads
        plain_s, profile = self._profile(handle, workload, runs)
        executed, network_layers, maker = self._parts[workload.sha256]
        if threads not in self._inside:
            self._inside[threads] = share_inside(
                *profile_chains(lambda chain: self._profile_chain(handle.engine, chain))
            )
        self._block = self._block or self._channel_block(handle.engine)
        extra_s = median(
            profiled - plain for profiled, plain in zip(profile.whole_s, plain_s, strict=True)
        )
        rows = join(executed, network_layers, maker, profile, self._block)
        return LayerSamples(
            rows,
            profile.whole_s,
            plain_s,
            # What the profiler costs a network in all is seen on the network itself; which share of
            # it the nodes' own times contain was learnt on the chains.
            node_cost_s=max(0.0, self._inside[threads] * extra_s / len(profile.nodes_s)),
            rest_cause=REST_CAUSE,
            grain_s=GRAIN_S,
            findings=layout_findings(rows, self._block),
        )

    def _profile_chain(self, engine: Engine, chain: Workload) -> ChainProfile:
        handle = Handle(engine, self._load(engine, chain))
        run_s = engine.run([handle.name] * 2, 1)[1]
        runs = min(COST_RUNS, max(TURN, round(COST_S / run_s)))
        plain_s, profile = self._profile(handle, chain, runs)
        engine.unload(handle.name)
        sums_s = tuple(map(sum, zip(*profile.nodes_s.values(), strict=True)))
        return ChainProfile(len(profile.nodes_s), sums_s, profile.whole_s, plain_s)

    def _learn(self, workload: Workload, graph: bytes) -> None:
        """What the runtime executes for a workload and what it was made of, worked out once."""
        model = load(workload.onnx)
        network_layers = layers(model)
        while len(self._parts) >= KEPT_PARTS:
            del self._parts[next(iter(self._parts))]
        self._parts[workload.sha256] = (
            executed_nodes(graph),
            network_layers,
            made_by(model, network_layers),
        )

    def _channel_block(self, engine: Engine) -> int:
        """Channels that the runtime keeps side by side."""
        handle = Handle(engine, "block")
        graph = engine.load(handle.name, block_workload(), graph=True)
        engine.unload(handle.name)
        return channel_block(graph or b"")

    def _profile(
        self, plain: Handle, workload: Workload, runs: int
    ) -> tuple[tuple[float, ...], ProfiledRuns]:
        """Latencies of `plain`, and a profile of the same workload taken in turns with them."""
        engine = plain.engine
        name = self._load(engine, workload, profile=True)
        order = turn_order(plain.name, name, runs)
        values_s = engine.run(order, 1)
        trace = engine.unload(name)
        if trace is None:
            raise OutputParseError("ONNX Runtime wrote no profile")
        plain_s = [value_s for value_s, whose in zip(values_s, order, strict=True) if whose != name]
        profiled = order.count(name)
        profile = read_trace(trace, profiled).only(counted(range(profiled), runs))
        return tuple(counted(plain_s, runs)), profile
