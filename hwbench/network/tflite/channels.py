"""Which channels of a `.tflite` graph belong together.

The graph is written down in ONNX's operators, without values, and followed there by the same rules
as any network (`hwbench.network.structure.channels`). Tensors keep their shapes, images channels
last; convolutions, which ONNX has channels first, stand between two transpositions. What an
operator does not say here about its channels fixes them: whatever is not known stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.network.graph.view import GraphView
from hwbench.network.structure.channels import Channels, Layout
from hwbench.network.tflite.graph import WEIGHTED, Operator, TfliteGraph
from hwbench.network.tflite.layers import layers
from hwbench.network.tflite.operators import onnx_name
from hwbench.records.tensors import CHANNELS_FIRST, channels_first

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

CHANNELS_LAST = (0, 2, 3, 1)
"""Where the axes of an image with its channels first stand in one with its channels last."""
OPSET = 18
"""Of the ONNX operators that the graph is written in."""
UNKNOWN = "tflite"
"""Domain of operators through which channels are not followed."""
_UNARY = frozenset(
    {"ABS", "CAST", "CEIL", "COS", "DEQUANTIZE", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH"}
    | {"LEAKY_RELU", "LOG", "LOGISTIC", "LOG_SOFTMAX", "NEG", "QUANTIZE", "RELU", "RELU6"}
    | {"RELU_0_TO_1", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SOFTMAX", "SQRT", "SQUARE", "TANH"}
    | {"AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"}
)
"""Operators of one activation that keep its channels."""
_BINARY = frozenset({"ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "POW", "PRELU", "SUB"})
_REDUCTIONS = frozenset({"MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "SUM"})
_RESHAPES = frozenset({"EXPAND_DIMS", "RESHAPE", "SQUEEZE"})
_STAYING = frozenset({"MIRROR_PAD", "PAD", "PADV2", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"})
"""Operators that keep the channels of an image where the number of channels stays."""


@dataclass(frozen=True)
class Constant:
    """A constant of the file, as an operator reads it.

    Attributes:
        tensor: Its number, as the file keeps it.
        operator: Number of the operator that reads it; -1 where all readers of it read the same.
        position: Which input of that operator it is; -1 likewise.
        axes: Which axis of the constant in the file each axis of its counterpart in ONNX is.
    """

    tensor: int
    operator: int
    position: int
    axes: tuple[int, ...]


@dataclass(frozen=True)
class ConstantCut:
    """A constant whose size along an axis follows channels."""

    constant: Constant
    axis: int
    layout: Layout


class TfliteChannels:
    """Layouts of all activations of a graph, and all constants that must be cut with them.

    Attributes:
        graph: The graph.
        channels: What was found in its counterpart in ONNX.
        layouts: By number of a tensor that is no constant.
        cuts: Constants to cut, each possibly along several axes.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: TfliteGraph) -> None:
        self.graph = graph
        counterpart = _Counterpart(graph)
        self.channels = Channels(GraphView(counterpart.build()))
        self.layouts: dict[int, Layout] = {}
        for number in range(len(graph.tensors)):
            layout = self.channels.layouts.get(_name(number))
            if layout is not None:
                self.layouts[number] = layout
        self.cuts: list[ConstantCut] = []
        for cut in self.channels.cuts:
            constant = counterpart.constants.get(cut.tensor)
            if constant is not None and not cut.layout.is_fixed:
                axis = constant.axes[cut.layout.axis]
                self.cuts.append(ConstantCut(constant, axis, cut.layout))


