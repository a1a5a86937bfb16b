"""An ONNX model as a torch module that computes the same, node for node.

So torch runs exactly the workload's network. The graph becomes a `torch.fx.GraphModule` of plain
torch functions: eager mode runs them one by one, torch.compile traces them. Nothing is fused,
converted or approximated here; an operator that is not known (`operators`) is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import UnsupportedLayerError
from hwbench.network.graph import Layer, layers, load
from hwbench.network.graph.view import GraphView
from hwbench.network.torch_graph.emitter import Emitter

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True, slots=True)
class TorchNet:
    """A network in torch.

    Attributes:
        module: Takes the model's inputs in order and returns a tuple of its outputs. It is in eval
            mode, on the CPU.
        layers: The layers of the network in an order in which they can run.
        steps: For each layer the names of its nodes in `module.graph`. Together these are all nodes
            that compute.
        origins: The ONNX node that each of these nodes is of.
    """

    module: fx.GraphModule
    layers: tuple[Layer, ...]
    steps: tuple[tuple[str, ...], ...]
    origins: dict[str, str]


def to_torch(onnx: bytes) -> TorchNet:
    """Build the network of a self-contained ONNX model.

    Raises:
        WorkloadError: It is no valid ONNX model.
        UnsupportedLayerError: It has an operator, or a form of one, without counterpart here.
    """
    from hwbench.network.torch_graph.operators import OPERATORS  # which imports torch

    model = load(onnx)
    view, network_layers = GraphView(model), layers(model)
    emitter = Emitter(view)
    for index in view.active:
        node = view.nodes[index]
        operator = OPERATORS.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        if operator is None:
            raise UnsupportedLayerError(
                f"layer {node.name!r} is {node.op_type}, which hwbench does not run in torch;"
                " measure it with TensorRT or on the CPU"
            )
        emitter.emit(node, operator)
    module = emitter.finish([value.name for value in model.graph.output])
    steps = []
    for layer in network_layers:
        names: list[str] = []
        for node_name in layer.nodes:
            names += [step.name for step in emitter.torch_nodes.get(node_name, ())]
        steps.append(tuple(names))
    origins = {step.name: name for name, nodes in emitter.torch_nodes.items() for step in nodes}
    return TorchNet(module, network_layers, tuple(steps), origins)
