"""The layers of a `.tflite` graph, with the same keys that an ONNX graph of the network has.

A layer is one operator, with what its runtime makes no work of its own of, or of which nobody could
tell the work apart:

- the conversion of its constants (half precision, sparse weights),
- zero padding before a convolution or pooling that pads nothing itself,
- one activation behind a convolution, a linear layer or arithmetic, where no other operator reads
  what it is applied to. Files that have it fused in the operator mean the same.

Images are kept channels last here and channels first in keys, as everywhere in hwbench.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import prod

from hwbench.network.graph import Layer, PartialLayer
from hwbench.network.graph.keys import Geometry
from hwbench.network.tflite.graph import PRECISIONS, WEIGHTED, Operator, TfliteGraph
from hwbench.network.tflite.operators import onnx_name
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import CHANNELS_FIRST, channels_first

_POOLS = frozenset({"AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"})
_ARITHMETIC = frozenset({"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "PRELU", "POW"})
_CLAMPS = frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"})
_TAKE_ACTIVATIONS = WEIGHTED | {"ADD", "SUB", "MUL", "DIV"}
_ELEMENTWISE = (
    _ARITHMETIC
    | _CLAMPS
    | {"ABS", "ELU", "EXP", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC", "NEG"}
    | {"QUANTIZE", "DEQUANTIZE", "RSQRT", "SQRT", "SQUARE", "TANH", "CAST"}
)
_PADDED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"}) | _POOLS
_RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_IMAGES = (
    _ELEMENTWISE
    | _POOLS
    | {"CONCATENATION", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "PAD", "MEAN"}
)
"""Operators whose maps of rank 4 are images, channels last."""


@dataclass(slots=True, eq=False)
class _Draft:
    """A layer in the making.

    Attributes:
        main: The operator that does its work.
        members: Every operator in it, in order.
        pads: Rows and columns that a PAD before it adds: top, left, bottom, right.
        activation: What is applied to the result.
        inputs: Numbers of the tensors it reads.
        output: Number of the tensor it writes; -1 where it writes none.
    """

    main: Operator
    members: list[Operator] = field(default_factory=list)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    activation: str = ""
    inputs: list[int] = field(default_factory=list)
    output: int = -1


def layers(graph: TfliteGraph) -> tuple[PartialLayer, ...]:
    """List the layers of a graph, in the order of its operators."""
    found: list[PartialLayer] = []
    used: Counter[str] = Counter()
    for draft in _Drafting(graph).run():
        base = _layer_name(graph, draft)
        name = base
        while used[name]:
            name = f"{base}_{used[base]}"
            used[base] += 1
        used[name] += 1
        key = _key(graph, draft)
        nodes = tuple(member.name for member in draft.members)
        inputs = tuple(_tensor_name(graph, index) for index in draft.inputs)
        output = _tensor_name(graph, draft.output)
        macs = graph.count_macs(draft.main) if draft.main.kind in WEIGHTED else 0
        params = sum(prod(graph.tensors[index].shape) for index in graph.weights(draft.main))
        if key is None:
            op = onnx_name(draft.main.kind)
            found.append(PartialLayer(name, op, None, nodes, inputs, output, macs, params))
        else:
            found.append(Layer(name, key.op, key, nodes, inputs, output, macs, params))
    return tuple(found)


class _Drafting:
    """Puts operators together that make one layer."""

    def __init__(self, graph: TfliteGraph) -> None:
        self._graph = graph
        self._writers: dict[int, Operator] = {}
        self._readers: dict[int, list[Operator]] = defaultdict(list)
        for operator in graph.operators:
            self._writers.update((tensor, operator) for tensor in operator.outputs)
            for tensor in dict.fromkeys(operator.inputs):
                self._readers[tensor].append(operator)
        self._absorbed: set[int] = set()
        """Operators that are part of the layer of another."""

    def run(self) -> list[_Draft]:
        """List the layers in the order of their operators."""
        for operator in self._graph.operators:
            if self._graph.unpacks(operator) or self._pads_for_its_reader(operator):
                self._absorbed.add(operator.index)
        # Drafting a layer absorbs the activation behind it, before its own turn comes.
        operators = self._graph.operators
        return [self._draft(found) for found in operators if found.index not in self._absorbed]

    def _draft(self, operator: Operator) -> _Draft:
        graph = self._graph
        draft = _Draft(operator, inputs=graph.activations(operator))
        for tensor in operator.inputs:
            writer = self._writers.get(tensor)
            if writer is None or writer.index not in self._absorbed:
                continue
            if self._pads_for_its_reader(writer):
                draft.pads = _frame(graph, writer) or draft.pads
                draft.inputs = graph.activations(writer)
                draft.members.append(writer)
            elif graph.unpacks(writer):
                draft.members += self._unpackers(tensor)
        draft.members.append(operator)
        draft.activation = graph.fused_activation(operator)
        if not operator.outputs:
            return draft
        draft.output = operator.outputs[0]
        clamp = self._only_reader(draft.output)
        if (
            operator.kind in _TAKE_ACTIVATIONS
            and not draft.activation
            and clamp is not None
            and clamp.kind in _CLAMPS
        ):
            self._absorbed.add(clamp.index)
            draft.members.append(clamp)
            draft.activation = clamp.kind
            draft.output = clamp.outputs[0]
        return draft

    def _only_reader(self, tensor: int) -> Operator | None:
        """Find the operator that alone reads a tensor, which is no output of the graph."""
        readers = self._readers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self._graph.outputs else None

    def _pads_for_its_reader(self, operator: Operator) -> bool:
        """Whether an operator only pads the image that a convolution or pooling reads."""
        if operator.kind not in {"PAD", "PADV2"} or not operator.outputs:
            return False
        reader = self._only_reader(operator.outputs[0])
        return (
            reader is not None
            and reader.kind in _PADDED
            and not self._graph.window(reader).same
            and _frame(self._graph, operator) is not None
        )

    def _unpackers(self, tensor: int) -> list[Operator]:
        """List the operators that bring a constant into the form in which it is read."""
        found: list[Operator] = []
        while tensor in self._writers and self._graph.unpacks(self._writers[tensor]):
            found.insert(0, self._writers[tensor])
            tensor = self._writers[tensor].inputs[0]
        return found


def _frame(graph: TfliteGraph, operator: Operator) -> tuple[int, int, int, int] | None:
    """Rows and columns that a PAD adds around an image; None if it pads anything else."""
    if len(operator.inputs) < 2:
        return None
    pads = graph.integers(operator.inputs[1])
    if pads is None or len(pads) != 8 or any(pads[:2]) or any(pads[6:]):
        return None
    return pads[2], pads[4], pads[3], pads[5]


def _tensor_name(graph: TfliteGraph, tensor: int) -> str:
    """Name a tensor; not every file names each, and some name several alike."""
    return f"{tensor}:{graph.tensors[tensor].name}" if tensor >= 0 else ""


def _layer_name(graph: TfliteGraph, draft: _Draft) -> str:
    """Name a layer after the tensor it writes.

    Converters join the names of all that they fused by semicolons. The last is that of the operator
    that came first, but for the place that a variable was read from.
    """
    names: list[str] = []
    if draft.main.outputs:
        names = graph.tensors[draft.main.outputs[0]].name.split(";")
    names = [name.strip() for name in names if name.strip()]
    chosen = [name for name in names if "ReadVariableOp" not in name] or names
    return chosen[-1] if chosen else draft.main.name


def _key(graph: TfliteGraph, draft: _Draft) -> LayerKey | None:
    """Make the key of a layer; None for one that works on something else than tensors."""
    operator = draft.main
    if draft.output < 0 or operator.kind in {"CUSTOM", "DELEGATE"}:
        return None
    tensors = [*draft.inputs, draft.output]
    if any(graph.tensors[index].dtype in {"resource", "variant"} for index in tensors):
        return None
    attrs: dict[str, str] = {}
    if draft.activation:
        attrs["act"] = onnx_name(draft.activation)
    precision = _precision(graph, draft)
    if operator.kind == "FULLY_CONNECTED":
        return _linear_key(graph, draft, attrs, precision)
    if operator.kind in WEIGHTED:
        return _convolution_key(graph, draft, attrs, precision)
    shapes = [graph.tensors[index].shape for index in draft.inputs]
    output = graph.tensors[draft.output].shape
    if operator.kind in _RESHAPES:
        return LayerKey("Reshape", tuple(shapes), output, (), precision)
    op, more = _describe_operator(graph, draft)
    if operator.kind in _IMAGES:
        shapes, output = [channels_first(shape) for shape in shapes], channels_first(output)
        if op == "GlobalAveragePool" and len(output) == 2:
            output = (*output, 1, 1)
    return LayerKey(op, tuple(shapes), output, tuple((attrs | more).items()), precision)


def _describe_operator(graph: TfliteGraph, draft: _Draft) -> tuple[str, dict[str, str]]:
    """Name an operator without weights, and what beside the shapes decides what it costs."""
    operator = draft.main
    op = onnx_name(operator.kind)
    if operator.kind == "CONCATENATION":
        rank = len(graph.tensors[draft.output].shape)
        axis = graph.axis(operator) % max(1, rank)
        return op, {"axis": str(CHANNELS_FIRST.index(axis) if rank == 4 else axis)}
    if operator.kind in _POOLS:
        return op, _window(graph, draft).attrs()
    if operator.kind == "PAD":
        return op, _pad_attrs(graph, operator)
    if operator.kind == "MEAN" and _is_global_pooling(graph, operator):
        return "GlobalAveragePool", {}
    if operator.kind in _ARITHMETIC:
        return op, _operand(graph, operator)
    return op, {} if operator.kind in _ELEMENTWISE else _constants(graph, operator)


def _precision(graph: TfliteGraph, draft: _Draft) -> str:
    """Find the precision that a layer computes in.

    Weights of a byte are multiplied as such, activations in floats being quantised on the way. Half
    precision in a file is only how weights are kept: they are read as float32.
    """
    for index in graph.weights(draft.main):
        name = PRECISIONS.get(graph.tensors[index].dtype, "")
        if name.startswith("int"):
            return name
    return PRECISIONS.get(graph.tensors[draft.output].dtype, "fp32")


def _linear_key(
    graph: TfliteGraph, draft: _Draft, attrs: dict[str, str], precision: str
) -> LayerKey:
    """Make the key of a linear layer, which reads its input as rows."""
    out_features, in_features = graph.tensors[draft.main.inputs[1]].shape[:2]
    shape = graph.tensors[draft.main.inputs[0]].shape
    output = graph.tensors[draft.output].shape
    if len(output) < 3 or shape[-1] != in_features:
        rows = prod(shape) // max(1, in_features)
        shape, output = (rows, in_features), (rows, out_features)
    return LayerKey("Linear", (shape,), output, tuple(attrs.items()), precision)


def _convolution_key(
    graph: TfliteGraph, draft: _Draft, attrs: dict[str, str], precision: str
) -> LayerKey:
    """Make the key of a convolution, whose maps and weights are kept channels last."""
    operator = draft.main
    activation = operator.inputs[2 if operator.kind == "TRANSPOSE_CONV" else 0]
    if draft.pads != (0, 0, 0, 0) and draft.inputs:
        activation = draft.inputs[0]
    shape = channels_first(graph.tensors[activation].shape)
    output = channels_first(graph.tensors[draft.output].shape)
    weights = graph.tensors[operator.inputs[1]].shape
    geometry = _window(graph, draft)
    groups = 1
    if operator.kind == "DEPTHWISE_CONV_2D":
        groups = shape[1]
    elif operator.kind == "CONV_2D":
        groups = max(1, shape[1] // weights[3])
    is_point = all(size == 1 for size in (*geometry.kernel, *shape[2:], *output[2:]))
    if operator.kind != "TRANSPOSE_CONV" and is_point and groups == 1 and not any(geometry.pads):
        return LayerKey("Linear", (shape[:2],), output[:2], tuple(attrs.items()), precision)
    attrs |= {"group": str(groups)} | geometry.attrs()
    op = onnx_name(operator.kind)
    return LayerKey(op, (shape,), output, tuple(attrs.items()), precision)


def _window(graph: TfliteGraph, draft: _Draft) -> Geometry:
    """Window of a convolution or pooling, padding made explicit as ONNX has it."""
    operator = draft.main
    window = graph.window(operator)
    kernel = window.kernel or graph.tensors[operator.inputs[1]].shape[1:3]
    is_transposed = operator.kind == "TRANSPOSE_CONV"
    read = graph.tensors[operator.inputs[2 if is_transposed else 0]].shape[1:3]
    written = graph.tensors[operator.outputs[0]].shape[1:3]
    if is_transposed:
        read, written = written, read
    before, after = [], []
    for size, steps, stride, reach, dilation in zip(
        read, written, window.strides, kernel, window.dilations, strict=True
    ):
        total = 0
        if window.same:
            total = max(0, (steps - 1) * stride + dilation * (reach - 1) + 1 - size)
        before.append(total // 2)
        after.append(total - total // 2)
    top, left, bottom, right = draft.pads
    pads = (before[0] + top, before[1] + left, after[0] + bottom, after[1] + right)
    return Geometry(tuple(kernel), window.strides, window.dilations, pads)


def _is_global_pooling(graph: TfliteGraph, operator: Operator) -> bool:
    """Whether a mean is one over the height and width of an image."""
    axes = graph.integers(operator.inputs[1]) if len(operator.inputs) > 1 else None
    if axes is None or len(graph.tensors[operator.inputs[0]].shape) != 4:
        return False
    return sorted(axis % 4 for axis in axes) == [1, 2]


def _operand(graph: TfliteGraph, operator: Operator) -> dict[str, str]:
    """Describe the constant operand of arithmetic: in which dimensions it has more than a value."""
    for index in operator.inputs:
        if index < 0 or not graph.is_constant(index):
            continue
        shape = channels_first(graph.tensors[index].shape)
        if all(size == 1 for size in shape):
            return {"with": "scalar"}
        return {"with": ".".join("1" if size == 1 else "n" for size in shape)}
    return {}


def _pad_attrs(graph: TfliteGraph, operator: Operator) -> dict[str, str]:
    """Describe what a PAD adds, as ONNX does: all begins, then all ends, channels first."""
    pads = graph.integers(operator.inputs[1]) if len(operator.inputs) > 1 else None
    if pads is None:
        return {}
    rank = len(pads) // 2
    order = CHANNELS_FIRST if rank == 4 else tuple(range(rank))
    begins, ends = [pads[2 * axis] for axis in order], [pads[2 * axis + 1] for axis in order]
    return {"pads": ".".join(map(str, (*begins, *ends)))}


def _constants(graph: TfliteGraph, operator: Operator) -> dict[str, str]:
    """Describe the constant inputs of an operator: their values if few, else their shapes."""
    attrs = {}
    for position, index in enumerate(operator.inputs):
        if index < 0 or not graph.is_constant(index):
            continue
        values = graph.integers(index)
        shape = graph.tensors[index].shape
        texts = shape if values is None else values
        attrs[f"input{position}"] = ("x" if values is None else ".").join(map(str, texts))
    return attrs
