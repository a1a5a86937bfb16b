"""What an inference costs in numbers that no device changes: multiply-accumulates and parameters.

Counted are products of matrices (of weights and activations, or of two activations), convolutions,
recurrent layers and attention, also in the bodies of control flow. Biases, normalisation,
activations, pooling and interpolation count nothing. Of an operator that is not known here, or
whose shapes are not, nothing can be said, and then nothing can be said of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UnsupportedLayerError
from hwbench.network.graph.keys import ELEMENTWISE
from hwbench.network.graph.view import GraphView, attributes, first_output, subgraphs
from hwbench.records.tensors import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

MICROSOFT = "com.microsoft"
"""Domain of the operators that ONNX Runtime adds, its optimiser's and quantisers' among them."""
_STANDARD = frozenset({"", "ai.onnx"})
_ML = "ai.onnx.ml"
_BLOCKED = "com.microsoft.nchwc"
_CONVOLUTIONS = {
    "Conv": 1, "ConvInteger": 1, "DeformConv": 1, "FusedConv": 1, "NhwcConv": 1,
    "NhwcFusedConv": 1, "QLinearConv": 3,
}  # fmt: skip
"""Convolutions, and the position of their weights."""
_TRANSPOSED = {"ConvTranspose": 1, "ConvTransposeWithDynamicPads": 1, "QLinearConvTranspose": 3}
_MATRIX_PRODUCTS = frozenset(
    {"CDist", "DynamicQuantizeMatMul", "FusedGemm", "FusedMatMul", "FusedMatMulActivation"}
    | {"Gemm", "GemmFastGelu", "GemmFloat8", "MatMul", "MatMulInteger", "MatMulInteger16"}
    | {"MatMulIntegerToFloat", "QGemm", "QLinearMatMul", "SparseToDenseMatMul", "TransposeMatMul"}
)
_PACKED_PRODUCTS = frozenset({"MatMulBnb4", "MatMulFpQ4", "MatMulNBits"})
"""Products with weights of few bits, several in a byte; attributes K and N say how many."""
_GATES = {"DynamicQuantizeLSTM": 4, "GRU": 3, "LSTM": 4, "RNN": 1}
"""Recurrent layers, and the matrices of each of their two kinds."""
_UNCOUNTED = frozenset({"DFT", "Det", "MelWeightMatrix", "STFT"})
"""Operators of ONNX that multiply and accumulate, but not as a product of matrices."""
_UNCOUNTED_ML = frozenset({"SVMClassifier", "SVMRegressor"})
_FREE = frozenset(
    {
        "AveragePool", "BiasAdd", "BiasDropout", "BiasGelu", "BiasSoftmax", "BiasSplitGelu",
        "BitmaskBiasDropout", "BitmaskDropout", "CropAndResize", "DequantizeLinear",
        "DynamicTimeWarping", "EmbedLayerNormalization", "ExpandDims", "FastGelu", "FusedAdd",
        "GatherBlockQuantized", "GatherND", "Gelu", "GlobalAveragePool", "GridSample", "GroupNorm",
        "ImageScaler", "MaxPool", "MaxpoolWithMask", "MulInteger", "MurmurHash3",
        "NGramRepeatBlock", "NhwcMaxPool", "Pad", "ParametricSoftplus", "QEmbedLayerNormalization",
        "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool",
        "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax",
        "QLinearWhere", "QuantizeLinear", "QuickGelu", "Range", "ReduceSumInteger",
        "RelativePositionBias", "RemovePadding", "ReorderInput", "ReorderOutput", "RestorePadding",
        "RotaryEmbedding", "SampleOp", "Scale", "ScaledTanh", "SimplifiedLayerNormalization",
        "SkipGroupNorm", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
        "ThresholdedRelu", "Tokenizer", "TorchEmbedding", "Trilu", "UnfoldTensor", "Unique",
        "Upsample",
    }
)  # fmt: skip
"""Operators of ONNX Runtime that multiply no matrices."""
PRECISIONS = {
    1: "fp32", 2: "int8", 3: "int8", 4: "int16", 5: "int16", 10: "fp16", 11: "fp64", 16: "bf16",
    17: "fp8", 18: "fp8", 19: "fp8", 20: "fp8", 21: "int4", 22: "int4", 23: "fp4", 25: "int2",
    26: "int2",
}  # fmt: skip
"""Name of a precision by ONNX's number of the element type."""
_NO_PARAMETERS = frozenset({"Clip", "DequantizeLinear", "QuantizeLinear", "Resize", "Upsample"})
_QUANTISED_PARAMETERS = {
    "ConvInteger": (1,), "DynamicQuantizeLSTM": (1, 2, 3), "DynamicQuantizeMatMul": (1, 4),
    "MatMulInteger": (1,), "MatMulInteger16": (1,), "MatMulIntegerToFloat": (1, 6),
    "QAttention": (1, 2), "QEmbedLayerNormalization": (2, 3, 4, 5, 6), "QGemm": (3, 6),
    "QLinearAdd": (3,), "QLinearConv": (3, 8), "QLinearConvTranspose": (3, 8),
    "QLinearMatMul": (3,), "QLinearMul": (3,),
}  # fmt: skip
"""Inputs of quantised operators that were learned; the others are scales and zero points."""
_ONES = frozenset({"Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose", "Unsqueeze"})
"""Operators through which a constant in a body is followed to where it lies."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Cost of one inference.

    Attributes:
        macs: Multiply-accumulates for the whole batch; None where they cannot be counted.
        params: Elements of what was learned.
        uncounted: Names of the nodes because of which `macs` is None, with their operators.
        branches: For every If with work in its branches, its name and the multiply-accumulates of
            each; `macs` holds all of them, though an inference takes one.
    """

    macs: int | None
    params: int
    uncounted: tuple[str, ...] = ()
    branches: tuple[tuple[str, tuple[int | None, ...]], ...] = ()


