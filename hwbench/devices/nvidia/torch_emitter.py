"""Writing a torch graph node by node: the graph being written, and one ONNX node as its operator sees it."""

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
"""Writes what computes one ONNX node; a list where the node has several outputs."""
_BFLOAT16 = "bfloat16"


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

    def emit(self, node: NodeProto, operator: Operator) -> None:
        """Write one ONNX node with the function that knows its operator.

        Raises:
            UnsupportedLayerError: The node uses the operator in a way that is not known.
        """
        self._current = self.made.setdefault(node.name, [])
        result = operator(Operands(self, node))
        outputs = result if isinstance(result, list) else [result]
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
        value: NDArray[Any] = outputs[0]
        return value


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
