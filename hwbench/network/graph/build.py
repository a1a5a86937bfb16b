"""From a LayerKey to a model of that one layer.

So a layer can be measured without the network around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UnsupportedLayerError, WorkloadError
from hwbench.network.graph import layers, load
from hwbench.network.graph.keys import CONVOLUTIONS, ELEMENTWISE, POOLS, QUANTIZERS
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 20
"""Operator set of the models.

Every operator hwbench names is stable in it, and ONNX Runtime >= 1.17 reads it.
"""
IR_VERSION = 10
_SCALE = 0.05
_ZERO_POINT = 128


def layer_model(key: LayerKey, seed: int = 0) -> bytes:
    """A serialised ONNX model of one layer with random weights.

    Its only layer has exactly this key.

    Quantised layers are in Q/DQ form: unsigned 8-bit activations, signed 8-bit weights, one scale
    per tensor, 32-bit biases.

    Args:
        key: The layer.
        seed: Of the weights, normal with variance 1 / fan-in.

    Raises:
        UnsupportedLayerError: There is no recipe for such a layer.
    """
    builder = _Builder(key, seed)
    recipe = _RECIPES.get(key.op, _Builder.plain)
    try:
        tail = recipe(builder)
        model = load(builder.finish(tail).SerializeToString())
        parts = layers(model)
    except (WorkloadError, ValueError, KeyError, IndexError, StopIteration) as error:
        raise UnsupportedLayerError(
            f"no one-layer model for {key}: {error}; measure it inside its network"
        ) from error
    if [part.key for part in parts] != [key]:
        found = ", ".join(str(part.key) for part in parts) or "no layer"
        raise UnsupportedLayerError(
            f"no one-layer model for {key}: it becomes {found}; measure it inside its network"
        )
    return bytes(model.SerializeToString())


class _Builder:
    """Collects the nodes and weights of a one-layer graph."""

    def __init__(self, key: LayerKey, seed: int) -> None:
        self.key = key
        self.attrs = dict(key.attrs)
        self.quantised = key.precision == "int8" and key.op not in QUANTIZERS
        self.dtype = np.dtype({"fp16": "float16", "fp64": "float64"}.get(key.precision, "float32"))
        integer = np.dtype(np.uint8)
        self.reads = integer if self.quantised or key.op == "DequantizeLinear" else self.dtype
        self.writes = integer if self.quantised or key.op == "QuantizeLinear" else self.dtype
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self.inputs = [self._input(position) for position in range(len(key.inputs))]

    def node(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node and return its output tensor."""
        from onnx.helper import make_node

        output = f"t{len(self.nodes)}"
        self.nodes.append(
            make_node(op, list(inputs), [output], name=name or f"{output}/{op}", **attributes)
        )
        return output

    def constant(self, value: NDArray[Any]) -> str:
        """Append an initializer and return its name."""
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, shape: Shape) -> str:
        """Random weights; the first dimension is not part of the fan-in."""
        spread = 1 / np.sqrt(max(1, int(np.prod(shape[1:]))))
        value = self._rng.standard_normal(shape) * spread
        if not self.quantised:
            return self.constant(value.astype(self.dtype))
        scale = max(float(np.abs(value).max()), 1e-3) / 127
        return self._dequantise(
            self.constant(np.round(value / scale).astype(np.int8)), scale, np.int8(0)
        )

    def bias(self, channels: int) -> str:
        """Random biases of a layer."""
        value = self._rng.standard_normal(channels) * 0.1
        if not self.quantised:
            return self.constant(value.astype(self.dtype))
        return self._dequantise(
            self.constant(np.round(value / 1e-4).astype(np.int32)), 1e-4, np.int32(0)
        )

    def finish(self, tail: str) -> ModelProto:
        """The model whose output is tensor `tail`."""
        from onnx.helper import (
            make_graph,
            make_model,
            make_opsetid,
            make_tensor_value_info,
            np_dtype_to_tensor_dtype,
        )

        if self.quantised:
            tail = self.node("QuantizeLinear", tail, *self._grid(_SCALE, np.uint8(_ZERO_POINT)))
        reads, writes = np_dtype_to_tensor_dtype(self.reads), np_dtype_to_tensor_dtype(self.writes)
        inputs = [
            make_tensor_value_info(f"x{i}", reads, shape) for i, shape in enumerate(self.key.inputs)
        ]
        output = make_tensor_value_info(tail, writes, self.key.output)
        graph = make_graph(self.nodes, "layer", inputs, [output], self.weights)
        return make_model(graph, opset_imports=[make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _input(self, position: int) -> str:
        name = f"x{position}"
        return self._dequantise(name, _SCALE, np.uint8(_ZERO_POINT)) if self.quantised else name

    def _grid(self, scale: float, zero_point: np.generic) -> tuple[str, str]:
        return self.constant(np.asarray(scale, np.float32)), self.constant(np.asarray(zero_point))

    def _dequantise(self, name: str, scale: float, zero_point: np.generic) -> str:
        return self.node("DequantizeLinear", name, *self._grid(scale, zero_point))

    def convolution(self) -> str:
        """Conv and ConvTranspose, with what is fused to them."""
        key, ints = self.key, self._ints
        inner, outer, group = key.inputs[0][1], key.output[1], int(self.attrs["group"])
        kernel = ints("kernel")
        if inner % group or outer % group:
            raise ValueError(f"{inner} and {outer} channels do not divide into {group} groups")
        shape = (inner, outer // group) if key.op == "ConvTranspose" else (outer, inner // group)
        window = {
            "kernel_shape": kernel,
            "strides": ints("strides"),
            "pads": ints("pads"),
            "group": group,
        }
        optional = {
            name: ints(name) for name in ("dilations", "output_padding") if name in self.attrs
        }
        weights = self.weight((*shape, *kernel)), self.bias(outer)
        tail = self.node(key.op, self.inputs[0], *weights, name="layer", **window, **optional)
        return self._fused(tail)

    def linear(self) -> str:
        """Gemm for rows, MatMul and a bias for anything of higher rank."""
        inner, outer = self.key.inputs[0][-1], self.key.output[-1]
        if len(self.key.output) == 2:
            weights = self.weight((outer, inner)), self.bias(outer)
            return self._fused(self.node("Gemm", self.inputs[0], *weights, name="layer", transB=1))
        tail = self.node("MatMul", self.inputs[0], self.weight((inner, outer)), name="layer")
        return self._fused(tail if self.quantised else self.node("Add", tail, self.bias(outer)))

    def elementwise(self) -> str:
        """Operators on two broadcast operands, one of which may be a constant."""
        operands = list(self.inputs)
        if "with" in self.attrs:
            marks = [] if self.attrs["with"] == "scalar" else self.attrs["with"].split(".")
            sizes = self.key.output[len(self.key.output) - len(marks) :]
            operands.append(
                self.weight(
                    tuple(1 if m == "1" else size for m, size in zip(marks, sizes, strict=True))
                )
            )
        return self._activated(self.node(self.key.op, *operands, name="layer"))

    def reshape(self) -> str:
        """Any renaming of dimensions, and expanding: the shape of the output is an input."""
        return self.node(
            self.key.op,
            self.inputs[0],
            self.constant(np.asarray(self.key.output, np.int64)),
            name="layer",
        )

    def normalization(self) -> str:
        """BatchNormalization that no weighted layer could take in, with its activation."""
        channels = self.key.inputs[0][1]
        parts = [
            self.constant(np.full(channels, value, self.dtype)) for value in (1.1, 0.1, 0.05, 0.9)
        ]
        return self._activated(
            self.node("BatchNormalization", self.inputs[0], *parts, name="layer")
        )

    def layer_normalization(self) -> str:
        """LayerNormalization with the scale and shift that its key leaves out."""
        axis = int(self.attrs["axis"])
        parts = [
            self.constant(np.full(self.key.inputs[0][axis:], value, self.dtype))
            for value in (1.1, 0.1)
        ]
        return self.node(
            "LayerNormalization",
            self.inputs[0],
            *parts,
            name="layer",
            axis=axis,
            epsilon=float(self.attrs.get("epsilon", 1e-5)),
        )

    def reduction(self) -> str:
        """Reductions: their axes are an input in this operator set."""
        axes = self.constant(np.asarray(self._ints("axes"), np.int64))
        keep = {"keepdims": int(self.attrs["keepdims"])} if "keepdims" in self.attrs else {}
        return self._activated(self.node(self.key.op, self.inputs[0], axes, name="layer", **keep))

    def quantizer(self) -> str:
        """QuantizeLinear and DequantizeLinear on their own, at the edges of a quantised part."""
        return self.node(
            self.key.op, self.inputs[0], *self._grid(_SCALE, np.uint8(_ZERO_POINT)), name="layer"
        )

    def clip(self) -> str:
        """Clip on its own, to 0 and 6 (its bounds are not part of the key)."""
        return self.node("Clip", self.inputs[0], *self._bounds(), name="layer")

    def plain(self) -> str:
        """Any other operator without constants: its attributes, typed by the operator's schema."""
        from onnx.defs import OpSchema, get_schema, has

        if not has(self.key.op, OPSET) or not self.inputs:
            raise ValueError("it is no operator of the standard")
        kinds = get_schema(self.key.op, OPSET).attributes
        read: dict[Any, Callable[[str], Any]] = {
            OpSchema.AttrType.INT: int,
            OpSchema.AttrType.FLOAT: float,
            OpSchema.AttrType.STRING: str,
            OpSchema.AttrType.INTS: lambda text: [
                int(part) for part in text.replace("x", ".").split(".")
            ],
        }
        renamed = {"kernel": "kernel_shape"} if self.key.op in POOLS else {}
        given = {
            renamed.get(name, name): text for name, text in self.attrs.items() if name != "act"
        }
        typed = {name: read[kinds[name].type](text) for name, text in given.items()}
        return self._activated(self.node(self.key.op, *self.inputs, name="layer", **typed))

    def _fused(self, tail: str) -> str:
        return self._activated(
            self.node("Add", tail, self.inputs[1]) if "add" in self.attrs else tail
        )

    def _activated(self, tail: str) -> str:
        act = self.attrs.get("act", "")
        if act == "Silu":
            return self.node("Mul", tail, self.node("Sigmoid", tail))
        return self.node(act, tail, *(self._bounds() if act == "Clip" else ())) if act else tail

    def _bounds(self) -> list[str]:
        return [self.constant(np.asarray(bound, self.dtype)) for bound in (0, 6)]

    def _ints(self, name: str) -> list[int]:
        return [int(part) for part in self.attrs[name].replace("x", ".").split(".")]


_RECIPES: Mapping[str, Callable[[_Builder], str]] = (
    dict.fromkeys(CONVOLUTIONS, _Builder.convolution)
    | dict.fromkeys(QUANTIZERS, _Builder.quantizer)
    | dict.fromkeys(ELEMENTWISE, _Builder.elementwise)
    | dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"), _Builder.reduction)
    | {
        "Linear": _Builder.linear,
        "Expand": _Builder.reshape,
        "Reshape": _Builder.reshape,
        "Clip": _Builder.clip,
    }
    | {"BatchNormalization": _Builder.normalization}
    | {"LayerNormalization": _Builder.layer_normalization}
)
