"""ONNX nodes -> LayerKeys: one spelling of every layer, whatever exporter wrote the graph.

A key holds what changes a layer's latency and nothing else. So defaults are left out, negative axes
and `auto_pad` are resolved, attributes that became inputs in a later opset (axes of a reduction)
keep one spelling, bounds of a Clip or the values of weights are dropped. Long constants that do
matter (indices of a Gather) enter as their shape and SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.network.graph.view import GraphView, attributes
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import Shape

if TYPE_CHECKING:
    from onnx import NodeProto

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
POOLS = frozenset({"AveragePool", "MaxPool", "LpPool"})
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Operators that only rename dimensions; their keys are all `Reshape`."""
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "PRelu"})
_PARAMETERS_IMPLIED = frozenset(
    {
        "BatchNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "GroupNormalization",
        "Resize",
        "Clip",
        "Concat",
        "Expand",
        "Tile",
    }
)
"""Operators whose constant inputs follow from the shapes, or do not matter.

As attributes they would make a family of every width.
"""
_GEOMETRY = frozenset({"kernel_shape", "strides", "dilations", "pads", "auto_pad"})
LONG = 16
"""Most values of a constant that a key holds one by one."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Window of a convolution or pooling; `pads` are all begins, then all ends, as in ONNX."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    def attrs(self) -> dict[str, str]:
        """As attributes of a key; dilations only where there are any."""
        dilations = (
            {"dilations": _joined(self.dilations, "x")}
            if any(size != 1 for size in self.dilations)
            else {}
        )
        window = {"kernel": _joined(self.kernel, "x"), "strides": _joined(self.strides, "x")}
        return window | {"pads": _joined(self.pads, ".")} | dilations


def is_weighted(view: GraphView, node: NodeProto) -> bool:
    """Whether the node is a convolution or linear layer with constant weights."""
    if node.op_type not in CONVOLUTIONS | {"Gemm", "MatMul"} or node.domain:
        return False
    if len(node.input) < 2:
        return False
    if view.is_constant(node.input[0]) or not view.is_constant(node.input[1]):
        return False
    if node.op_type in CONVOLUTIONS:
        return True
    shape = view.fixed_shape(node.input[1])
    return shape is not None and len(shape) == 2 and not attributes(node).get("transA", 0)


def geometry(view: GraphView, node: NodeProto) -> Geometry:
    """Window of a convolution or pooling node, with `auto_pad` resolved to explicit pads."""
    node_attrs = attributes(node)
    kernel = tuple(node_attrs.get("kernel_shape") or view.shape(node.input[1])[2:])
    strides = tuple(node_attrs.get("strides") or [1] * len(kernel))
    dilations = tuple(node_attrs.get("dilations") or [1] * len(kernel))
    pads = tuple(node_attrs.get("pads") or [0] * 2 * len(kernel))
    auto = node_attrs.get("auto_pad", b"NOTSET").decode()
    if auto.startswith("SAME"):
        reach = [
            dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)
        ]
        sizes = view.shape(node.input[0])[2:]
        if node.op_type == "ConvTranspose":
            totals = [
                max(0, window - stride) for window, stride in zip(reach, strides, strict=True)
            ]
        else:
            windows = zip(sizes, reach, strides, strict=True)
            totals = [
                max(0, (-(-size // stride) - 1) * stride + window - size)
                for size, window, stride in windows
            ]
        less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
        pads = (*less, *more) if auto == "SAME_UPPER" else (*more, *less)
    return Geometry(kernel, strides, dilations, pads)


def precision(view: GraphView, tensor: str) -> str:
    """Precision of a key, by the element type of a tensor.

    Returns:
        `fp32`, `fp16`, `bf16`, `int8`, or the ONNX name of a rarer type.
    """
    from onnx import TensorProto

    name = str(TensorProto.DataType.Name(view.element_type(tensor)))
    names = {
        "FLOAT": "fp32",
        "FLOAT16": "fp16",
        "BFLOAT16": "bf16",
        "UINT8": "int8",
        "INT8": "int8",
    }
    return names.get(name, name.lower())


def key_of(
    view: GraphView,
    node: NodeProto,
    shapes: tuple[Sequence[Shape], Shape],
    fused: dict[str, str],
    *,
    pads: Sequence[int] = (),
    precision_name: str = "fp32",
) -> LayerKey:
    """Key of the layer whose main node is `node`.

    Args:
        view: The graph.
        node: The main node.
        shapes: Of the activations that the fused layer reads, and of the one that it writes.
        fused: What was fused in: `act`, `add`.
        pads: Spatial pads of a Pad node fused in, all begins then all ends; empty if there is none.
        precision_name: Precision it computes in.
    """
    inputs, output = shapes
    if node.op_type in RESHAPES:
        op, attrs = "Reshape", {}
    elif not is_weighted(view, node):
        op, attrs = (
            node.op_type,
            fused | _plain_attrs(view, node, len(inputs[0]) if inputs else len(output)),
        )
    elif node.op_type not in CONVOLUTIONS:
        op, attrs = "Linear", fused
    else:
        form = geometry(view, node)
        form = replace(form, pads=tuple(np.add(form.pads, pads).tolist())) if pads else form
        point = all(size == 1 for size in (*form.kernel, *inputs[0][2:], *output[2:])) and not any(
            form.pads
        )
        node_attrs = attributes(node)
        if node.op_type == "Conv" and point and node_attrs.get("group", 1) == 1:
            op, attrs = "Linear", fused
            inputs, output = [shape[:2] for shape in inputs], output[:2]
        else:
            op = node.op_type
            attrs = fused | {"group": str(node_attrs.get("group", 1))} | form.attrs()
            if any(node_attrs.get("output_padding", ())):
                attrs["output_padding"] = _joined(node_attrs["output_padding"], ".")
    return LayerKey(op, tuple(inputs), output, tuple(attrs.items()), precision_name)


def _plain_attrs(view: GraphView, node: NodeProto, rank: int) -> dict[str, str]:
    """Attributes and constant inputs of an operator without weights.

    Those that follow from its shapes are left out.
    """
    if node.op_type in QUANTIZERS:
        return {}
    node_attrs, labels = _beyond_defaults(view, node)
    attrs = {}
    if node.op_type in POOLS or (node.op_type in CONVOLUTIONS and "kernel_shape" in node_attrs):
        attrs = geometry(view, node).attrs()
        node_attrs = {name: value for name, value in node_attrs.items() if name not in _GEOMETRY}
    attrs |= {name: _text(_positive(name, value, rank)) for name, value in node_attrs.items()}
    if node.op_type not in _PARAMETERS_IMPLIED:
        for label, name in zip(labels, node.input, strict=True):
            if name and view.is_constant(name):
                attrs |= _constant(view, node, label, name, rank)
    return attrs


def _beyond_defaults(view: GraphView, node: NodeProto) -> tuple[dict[str, Any], list[str]]:
    """Attributes that differ from the operator's defaults, and the names of the node's inputs.

    The attribute `axis` is always there.
    """
    from onnx.defs import get_schema, has
    from onnx.helper import get_attribute_value

    node_attrs = attributes(node)
    if node.domain or not has(node.op_type, view.opset):
        return node_attrs, [f"input{position}" for position in range(len(node.input))]
    schema = get_schema(node.op_type, view.opset)
    for name, attribute in schema.attributes.items():
        if not attribute.default_value.type:
            continue
        default = get_attribute_value(attribute.default_value)
        if name == "axis":
            node_attrs.setdefault(name, default)
        elif node_attrs.get(name) == default:
            del node_attrs[name]
    last = len(schema.inputs) - 1
    labels = [schema.inputs[min(position, last)].name for position in range(len(node.input))]
    return node_attrs, labels


def _constant(view: GraphView, node: NodeProto, label: str, name: str, rank: int) -> dict[str, str]:
    """What a constant input adds to a key."""
    if node.op_type in ELEMENTWISE:
        shape = view.shape(name)
        full = any(size != 1 for size in shape)
        return {
            "with": (
                _joined(("1" if size == 1 else "n" for size in shape), ".") if full else "scalar"
            )
        }
    value = view.value(name)
    # Whole numbers of one byte or less are weights, larger ones are indices; text is neither.
    is_index = value is not None and (
        value.dtype.kind == "b" or (value.dtype.kind in "iu" and value.dtype.itemsize > 1)
    )
    if value is None or (value.size > LONG and not is_index):
        return {label: _joined(view.shape(name), "x")}
    if value.size > LONG:
        return {label: f"{_joined(value.shape, 'x')}-{sha256(value.tobytes()).hexdigest()[:16]}"}
    return {label: _text(_positive(label, value.ravel().tolist(), rank))} if value.size else {}


def _positive(name: str, value: Any, rank: int) -> Any:
    """Axes counted from the front; a constant input `axis` (of CumSum) is a list of one."""
    if name == "axis" and isinstance(value, int):
        return value % max(rank, 1)
    if name in {"axis", "axes"}:
        return sorted(axis % max(rank, 1) for axis in value)
    return value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, (list, tuple)):
        return _joined(map(_text, value), ".")
    if hasattr(value, "SerializeToString"):
        return sha256(value.SerializeToString(deterministic=True)).hexdigest()[:16]
    return str(value)


def _joined(parts: Iterable[Any], mark: str) -> str:
    return mark.join(map(str, parts))
