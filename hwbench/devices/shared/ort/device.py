"""What all devices that run ONNX Runtime on a CPU share.

Sessions live in engines, and layer times are joined to the network.

The sessions of all workloads of one block live in one engine; every new session of that kind begins
when the former ones are released, in a new process. With `isolate` each workload has a process of
its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import ClassVar

from hwbench.devices.base import Device, LayerSamples, Prepared, Samples
from hwbench.devices.shared.chains import ChainProfile, profile_chains, share_inside
from hwbench.devices.shared.ort.engine import Engine
from hwbench.devices.shared.ort.executed_graph import (
    block_workload,
    channel_block,
    executed_nodes,
)
from hwbench.devices.shared.ort.layers import (
    REST_CAUSE,
    explain_change,
    join_profile,
    layout_findings,
    unknown_rows_finding,
)
from hwbench.devices.shared.ort.origins import NodeOrigin, find_origins
from hwbench.devices.shared.ort.profile import ProfiledRuns, read_trace
from hwbench.devices.shared.runner.protocol import CLOCK
from hwbench.devices.shared.turns import TURN, select_counted, turn_order
from hwbench.errors import OutputParseError, WorkloadError
from hwbench.network.graph import PartialLayer, all_layers, load
from hwbench.network.graph.view import GraphView
from hwbench.network.workload import Workload
from hwbench.records.comparison import ChangeExplanation
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings

KEPT_GRAPHS = 8
"""Models whose graphs are kept.

Building a table prepares hundreds of models once, a comparison prepares the same two repeatedly.
"""
GRAIN_S = 1e-6
"""ONNX Runtime's profiler counts whole microseconds."""
COST_RUNS, COST_S = 150, 1.0
"""Runs of each chain from which the profiler's own cost is estimated.

There are fewer where they would take more than these seconds.
"""


@dataclass(frozen=True, slots=True)
class _Graphs:
    """What a model is, and what the runtime executes for it.

    Attributes:
        origins: Nodes of the graph that the runtime executes, in order, with the layers they work
            for.
        layers: Layers of the network, in order.
    """

    origins: tuple[NodeOrigin, ...]
    layers: tuple[PartialLayer, ...]


@dataclass(eq=False)
class Handle:
    """One session: its engine, and the session's name there."""

    engine: Engine
    name: str


