"""Shapes of all tensors of an ONNX model, without copying its weights around."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.network.graph.view import subgraphs
from hwbench.network.weight_files import CHECKSUM, count_bytes, is_external, read_entries

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_LARGE = 1024
"""Elements from which a constant is a weight.

Shape inference needs the values of smaller ones only (axes, shapes).
"""
_FEW = 16
_BROADCAST = {
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Sub",
    "Where",
    "Xor",
}
_ARITHMETIC = frozenset(
    {
        "Constant",
        "ConstantOfShape",
        "Identity",
        "Cast",
        "Gather",
        "Concat",
        "Slice",
        "Reshape",
        "Transpose",
        "Squeeze",
    }
    | {
        "Unsqueeze",
        "Abs",
        "Ceil",
        "Clip",
        "Floor",
        "Neg",
        "Not",
        "Range",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Relu",
    }
    | _BROADCAST
)
"""What exporters compute shapes with; none of them makes a large tensor out of small ones."""


RUNTIME_SHAPES = "hwbench.runtime_shapes"
"""Key of the metadata that holds the shapes that only a run of the runtime told, as JSON.

They are no part of the graph, as they may depend on the values of that run: a runtime would plan
its memory by them.
"""


def infer_shapes(model: ModelProto) -> None:
    """Check a model and write the shapes of all its tensors into it.

    Its arithmetic on shapes is replaced by constants.

    ONNX's own checker and shape inference copy the whole model several times (10 s for VGG-16);
    here they see its weights as inputs, which gives the same shapes. Where exporters compute a
    shape from constants or from fixed shapes (views, padding, interpolation), inference gives up;
    so these nodes are evaluated and replaced by what they compute, as runtimes do at load.

    A model with `RUNTIME_SHAPES` breaks rules that its runtime does not insist on, or has operators
    that ONNX does not know. It is not checked, and has these shapes; `drop_runtime_shapes` takes
    them out again.

    Raises:
        onnx.checker.ValidationError: The model breaks the ONNX specification.
        onnx.shape_inference.InferenceError: Its shapes contradict each other.
        ValueError: A weight has more or fewer bytes than its shape needs, is of no type of ONNX, or
            lies in another file and intake has not noted what that holds.
    """
    shapes = _read_runtime_shapes(model)
    marked = shapes is not None
    if shapes:
        _add_shapes(model.graph, shapes)
    _infer(model, trusted=marked)
    while _fold(model):
        _infer(model, trusted=marked)


def drop_runtime_shapes(model: ModelProto) -> None:
    """Take the shapes out of a graph, in place, that only a run of the runtime told."""
    names = _read_runtime_shapes(model) or {}
    graph = model.graph
    kept = [value for value in graph.value_info if value.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    _drop_body_shapes(graph)
    for value in graph.output:
        if value.name in names:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()


def _drop_body_shapes(graph: GraphProto) -> None:
    """Drop the shapes inside bodies of control flow, which were inferred, or told by a run."""
    for node in graph.node:
        for body in subgraphs(node):
            del body.value_info[:]
            _drop_body_shapes(body)


def _read_runtime_shapes(model: ModelProto) -> dict[str, tuple[int, list[int]]] | None:
    """Read the shapes that a run told: element type and sizes by tensor; None without any mark."""
    for entry in model.metadata_props:
        if entry.key == RUNTIME_SHAPES:
            return {name: (kind, sizes) for name, kind, sizes in json.loads(entry.value)}
    return None


def _add_shapes(graph: GraphProto, shapes: Mapping[str, tuple[int, Sequence[int]]]) -> None:
    """Write shapes into a graph, in place, for tensors that have none."""
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    for name, (element_type, sizes) in shapes.items():
        value = values.get(name)
        if value is None:
            value = graph.value_info.add()
            value.name = name
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            tensor.elem_type = element_type
        tensor.shape.Clear()
        tensor.shape.SetInParent()
        for size in sizes:
            tensor.shape.dim.add().dim_value = size


def _infer(model: ModelProto, *, trusted: bool) -> None:
    import onnx

    graph = model.graph
    skeleton = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    skeleton.graph.MergeFrom(
        onnx.GraphProto(name=graph.name, node=graph.node, input=graph.input, output=graph.output)
    )
    skeleton.graph.value_info.extend(graph.value_info)
    declared = {value.name for value in graph.input}
    known_types = set(onnx.helper.get_all_tensor_dtypes())
    for tensor in graph.initializer:
        in_file = is_external(tensor)
        if in_file and CHECKSUM not in read_entries(tensor):
            raise ValueError(
                f"weight {tensor.name!r} lies in another file, so load the model from its path"
            )
        if tensor.data_type not in known_types:
            raise ValueError(f"weight {tensor.name!r} is of an unknown type {tensor.data_type}")
        if not in_file and (math.prod(tensor.dims) < _LARGE or not tensor.HasField("raw_data")):
            skeleton.graph.initializer.append(tensor)
            continue
        if not in_file:
            _check_size(tensor)
        if tensor.name not in declared:
            shape = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            skeleton.graph.input.append(shape)
    if trusted:
        _infer_more(graph, skeleton)
        return
    inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred)
    del graph.value_info[:], graph.output[:]
    graph.value_info.extend(inferred.graph.value_info)
    graph.output.extend(inferred.graph.output)
    for node, inferred_node in zip(graph.node, inferred.graph.node, strict=True):
        if any(True for _ in subgraphs(node)):
            node.CopyFrom(inferred_node)


def _infer_more(graph: GraphProto, skeleton: ModelProto) -> None:
    """Add the shapes that inference finds to those that a graph holds, which stay as they are.

    Args:
        graph: The graph; it is changed.
        skeleton: The same without large weights.
    """
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return
    held = {value.name for value in (*graph.value_info, *graph.output)}
    for value in inferred.value_info:
        if value.name not in held:
            graph.value_info.append(value)


def _check_size(tensor: TensorProto) -> None:
    expected, found = count_bytes(tensor, math.prod(tensor.dims)), len(tensor.raw_data)
    if found != expected:
        shape = "x".join(map(str, tensor.dims))
        raise ValueError(
            f"weight {tensor.name!r} has {found} bytes where its shape {shape} needs {expected}"
        )


def _fold(model: ModelProto) -> bool:
    """Replace nodes whose value is known by constants; whether there were any."""
    from onnx import numpy_helper

    graph = model.graph
    shapes = _fixed_shapes(graph)
    known = {
        t.name: numpy_helper.to_array(t)
        for t in graph.initializer
        if math.prod(t.dims) < _LARGE and not is_external(t)
    }
    outputs = {value.name for value in graph.output}
    left, folded = [], 0
    for node in graph.node:
        value = None if outputs.intersection(node.output) else _value(model, node, known, shapes)
        if (
            value is None
            or value.size >= _LARGE
            or (value.dtype.kind not in "iub" and value.size > _FEW)
        ):
            left.append(node)
            continue
        known[node.output[0]] = value
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        folded += 1
    if folded:
        del graph.node[:]
        graph.node.extend(left)
    return folded > 0


def _fixed_shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(
            dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims
        ):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _value(
    model: ModelProto,
    node: NodeProto,
    known: dict[str, NDArray[Any]],
    shapes: dict[str, tuple[int, ...]],
) -> NDArray[Any] | None:
    """What the node computes, if that is a small constant; None if it is not, or cannot be told."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    if node.domain or len(node.output) != 1:
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        given = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(shapes[node.input[0]], np.int64)[given.get("start", 0) : given.get("end")]
    if node.op_type not in _ARITHMETIC or any(name and name not in known for name in node.input):
        return None
    inputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name]
    graph = onnx.GraphProto(
        name="constant",
        node=[node],
        input=inputs,
        output=[onnx.ValueInfoProto(name=node.output[0])],
    )
    alone = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, graph=graph
    )
    try:
        if count_output(node, known) >= _LARGE:
            return None
        with np.errstate(all="ignore"):
            (value,) = ReferenceEvaluator(alone).run(
                None, {value.name: known[value.name] for value in inputs}
            )
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None  # a node that contradicts itself is the runtime's to refuse
    return np.asarray(value)