class Scope:
    """Shapes and constants of a body of control flow; what it does not hold its parent does.

    Args:
        graph: The body.
        parent: The view of the graph, or the scope of the body, around it.
        path: Tells bodies apart.
    """

    def __init__(self, graph: GraphProto, parent: GraphView | Scope, path: str) -> None:
        self._parent = parent
        self._path = path
        self._shapes: dict[str, Shape | None] = {}
        self._types: dict[str, int] = {}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers: dict[str, NodeProto] = {}
        for node in graph.node:
            self._makers.update((name, node) for name in node.output if name)
        for value in (*graph.value_info, *graph.output, *graph.input):
            tensor = value.type.tensor_type
            dims = tensor.shape.dim
            shape = None
            if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                shape = tuple(dim.dim_value for dim in dims)
            if self._shapes.get(value.name) is None:
                self._shapes[value.name] = shape
            self._types[value.name] = tensor.elem_type
        for name, tensor in self._constants.items():
            self._shapes[name], self._types[name] = tuple(tensor.dims), tensor.data_type

    def _holds(self, name: str) -> bool:
        return name in self._makers or name in self._shapes

    def fixed_shape(self, name: str) -> Shape | None:
        """See `GraphView.fixed_shape`."""
        if self._shapes.get(name) is None:
            value = self.value(name) if name in self._makers else None
            if value is not None:
                return tuple(value.shape)
            if not self._holds(name):
                return self._parent.fixed_shape(name)
        return self._shapes.get(name)

    def shape(self, name: str) -> Shape:
        """See `GraphView.shape`."""
        shape = self.fixed_shape(name)
        if shape is None:
            raise UnsupportedLayerError(f"tensor {name!r} has no fixed shape")
        return shape

    def element_type(self, name: str) -> int:
        """See `GraphView.element_type`."""
        if self._holds(name):
            return self._types.get(name, 0)
        return self._parent.element_type(name)

    def is_constant(self, name: str) -> bool:
        """See `GraphView.is_constant`."""
        maker = self._makers.get(name)
        if maker is None:
            return name in self._constants or (
                not self._holds(name) and self._parent.is_constant(name)
            )
        if maker.op_type in _ONES:
            return bool(maker.input) and self.is_constant(maker.input[0])
        return maker.op_type == "Constant"

    def value(self, name: str) -> NDArray[Any] | None:
        """See `GraphView.value`."""
        from onnx import numpy_helper

        if name in self._constants:
            return numpy_helper.to_array(self._constants[name])
        maker = self._makers.get(name)
        if maker is None:
            return None if self._holds(name) else self._parent.value(name)
        if maker.op_type == "Constant":
            for attribute in maker.attribute:
                if attribute.name == "value":
                    return numpy_helper.to_array(attribute.t)
                if attribute.name in {"value_int", "value_float"}:
                    return np.asarray(attributes(maker)[attribute.name])
        return None

    def origin(self, name: str) -> str:
        """See `GraphView.origin`; names of the body's own tensors are told apart by its path."""
        maker = self._makers.get(name)
        if maker is not None and maker.op_type in _ONES and maker.input:
            return self.origin(maker.input[0])
        return f"{self._path}{name}" if self._holds(name) else self._parent.origin(name)

    def maker(self, name: str) -> NodeProto | None:
        """See `GraphView.maker`."""
        return self._makers.get(name) if self._holds(name) else self._parent.maker(name)


