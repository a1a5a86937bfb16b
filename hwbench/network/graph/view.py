"""Read-only facts about an ONNX graph that every room above asks for.

They are shapes, constants, and who writes and who reads a tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import Argument, UnsupportedLayerError
from hwbench.network.weight_files import is_external
from hwbench.records.tensors import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

PASS_THROUGH = frozenset({"Identity", "Dropout"})
"""Operators that hand their first input on unchanged at inference."""
_SHAPE_READERS = frozenset({"Shape", "Size"})
DRAWN = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"}
    | {"RandomUniform", "RandomUniformLike"}
)
"""Operators that give other values at every inference."""


class GraphView:
    """Facts about one graph whose shapes have been inferred.

    Nodes that need no activation (constants, what is computed from them, shapes of tensors of fixed
    shape) are *folded*: a runtime evaluates them once at load. `Identity` and `Dropout` are
    *aliases*: they cost nothing, and their outputs stand for their inputs in everything this class
    answers.

    Args:
        model: A model from `hwbench.network.graph.load`; it is neither copied nor changed.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes = tuple(graph.node)
        self.opset = next(
            (entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 1
        )
        self.initializers: dict[str, TensorProto] = {
            tensor.name: tensor for tensor in graph.initializer
        }
        self._types = _types(model)
        self._no_tensors = _name_other_types(model)
        self._alias: dict[str, str] = {}
        self._maker: dict[str, int] = {}
        self._folded: set[str] = set(self.initializers)
        self.active: list[int] = []
        readers: defaultdict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            self._maker.update((name, index) for name in node.output if name)
            sources = [self.resolve(name) for name in reads(node)]
            if self._is_folded(node, sources):
                self._folded.update(node.output)
            elif node.op_type in PASS_THROUGH and sources and first_output(node):
                self._alias[first_output(node)] = sources[0]
            else:
                self.active.append(index)
                for name in dict.fromkeys(sources):
                    readers[name].append(index)
        self._readers = dict(readers)
        self.inputs = tuple(
            value.name for value in graph.input if value.name not in self.initializers
        )
        self.outputs = frozenset(self.resolve(value.name) for value in graph.output)

    def _is_folded(self, node: NodeProto, reads: list[str]) -> bool:
        if node.op_type in _SHAPE_READERS and reads:
            return self.fixed_shape(node.input[0]) is not None or reads[0] in self._folded
        if node.op_type in DRAWN or any(True for _ in subgraphs(node)):
            return False
        if not self._no_tensors.isdisjoint(node.output):
            return False  # a runtime keeps tensors alone, no sequences
        return all(name in self._folded for name in reads)

    def resolve(self, name: str) -> str:
        """The tensor that `name` stands for, behind identities."""
        return self._alias.get(name, name)

    def is_constant(self, name: str) -> bool:
        """Whether the tensor is known before the first inference."""
        return self.resolve(name) in self._folded

    def activations(self, node: NodeProto) -> list[str]:
        """Inputs of `node` that are not constants, behind identities, in order."""
        return [self.resolve(name) for name in node.input if name and not self.is_constant(name)]

    def maker(self, name: str) -> NodeProto | None:
        """The node that writes the tensor, or None for graph inputs and initializers."""
        index = self.maker_index(name)
        return None if index is None else self.nodes[index]

    def maker_index(self, name: str) -> int | None:
        """The index of the node that writes the tensor, or None as `maker`."""
        return self._maker.get(self.resolve(name))

    def readers(self, name: str) -> list[int]:
        """Indices of the nodes that read the tensor during an inference."""
        return self._readers.get(self.resolve(name), [])

    def is_private(self, name: str) -> bool:
        """Whether the tensor may vanish in a fusion.

        It may if exactly one node reads it and it is no output of the graph.
        """
        return len(self.readers(name)) == 1 and self.resolve(name) not in self.outputs

    def fixed_shape(self, name: str) -> Shape | None:
        """Shape of the tensor, or None where it is unknown or has a dimension that is not fixed."""
        shape = self._types.get(name, (0, None))[1]
        return (
            None
            if shape is None or None in shape
            else tuple(int(dim) for dim in shape if dim is not None)
        )

    def is_no_tensor(self, name: str) -> bool:
        """Whether it is a sequence, an optional or a map, which have no shape."""
        return name in self._no_tensors

    def shape(self, name: str) -> Shape:
        """Shape of the tensor.

        Raises:
            UnsupportedLayerError: It is unknown, or a dimension is not fixed.
        """
        shape = self.fixed_shape(name)
        if shape is None:
            known = self._types.get(name, (0, None))[1]
            text = (
                "unknown"
                if known is None
                else "x".join("?" if dim is None else str(dim) for dim in known)
            )
            raise UnsupportedLayerError(
                f"tensor {name!r} has shape {text}, expected fixed dimensions; export the model"
                " with fixed ones",
                Argument("inputs", purpose="fix the shapes of its inputs"),
            )
        return shape

    def element_type(self, name: str) -> int:
        """`onnx.TensorProto.DataType` of the tensor, 0 where unknown."""
        return self._types.get(name, (0, None))[0]

    def value(self, name: str) -> NDArray[Any] | None:
        """Value of an initializer or of a Constant node's output; None for anything else.

        Also None for a weight that stays in another file, which is too large to be looked at.
        """
        from onnx import numpy_helper

        name = self.resolve(name)
        if name in self.initializers:
            tensor = self.initializers[name]
            return None if is_external(tensor) else numpy_helper.to_array(tensor)
        maker = self.maker(name)
        if maker is None or maker.op_type != "Constant":
            return None
        for attribute in maker.attribute:
            if attribute.name == "value":
                return numpy_helper.to_array(attribute.t)
        content = next(iter(attributes(maker).values()))
        return None if isinstance(content, (bytes, str)) else np.asarray(content)

    def origin(self, name: str) -> str:
        """The tensor that a folded one was computed from, by first inputs.

        That is a quantised weight behind its DequantizeLinear, for instance.
        """
        name = self.resolve(name)
        maker = self.maker(name)
        if maker is None or not maker.input or maker.op_type in _SHAPE_READERS:
            return name
        return self.origin(maker.input[0])

    def elements(self, name: str) -> int:
        """Number of elements of the tensor."""
        return int(np.prod(self.shape(name), dtype=np.int64))


def first_output(node: NodeProto) -> str:
    """Name the first tensor that a node writes.

    Outputs that are left out have no name; empty if it writes none.
    """
    for name in node.output:
        if name:
            return str(name)
    return ""


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Iterate over the graphs that a node holds, as control flow does."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values (text as bytes, as ONNX keeps it)."""
    from onnx.helper import get_attribute_value

    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


def reads(node: NodeProto) -> Iterator[str]:
    """Tensors a node reads, those captured by the subgraphs of control flow included."""
    yield from filter(None, node.input)
    for graph in subgraphs(node):
        inner = {value.name for value in graph.input}
        inner.update(tensor.name for tensor in graph.initializer)
        for child in graph.node:
            inner.update(child.output)
        for child in graph.node:
            for name in reads(child):
                if name not in inner:
                    yield name
        # A branch may hand a tensor of its parent on as it is.
        for value in graph.output:
            if value.name not in inner:
                yield value.name


def _types(model: ModelProto) -> dict[str, tuple[int, tuple[int | None, ...] | None]]:
    types: dict[str, tuple[int, tuple[int | None, ...] | None]] = {}
    graph = model.graph
    for value in (*graph.value_info, *graph.output, *graph.input):
        tensor = value.type.tensor_type
        shape = None
        if tensor.HasField("shape"):
            shape = tuple(
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
                for dim in tensor.shape.dim
            )
        types[value.name] = (tensor.elem_type, shape)
    types.update(
        (tensor.name, (tensor.data_type, tuple(tensor.dims))) for tensor in graph.initializer
    )
    return types


def _name_other_types(model: ModelProto) -> set[str]:
    """Name what is no tensor in a graph: sequences, optionals, maps."""
    graph = model.graph
    names = set()
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.type.WhichOneof("value") not in {"tensor_type", None}:
            names.add(value.name)
    return names
