"""From rows that another tool measured to layers, by their order.

Which row of a log is which layer of the network that was logged is found here.

Logs name tensors and operators but no shapes, so rows are joined to the layers of the same network
in order. Anything that does not fit is an error: a row given to the wrong layer would be a wrong
entry that nothing later could notice.

Known differences between TensorFlow Lite's view of a layer and ours, none of which the tables have
ever told apart: the ReLU6 of the published MobileNets is a ReLU in ours, and padding at stride 2
lies at the end instead of on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hwbench.devices.android.tflite_log import Operator
from hwbench.errors import UsageError
from hwbench.lookup_tables.exchange.foreign_files import OfaTable, TfliteLog
from hwbench.lookup_tables.exchange.foreign_network import ForeignEntry
from hwbench.lookup_tables.exchange.ofa_yaml import OfaRow
from hwbench.records.layer_key import LayerKey

_REMEDY = "give the model that was logged, and its widths"


def join_tflite(logs: Sequence[TfliteLog], keys: Sequence[LayerKey]) -> tuple[ForeignEntry, ...]:
    """Entries of one network from repeated logs of it, in order of execution, reshapes last.

    Rows and layers must agree one to one, in order, with two liberties: a reshape may stand before
    or behind the linear layer, and a softmax at the end, which the networks of the zoo leave out,
    gets the key it would have. Rows below a log's resolution give no sample, and a layer without
    any sample no entry.

    The logs hold no widths, so those of `keys` are taken on trust.

    Args:
        logs: Logs of the same network, each with its operators.
        keys: Layers of that network in execution order.

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
        for row, key in zip(*_pair_rows(log, keys), strict=True):
            if number == 0:
                calls[key] = calls.get(key, 0) + row.calls
            if row.mean_s is not None:
                samples_s.setdefault(key, []).append(row.mean_s)
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


def _pair_rows(log: TfliteLog, keys: Sequence[LayerKey]) -> tuple[list[Operator], list[LayerKey]]:
    """The log's rows, and the key of each."""
    if not log.operators:
        raise UsageError(
            f"{log.source} has no table of operators; profile again with --enable_op_profiling=true"
        )
    if log.operators[-1].kind == "SOFTMAX" and keys and keys[-1].op != "Softmax":
        keys = [*keys, _softmax_of(keys[-1])]
    rows = sorted(
        log.operators, key=lambda row: row.kind in _RESHAPES
    )  # stable: reshapes go last, all else keeps its order
    ordered = sorted(keys, key=lambda key: key.op == "Reshape")
    for row, key in zip(rows, ordered, strict=False):
        fits = _FITS.get(row.kind)
        if fits is None or not fits(key) or row.calls != 1:
            raise UsageError(_misfit_text(log, row, str(key)))
    if len(rows) > len(ordered):
        raise UsageError(_misfit_text(log, rows[len(ordered)], "any layer: the model has no more"))
    if len(rows) < len(ordered):
        raise UsageError(f"{log.source} ends before layer {ordered[len(rows)]}; {_REMEDY}")
    return rows, ordered


def _misfit_text(log: TfliteLog, row: Operator, what: str) -> str:
    where = f"row {log.operators.index(row) + 1} of {log.source}"
    called = "" if row.calls == 1 else f" called {row.calls} times"
    return f"{where}, {row.kind} {row.name!r}{called}, does not fit {what}; {_REMEDY}"


def _softmax_of(last: LayerKey) -> LayerKey:
    axis = (("axis", str(len(last.output) - 1)),)
    return LayerKey("Softmax", (last.output,), last.output, axis, last.precision)


def _is_depthwise(key: LayerKey) -> bool:
    return key.op == "Conv" and key.attr("group") == str(key.inputs[0][1]) != "1"


_RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_FITS: Mapping[str, Callable[[LayerKey], bool]] = {
    "CONV_2D": lambda key: key.op == "Linear" or (key.op == "Conv" and not _is_depthwise(key)),
    "DEPTHWISE_CONV_2D": _is_depthwise,
    "FULLY_CONNECTED": lambda key: key.op == "Linear",
    "AVERAGE_POOL_2D": lambda key: key.op in {"AveragePool", "GlobalAveragePool", "ReduceMean"},
    "MEAN": lambda key: key.op in {"AveragePool", "GlobalAveragePool", "ReduceMean"},
    "MAX_POOL_2D": lambda key: key.op == "MaxPool",
    "ADD": lambda key: key.op == "Add",
    "CONCATENATION": lambda key: key.op == "Concat",
    "SOFTMAX": lambda key: key.op == "Softmax",
    **dict.fromkeys(_RESHAPES, lambda key: key.op == "Reshape"),
}
"""Which layers an operator of TensorFlow Lite can be."""
