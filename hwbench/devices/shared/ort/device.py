"""What all devices that run ONNX Runtime on a CPU share.

Sessions live in engines (`hwbench.devices.shared.runner.device`); here layer times are joined to
the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from hwbench.devices.base import LayerSamples, Prepared
from hwbench.devices.shared.chains import (
    ChainProfile,
    count_chain_runs,
    profile_chains,
    share_inside,
)
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
from hwbench.devices.shared.runner.device import EngineDevice, Handle
from hwbench.devices.shared.runner.engine import Engine
from hwbench.devices.shared.turns import select_counted
from hwbench.network.graph import PartialLayer, all_layers, load
from hwbench.network.graph.view import GraphView
from hwbench.network.workload import Workload
from hwbench.records.comparison import ChangeExplanation

KEPT_GRAPHS = 8
"""Models whose graphs are kept.

Building a table prepares hundreds of models once, a comparison prepares the same two repeatedly.
"""
GRAIN_S = 1e-6
"""ONNX Runtime's profiler counts whole microseconds."""


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


class OrtDevice(EngineDevice):
    """A CPU that runs ONNX Runtime.

    A driver says what the target is and where its engines come from.
    """

    precisions: ClassVar[frozenset[str]] = frozenset(
        {"fp64", "fp32", "fp16", "bf16", "fp8", "fp4"}
        | {"int16", "int8", "int7", "int6", "int5", "int4", "int3", "int2"}
    )

    def __init__(self, address: str = "") -> None:
        super().__init__(address)
        self._graphs: dict[str, _Graphs] = {}  # by SHA-256 of the model
        # Share of the profiler's cost that is inside the nodes' own times, by number of threads.
        self._share_inside: dict[int, float] = {}
        self._block = 0  # channels in a block of the blocked layout; 0 until it is known

    @classmethod
    def explain_change(cls, baseline: str, candidate: str) -> ChangeExplanation | None:
        """See `Device.explain_change`."""
        return explain_change(baseline, candidate)

    def _close(self) -> None:
        """End all engines and forget what was learnt of the target."""
        super()._close()
        self._graphs.clear()
        self._share_inside.clear()
        self._block = 0

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
        entry_cost_s = max(0.0, profiler_s / profile.entries_count)
        node_cost_s = self._share_inside[threads] * entry_cost_s
        profile = profile.take_off_bodies(entry_cost_s)
        rows = join_profile(graphs.origins, graphs.layers, profile, self._block)
        return LayerSamples(
            rows,
            profile.whole_s,
            reference_s,
            node_cost_s=node_cost_s,
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
        reference_s, profile = self._profile(handle, chain, count_chain_runs(run_s))
        engine.unload(handle.name)
        runs_s = zip(*profile.nodes_s.values(), strict=True)
        sums_s = [sum(node_times_s) for node_times_s in runs_s]
        return ChainProfile(profile.entries_count, sums_s, profile.whole_s, reference_s)

    def _needs_graph(self, workload: Workload) -> bool:
        """Whether it is the first profiled session of a model."""
        return workload.sha256 not in self._graphs

    def _keep_graph(self, workload: Workload, graph: bytes) -> None:
        """Read what the runtime executes for a workload, and keep it in place of the oldest."""
        view = GraphView(load(workload.onnx_graph))
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
        reference_s, _, trace, profiled = self._profile_in_turns(plain, workload, runs)
        profile = read_trace(trace, profiled)
        return reference_s, profile.select_runs(select_counted(range(profiled), runs))