Place = GraphView | Scope
"""Where a node stands: what knows the shapes and constants that it reads."""


@dataclass(slots=True)
class Tally:
    """What was counted so far.

    Attributes:
        macs: Multiply-accumulates of all that can be counted.
        parameters: Elements of what was learned, by constant, so that shared ones count once.
        uncounted: See `Counts`.
        branches: See `Counts`.
    """

    macs: int = 0
    parameters: dict[str, int] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)
    branches: list[tuple[str, tuple[int | None, ...]]] = field(default_factory=list)

    @property
    def total_macs(self) -> int | None:
        """All multiply-accumulates; None if some could not be counted."""
        return None if self.uncounted else self.macs


def count_node(
    tally: Tally,
    node: NodeProto,
    place: Place,
    executions: Mapping[str, int] | None,
    path: str = "",
) -> None:
    """Add the multiply-accumulates of a node, and those of the bodies that it holds.

    Args:
        tally: What was counted so far; it is changed. Of the node itself the parameters are not
            added, but those of its bodies are.
        node: The node.
        place: Where it stands.
        executions: How often nodes ran in one inference, by name; None where nothing ran.
        path: Tells the bodies apart.
    """
    bodies = list(subgraphs(node))
    if not bodies:
        macs = count_macs(node, place)
        if macs is None:
            tally.uncounted.append(f"{node.name or first_output(node)} ({node.op_type})")
        else:
            tally.macs += macs
        return
    counted = []
    for number, body in enumerate(bodies):
        inner = f"{path}{node.name or first_output(node)}.{number}/"
        counted.append(_count_body(body, Scope(body, place, inner), executions, inner))
    if node.op_type == "If":
        if any(part.macs or part.uncounted for part in counted):
            totals = tuple(part.total_macs for part in counted)
            tally.branches.append((node.name or first_output(node), totals))
        trips: int | None = 1
    else:
        trips = _count_trips(node, bodies[0], place, executions)
    for part in counted:
        tally.parameters |= part.parameters
        tally.branches += part.branches
        tally.uncounted += part.uncounted
        if trips is not None:
            tally.macs += trips * part.macs
        elif part.macs:
            tally.uncounted.append(f"{node.name or first_output(node)} ({node.op_type})")


def _count_body(
    graph: GraphProto, scope: Scope, executions: Mapping[str, int] | None, path: str
) -> Tally:
    tally = Tally()
    for node in graph.node:
        if node.op_type == "Constant" or all(map(scope.is_constant, filter(None, node.output))):
            continue
        count_node(tally, node, scope, executions, path)
        tally.parameters |= learned_parameters(node, scope)
    return tally


def _count_trips(
    node: NodeProto, body: GraphProto, place: Place, executions: Mapping[str, int] | None
) -> int | None:
    """Count how often the body of a Loop or Scan runs; None if that cannot be told."""
    if node.op_type == "Scan":
        given = attributes(node)
        scanned = int(given.get("num_scan_inputs", 0))
        axis = (given.get("scan_input_axes") or [0])[0]
        if not 0 < scanned <= len(node.input):
            return None
        shape = place.fixed_shape(node.input[len(node.input) - scanned])
        return shape[axis] if shape and -len(shape) <= axis < len(shape) else None
    if node.op_type != "Loop":
        return None
    limit = place.value(node.input[0]) if node.input and node.input[0] else None
    if limit is not None and limit.size == 1 and _never_stops(node, body, place):
        return max(int(limit.ravel()[0]), 0)
    own = (executions or {}).get(node.name, 0)
    if not own:
        return None
    runs = max((executions or {}).get(inner.name, 0) for inner in body.node or [node])
    return runs // own if body.node and runs % own == 0 else None


