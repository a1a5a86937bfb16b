"""An ONNX model as a torch module that computes the same, node for node, so that torch runs exactly the workload's network.

The graph becomes a `torch.fx.GraphModule` of plain torch functions: eager mode runs them one by
one, torch.compile traces them. Nothing is fused, converted or approximated here; an operator that
is not known (`_torch_ops`) is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwbench.errors import UnsupportedLayerError
from hwbench.network.graph import Layer, layers, load, name_nodes
from hwbench.network.graph.view import GraphView, attributes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import NodeProto
    from torch import Tensor, fx

_BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True)
class TorchNet:
    """A network in torch.

    Attributes:
        module: Takes the model's inputs in order, returns a tuple of its outputs. In eval mode, on
            the CPU.
        layers: Its layers in an order in which they can run.
        steps: For each layer the names of its nodes in `module.graph`; together they are all that
            compute.
    """

    module: fx.GraphModule
    layers: tuple[Layer, ...]
    steps: tuple[tuple[str, ...], ...]


def to_torch(onnx: bytes) -> TorchNet:
    """Build the network of a self-contained ONNX model.

    Raises:
        WorkloadError: It is no valid ONNX model.
        UnsupportedLayerError: It has an operator, or a form of one, without counterpart here.
    """
    model = name_nodes(load(onnx))
    view, parts = GraphView(model), layers(model)
    emitter = Emitter(view)
    for index in view.active:
        emitter.node(view.nodes[index])
    module = emitter.finish([value.name for value in model.graph.output])
    steps = tuple(
        tuple(made.name for node in layer.nodes for made in emitter.made.get(node, ()))
        for layer in parts
    )
    return TorchNet(module, parts, steps)


class Emitter:
    """Writes a torch graph: operators ask it for their operands and tell it which torch function computes them."""

    def __init__(self, view: GraphView) -> None:
        from torch import fx, nn

        self.view, self.graph, self._root = view, fx.Graph(), nn.Module()
        self.made: dict[str, list[fx.Node]] = {}
        """What computes each ONNX node, by its name."""
        self._values: dict[str, fx.Node] = {}
        self._current: list[fx.Node] = []
        for name in view.inputs:
            self._values[name] = self.graph.placeholder(f"input{len(self._values)}")

    def node(self, node: NodeProto) -> None:
        """Emit one ONNX node.

        Raises:
            UnsupportedLayerError: It is unknown, or used in a way that is.
        """
        from hwbench.devices.nvidia.torch_ops import OPERATORS

        operator = OPERATORS.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        if operator is None:
            raise UnsupportedLayerError(
                f"layer {node.name!r} is {node.op_type}, which hwbench does not run in torch; "
                "measure it with TensorRT or on the CPU (--device)"
            )
        self._current = self.made.setdefault(node.name, [])
        found = operator(Operands(self, node))
        outputs = found if isinstance(found, list) else [found]
        self._values.update(zip(node.output, outputs, strict=False))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A call of a torch function as part of the node that is being emitted."""
        self._current.append(self.graph.call_function(function, args, kwargs))
        return self._current[-1]

    def tensor(self, name: str) -> fx.Node:
        """A tensor of the model: computed before, an input, or a constant, which becomes a buffer of the module."""
        name = self.view.resolve(name)
        if name not in self._values:
            place = f"constant{len(self._values)}"
            self._root.register_buffer(place, _to_tensor(self.constant(name)))
            self._values[name] = self.graph.get_attr(place)
        return self._values[name]

    def constant(self, name: str) -> NDArray[Any]:
        """Value of a constant, computed from others where it has to be."""
        value = self.view.value(name)
        return self._computed(name) if value is None else value

    def finish(self, outputs: Iterable[str]) -> fx.GraphModule:
        """The module that returns these tensors."""
        from torch import fx

        self.graph.output(tuple(self.tensor(name) for name in outputs))
        return fx.GraphModule(self._root, self.graph, "OnnxNetwork").eval()

    def _computed(self, name: str) -> NDArray[Any]:
        from onnx.reference import ReferenceEvaluator

        maker = self.view.maker(name)
        if maker is None or len(maker.output) != 1:
            raise UnsupportedLayerError(
                f"tensor {name!r} has no value before the first inference; expected a constant"
            )
        feeds = {source: self.constant(source) for source in maker.input if source}
        outputs: Any = ReferenceEvaluator(maker, opsets={"": self.view.opset}).run(None, feeds)
        found: NDArray[Any] = outputs[0]
        return found


class Operands:
    """One ONNX node as its operator sees it."""

    def __init__(self, emitter: Emitter, node: NodeProto) -> None:
        self.emitter, self.view, self.proto = emitter, emitter.view, node
        self.attrs = attributes(node)
        self.call = emitter.call

    def __len__(self) -> int:
        return len(self.proto.input)

    def given(self, position: int) -> bool:
        """Whether an optional input is there."""
        return position < len(self) and bool(self.proto.input[position])

    def tensor(self, position: int) -> fx.Node:
        """An input as a tensor."""
        return self.emitter.tensor(self.proto.input[position])

    def optional(self, position: int) -> fx.Node | None:
        """An input as a tensor; None if it is left out."""
        return self.tensor(position) if self.given(position) else None

    def value(self, position: int, default: Any = None) -> Any:
        """An input that must be known beforehand, as a number or list."""
        if not self.given(position):
            return default
        name = self.proto.input[position]
        if not self.view.is_constant(name):
            raise self.refusal(f"input {position} is computed at run time, expected a constant")
        return self.emitter.constant(name).tolist()

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """Shape of an input."""
        return self.view.shape(self.proto.input[position])

    def refusal(self, why: str) -> UnsupportedLayerError:
        """The error for a use of the operator that is not known."""
        name, kind = self.proto.name, self.proto.op_type
        return UnsupportedLayerError(
            f"layer {name!r}: hwbench does not run this {kind} in torch: {why}; measure with"
            " TensorRT"
        )


def _to_tensor(value: NDArray[np.generic]) -> Tensor:
    import numpy as np
    import torch

    if (
        value.dtype.name == _BFLOAT16
    ):  # numpy has no such type of its own, so torch does not take it
        return torch.from_numpy(np.array(value).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(value))
