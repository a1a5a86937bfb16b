"""From rows that another tool measured to layers, by their order.

Which row of a log is which layer of the network that was logged is found here.

Logs name tensors and operators but no shapes, so rows are joined to the layers of the same network
in order. Anything that does not fit is an error: a row given to the wrong layer would be a wrong
entry that nothing later could notice.

Known differences between TensorFlow Lite's view of a layer and ours, none of which the tables have
ever told apart: the ReLU6 of the published MobileNets is a ReLU in ours, and padding at stride 2
lies at the end instead of on both sides, or in an operator of its own.

What is one layer here may be several operators there: padding, a residual addition, an activation
that is not fused. Their times add up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hwbench.devices.android.tflite_log import Operator
from hwbench.errors import UsageError
from hwbench.lookup_tables.exchange.foreign_files import OfaTable, TfliteLog
from hwbench.lookup_tables.exchange.foreign_network import ForeignEntry
from hwbench.lookup_tables.exchange.ofa_yaml import OfaRow
from hwbench.records.layer_key import LayerKey

_REMEDY = "give the model that was logged, and its widths"


def join_tflite(logs: Sequence[TfliteLog], keys: Sequence[LayerKey]) -> tuple[ForeignEntry, ...]:
    """Entries of one network from repeated logs of it, in order of execution, reshapes last.

    Rows and layers must agree in order, with these liberties: padding before a layer, and an
    addition or activation behind one, belong to the layer that has them fused; a reshape may stand
    before or behind the linear layer, or be left out; rows that only rearrange tensors belong to no
    layer where no layer does; and a softmax at the end, which the networks of the zoo leave out,
    gets the key it would have. Rows below a log's resolution give no sample, and a layer without
    any sample no entry.

    The logs hold no widths, so those of `keys` are taken on trust.

    Args:
        logs: Logs of the same network, each with its operators.
        keys: Layers of that network in the order in which they begin.

    Raises:
        UsageError: There is no log, the logs are of different networks, or a row does not fit its
            layer; names the first.
    """
    if not logs:
        raise UsageError(
            "no logs to join; expected at least one log of benchmark_model with"
            " --enable_op_profiling=true"
        )
    for log in logs[1:]:
        if _identity_of(log) != _identity_of(logs[0]):
            raise UsageError(
                f"{log.source} and {logs[0].source} are logs of different networks; join each"
                " network by itself"
            )
    samples_s: dict[LayerKey, list[float]] = {}
    calls: dict[LayerKey, int] = {}
    for number, log in enumerate(logs):
        for layer in _Alignment(log, keys).run():
            if number == 0:
                calls[layer.key] = calls.get(layer.key, 0) + 1
            times_s = [row.mean_s for row in layer.rows if row.mean_s is not None]
            if times_s or not layer.rows:  # without a row it was left out, and costs nothing
                samples_s.setdefault(layer.key, []).append(sum(times_s))
    return tuple(
        ForeignEntry(key, tuple(samples_s[key]), calls[key]) for key in calls if key in samples_s
    )


def join_ofa(table: OfaTable) -> tuple[tuple[ForeignEntry, ...], int]:
    """Entries of a once-for-all table, and how many rows have none.

    Only rows that say all that a key says are joined: the classifier on a map of one pixel, and
    pooling of the whole map. The file does not tell the kernel of a convolution, and an
    `expanded_conv` is a block of several layers.
    """
    found: dict[LayerKey, list[float]] = {}
    for row in table.rows:
        key = _ofa_key(row)
        if key is not None:
            found.setdefault(key, []).append(row.mean_s)
    entries = tuple(
        ForeignEntry(key, tuple(values_s), len(values_s)) for key, values_s in found.items()
    )
    return entries, len(table.rows) - sum(entry.calls for entry in entries)


def _ofa_key(row: OfaRow) -> LayerKey | None:
    """The layer of a row: height, width, channels become 1 x channels x height x width."""
    if row.attrs or not row.input:
        return None
    *place, cin = row.input
    cout = row.output[-1]
    if row.kind == "Logits" and set(place) <= {1} and set(row.output[:-1]) <= {1}:
        return LayerKey("Linear", ((1, cin),), (1, cout))
    if row.kind == "AvgPool2D" and len(row.input) == 3 and row.output in {(1, 1, cin), (cin,)}:
        return LayerKey("GlobalAveragePool", ((1, cin, *place),), (1, cin, 1, 1))
    return None


def _identity_of(log: TfliteLog) -> tuple[str | None, list[tuple[str, str]]]:
    """What repeated logs of one network agree in."""
    return dict(log.parameters).get("Graph"), [(row.kind, row.name) for row in log.operators]


@dataclass(eq=False, slots=True)
class _AlignedLayer:
    """One layer, and the rows that do its work."""

    key: LayerKey
    rows: list[Operator] = field(default_factory=list)


class _Alignment:
    """One pass over the rows of a log, along the layers of its network."""

    def __init__(self, log: TfliteLog, keys: Sequence[LayerKey]) -> None:
        if not log.operators:
            raise UsageError(
                f"{log.source} has no table of operators; profile again with"
                " --enable_op_profiling=true"
            )
        self.log = log
        kinds = [_kind_of(row) for row in log.operators]
        if kinds[-1] == "SOFTMAX" and keys and keys[-1].op != "Softmax":
            keys = [*keys, _softmax_of(keys[-1])]
        self.layers = [_AlignedLayer(key) for key in keys if key.op != "Reshape"]
        self.reshapes = [_AlignedLayer(key) for key in keys if key.op == "Reshape"]
        self._place = 0  # the layer that comes next
        self._renamed = 0  # reshapes that have their row
        self._held: list[Operator] = []  # rows that belong to the layer that comes next
        self._last: _AlignedLayer | None = None
        self._unadded: list[_AlignedLayer] = []  # layers whose addition is still to come

    def run(self) -> list[_AlignedLayer]:
        """Give each row to its layer; reshapes come last.

        Raises:
            UsageError: A row does not fit its layer, or a layer has none.
        """
        for row in self.log.operators:
            kind = _kind_of(row)
            if row.calls != 1 or not self._place_row(row, kind):
                raise UsageError(self._misfit_text(row, kind))
        self._skip_moves("")
        if self._place < len(self.layers):
            key = self.layers[self._place].key
            raise UsageError(f"{self.log.source} ends before layer {key}; {_REMEDY}")
        if self._unadded:
            key = self._unadded[0].key
            raise UsageError(f"{self.log.source} has no addition for layer {key}; {_REMEDY}")
        return self.layers + self.reshapes

    def _place_row(self, row: Operator, kind: str) -> bool:
        """Give one row to a layer; False if it fits none."""
        if kind in _RESHAPES:
            placed = self._renamed < len(self.reshapes)
            if placed:
                self.reshapes[self._renamed].rows.append(row)
                self._renamed += 1
            return placed
        if kind == "ADD" and self._unadded:
            self._last = self._unadded.pop()
            self._last.rows.append(row)
            return True
        self._skip_moves(kind)
        return (
            self._begin_layer(row, kind)
            or self._extend_layer(row, kind)
            or kind in _MOVES  # inserted, so it is of no layer
        )

    def _begin_layer(self, row: Operator, kind: str) -> bool:
        """Give a row, or the padding before it, to the layer that comes next, if it fits."""
        if self._place == len(self.layers):
            return False
        upcoming = self.layers[self._place]
        if kind in _FITS and _FITS[kind](upcoming.key):
            upcoming.rows += [*self._held, row]
            self._held = []
            self._place += 1
            self._last = upcoming
            if upcoming.key.attr("add"):
                self._unadded.append(upcoming)
            return True
        if kind in _PADS and _has_pads(upcoming.key):
            self._held.append(row)
            return True
        return False

    def _extend_layer(self, row: Operator, kind: str) -> bool:
        """Give a row to the layer before it, if it may be a part of that."""
        last = self._last
        if last is None:
            return False
        is_activation = kind in _ACTIVATIONS and last.key.attr("act") != ""
        is_mean = kind in {"MUL", "DIV"} and _kind_of(last.rows[-1]) == "SUM"
        if is_activation or is_mean:
            last.rows.append(row)
        return is_activation or is_mean

    def _skip_moves(self, kind: str) -> None:
        """Pass over layers that only rearrange a tensor, which another layout may need not."""
        while self._place < len(self.layers):
            key = self.layers[self._place].key
            if key.op != "Transpose" or (kind in _FITS and _FITS[kind](key)):
                break
            self._place += 1

    def _misfit_text(self, row: Operator, kind: str) -> str:
        what = "any layer: the model has no more"
        if kind in _RESHAPES and self._renamed < len(self.reshapes):
            what = str(self.reshapes[self._renamed].key)
        elif kind not in _RESHAPES and self._place < len(self.layers):
            what = str(self.layers[self._place].key)
        where = f"row {self.log.operators.index(row) + 1} of {self.log.source}"
        called = "" if row.calls == 1 else f" called {row.calls} times"
        return f"{where}, {row.kind} {row.name!r}{called}, does not fit {what}; {_REMEDY}"


def _kind_of(row: Operator) -> str:
    """TensorFlow Lite's name of what a row does, where XNNPACK did it too.

    XNNPACK writes the operator, its layout and types, and the kernel: `Convolution (NHWC, F32)
    IGEMM`.
    """
    match = re.fullmatch(r"([A-Za-z][\w ]*?)\s*\([^()]*\)\s*(.*)", row.kind)
    if match is None:
        return row.kind
    operator, kernel = match[1].lower(), match[2]
    if operator == "convolution" and "DWConv" in kernel:
        return "DEPTHWISE_CONV_2D"
    return _XNNPACK.get(operator, row.kind)


def _softmax_of(last: LayerKey) -> LayerKey:
    axis = (("axis", str(len(last.output) - 1)),)
    return LayerKey("Softmax", (last.output,), last.output, axis, last.precision)


def _is_depthwise(key: LayerKey) -> bool:
    return key.op == "Conv" and key.attr("group") == str(key.inputs[0][1]) != "1"


def _is_pointwise(key: LayerKey) -> bool:
    """Tell whether a convolution is a product of two matrices, as XNNPACK computes it."""
    window = set(re.findall(r"\d+", key.attr("kernel") + " " + key.attr("strides")))
    return key.op == "Conv" and key.attr("group") == "1" and window <= {"1"} and not _has_pads(key)


def _has_pads(key: LayerKey) -> bool:
    return any(pad != "0" for pad in key.attr("pads", "0").split("."))


def _is(*ops: str) -> Callable[[LayerKey], bool]:
    return lambda key: key.op in ops


_RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_PADS = frozenset({"PAD", "PADV2"})
_MOVES = frozenset({"TRANSPOSE", "QUANTIZE", "DEQUANTIZE", "CAST", "COPY"})
"""Operators that bring a tensor into another form, which a converter or a delegate inserts."""
_ACTIVATIONS = frozenset(
    {"RELU", "RELU6", "RELU_N1_TO_1", "CLAMP", "HARD_SWISH", "LOGISTIC", "TANH", "LEAKY_RELU"}
    | {"MUL", "MINIMUM", "MAXIMUM", "GELU", "ELU"}
)
"""Operators that an activation may be made of; `x * sigmoid(x)` ends in a product."""
_POOLINGS = _is("AveragePool", "GlobalAveragePool", "ReduceMean")
_FITS: Mapping[str, Callable[[LayerKey], bool]] = {
    "CONV_2D": lambda key: key.op == "Linear" or (key.op == "Conv" and not _is_depthwise(key)),
    "DEPTHWISE_CONV_2D": _is_depthwise,
    "FULLY_CONNECTED": lambda key: key.op == "Linear" or _is_pointwise(key),
    "TRANSPOSE_CONV": _is("ConvTranspose"),
    "AVERAGE_POOL_2D": _POOLINGS,
    "MEAN": _POOLINGS,
    "SUM": lambda key: _POOLINGS(key) or key.op == "ReduceSum",
    "MAX_POOL_2D": _is("MaxPool", "GlobalMaxPool"),
    "ADD": _is("Add"),
    "SUB": _is("Sub"),
    "MUL": _is("Mul"),
    "DIV": _is("Div"),
    "CONCATENATION": _is("Concat"),
    "SOFTMAX": _is("Softmax"),
    "BATCH_MATMUL": _is("MatMul"),
    "LOGISTIC": _is("Sigmoid"),
    "TANH": _is("Tanh"),
    "RELU": _is("Relu"),
    "RELU6": _is("Clip", "Relu"),
    "CLAMP": _is("Clip", "Relu"),
    "HARD_SWISH": _is("HardSwish"),
    "LEAKY_RELU": _is("LeakyRelu"),
    "PRELU": _is("PRelu"),
    "GELU": _is("Gelu"),
    "ELU": _is("Elu"),
    "RESIZE_BILINEAR": _is("Resize"),
    "RESIZE_NEAREST_NEIGHBOR": _is("Resize"),
    "PAD": _is("Pad"),
    "PADV2": _is("Pad"),
    "TRANSPOSE": _is("Transpose"),
    "QUANTIZE": _is("QuantizeLinear"),
    "DEQUANTIZE": _is("DequantizeLinear"),
    "CAST": _is("Cast"),
}
"""Which layers an operator of TensorFlow Lite can be."""
_XNNPACK: Mapping[str, str] = {
    "convolution": "CONV_2D",
    "deconvolution": "TRANSPOSE_CONV",
    "fully connected": "FULLY_CONNECTED",
    "dynamic fully connected": "FULLY_CONNECTED",
    "batch matrix multiply": "BATCH_MATMUL",
    "average pooling": "AVERAGE_POOL_2D",
    "global average pooling": "MEAN",
    "mean": "MEAN",
    "sum": "SUM",
    "max pooling": "MAX_POOL_2D",
    "add": "ADD",
    "subtract": "SUB",
    "multiply": "MUL",
    "divide": "DIV",
    "softmax": "SOFTMAX",
    "sigmoid": "LOGISTIC",
    "tanh": "TANH",
    "clamp": "CLAMP",
    "hardswish": "HARD_SWISH",
    "leaky relu": "LEAKY_RELU",
    "prelu": "PRELU",
    "gelu": "GELU",
    "elu": "ELU",
    "resize bilinear": "RESIZE_BILINEAR",
    "constant pad": "PAD",
    "transpose": "TRANSPOSE",
    "convert": "CAST",
    "copy": "COPY",
}
"""Operators of XNNPACK (`xnn_operator_type_to_string`, src/operator-utils.c of
github.com/google/XNNPACK), by what TensorFlow Lite calls them."""