def _never_stops(node: NodeProto, body: GraphProto, place: Place) -> bool:
    """Tell whether only the number of trips ends a loop: its condition stays true."""
    start = place.value(node.input[1]) if len(node.input) > 1 and node.input[1] else np.True_
    if start is None or not np.all(start) or not body.output:
        return False
    name = body.output[0].name
    scope = Scope(body, place, "")
    value = scope.value(name)
    if value is not None:
        return bool(np.all(value))
    maker = scope.maker(name)
    while maker is not None and maker.op_type == "Identity":
        name = maker.input[0]
        maker = scope.maker(name)
    return len(body.input) > 1 and name == body.input[1].name


def count_macs(node: NodeProto, place: Place) -> int | None:
    """Count the multiply-accumulates of one node without bodies; None if that cannot be told.

    Args:
        node: The node.
        place: Where it stands.
    """
    counter = _COUNTERS.get(node.op_type)
    if node.op_type == "Attention" and node.domain in _STANDARD:
        counter = _count_attention
    if counter is None:
        return 0 if _multiplies_nothing(node) else None
    try:
        return counter(node, place)
    except (UnsupportedLayerError, ArithmeticError, LookupError, TypeError, ValueError):
        # A node with too few inputs or attributes, or with shapes that are not known.
        return None


def _multiplies_nothing(node: NodeProto) -> bool:
    """Tell whether a node without a counter is known to have nothing to count."""
    from onnx.defs import has

    if node.domain in _STANDARD:
        return node.op_type not in _UNCOUNTED and (has(node.op_type) or node.op_type in _FREE)
    if node.domain == _ML:
        return node.op_type not in _UNCOUNTED_ML
    return node.domain in {MICROSOFT, _BLOCKED} and node.op_type in _FREE


def _count_convolution(node: NodeProto, place: Place) -> int:
    """Every output is a sum over the weights of one filter."""
    weights = place.shape(node.input[_CONVOLUTIONS[node.op_type]])
    return math.prod(place.shape(first_output(node))) * math.prod(weights[1:])


def _count_transposed(node: NodeProto, place: Place) -> int:
    """Every input is multiplied by all weights that read it."""
    weights = place.shape(node.input[_TRANSPOSED[node.op_type]])
    return math.prod(place.shape(node.input[0])) * math.prod(weights[1:])


def _count_product(node: NodeProto, place: Place) -> int:
    """Every output is a sum over the inner dimension of two matrices."""
    given = attributes(node)
    left = place.shape(node.input[0])
    inner = left[-1]
    if given.get("transA") and len(left) > 1:
        inner = left[0] if given.get("transBatchA") else left[-2]
    return math.prod(place.shape(first_output(node))) * inner


def _count_packed_product(node: NodeProto, place: Place) -> int:
    return math.prod(place.shape(first_output(node))) * int(attributes(node)["K"])


def _count_einsum(node: NodeProto, place: Place) -> int:
    shapes = [place.shape(name) for name in node.input]
    return count_einsum(attributes(node)["equation"].decode(), shapes)


def _count_affine_grid(node: NodeProto, place: Place) -> int:
    """Every point, with a 1 behind its coordinates, is multiplied by a matrix."""
    grid = place.shape(first_output(node))
    return math.prod(grid) * (grid[-1] + 1)


def _count_recurrent(node: NodeProto, place: Place) -> int:
    """Every gate multiplies the input and the state by a matrix, at every step."""
    steps_first = not attributes(node).get("layout", 0)
    first, second, size = place.shape(node.input[0])
    steps, batch = (first, second) if steps_first else (second, first)
    weights, hidden = place.shape(node.input[1]), int(attributes(node)["hidden_size"])
    return steps * batch * weights[0] * _GATES[node.op_type] * hidden * (size + hidden)


def count_einsum(equation: str, shapes: Sequence[Shape]) -> int:
    """Count the multiply-accumulates of a sum of products, taken operand by operand.

    A step that sums over nothing is a product of elements, which counts nothing.

    Args:
        equation: As in `numpy.einsum`.
        shapes: The shape of each operand.

    Raises:
        ValueError: The equation does not fit the shapes.
    """
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"{equation!r} has {len(terms)} operands, not {len(shapes)}")
    sizes: dict[str, int] = {}
    operands: list[list[str]] = []
    for term, shape in zip(terms, shapes, strict=True):
        labels = _label_dimensions(term, len(shape))
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1)) if size else 0
        operands.append(labels)
    every = [label for labels in operands for label in labels]
    if arrow:
        output = set(right.replace("...", "")) | {
            label for label in every if "..." in right and label.startswith("...")
        }
    else:
        output = {label for label in every if every.count(label) == 1 or label.startswith("...")}
    macs = 0
    held = set(operands[0])
    for position, labels in enumerate(operands[1:], 1):
        later = output.union(*operands[position + 1 :])
        joint = held | set(labels)
        kept = joint & later
        if joint - kept:
            macs += math.prod(sizes[label] for label in joint)
        held = kept
    return macs


