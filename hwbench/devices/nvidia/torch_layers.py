"""Times of the layers of a network on the GPU, in place.

Each layer is captured as a CUDA graph of its own; the graphs are replayed in order with a CUDA
event between them. Before that the whole network is replayed often enough that the host gets ahead
of the GPU: no interval then contains the host's time to start a layer. What remains in each
interval beyond the layer is the gap between two graphs; it is measured on a chain of equal small
convolutions (intervals against the chain as one graph) and handed on as the profiler's cost per
layer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.devices.base import LayerRow, LayerSamples
from hwbench.devices.nvidia.torch_graph import to_torch
from hwbench.devices.nvidia.torch_session import Session, TorchGpu, gpu_errors
from hwbench.devices.shared.chains import chain_workload

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHAIN, CHAIN_RUNS = 32, 30
"""Convolutions and runs from which the gap between two graphs is learnt."""
LAUNCH_S = 20e-6
"""Seconds the host may need to start one layer and record an event: a generous guess, not measured, since too long a lead costs
little."""
MAX_LEAD = 200
FINEST_S, COARSEST_S = 1e-9, 0.5e-6
"""Steps of the events' clock that are believed.

CUDA promises about half a microsecond, current GPUs count finer.
"""
REST_CAUSE = (
    "overlap of neighbouring layers, which the whole network as one CUDA graph has and layers timed"
    " apart have not"
)


def layer_samples(gpu: TorchGpu, session: Session, runs: int, gap_s: float) -> LayerSamples:
    """Times of `runs` inferences, layer by layer.

    A replay of the whole network comes before each.
    """
    parts = _Parts(gpu, session)
    reference_s, rows_s = parts.run(runs)
    parts.close()
    rows = tuple(
        LayerRow(layer.name, layer.op, layer.key, kernel, tuple(column))
        for layer, kernel, column in zip(
            session.net.layers, parts.kernels, rows_s.T.tolist(), strict=True
        )
    )
    whole_s = tuple(rows_s.sum(axis=1).tolist())
    return LayerSamples(
        rows, whole_s, tuple(reference_s), gap_s, REST_CAUSE, grain(rows_s.ravel().tolist())
    )


def gap(gpu: TorchGpu) -> float:
    """Seconds that a layer timed apart takes longer than inside the whole network's graph, on this GPU."""
    workload = chain_workload(CHAIN)
    session = Session(gpu, to_torch(workload.onnx), workload, seed=0, compiled=False)
    parts = _Parts(gpu, session)
    reference_s, rows_s = parts.run(CHAIN_RUNS)
    parts.close()
    session.close()
    return max(0.0, float(median((rows_s.sum(axis=1) - reference_s).tolist())) / CHAIN)


def grain(values_s: Sequence[float]) -> float:
    """Step of the clock that these times were read from: the smallest difference between two of them, within reason."""
    steps = np.diff(np.unique(values_s))
    steps = steps[steps > FINEST_S]
    return float(min(steps.min(), COARSEST_S)) if len(steps) else COARSEST_S


class _Parts:
    """The layers of a session's network, each captured apart.

    Their tensors stay where the capture put them.
    """

    def __init__(self, gpu: TorchGpu, session: Session) -> None:
        import torch

        self._gpu, self._session = gpu, session
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self.kernels: list[str] = []
        """How each layer ran: the memory order of a convolution, else its operator."""
        with gpu_errors("the GPU failed", "the network layer by layer"), gpu.current():
            self._capture(torch.cuda.graph_pool_handle())

    def _capture(self, pool: Any) -> None:
        from torch.fx import Interpreter

        module, net = self._session.module, self._session.net
        nodes = {node.name: node for node in module.graph.nodes}
        walker = Interpreter(module, garbage_collect_values=False)
        walker.args_iter = iter(self._session.inputs)
        walker.env = {
            node: walker.run_node(node)
            for node in module.graph.nodes
            if node.op in {"placeholder", "get_attr"}
        }
        readers = Counter(source for node in module.graph.nodes for source in node.all_input_nodes)
        for layer, names in zip(net.layers, net.steps, strict=True):
            steps = [nodes[name] for name in names]

            def work(steps: Sequence[Any] = steps) -> Tensor | None:
                for node in steps:
                    walker.env[node] = walker.run_node(node)
                return walker.env[steps[-1]] if steps else None

            graph, made = self._gpu.capture(work, pool)
            self._graphs.append(graph)
            self.kernels.append(
                _memory_order(made) if layer.op in {"Conv", "ConvTranspose"} else layer.op
            )
            for source in (source for node in steps for source in node.all_input_nodes):
                readers[source] -= 1
                if not readers[source] and source.op == "call_function":
                    del walker.env[source]  # so that memory is used again, as in the whole network

    def run(self, runs: int) -> tuple[list[float], np.ndarray[Any, np.dtype[np.float64]]]:
        """Replay whole and parts in turns.

        Returns:
            (seconds of the whole network as one graph in each run, seconds per run and layer of
            shape (runs, layers)).
        """
        import torch

        gpu, whole = self._gpu, self._session.graph
        latency_s = gpu.timed([whole] * 3, 1)[0][-1]
        lead = min(MAX_LEAD, max(2, math.ceil(LAUNCH_S * (len(self._graphs) + 2) / latency_s)))
        reference_s, rows_s = [], []
        with (
            gpu_errors("the GPU failed while its layers were timed"),
            torch.cuda.stream(gpu.stream),
        ):
            for _ in range(runs):
                marks = [gpu.event() for _ in range(len(self._graphs) + 2)]
                for _ in range(lead - 1):
                    whole.replay()
                marks[0].record(gpu.stream)
                whole.replay()
                marks[1].record(gpu.stream)
                for graph, mark in zip(self._graphs, marks[2:], strict=True):
                    graph.replay()
                    mark.record(gpu.stream)
                gpu.wait(marks[-1])
                spans_s = [a.elapsed_time(b) * 1e-3 for a, b in pairwise(marks)]
                reference_s.append(spans_s[0])
                rows_s.append(spans_s[1:])
        return reference_s, np.array(rows_s)

    def close(self) -> None:
        """Free the graphs and their memory."""
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()


def _memory_order(made: Tensor | None) -> str:
    import torch

    if (
        made is not None
        and made.dim() == 4
        and made.is_contiguous(memory_format=torch.channels_last)
    ):
        return "channels_last"
    return "channels_first"
