"""What a well-formed ONNX model asks of whoever runs it, bounded before anyone does.

A file of 33 kB may hold four vectors whose broadcast product has 4 G elements, and runtimes compute
such constants while they load a model. A window may be wider than anything it slides over, which
some of them meet with an overflow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hwbench.errors import SchemaError
from hwbench.network.graph.view import GraphView

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_WINDOWS = {"AveragePool", "Conv", "ConvInteger", "LpPool", "MaxPool", "QLinearConv"}
"""Operators that slide a window over their first input."""
_WEIGHTS_AT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Which input has the shape of the window, where no attribute says it."""


def check_windows(model: ModelProto, name: str) -> None:
    """Check that every window fits into the padded input that it slides over.

    Args:
        model: The model, its shapes inferred.
        name: The name of the file, for messages.

    Raises:
        SchemaError: One does not: the network cannot run.
    """
    view = GraphView(model)
    for node in view.nodes:
        if node.op_type not in _WINDOWS:
            continue
        shape = view.fixed_shape(node.input[0])
        widths = _measure_windows(view, node)
        if shape is None or widths is None or len(shape) != len(widths) + 2:
            continue
        pads = _read_integers(node, "pads") or [0] * (2 * len(widths))
        if len(pads) != 2 * len(widths):
            continue
        for axis, width in enumerate(widths):
            room = shape[axis + 2] + pads[axis] + pads[axis + len(widths)]
            if width > room:
                raise SchemaError(
                    f"{name}: the window of {node.op_type} {node.name!r} spans {width} where its"
                    f" padded input has {room}; export it anew"
                )


def count_bytes(model: ModelProto) -> int:
    """Count the bytes of everything that runtimes may hold of a model at once, at the least.

    That is all constants, those included that are computed while the model is loaded, and the
    largest tensor of an inference. Tensors of unknown shapes are not counted.

    Args:
        model: The model, its shapes inferred.
    """
    view = GraphView(model)
    constants = 0
    largest = 0
    for node in view.nodes:
        for output in node.output:
            size = _count_tensor_bytes(view, output)
            if view.is_constant(output):
                constants += size
            else:
                largest = max(largest, size)
    return constants + largest


def _count_tensor_bytes(view: GraphView, tensor: str) -> int:
    import onnx

    shape = view.fixed_shape(tensor)
    if shape is None:
        return 0
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(view.element_type(tensor)).itemsize
    except KeyError:
        return 0  # no tensor of numbers
    return math.prod(max(0, dim) for dim in shape) * width


def _measure_windows(view: GraphView, node: NodeProto) -> list[int] | None:
    """Measure what a window spans along each axis; None where padding makes it fit anyway."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "auto_pad" in attributes and attributes["auto_pad"].s not in {b"NOTSET", b"VALID"}:
        return None
    kernel = _read_integers(node, "kernel_shape")
    if not kernel and node.op_type in _WEIGHTS_AT:
        position = _WEIGHTS_AT[node.op_type]
        weights = view.fixed_shape(node.input[position]) if position < len(node.input) else None
        kernel = list(weights[2:]) if weights else []
    dilations = _read_integers(node, "dilations") or [1] * len(kernel)
    if len(dilations) != len(kernel):
        return None
    spans = []
    for width, dilation in zip(kernel, dilations, strict=True):
        spans.append((width - 1) * dilation + 1)
    return spans


def _read_integers(node: Any, name: str) -> list[int]:
    for attribute in node.attribute:
        if attribute.name == name:
            return list(attribute.ints)
    return []