def _label_dimensions(term: str, rank: int) -> list[str]:
    """Give each dimension of an operand its label; those of an ellipsis are numbered from the end.

    Raises:
        ValueError: The operand has another number of dimensions.
    """
    before, dots, after = term.partition("...")
    spread = rank - len(before) - len(after)
    if spread < 0 or (spread and not dots):
        raise ValueError(f"{term!r} does not label {rank} dimensions")
    return [*before, *(f"...{number}" for number in range(spread, 0, -1)), *after]


def _input(node: NodeProto, position: int) -> str:
    """Name an input; empty if it is left out."""
    return node.input[position] if position < len(node.input) else ""


def _past(node: NodeProto, place: Place, position: int, axis: int) -> int:
    """Count the steps that a cache of keys holds already."""
    name = _input(node, position)
    return place.shape(name)[axis] if name else 0


def _count_attention(node: NodeProto, place: Place) -> int:
    """Attention of ONNX: scores of every query with every key, and sums of values by them."""
    given = attributes(node)
    query, key, value = (place.shape(name) for name in node.input[:3])
    past = _past(node, place, 4, 2)
    if len(query) == 4:
        batch, heads, steps, width = query
        return batch * heads * steps * (key[2] + past) * (width + value[3])
    heads, key_heads = int(given["q_num_heads"]), int(given["kv_num_heads"])
    batch, steps, width = query
    return batch * steps * (key[1] + past) * (width + value[2] // key_heads * heads)


def _count_attention_with_weights(node: NodeProto, place: Place) -> int:
    """Attention of ONNX Runtime: the matrix for queries, keys and values is inside."""
    batch, steps, size = place.shape(node.input[0])
    width = place.shape(node.input[1])[-1]
    parts = attributes(node).get("qkv_hidden_sizes") or [width // 3] * 3
    past = _past(node, place, 8 if node.op_type == "QAttention" else 4, 3)
    heads_width = int(parts[0]) + int(parts[2])
    return batch * steps * (size * width + (steps + past) * heads_width)


def _count_multi_head(node: NodeProto, place: Place) -> int:
    """MultiHeadAttention of ONNX Runtime, its operands apart or packed."""
    query = place.shape(node.input[0])
    batch, steps = query[:2]
    if len(query) == 5:  # batch, steps, heads, 3, width of a head
        width = query[2] * query[4]
        return 2 * batch * steps * steps * width
    key = place.shape(node.input[1])
    past = _past(node, place, 6, 2)
    if len(key) == 5:  # batch, steps, heads, 2, width of a head
        keys, value_width = key[1], key[2] * key[4]
    else:
        value = place.shape(node.input[2])
        keys = key[1] if len(key) == 3 else key[2]
        value_width = value[2] if len(value) == 3 else value[1] * value[3]
    return batch * steps * (keys + past) * (query[2] + value_width)


def _count_grouped(node: NodeProto, place: Place) -> int:
    """GroupQueryAttention: as many queries as heads, fewer keys and values."""
    given = attributes(node)
    heads, key_heads = int(given["num_heads"]), int(given["kv_num_heads"])
    batch, steps, width = place.shape(node.input[0])
    head = width // heads if _input(node, 1) else width // (heads + 2 * key_heads)
    present = node.output[1] if len(node.output) > 1 else ""
    keys = place.shape(present)[2] if present else steps + _past(node, place, 3, 2)
    return 2 * batch * steps * keys * heads * head


def _count_linear_model(node: NodeProto, place: Place) -> int:
    """Linear models of classical machine learning multiply rows of features by a matrix."""
    shape = place.shape(node.input[0])
    rows = shape[0] if len(shape) > 1 else 1
    return rows * len(attributes(node)["coefficients"])


_COUNTERS: dict[str, Callable[[NodeProto, Place], int]] = {
    "AffineGrid": _count_affine_grid,
    "Attention": _count_attention_with_weights,
    "Einsum": _count_einsum,
    "GroupQueryAttention": _count_grouped,
    "LinearClassifier": _count_linear_model,
    "LinearRegressor": _count_linear_model,
    "MultiHeadAttention": _count_multi_head,
    "QAttention": _count_attention_with_weights,
    **dict.fromkeys(_CONVOLUTIONS, _count_convolution),
    **dict.fromkeys(_TRANSPOSED, _count_transposed),
    **dict.fromkeys(_MATRIX_PRODUCTS, _count_product),
    **dict.fromkeys(_PACKED_PRODUCTS, _count_packed_product),
    **dict.fromkeys(_GATES, _count_recurrent),
}


def learned_parameters(node: NodeProto, place: Place) -> dict[str, int]:
    """Count the elements of the constants that a node has learned, by constant.

    They are floats, or what stands for floats in quantised and packed form. Single numbers, scales
    and zero points are none.
    """
    from onnx import TensorProto

    op = node.op_type
    if op in _NO_PARAMETERS:
        return {}
    if op in _PACKED_PRODUCTS:
        given = attributes(node)
        parameters = {place.origin(node.input[1]): int(given["K"]) * int(given["N"])}
        bias = _input(node, 5) if op == "MatMulNBits" else ""
        return parameters | _elements([bias], place)
    if op in _QUANTISED_PARAMETERS:
        return _elements([_input(node, position) for position in _QUANTISED_PARAMETERS[op]], place)
    if op == "GatherBlockQuantized":
        packed = 8 // int(attributes(node).get("bits", 4))
        data = _elements(node.input[:1], place)
        is_byte = place.element_type(node.input[0]) == TensorProto.UINT8
        return {name: size * packed if is_byte else size for name, size in data.items()}
    learned = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    names = [name for name in node.input if name and place.element_type(name) in learned]
    if op == "BatchNormalization":
        names = [name for name in node.input[1:3] if name in names]
    elif op == "Gather" and node.input and _is_byte_table(node.input[0], place):
        names = [node.input[0]]
    elif op == "Mul" and any(_is_dynamic_scale(name, place) for name in node.input):
        names = []
    elif op in ELEMENTWISE and op != "PRelu":
        # A single number is part of a formula, however many dimensions it is written with.
        names = [name for name in names if math.prod(place.fixed_shape(name) or ()) != 1]
    return _elements(names, place)


def find_precision(node: NodeProto, place: Place) -> tuple[str, int] | None:
    """Find the precision of the weights that a node multiplies, and their number.

    Args:
        node: A node without bodies.
        place: Where it stands.

    Returns:
        `fp32`, `int8`, .., and the elements; None if it multiplies no weights.
    """
    if node.op_type not in _COUNTERS:
        return None
    learned = learned_parameters(node, place)
    if not learned:
        return None
    if node.op_type in _PACKED_PRODUCTS:
        bits = 4 if node.op_type != "MatMulNBits" else int(attributes(node).get("bits", 4))
        return f"int{bits}", max(learned.values())
    weights = [name for name in node.input if name and place.is_constant(name)]
    largest = max(weights, key=lambda name: learned.get(place.origin(name), 0))
    element_type = place.element_type(place.origin(largest))
    name = PRECISIONS.get(element_type, "")
    if not name or name.startswith(("fp", "bf")):
        # Of weights that are cast before they are used, the cast ones are multiplied.
        name = PRECISIONS.get(place.element_type(largest), "fp32")
    return name, learned[place.origin(largest)]


def _elements(names: Sequence[str], place: Place) -> dict[str, int]:
    """Count the elements of the constants among some tensors that are more than one number."""
    elements = {}
    for name in names:
        if name and place.is_constant(name):
            shape = place.fixed_shape(name)
            if shape:
                elements[place.origin(name)] = math.prod(shape)
    return elements


def _is_byte_table(name: str, place: Place) -> bool:
    """Tell whether a tensor is a quantised table of embeddings."""
    from onnx import TensorProto

    bytes_ = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
    shape = place.fixed_shape(name)
    return place.element_type(name) in bytes_ and shape is not None and len(shape) > 1


def _is_dynamic_scale(name: str, place: Place) -> bool:
    """Tell whether a tensor is the scale of a dynamic quantisation."""
    maker = place.maker(name) if name else None
    if maker is None or maker.op_type != "DynamicQuantizeLinear":
        return False
    return len(maker.output) > 1 and maker.output[1] == name
