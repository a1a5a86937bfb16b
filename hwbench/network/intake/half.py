"""fp16 and bf16: the numbers of a model are cast in the ONNX file.

So every runtime runs the same network in that precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import WorkloadError
from hwbench.network.graph.shapes import infer_shapes
from hwbench.network.intake.onnx_files import has_subgraphs
from hwbench.records.findings import Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

HALVES = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}
"""The ONNX element type that holds each precision."""
LARGEST_FP16 = 65504.0
_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Positions of inputs that are fp32 by ONNX's operator definitions whatever the data is."""
_BOUND_INPUTS = {"Clip": (1, 2), "Pad": (2,)}
"""Positions of inputs where the largest number of a type stands for "no bound"."""


def halve(model: ModelProto, name: str, precision: str = "fp16") -> ModelProto:
    """Make a copy of an fp32 model that computes in half precision.

    Weights, inputs and outputs are cast, so that everything between them is in half precision too.

    Args:
        model: The fp32 model. It stays as it is, and the nodes of the copy keep its names.
        name: The name of the model, for messages.
        precision: `fp16` or `bf16`.

    Returns:
        The copy, with its shapes and types inferred anew.

    Raises:
        WorkloadError: A weight is too large for fp16, an operator has no form in this precision, or
            the model has control flow.
    """
    import onnx

    half = int(onnx.TensorProto.DataType.Value(HALVES[precision]))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    if model.functions or has_subgraphs(graph):
        raise WorkloadError(
            f"{name} has control flow or functions, which are not cast to {precision}; measure it"
            " in fp32"
        )
    float_tensors = _tensors_at(graph, _FLOAT_INPUTS)
    bounds = _tensors_at(graph, _BOUND_INPUTS)
    for tensor in graph.initializer:
        if tensor.name not in float_tensors:
            _cast_tensor(tensor, half, name, clip=tensor.name in bounds)
    for node in graph.node:
        if float_tensors.intersection(node.output):
            continue
        is_bound = bool(bounds.intersection(node.output))
        for attribute in node.attribute:
            _cast_attribute(attribute, node.op_type, half, name, clip=is_bound)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = half
    del graph.value_info[:]
    _check_types(result, precision, name)
    return result


def _tensors_at(graph: GraphProto, positions: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Collect the tensors that operators read at some positions of their inputs."""
    tensors = set()
    for node in graph.node:
        for position in positions.get(node.op_type, ()):
            if position < len(node.input):
                tensors.add(node.input[position])
    return tensors


def make_finding(precision: str) -> Finding:
    """Make the finding that tells a reader that a model was cast."""
    text = (
        f"weights, inputs and outputs were cast to {precision}: latency is meaningful, accuracy was"
        " not looked at"
    )
    return Finding("cast_to_half", text)


def _cast_attribute(
    attribute: AttributeProto, op: str, half: int, name: str, *, clip: bool
) -> None:
    """Cast an attribute that holds constants, or that names the type of what a node makes."""
    import onnx

    if attribute.type == onnx.AttributeProto.TENSOR:
        _cast_tensor(attribute.t, half, name, clip=clip)
    elif attribute.name in {"to", "dtype"} and attribute.i == onnx.TensorProto.FLOAT:
        attribute.i = half
    elif op == "Constant" and attribute.name in {"value_float", "value_floats"}:
        values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        tensor = onnx.numpy_helper.from_array(np.array(values, np.float32))
        _cast_tensor(tensor, half, name, clip=clip)
        attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _cast_tensor(tensor: TensorProto, half: int, name: str, *, clip: bool) -> None:
    import onnx

    if tensor.data_type != onnx.TensorProto.FLOAT:
        return
    values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    if half == onnx.TensorProto.FLOAT16:
        if clip:
            values = np.clip(values, -LARGEST_FP16, LARGEST_FP16)
        largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
        if largest > LARGEST_FP16:
            raise WorkloadError(
                f"{name}: {tensor.name or 'a constant'!r} holds {largest:.4g}, fp16 ends at"
                f" {LARGEST_FP16:g}; measure it in bf16"
            )
    kind = onnx.helper.tensor_dtype_to_np_dtype(half)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(kind), tensor.name))


def _check_types(model: ModelProto, precision: str, name: str) -> None:
    """Infer all types anew.

    An operator that does not take the precision, or would mix it with another, shows here.
    """
    import onnx

    try:
        infer_shapes(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WorkloadError(
            f"{name} cannot be cast to {precision}: {reason}; measure it in fp32"
        ) from error
