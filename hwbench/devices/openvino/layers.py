"""From the nodes that OpenVINO executes to the layers of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwbench.devices.shared.joining import RuntimeRow, layers_served
from hwbench.network.graph import Layer, layers, load, made_by
from hwbench.network.workload import Workload


@dataclass(frozen=True, slots=True)
class Node:
    """A node that OpenVINO executes, and the names of what it was made of.

    OpenVINO tells its mean alone, so it is taken to have the same share of each inference: 0 if it
    was left out in the end, or took no microsecond.
    """

    kind: str
    primitive: str
    origins: list[str]
    share: float


def runtime_rows(
    nodes: Sequence[Node], workload: Workload, whole_s: Sequence[float]
) -> tuple[list[RuntimeRow], tuple[Layer, ...]]:
    """A row for each node that took time or alone serves a layer, and the layers of the network.

    Args:
        nodes: What OpenVINO executes, in order.
        workload: The network.
        whole_s: Seconds of each profiled inference.
    """
    model = load(workload.onnx)
    network = layers(model)
    writers = made_by(model, network)
    node_names = {name for layer in network for name in layer.nodes}

    def layers_of(node: Node) -> tuple[str, ...]:
        # OpenVINO calls a node as ONNX does, with what it made of it behind (`conv/WithoutBiases`),
        # or after the tensor it writes.
        made_of = []
        for origin in node.origins:
            known = [name for name in (origin, origin.rpartition("/")[0]) if name in node_names]
            if not known and origin in writers:
                known = [writers[origin].name]
            made_of += known[:1]
        return layers_served(made_of, network)

    timed = {name for node in nodes if node.share for name in layers_of(node)}
    rows = []
    for node in nodes:
        serves = layers_of(node)
        if node.share or not timed.issuperset(serves):
            samples_s = tuple(node.share * value_s for value_s in whole_s)
            rows.append(RuntimeRow(node.kind, node.primitive, samples_s, serves))
    return rows, network
