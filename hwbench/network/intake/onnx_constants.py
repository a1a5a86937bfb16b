"""Constant folding: what an ONNX graph computes from constants and fixed shapes is computed once.

Exporters leave chains such as Shape - Gather - Concat - Reshape, or the padding of a Pad put
together from pieces. Runtimes evaluate them when they load the model; shape inference alone does
not get through them, so without folding some shapes would stay unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import WorkloadError
from hwbench.network.graph.shapes import count_output
from hwbench.network.weight_files import is_external

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

MAX_ELEMENTS = 4096
"""Shapes and paddings are small; larger constants (weights) are left for the runtime."""

_FOLDABLE = {
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Div", "Equal",
    "Expand", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual",
    "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceSum", "Relu", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Transpose",
    "Unsqueeze", "Where", "Xor",
}  # fmt: skip
MAX_FOLDED_BYTES = 64 << 20
"""Bytes of all constants that folding may make; arithmetic on shapes makes thousands."""
_ROUNDS = 8
"""How often folding is repeated; a round opens the shapes up to the next reshape that needs one."""


def fold_constants(model: ModelProto) -> None:
    """Replace nodes that depend only on constants and fixed shapes by initializers, in place.

    Args:
        model: A model with fixed input shapes and without subgraphs, its constants in initializers.

    Raises:
        WorkloadError: It computes more than `MAX_FOLDED_BYTES` from constants.
    """
    import onnx

    made_bytes = 0
    for _ in range(_ROUNDS):
        shapes: dict[str, tuple[int, ...]] = {}
        if any(node.op_type in {"Shape", "Size"} for node in model.graph.node):
            shapes = infer_fixed_shapes(model)
        values = {}
        for tensor in model.graph.initializer:
            is_small = math.prod(tensor.dims) <= MAX_ELEMENTS and not is_external(tensor)
            if is_small and tensor.data_type != onnx.TensorProto.STRING:
                values[tensor.name] = onnx.numpy_helper.to_array(tensor)
        versions = {entry.domain: entry.version for entry in model.opset_import}
        outputs = {value.name for value in model.graph.output}
        folded = []
        for index, node in enumerate(model.graph.node):
            if not node.output or node.output[0] in outputs:
                continue
            value = _evaluate(node, values, shapes, versions)
            if value is not None:
                made_bytes += value.nbytes
                if made_bytes > MAX_FOLDED_BYTES:
                    raise WorkloadError(
                        f"the model computes over {MAX_FOLDED_BYTES >> 20} MiB from constants;"
                        " export it with its constants folded"
                    )
                values[node.output[0]] = value
                model.graph.initializer.append(onnx.numpy_helper.from_array(value, node.output[0]))
                folded.append(index)
        for index in reversed(folded):
            del model.graph.node[index]
        if not (folded and shapes):
            return


def infer_fixed_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Infer the shapes of a graph and give those that are fixed, by name of the tensor."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return {}
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(
            dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims
        ):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _evaluate(
    node: NodeProto,
    values: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
    versions: Mapping[str, int],
) -> NDArray[Any] | None:
    """Compute the one output of a node; None if it is large or depends on anything unknown."""
    from onnx.reference import ReferenceEvaluator

    if node.op_type not in _FOLDABLE or node.domain or len(node.output) != 1:
        return None
    if node.op_type in {"Shape", "Size"} and node.input[0] in shapes:
        # Only the shape of the input matters, so an empty array of it will do, unless it is huge.
        shape = shapes[node.input[0]]
        if math.prod(shape) >= 1 << 28:
            return None
        feed = {node.input[0]: np.empty(shape, np.bool_)}
    else:
        feed = {name: values[name] for name in node.input if name in values}
    if set(feed) != {name for name in node.input if name}:
        return None
    try:
        if node.op_type not in {"Shape", "Size"} and count_output(node, feed) > MAX_ELEMENTS:
            return None
        results: Any = ReferenceEvaluator(node, opsets=dict(versions)).run(None, feed)
        value = np.asarray(results[0])
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        return None  # the runtime will say what is wrong with it
    return value if value.size <= MAX_ELEMENTS else None
