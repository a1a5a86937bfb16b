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
    from onnx import GraphProto, NodeProto

SYMMETRIC = Finding(
    "symmetric_int8",
    "TensorRT has no asymmetric int8: unsigned activations were restated as signed ones of the same"
    " range",
)
_SIGNED_RESULTS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "BatchNormalization"}
)
_STEPS = 127  # steps of a symmetric signed 8-bit range, either side of zero


def for_tensorrt(workload: Workload) -> tuple[bytes, tuple[Finding, ...]]:
    """Write a model in the form that TensorRT reads.

    Returns:
        (the bytes for TensorRT's parser, findings about what had to be restated for it).

    Raises:
        WorkloadError: The workload is no ONNX model.
    """
    model = load(workload.onnx)
    findings: tuple[Finding, ...] = ()
    if workload.precision == "int8" and _Symmetric(model.graph).restate():
        findings = (SYMMETRIC,)
    # The parser infers the inner types itself; those of the file are stale after restating.
    del model.graph.value_info[:]
    return bytes(model.SerializeToString(deterministic=True)), findings


class _Symmetric:
    """Restates the Q/DQ nodes of one graph in place."""

    def __init__(self, graph: GraphProto) -> None:
        import onnx

        self._helper = onnx.numpy_helper
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        # Names of (scale, zero point) of unsigned grids, with those of the signed ones for them.
        self._signed_grids: dict[tuple[str, str], tuple[str, str]] = {}
        # Outputs of nodes that dequantised a bias, with the float tensor that replaces each.
        self._float_biases: dict[str, str] = {}

    def restate(self) -> bool:
        """Restate the graph.

        Returns:
            Whether anything had to be restated.
        """
        nodes: list[NodeProto] = []
        changed = False
        for node in self._graph.node:
            if node.op_type == "DequantizeLinear" and self._is_bias(node):
                self._replace_bias(node)
                changed = True
                continue
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and self._is_unsigned(node):
                nodes += self._make_signed(node)
                changed = True
            else:
                nodes.append(node)
        for node in nodes:
            for place, name in enumerate(node.input):
                node.input[place] = self._float_biases.get(name, name)
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        return changed

    def _value(self, name: str) -> NDArray[Any]:
        return np.asarray(self._helper.to_array(self._tensors[name]))

    def _add_constant(self, name: str, value: NDArray[Any]) -> str:
        self._tensors[name] = self._helper.from_array(np.ascontiguousarray(value), name)
        self._graph.initializer.append(self._tensors[name])
        return name

    def _is_bias(self, node: NodeProto) -> bool:
        """Tell whether a node dequantises a bias: only biases have 32 bits."""
        tensor = self._tensors.get(node.input[0])
        return tensor is not None and self._helper.to_array(tensor).dtype == np.int32

    def _replace_bias(self, node: NodeProto) -> None:
        """Make a constant of what a node dequantises, in place of the node."""
        scale = self._value(node.input[1])
        value = self._value(node.input[0]) * scale.astype(np.float64)
        name = self._add_constant(f"{node.output[0]}.float", value.astype(scale.dtype))
        self._float_biases[node.output[0]] = name

    def _is_unsigned(self, node: NodeProto) -> bool:
        """Tell by its zero point whether a grid is unsigned; without one, ONNX means unsigned."""
        if len(node.input) < 3 or not node.input[2]:
            source = self._tensors.get(node.input[0])
            return source is None or self._helper.to_array(source).dtype == np.uint8
        zero = self._tensors.get(node.input[2])
        return zero is not None and self._helper.to_array(zero).dtype == np.uint8

    def _make_signed(self, node: NodeProto) -> list[NodeProto]:
        """Put a node on a signed grid, after the ReLU that saturation at zero stood for.

        An unsigned grid from zero on cuts negative values off, which a signed one does not do. So
        the network must say itself what the quantisation did for it.
        """
        import onnx

        scale, zero = self._make_signed_grid(node)
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

    def _make_signed_grid(self, node: NodeProto) -> tuple[str, str]:
        """Make a signed grid that reaches as far as the unsigned one of a node.

        The unsigned values reach `zero` steps below and `255 - zero` above zero; the symmetric grid
        spreads its 127 steps over the longer of the two.

        Returns:
            Names of its scale and its zero point.
        """
        grid = (node.input[1], node.input[2] if len(node.input) > 2 else "")
        if grid not in self._signed_grids:
            scale, zero = self._value(grid[0]), self._zero_point(grid[1])
            signed_scale = np.maximum(zero, 255 - zero) * scale / _STEPS
            label = f"{grid[0]}.signed{len(self._signed_grids)}"
            scale_name = self._add_constant(label, signed_scale.astype(scale.dtype))
            zero_name = self._add_constant(f"{label}.zero", np.zeros(scale.shape, np.int8))
            self._signed_grids[grid] = (scale_name, zero_name)
        return self._signed_grids[grid]

    def _zero_point(self, name: str) -> NDArray[np.float64]:
        return self._value(name).astype(np.float64) if name else np.zeros(())

    def _rectifies(self, node: NodeProto) -> bool:
        """Tell whether a node cuts values off: its grid begins at zero and they may be negative."""
        maker = self._makers.get(node.input[0])
        zero = self._zero_point(node.input[2] if len(node.input) > 2 else "")
        return not zero.any() and maker is not None and maker.op_type in _SIGNED_RESULTS

    def _signed_constant(self, node: NodeProto, scale: str) -> str:
        """Restate an unsigned constant on the signed grid, and return its name."""
        unsigned_scale = self._shape_along_axis(node, node.input[1])
        signed_scale = self._shape_along_axis(node, scale)
        zero: NDArray[np.float64] = np.zeros(())
        if len(node.input) > 2 and node.input[2]:
            zero = self._shape_along_axis(node, node.input[2])
        real = (self._value(node.input[0]).astype(np.float64) - zero) * unsigned_scale
        steps = np.clip(np.rint(real / signed_scale), -_STEPS - 1, _STEPS)
        return self._add_constant(f"{node.input[0]}.{scale}", steps.astype(np.int8))

    def _shape_along_axis(self, node: NodeProto, name: str) -> NDArray[np.float64]:
        """Shape a scale or zero point so that it broadcasts over the constant that a node reads."""
        value = self._value(name).astype(np.float64)
        if value.size <= 1:
            return value.reshape(())
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        rank = self._value(node.input[0]).ndim
        return value.reshape([-1 if place == axis % rank else 1 for place in range(rank)])
