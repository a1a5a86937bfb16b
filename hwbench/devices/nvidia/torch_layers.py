"""Times of the layers of a network on the GPU, in place.

Each layer is captured as a CUDA graph of its own; the graphs are replayed in order with a CUDA
event between them. Before that the whole network is replayed often enough that the host gets ahead
of the GPU: no interval then contains the host's time to start a layer. What remains in each
interval beyond the layer is the gap between two graphs. It is measured on a chain of equal small
convolutions, as the intervals against the chain as one graph, and counts as the profiler's cost per
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
from hwbench.devices.nvidia.torch_session import TorchGpu, TorchSession, gpu_errors
from hwbench.devices.shared.chains import chain_workload
from hwbench.network.torch_graph import to_torch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHAIN, CHAIN_RUNS = 32, 30
"""Convolutions and runs from which the gap between two graphs is estimated."""
LAUNCH_S = 20e-6
"""Seconds that the host may need to start one layer and record an event.

It is a generous guess and not measured, since too long a lead costs little.
"""
MAX_LEAD = 200
"""Most replays of the whole network that come before its layers."""
FINEST_S, COARSEST_S = 1e-9, 0.5e-6
"""Smallest and largest step in seconds that the clock of the events can have.

CUDA promises about half a microsecond, current GPUs count finer.
"""
REST_CAUSE = (
    "overlap of neighbouring layers, which the whole network as one CUDA graph has and layers timed"
    " apart have not"
)


def profile_layers(gpu: TorchGpu, session: TorchSession, runs: int, gap_s: float) -> LayerSamples:
    """Time `runs` inferences layer by layer, each after a replay of the whole network.

    Args:
        gpu: The GPU.
        session: The network.
        runs: Number of inferences.
        gap_s: Seconds between two graphs, see `measure_gap_s`.
    """
    graphs = _LayerGraphs(gpu, session)
    reference_s, rows_s = graphs.run(runs)
    graphs.close()
    rows = tuple(
        LayerRow(layer.name, layer.op, layer.key, kernel, tuple(column))
        for layer, kernel, column in zip(
            session.net.layers, graphs.kernels, rows_s.T.tolist(), strict=True
        )
    )
    whole_s = tuple(rows_s.sum(axis=1).tolist())
    return LayerSamples(
        rows,
        whole_s,
        tuple(reference_s),
        gap_s,
        REST_CAUSE,
        find_grain_s(rows_s.ravel().tolist()),
    )


def measure_gap_s(gpu: TorchGpu) -> float:
    """Measure by how many seconds a layer takes longer as a graph of its own, on this GPU.

    It is compared with the same layer inside the graph of the whole network.
    """
    workload = chain_workload(CHAIN)
    session = TorchSession(gpu, to_torch(workload.onnx), workload, seed=0, compiled=False)
    graphs = _LayerGraphs(gpu, session)
    reference_s, rows_s = graphs.run(CHAIN_RUNS)
    graphs.close()
    session.close()
    excess_s = median((rows_s.sum(axis=1) - reference_s).tolist())
    return max(0.0, float(excess_s) / CHAIN)


def find_grain_s(values_s: Sequence[float]) -> float:
    """Find the step, in seconds, of the clock that these times were read from.

    It is the smallest difference between two of them that is no rounding, and at most `COARSEST_S`.
    """
    steps = np.diff(np.unique(values_s))
    steps = steps[steps > FINEST_S]
    if not len(steps):
        return COARSEST_S
    return float(min(steps.min(), COARSEST_S))


class _LayerGraphs:
    """The layers of a session's network, each a CUDA graph of its own.

    Their tensors stay where the capture put them, so a graph reads what the one before it wrote.

    Args:
        gpu: The GPU.
        session: The network.
    """

    def __init__(self, gpu: TorchGpu, session: TorchSession) -> None:
        import torch

        self._gpu, self._session = gpu, session
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self.kernels: list[str] = []
        """How each layer ran: the memory order of a convolution, else its operator."""
        with gpu_errors("the GPU failed", "the network layer by layer"), gpu.current():
            self._capture(torch.cuda.graph_pool_handle())

    def _capture(self, pool: Any) -> None:
        """Capture the layers in order, each with the tensors of those before it.

        torch's interpreter runs the nodes of one layer at a time. It keeps every result, so a
        result is dropped here as soon as its last reader is captured: the graphs share one pool of
        memory, which is then used again as inside the graph of the whole network. Otherwise layers
        would find less of their data in the caches than they do there.
        """
        from torch.fx import Interpreter

        module, net = self._session.module, self._session.net
        nodes = {node.name: node for node in module.graph.nodes}
        interpreter = Interpreter(module, garbage_collect_values=False)
        interpreter.args_iter = iter(self._session.inputs)
        interpreter.env = {}
        reader_counts: Counter[Any] = Counter()
        for node in module.graph.nodes:
            if node.op in {"placeholder", "get_attr"}:
                interpreter.env[node] = interpreter.run_node(node)
            reader_counts.update(node.all_input_nodes)
        for layer, names in zip(net.layers, net.steps, strict=True):
            steps = [nodes[name] for name in names]

            def work(steps: Sequence[Any] = steps) -> Tensor | None:
                for node in steps:
                    interpreter.env[node] = interpreter.run_node(node)
                return interpreter.env[steps[-1]] if steps else None

            graph, output = self._gpu.capture(work, pool)
            self._graphs.append(graph)
            kernel = layer.op
            if layer.op in {"Conv", "ConvTranspose"}:
                kernel = _memory_order(output)
            self.kernels.append(kernel)
            for node in steps:
                for source in node.all_input_nodes:
                    reader_counts[source] -= 1
                    if not reader_counts[source] and source.op == "call_function":
                        del interpreter.env[source]

    def run(self, runs: int) -> tuple[list[float], np.ndarray[Any, np.dtype[np.float64]]]:
        """Replay the whole network and its layers in turns.

        The events of a run are all enqueued before the GPU gets to them: some replays of the whole
        network go ahead, long enough for the host to start every layer meanwhile. So no interval
        has to wait for the host.

        Args:
            runs: Number of runs.

        Returns:
            (seconds of the whole network as one graph in each run, seconds per run and layer of
            shape (runs, layers)).
        """
        import torch

        gpu, whole = self._gpu, self._session.graph
        latency_s = gpu.time_rounds([whole] * 3, 1)[0][-1]
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


def _memory_order(output: Tensor | None) -> str:
    import torch

    if output is None or output.dim() != 4:
        return "channels_first"
    if output.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    return "channels_first"
