"""What an ONNX graph computes from constants and fixed shapes alone, computed once, so that every shape can be inferred.

Exporters leave chains such as Shape - Gather - Concat - Reshape, or the padding of a Pad put
together from pieces. Runtimes evaluate them when they load the model; shape inference alone does
not get through them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

MAX_ELEMENTS = 4096
"""Shapes and paddings are small; larger constants (weights) are left for the runtime."""

_FOLDED = {
    "Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather", "Identity", "Max", "Min",
    "Mod", "Mul", "Neg", "ReduceProd", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
_ROUNDS = 8  # each opens at most the shapes up to the next reshape that depends on one


def fold(model: ModelProto) -> None:
    """Replace nodes that depend on nothing but constants and fixed shapes by initializers, in place.

    Args:
        model: Input shapes fixed, no subgraphs, constants in initializers.
    """
    import onnx

    for _ in range(_ROUNDS):
        shapes: dict[str, tuple[int, ...]] = {}
        if any(node.op_type in {"Shape", "Size"} for node in model.graph.node):
            shapes = fixed_shapes(model)
        values = {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if math.prod(tensor.dims) <= MAX_ELEMENTS
            and tensor.data_type != onnx.TensorProto.STRING
        }
        versions = {entry.domain: entry.version for entry in model.opset_import}
        outputs = {value.name for value in model.graph.output}
        folded = []
        for index, node in enumerate(model.graph.node):
            value = None if node.output[0] in outputs else _value(node, values, shapes, versions)
            if value is not None:
                values[node.output[0]] = value
                model.graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
                folded.append(index)
        for index in reversed(folded):
            del model.graph.node[index]
        if not (folded and shapes):
            return


def fixed_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Every fixed shape of the graph, by tensor."""
    import onnx

    try:
        known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return {}
    found = {}
    for value in (*known.input, *known.value_info, *known.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _value(
    node: NodeProto,
    values: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
    versions: Mapping[str, int],
) -> NDArray[Any] | None:
    """The one output of `node`, if it is small and depends on known things only."""
    from onnx.reference import ReferenceEvaluator

    if node.op_type not in _FOLDED or node.domain or len(node.output) != 1:
        return None
    if node.op_type in {"Shape", "Size"} and node.input[0] in shapes:
        feed = (
            {node.input[0]: np.empty(shapes[node.input[0]], np.bool_)}
            if math.prod(shapes[node.input[0]]) < 1 << 28
            else {}
        )
    else:
        feed = {name: values[name] for name in node.input if name in values}
    if set(feed) != {name for name in node.input if name} or _asks_for_much(node, values):
        return None
    try:
        results: Any = ReferenceEvaluator(node, opsets=dict(versions)).run(None, feed)
        value = np.asarray(results[0])
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        return None  # the runtime will say what is wrong with it
    return value if value.size <= MAX_ELEMENTS else None


def _asks_for_much(node: NodeProto, values: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the node makes a large tensor of a small one."""
    sizes = {"ConstantOfShape": 0, "Expand": 1}
    if node.op_type not in sizes or len(node.input) <= sizes[node.op_type]:
        return False
    asked = values.get(node.input[sizes[node.op_type]], np.zeros(0))
    return math.prod(max(int(size), 1) for size in asked.ravel()) > MAX_ELEMENTS