def count_output(node: NodeProto, values: Mapping[str, NDArray[Any]]) -> int:
    """Count the elements that a node of arithmetic on shapes would make, without making them.

    A small file may ask for huge constants, so what a node makes is bounded before it is computed.

    Args:
        node: A node of any operator that hwbench evaluates.
        values: The values of all its inputs.

    Returns:
        An upper bound.

    Raises:
        ValueError: The shapes of its inputs do not fit together.
    """
    inputs = [values[name] for name in node.input if name]
    count = inputs[0].size if inputs else 0  # what most operators make
    if node.op_type == "ConstantOfShape" and inputs:
        # A size of 0 counts as 1, which runs into no bound.
        count = math.prod(max(int(size), 1) for size in inputs[0].ravel())
    elif node.op_type == "Expand" and len(inputs) > 1:
        asked = tuple(max(int(size), 1) for size in inputs[1].ravel())
        count = _count_broadcast([inputs[0].shape, asked])
    elif node.op_type == "Range" and len(inputs) == 3:
        start, limit, delta = (float(value.reshape(())) for value in inputs)
        count = max(0, math.ceil((limit - start) / delta))
    elif node.op_type in _BROADCAST:
        count = _count_broadcast([value.shape for value in inputs])
    elif node.op_type == "Concat":
        count = sum(value.size for value in inputs)
    elif node.op_type == "Gather" and len(inputs) > 1:
        # Each index takes at most all that lies beside the gathered axis.
        shortest = min(inputs[0].shape, default=1)
        count = inputs[0].size * inputs[1].size // max(shortest, 1)
    return count


def _count_broadcast(shapes: Sequence[tuple[int, ...]]) -> int:
    """Count the elements of what arrays are broadcast to.

    Raises:
        ValueError: They do not fit together.
    """
    elements = 1
    for sizes in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        others = set(sizes) - {1}
        if len(others) > 1:
            raise ValueError(f"sizes {sizes} do not broadcast")
        elements *= max(others, default=1)
    return elements
