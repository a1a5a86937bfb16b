"""Writing a torch graph node by node.

The graph that is being written, and one ONNX node as the function for its operator sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hwbench.errors import UnsupportedLayerError
from hwbench.network.graph.view import GraphView, attributes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import NodeProto
    from torch import Tensor, fx

Operator = Callable[["Operands"], "fx.Node | list[fx.Node]"]
"""Writes what computes one ONNX node, and returns it; a list if the node has several outputs."""
_BFLOAT16 = "bfloat16"


class Emitter:
    """Writes a torch graph.

    Operators get their operands from it, and call the torch functions that compute them.

    Args:
        view: The ONNX graph.
    """

    def __init__(self, view: GraphView) -> None:
        from torch import fx, nn

        self.view = view
        self.graph = fx.Graph()
        self._root = nn.Module()
        self.torch_nodes: dict[str, list[fx.Node]] = {}
        """The nodes that compute each ONNX node, by its name."""
        self._values: dict[str, fx.Node] = {}
        self._current: list[fx.Node] = []
        for name in view.inputs:
            self._values[name] = self.graph.placeholder(f"input{len(self._values)}")

    def emit(self, node: NodeProto, operator: Operator) -> None:
        """Write one ONNX node with the function for its operator.

        Raises:
            UnsupportedLayerError: The node uses the operator in a way that is not supported.
        """
        self._current = self.torch_nodes.setdefault(node.name, [])
        result = operator(Operands(self, node))
        outputs = result if isinstance(result, list) else [result]
        self._values.update(zip(node.output, outputs, strict=False))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Call a torch function as part of the node that is being emitted."""
        self._current.append(self.graph.call_function(function, args, kwargs))
        return self._current[-1]

    def tensor(self, name: str) -> fx.Node:
        """Return a tensor of the model: one computed before, an input, or a constant.

        A constant becomes a buffer of the module.
        """
        name = self.view.resolve(name)
        if name not in self._values:
            place = f"constant{len(self._values)}"
            self._root.register_buffer(place, _to_tensor(self.constant(name)))
            self._values[name] = self.graph.get_attr(place)
        return self._values[name]

    def constant(self, name: str) -> NDArray[Any]:
        """Return the value of a constant, which may have to be computed from others."""
        value = self.view.value(name)
        return self._compute_constant(name) if value is None else value

    def finish(self, outputs: Iterable[str]) -> fx.GraphModule:
        """Make the module that returns these tensors."""
        from torch import fx

        self.graph.output(tuple(self.tensor(name) for name in outputs))
        return fx.GraphModule(self._root, self.graph, "OnnxNetwork").eval()

    def _compute_constant(self, name: str) -> NDArray[Any]:
        """Compute a tensor that depends on constants alone, by ONNX's reference implementation."""
        from onnx.reference import ReferenceEvaluator

        maker = self.view.maker(name)
        if maker is None or len(maker.output) != 1:
            raise UnsupportedLayerError(
                f"tensor {name!r} has no value before the first inference; expected a constant"
            )
        feeds = {source: self.constant(source) for source in maker.input if source}
        outputs: Any = ReferenceEvaluator(maker, opsets={"": self.view.opset}).run(None, feeds)
        value: NDArray[Any] = outputs[0]
        return value


class Operands:
    """One ONNX node as the function for its operator sees it.

    Args:
        emitter: The graph that is being written.
        node: The ONNX node.
    """

    def __init__(self, emitter: Emitter, node: NodeProto) -> None:
        self.emitter = emitter
        self.view = emitter.view
        self.proto = node
        self.attrs = attributes(node)
        self.call = emitter.call

    def __len__(self) -> int:
        return len(self.proto.input)

    def has_input(self, position: int) -> bool:
        """Tell whether an optional input is there."""
        return position < len(self) and bool(self.proto.input[position])

    def tensor(self, position: int) -> fx.Node:
        """Return an input as a tensor."""
        return self.emitter.tensor(self.proto.input[position])

    def optional_tensor(self, position: int) -> fx.Node | None:
        """Return an input as a tensor; None if it is left out."""
        return self.tensor(position) if self.has_input(position) else None

    def value(self, position: int, default: Any = None) -> Any:
        """Return an input that must be a constant, as a number or list.

        Args:
            position: Position of the input.
            default: What to return if the input is left out.
        """
        if not self.has_input(position):
            return default
        name = self.proto.input[position]
        if not self.view.is_constant(name):
            raise self.refusal(f"input {position} is computed at run time, expected a constant")
        return self.emitter.constant(name).tolist()

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """Return the shape of an input."""
        return self.view.shape(self.proto.input[position])

    def refusal(self, why: str) -> UnsupportedLayerError:
        """Make the error for a use of the operator that is not supported."""
        name, kind = self.proto.name, self.proto.op_type
        return UnsupportedLayerError(
            f"layer {name!r}: hwbench does not run this {kind} in torch: {why}; measure with"
            " TensorRT"
        )


def _to_tensor(value: NDArray[np.generic]) -> Tensor:
    import numpy as np
    import torch

    # NumPy has no such type of its own, so torch takes only its bits.
    if value.dtype.name == _BFLOAT16:
        return torch.from_numpy(np.array(value).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(value))