class _Counterpart:
    """Writes the graph down in ONNX, operator by operator.

    Attributes:
        constants: Constants of the file by the names they have there.
    """

    def __init__(self, graph: TfliteGraph) -> None:
        self._graph = graph
        self.constants: dict[str, Constant] = {}
        self._nodes: list[NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._layer_names: dict[str, str] = {}
        for layer in layers(graph):
            self._layer_names.update(dict.fromkeys(layer.nodes, layer.name))
        self._writers: dict[str, Callable[[Operator], bool]] = {
            **dict.fromkeys(_UNARY | _STAYING | _RESHAPES, self._write_unary),
            **dict.fromkeys(_BINARY, self._write_arithmetic),
            **dict.fromkeys(_REDUCTIONS, self._write_reduction),
            "CONCATENATION": self._write_concatenation,
            "CONV_2D": self._write_convolution,
            "DEPTHWISE_CONV_2D": self._write_convolution,
            "FULLY_CONNECTED": self._write_linear,
            "SLICE": self._write_slice,
            "SPLIT": self._write_split,
            "SPLIT_V": self._write_split,
            "STRIDED_SLICE": self._write_strided_slice,
            "TRANSPOSE": self._write_transpose,
            "TRANSPOSE_CONV": self._write_convolution,
        }

    def build(self) -> ModelProto:
        """Write the whole graph; its constants have shapes but no values."""
        from onnx import helper

        graph = self._graph
        for number, tensor in enumerate(graph.tensors):
            if not graph.is_constant(number):
                self._shapes[_name(number)] = tensor.shape
        for operator in graph.operators:
            if graph.unpacks(operator):
                continue
            write = self._writers.get(operator.kind)
            if write is None or not write(operator):
                self._write_unknown(operator)

        def describe(names: Sequence[str]) -> list[Any]:
            return [helper.make_tensor_value_info(name, 1, self._shapes[name]) for name in names]

        onnx_graph = helper.make_graph(
            self._nodes,
            UNKNOWN,
            describe([_name(number) for number in graph.inputs]),
            describe([_name(number) for number in graph.outputs if not graph.is_constant(number)]),
            list(self._initializers.values()),
            value_info=describe(list(self._shapes)),
        )
        return helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", OPSET)])

    # Tensors and nodes

    def _add(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **options: Any) -> None:
        from onnx.helper import make_node

        self._nodes.append(make_node(op, inputs, outputs, **options))

    def _read(self, operator: Operator, position: int, axes: tuple[int, ...] | None = None) -> str:
        """Name what an operator reads at a position: an activation, or a constant.

        Files share what happens to be equal, a bias of zeros for instance, so each reader gets a
        constant of its own. Weights that several layers read are one thing, however, as are
        constants that are kept in another form.

        Args:
            operator: Who reads.
            position: Which of its inputs.
            axes: Order of the axes of a constant in ONNX; None for that of the file.
        """
        from onnx import TensorProto

        index = operator.inputs[position]
        if not self._graph.is_constant(index):
            return _name(index)
        source = self._graph.source(index)
        shape = self._graph.tensors[source].shape
        axes = axes or tuple(range(len(shape)))
        is_weight = operator.kind in WEIGHTED and position == 1
        if is_weight or source != index:
            constant = Constant(source, -1, -1, axes)
        else:
            constant = Constant(source, operator.index, position, axes)
        name = f"constant {constant}"
        self.constants[name] = constant
        dims = [shape[axis] for axis in axes]
        self._initializers[name] = TensorProto(name=name, dims=dims, data_type=1)
        return name

    def _numbers(self, values: Sequence[int]) -> str:
        """Add a constant of whole numbers."""
        from onnx import numpy_helper

        name = f"numbers {len(self._initializers)}"
        array = np.asarray(values, np.int64)
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def _between(self, shape: tuple[int, ...]) -> str:
        """Name a tensor that the file does not have."""
        name = f"between {len(self._shapes)}"
        self._shapes[name] = shape
        return name

    def _shape(self, index: int) -> tuple[int, ...]:
        return self._graph.tensors[index].shape

    def _layer_name(self, operator: Operator) -> str:
        return self._layer_names.get(operator.name, operator.name)

    # Operators: each returns whether it could be written

    def _write_unknown(self, operator: Operator) -> None:
        """An operator that fixes the channels of all that it reads and writes."""
        inputs = [
            self._read(operator, position)
            for position, index in enumerate(operator.inputs)
            if index >= 0
        ]
        outputs = [_name(index) for index in operator.outputs]
        name = self._layer_name(operator)
        self._add(operator.kind, inputs, outputs, domain=UNKNOWN, name=name)

    def _write_unary(self, operator: Operator) -> bool:
        """One activation; further inputs are numbers, which say nothing of channels.

        The shape that a reshape makes is that of its output, as long as it is known beforehand.
        """
        for index in operator.inputs[1:]:
            if index >= 0 and not self._graph.is_constant(index):
                return False
        if operator.kind in _RESHAPES and not _is_reshape_known(self._graph, operator):
            return False
        kind = {"RESIZE_BILINEAR": "Resize", "RESIZE_NEAREST_NEIGHBOR": "Resize"}
        op = kind.get(operator.kind) or _unary_name(operator.kind)
        outputs = [_name(operator.outputs[0])]
        self._add(op, [_name(operator.inputs[0])], outputs, name=self._layer_name(operator))
        return True

    def _write_arithmetic(self, operator: Operator) -> bool:
        inputs = [self._read(operator, position) for position in range(len(operator.inputs))]
        op = {"MAXIMUM": "Max", "MINIMUM": "Min", "PRELU": "PRelu"}.get(
            operator.kind, operator.kind.capitalize()
        )
        self._add(op, inputs, [_name(operator.outputs[0])], name=self._layer_name(operator))
        return True

    def _write_reduction(self, operator: Operator) -> bool:
        axes = self._graph.integers(operator.inputs[1])
        if axes is None:
            return False
        self._add(
            "ReduceMean",
            [_name(operator.inputs[0]), self._numbers(axes)],
            [_name(operator.outputs[0])],
            keepdims=int(self._graph.flag(operator, 0)),
            name=self._layer_name(operator),
        )
        return True

    def _write_concatenation(self, operator: Operator) -> bool:
        inputs = [self._read(operator, position) for position in range(len(operator.inputs))]
        self._add(
            "Concat",
            inputs,
            [_name(operator.outputs[0])],
            axis=self._graph.axis(operator),
            name=self._layer_name(operator),
        )
        return True

    def _write_split(self, operator: Operator) -> bool:
        """Parts along an axis: SPLIT reads axis and tensor, SPLIT_V tensor, sizes and axis."""
        source, axis_at = (1, 0) if operator.kind == "SPLIT" else (0, 2)
        axis = self._graph.integers(operator.inputs[axis_at])
        if axis is None or len(axis) != 1 or not operator.outputs:
            return False
        rank = len(self._shape(operator.inputs[source]))
        along = axis[0] % rank
        sizes = [self._shape(index)[along] for index in operator.outputs]
        self._add(
            "Split",
            [_name(operator.inputs[source]), self._numbers(sizes)],
            [_name(index) for index in operator.outputs],
            axis=along,
            name=self._layer_name(operator),
        )
        return True

    def _write_slice(self, operator: Operator) -> bool:
        begins = self._graph.integers(operator.inputs[1])
        sizes = self._graph.integers(operator.inputs[2])
        if begins is None or sizes is None:
            return False
        written = self._shape(operator.outputs[0])
        ends = [begin + size for begin, size in zip(begins, written, strict=True)]
        self._add_slice(operator, begins, ends)
        return True

    def _write_strided_slice(self, operator: Operator) -> bool:
        bounds = strided_bounds(self._graph, operator)
        if bounds is None:
            return False
        self._add_slice(operator, *bounds)
        return True

    def _add_slice(self, operator: Operator, begins: Sequence[int], ends: Sequence[int]) -> None:
        self._add(
            "Slice",
            [_name(operator.inputs[0]), self._numbers(begins), self._numbers(ends)],
            [_name(operator.outputs[0])],
            name=self._layer_name(operator),
        )

    def _write_transpose(self, operator: Operator) -> bool:
        order = self._graph.integers(operator.inputs[1])
        if order is None:
            return False
        rank = len(order)
        self._add(
            "Transpose",
            [_name(operator.inputs[0])],
            [_name(operator.outputs[0])],
            perm=[axis % rank for axis in order],
            name=self._layer_name(operator),
        )
        return True

    def _write_convolution(self, operator: Operator) -> bool:
        """A convolution between two transpositions.

        Weights are kept (out, height, width, in) and, of depthwise ones, (1, height, width, out).
        A transposed convolution reads the shape of its output first.
        """
        is_transposed = operator.kind == "TRANSPOSE_CONV"
        source = 2 if is_transposed else 0
        read, written = operator.inputs[source], operator.outputs[0]
        weights = operator.inputs[1]
        shapes = [self._shape(index) for index in (read, weights, written)]
        if any(len(shape) != 4 for shape in shapes) or not self._graph.is_constant(weights):
            return False
        if is_transposed and self._graph.integers(operator.inputs[0]) is None:
            return False
        inner, per_group = shapes[0][3], shapes[1][3]
        if operator.kind == "CONV_2D" and inner % per_group:
            return False
        axes = (0, 3, 1, 2)
        if operator.kind == "CONV_2D":
            group = inner // per_group
        elif is_transposed:
            group, axes = 1, (3, 0, 1, 2)
        else:
            group, axes = inner, (3, 0, 1, 2)
        first, last = (
            self._between(channels_first(shapes[0])),
            self._between(channels_first(shapes[2])),
        )
        inputs = [first, self._read(operator, 1, axes)]
        bias = source + 1 if is_transposed else 2
        if len(operator.inputs) > bias and operator.inputs[bias] >= 0:
            inputs.append(self._read(operator, bias))
        op = "ConvTranspose" if is_transposed else "Conv"
        self._add("Transpose", [_name(read)], [first], perm=CHANNELS_FIRST)
        self._add(op, inputs, [last], group=group, name=self._layer_name(operator))
        self._add("Transpose", [last], [_name(written)], perm=CHANNELS_LAST)
        return True

    def _write_linear(self, operator: Operator) -> bool:
        """A linear layer, which reads its input as rows."""
        read, weights, written = operator.inputs[0], operator.inputs[1], operator.outputs[0]
        is_shuffled = self._graph.flag(operator, 1)
        if not self._graph.is_constant(weights) or is_shuffled or len(self._shape(weights)) != 2:
            return False
        out_features, in_features = self._shape(weights)
        rows = prod(self._shape(read)) // max(1, in_features)
        inputs = [_name(read), self._read(operator, 1)]
        output = _name(written)
        if self._shape(read) != (rows, in_features):
            inputs[0] = self._between((rows, in_features))
            self._add("Reshape", [_name(read), self._numbers((rows, in_features))], inputs[:1])
        if self._shape(written) != (rows, out_features):
            output = self._between((rows, out_features))
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            inputs.append(self._read(operator, 2))
        self._add("Gemm", inputs, [output], transB=1, name=self._layer_name(operator))
        if output != _name(written):
            shape = self._numbers(self._shape(written))
            self._add("Reshape", [output, shape], [_name(written)])
        return True


def strided_bounds(graph: TfliteGraph, operator: Operator) -> tuple[list[int], list[int]] | None:
    """Where a STRIDED_SLICE begins and ends in each dimension.

    None if it takes anything else than a run of each, or is told while it runs.
    """
    begins, ends, strides = (graph.integers(index) for index in operator.inputs[1:4])
    begin_mask, end_mask, *others = (graph.option(operator, number) for number in range(5))
    shape = graph.tensors[operator.inputs[0]].shape
    if begins is None or ends is None or strides is None:
        return None
    if any(others) or graph.flag(operator, 5):
        return None
    if len(begins) != len(shape) or any(stride != 1 for stride in strides):
        return None
    bounds = []
    for axis, size in enumerate(shape):
        begin = None if begin_mask >> axis & 1 else begins[axis]
        end = None if end_mask >> axis & 1 else ends[axis]
        bounds.append(slice(begin, end).indices(size)[:2])
    return [begin for begin, _ in bounds], [end for _, end in bounds]


def _is_reshape_known(graph: TfliteGraph, operator: Operator) -> bool:
    """Whether the sizes that a reshape makes are in the file, where they can be changed."""
    if operator.kind != "RESHAPE" or len(operator.inputs) < 2:
        return True
    return graph.integers(operator.inputs[1]) is not None


def _unary_name(kind: str) -> str:
    """ONNX's name of an operator that keeps channels, or of one that does to them what it does."""
    if kind in {"RSQRT", "SQUARE", "L2_POOL_2D", "GELU", "CAST", "DEQUANTIZE", "QUANTIZE"}:
        return "Relu"
    if kind in {"MIRROR_PAD", "PAD", "PADV2"}:
        return "Pad"
    if kind == "LOG_SOFTMAX":
        return "LogSoftmax"
    return onnx_name(kind)


def _name(index: int) -> str:
    return f"tensor {index}"