class OrtDevice(Device):
    """A CPU that runs ONNX Runtime.

    A driver says what the target is and where its engines come from.
    """

    precisions: ClassVar[frozenset[str]] = frozenset(
        {"fp64", "fp32", "fp16", "bf16", "fp8", "fp4"}
        | {"int16", "int8", "int7", "int6", "int5", "int4", "int3", "int2"}
    )

    def __init__(self, address: str = "") -> None:
        super().__init__(address)
        self._count = 0
        # Engines that live, each with the threads and seed of the sessions that may join it; None
        # if none may.
        self._engines: dict[Engine, tuple[int, int] | None] = {}
        self._findings: tuple[Finding, ...] = ()  # findings that hold for every session
        self._graphs: dict[str, _Graphs] = {}  # by SHA-256 of the model
        # Share of the profiler's cost that is inside the nodes' own times, by number of threads.
        self._share_inside: dict[int, float] = {}
        self._block = 0  # channels in a block of the blocked layout; 0 until it is known

    @classmethod
    def explain_change(cls, baseline: str, candidate: str) -> ChangeExplanation | None:
        """See `Device.explain_change`."""
        return explain_change(baseline, candidate)

    @abstractmethod
    def _engine(self, settings: Settings) -> Engine:
        """Start an engine for sessions with these threads and this seed.

        Raises:
            UsageError: The target has not as many cores as threads.
        """

    def _close(self) -> None:
        """End all engines and forget what was learnt of the target."""
        for engine in list(self._engines):
            self._end_engine(engine)
        self._graphs.clear()
        self._share_inside.clear()
        self._block = 0

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        engine = None
        sharing = None
        if not settings.isolate:
            sharing = (settings.threads, settings.seed)
            for live_engine, live_sharing in self._engines.items():
                if live_sharing == sharing:
                    engine = live_engine
                    break
        if engine is None:
            engine = self._engine(settings)
            self._engines[engine] = sharing
        name = self._load(engine, workload)
        load_s, first_run_s = engine.start_s(name)
        handle = Handle(engine, name)
        return Prepared(workload, settings, handle, self._findings, load_s, first_run_s)

    def _load(self, engine: Engine, workload: Workload, *, profile: bool = False) -> str:
        """Create a session in an engine and return its name.

        A profiled session needs the graph that the runtime executes, so that is fetched with the
        first one of each model.
        """
        self._count += 1
        name = f"session{self._count}"
        needs_graph = profile and workload.sha256 not in self._graphs
        try:
            graph = engine.load(name, workload, profile=profile, graph=needs_graph)
        except BaseException:  # the runner ends with the first model it cannot load
            self._end_engine(engine)
            raise
        if graph is not None:
            self._keep_graphs(workload, graph)
        return name

    def _release(self, prepared: Prepared) -> None:
        """Free a session, and with the last one its engine.

        The next session then has a new engine.
        """
        engine: Engine = prepared.handle.engine
        engine.unload(prepared.handle.name)
        if not self._sessions_in(engine):
            self._end_engine(engine)

    def _sessions_in(self, engine: Engine) -> set[Prepared]:
        return {prepared for prepared in self._live if prepared.handle.engine is engine}

    @contextmanager
    def _using(self, engine: Engine) -> Iterator[None]:
        """Have an engine run sessions; it is ended by a model that fails, as the runner is."""
        try:
            yield
        except WorkloadError:
            self._end_engine(engine)
            raise

    def _end_engine(self, engine: Engine) -> None:
        """End an engine, and with it the sessions that still live there; twice is fine."""
        self._live -= self._sessions_in(engine)
        self._engines.pop(engine, None)
        engine.close()

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        handles: list[Handle] = [prepared.handle for prepared in order]
        values_s: list[float] = []
        for engine, part in groupby(handles, key=lambda handle: handle.engine):
            with self._using(engine):
                values_s += engine.run([handle.name for handle in part], loops)
        return Samples(tuple(values_s), handles[0].engine.clock if handles else CLOCK)

    def _draw_inputs(self, prepared: Prepared, seed: int, exponent: int) -> None:
        handle: Handle = prepared.handle
        with self._using(handle.engine):
            handle.engine.draw_inputs(handle.name, seed, exponent)

    def measures_memory(self) -> bool:
        """Whether a session can have a process of its own."""
        return True

    def peak_memory_bytes(self, prepared: Prepared) -> int | None:
        """Read the peak resident memory of an isolated session, in bytes.

        Returns:
            The memory; None where sessions share a process.
        """
        if not prepared.settings.isolate:
            return None
        handle: Handle = prepared.handle
        return self._guard(handle.engine.memory)

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Time the layers of `runs` inferences in a profiled session of their own."""
        handle: Handle = prepared.handle
        workload, threads = prepared.workload, prepared.settings.threads
        reference_s, profile = self._profile(handle, workload, runs)
        graphs = self._graphs[workload.sha256]
        if threads not in self._share_inside:
            short, long = profile_chains(lambda chain: self._profile_chain(handle.engine, chain))
            self._share_inside[threads] = share_inside(short, long)
        if not self._block:
            self._block = self._find_channel_block(handle.engine)
        pairs = zip(profile.whole_s, reference_s, strict=True)
        profiler_s = median(profiled - reference for profiled, reference in pairs)
        # What the profiler costs a network in all is seen on the network itself. Which share of it
        # the nodes' own times contain was estimated on the chains.
        node_cost_s = self._share_inside[threads] * profiler_s / profile.entries_count
        rows = join_profile(graphs.origins, graphs.layers, profile, self._block)
        return LayerSamples(
            rows,
            profile.whole_s,
            reference_s,
            node_cost_s=max(0.0, node_cost_s),
            rest_cause=REST_CAUSE,
            grain_s=GRAIN_S,
            findings=(
                *layout_findings(rows, self._block),
                *unknown_rows_finding(graphs.origins, profile),
            ),
        )

    def _profile_chain(self, engine: Engine, chain: Workload) -> ChainProfile:
        handle = Handle(engine, self._load(engine, chain))
        run_s = engine.run([handle.name] * 2, 1)[1]
        runs = min(COST_RUNS, max(TURN, round(COST_S / run_s)))
        reference_s, profile = self._profile(handle, chain, runs)
        engine.unload(handle.name)
        runs_s = zip(*profile.nodes_s.values(), strict=True)
        sums_s = [sum(node_times_s) for node_times_s in runs_s]
        return ChainProfile(profile.entries_count, sums_s, profile.whole_s, reference_s)

    def _keep_graphs(self, workload: Workload, graph: bytes) -> None:
        """Read what the runtime executes for a workload, and keep it in place of the oldest."""
        view = GraphView(load(workload.onnx))
        network_layers = all_layers(view)
        while len(self._graphs) >= KEPT_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[workload.sha256] = _Graphs(
            find_origins(executed_nodes(graph), view, network_layers), network_layers
        )

    def _find_channel_block(self, engine: Engine) -> int:
        """Find how many channels the runtime keeps in a block, from a model made for that."""
        handle = Handle(engine, "block")
        graph = engine.load(handle.name, block_workload(), graph=True)
        engine.unload(handle.name)
        return channel_block(graph or b"")

    def _profile(
        self, plain: Handle, workload: Workload, runs: int
    ) -> tuple[tuple[float, ...], ProfiledRuns]:
        """Profile a workload in turns with unprofiled inferences.

        Args:
            plain: The unprofiled session.
            workload: What it runs.
            runs: Inferences of each kind.

        Returns:
            (latencies of the unprofiled inferences in seconds, the profile of the others).
        """
        engine = plain.engine
        name = self._load(engine, workload, profile=True)
        order = turn_order(plain.name, name, runs)
        with self._using(engine):
            values_s = engine.run(order, 1)
            trace = engine.unload(name)
        if trace is None:
            raise OutputParseError("ONNX Runtime wrote no profile")
        reference_s = [
            value_s
            for value_s, session in zip(values_s, order, strict=True)
            if session == plain.name
        ]
        profiled = order.count(name)
        profile = read_trace(trace, profiled)
        profile = profile.select_runs(select_counted(range(profiled), runs))
        return tuple(select_counted(reference_s, runs)), profile
