"""ONNX as TensorRT reads it: every node named, and quantisation in the one form that it knows.

TensorRT quantises symmetrically to signed 8 bits and keeps biases in floating point
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html).
The Q/DQ form that runs best on CPUs has unsigned activations, 32-bit biases, and lets saturation at
zero stand for a ReLU. The same network is written here in the other form: same layers, same names,
same ranges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.network.graph import load
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

SYMMETRIC = Finding(
    "symmetric_int8",
    "TensorRT has no asymmetric int8: unsigned activations were restated as signed ones of the same"
    " range",
)
_SIGNED_RESULTS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "BatchNormalization"}
)
_STEPS = 127  # of a symmetric signed 8-bit range, either side of zero


def for_tensorrt(workload: Workload) -> tuple[bytes, tuple[Finding, ...]]:
    """The bytes to give to TensorRT's parser, and what had to be restated for it.

    Raises:
        WorkloadError: It is no ONNX model.
    """
    model = load(workload.onnx)
    findings: tuple[Finding, ...] = ()
    if workload.precision == "int8" and _Symmetric(model.graph).restate():
        findings = (SYMMETRIC,)
    del model.graph.value_info[:]  # told again by the parser; stale where something was restated
    return _serialised(model), findings


def _serialised(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


class _Symmetric:
    """Restates the Q/DQ nodes of one graph in place."""

    def __init__(self, graph: GraphProto) -> None:
        import onnx

        self._helper = onnx.numpy_helper
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self._float_outputs: dict[str, str] = {}  # of dequantised biases -> the bias itself

    def restate(self) -> bool:
        """Whether anything had to be."""
        nodes: list[NodeProto] = []
        changed = False
        for node in self._graph.node:
            if node.op_type == "DequantizeLinear" and self._is_bias(node):
                self._float_bias(node)
                changed = True
                continue
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and self._is_unsigned(node):
                nodes += self._signed(node)
                changed = True
            else:
                nodes.append(node)
        for node in nodes:
            for place, name in enumerate(node.input):
                node.input[place] = self._float_outputs.get(name, name)
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        return changed

    def _value(self, name: str) -> NDArray[Any]:
        return np.asarray(self._helper.to_array(self._tensors[name]))

    def _add(self, name: str, value: NDArray[Any]) -> str:
        self._tensors[name] = self._helper.from_array(np.ascontiguousarray(value), name)
        self._graph.initializer.append(self._tensors[name])
        return name

    def _is_bias(self, node: NodeProto) -> bool:
        tensor = self._tensors.get(node.input[0])
        return tensor is not None and self._helper.to_array(tensor).dtype == np.int32

    def _float_bias(self, node: NodeProto) -> None:
        value = self._value(node.input[0]) * self._value(node.input[1]).astype(np.float64)
        kind = self._value(node.input[1]).dtype
        self._float_outputs[node.output[0]] = self._add(
            f"{node.output[0]}.float", value.astype(kind)
        )

    def _is_unsigned(self, node: NodeProto) -> bool:
        """By its zero point; without one, ONNX means unsigned."""
        if len(node.input) < 3 or not node.input[2]:
            source = self._tensors.get(node.input[0])
            return source is None or self._helper.to_array(source).dtype == np.uint8
        zero = self._tensors.get(node.input[2])
        return zero is not None and self._helper.to_array(zero).dtype == np.uint8

    def _signed(self, node: NodeProto) -> list[NodeProto]:
        """The node with a signed grid, after the ReLU that saturation at zero stood for."""
        import onnx

        scale, zero = self._grid(node)
        before = []
        if node.op_type == "QuantizeLinear" and self._rectifies(node):
            name = f"{node.name}/saturation"
            before = [onnx.helper.make_node("Relu", [node.input[0]], [name], name=name)]
            node.input[0] = name
        if node.op_type == "DequantizeLinear" and node.input[0] in self._tensors:
            node.input[0] = self._signed_constant(node, scale)
        del node.input[1:]
        node.input.extend([scale, zero])
        return [*before, node]

    def _grid(self, node: NodeProto) -> tuple[str, str]:
        """Names of scale and zero point of a signed grid that reaches as far as the unsigned one."""
        pair = (node.input[1], node.input[2] if len(node.input) > 2 else "")
        if pair not in self._pairs:
            scale, zero = self._value(pair[0]), self._zero(pair[1])
            reach = np.maximum(zero, 255 - zero) * scale / _STEPS
            label = f"{pair[0]}.signed{len(self._pairs)}"
            names = (
                self._add(label, reach.astype(scale.dtype)),
                self._add(f"{label}.zero", np.zeros(scale.shape, np.int8)),
            )
            self._pairs[pair] = names
        return self._pairs[pair]

    def _zero(self, name: str) -> NDArray[np.float64]:
        return self._value(name).astype(np.float64) if name else np.zeros(())

    def _rectifies(self, node: NodeProto) -> bool:
        """Whether its grid begins at zero and what it reads may be negative."""
        maker = self._makers.get(node.input[0])
        zero = self._zero(node.input[2] if len(node.input) > 2 else "")
        return not zero.any() and maker is not None and maker.op_type in _SIGNED_RESULTS

    def _signed_constant(self, node: NodeProto, scale: str) -> str:
        """Unsigned constants on the signed grid."""
        old, new = (self._per_axis(node, name) for name in (node.input[1], scale))
        zero = self._per_axis(node, node.input[2]) if len(node.input) > 2 and node.input[2] else 0.0
        real = (self._value(node.input[0]).astype(np.float64) - zero) * old
        return self._add(
            f"{node.input[0]}.{scale}",
            np.clip(np.rint(real / new), -_STEPS - 1, _STEPS).astype(np.int8),
        )

    def _per_axis(self, node: NodeProto, name: str) -> NDArray[np.float64]:
        value = self._value(name).astype(np.float64)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        rank = self._value(node.input[0]).ndim
        return (
            value.reshape([-1 if place == axis % rank else 1 for place in range(rank)])
            if value.size > 1
            else value.reshape(())
        )
