"""From ONNX Runtime's profile to the layers of the network.

ONNX Runtime executes another graph than it was given: operators are fused, convolutions moved to a
blocked layout, reorders inserted. Node names survive only in part, but tensors do: a fused node
writes the tensor that the last operator of its group wrote in the original graph (a blocked node is
*named* after that tensor, plus `_nchwc`). So an executed node is joined to the layer that made its
output, and a node that writes no original tensor was inserted by the runtime for its neighbour.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hwbench.devices.base import LayerRow
from hwbench.devices.shared.ort.profile import ProfiledRuns
from hwbench.errors import OutputParseError
from hwbench.network.graph import Layer
from hwbench.records.findings import Finding

BLOCKED = "_nchwc"
BLOCKED_DOMAIN = "com.microsoft.nchwc"
REORDERS = frozenset({"ReorderInput", "ReorderOutput"})
_SUFFIX = re.compile(r"(_token_\d+|/duplicated)+$")
REST_CAUSE = (
    "ONNX Runtime's work between layers and before the first one (scheduling, binding, allocation)"
)


@dataclass(frozen=True, slots=True)
class ExecutedNode:
    """One node of the graph that the runtime executes, after its optimisations."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(slots=True)
class _Row:
    """A layer row being gathered: the executed nodes that serve one layer."""

    name: str
    layers: list[Layer] = field(default_factory=list)
    nodes: list[ExecutedNode] = field(default_factory=list)


def join(
    executed: Sequence[ExecutedNode],
    layers: Sequence[Layer],
    made_by: Mapping[str, Layer],
    runs: ProfiledRuns,
    block: int,
) -> tuple[LayerRow, ...]:
    """One row per layer of the network in execution order, and one per node the runtime inserted for itself.

    Args:
        executed: The optimised graph, in order.
        layers: Layers of the original graph, in order.
        made_by: For every tensor of the original graph, the layer that writes it, at its end or
            inside.
        runs: The profile of the optimised graph.
        block: Channels in a block of the blocked layout.

    Raises:
        OutputParseError: The profile names a node that the optimised graph does not have.
    """
    unknown = set(runs.nodes_s) - {node.name for node in executed}
    if unknown:
        raise OutputParseError(
            f"profile and graph of ONNX Runtime disagree: {sorted(unknown)[:3]} were timed but are"
            " not in the graph"
        )
    rows = _rows([node for node in executed if node.name in runs.nodes_s], layers, made_by)
    _absorb(rows, layers)
    return tuple(_layer_row(row, runs, block) for row in rows)


def _rows(
    executed: Iterable[ExecutedNode], layers: Iterable[Layer], made_by: Mapping[str, Layer]
) -> list[_Row]:
    named = {node: layer for layer in layers for node in layer.nodes}
    by_layer: dict[str, _Row] = {}
    source: dict[str, Layer] = {}  # tensors the runtime invented -> the layer they come from
    inserted: Counter[str] = Counter()
    rows: list[_Row] = []
    for node in executed:
        layer = _layer_of(node, named, made_by)
        if layer is None:
            near = next(
                (
                    source.get(t) or made_by.get(t)
                    for t in node.inputs
                    if t in source or t in made_by
                ),
                None,
            )
            label = f"{near.name if near else 'input'}/{node.op}"
            inserted[label] += 1
            rows.append(
                _Row(label if inserted[label] == 1 else f"{label}_{inserted[label]}", [], [node])
            )
        else:
            near = layer
            if layer.name not in by_layer:
                by_layer[layer.name] = _Row(layer.name, [layer])
                rows.append(by_layer[layer.name])
            by_layer[layer.name].nodes.append(node)
        if near is not None:
            source.update({tensor: near for tensor in node.outputs if tensor not in made_by})
    return rows


def _layer_of(
    node: ExecutedNode, named: Mapping[str, Layer], made_by: Mapping[str, Layer]
) -> Layer | None:
    if (
        node.op in REORDERS
    ):  # ReorderOutput writes an original tensor, but is not the layer that made it
        return None
    for tensor in (*node.outputs, node.name.removesuffix(BLOCKED)):
        if tensor in made_by:
            return made_by[tensor]
    # Quantised nodes write tensors of their own, but keep their names but for a suffix that makes
    # them unique.
    return named.get(_SUFFIX.sub("", node.name))


def _absorb(rows: list[_Row], layers: Sequence[Layer]) -> None:
    """Give layers that have no node of their own to the row that executes them: that of the layer which reads them."""
    shown = {layer.name: row for row in rows for layer in row.layers}
    readers = {tensor: layer for layer in reversed(layers) for tensor in layer.inputs}
    for layer in reversed(layers):
        reader = readers.get(layer.output)
        if layer.name not in shown and reader is not None and reader.name in shown:
            row = shown[layer.name] = shown[reader.name]
            row.layers.append(layer)


def _layer_row(row: _Row, runs: ProfiledRuns, block: int) -> LayerRow:
    times = [runs.nodes_s[node.name] for node in row.nodes]
    samples_s = tuple(map(sum, zip(*times, strict=True)))
    heaviest = max(row.layers, key=lambda layer: layer.macs, default=None)
    main = row.nodes[0] if heaviest is None else _main_node(row, heaviest)
    return LayerRow(
        name=row.name if heaviest is None else heaviest.name,
        op=main.op if heaviest is None else heaviest.op,
        key=None if heaviest is None else heaviest.key,
        implementation=_implementation(main, block),
        samples_s=samples_s,
        nodes=len(row.nodes),
    )


def _main_node(row: _Row, layer: Layer) -> ExecutedNode:
    """The node that does the layer's work, beside those that only convert for it."""
    wanted = ("Gemm", "MatMul", "Conv") if layer.op == "Linear" else (layer.op,)
    return next((node for node in row.nodes if node.op.endswith(wanted)), row.nodes[0])


def _implementation(node: ExecutedNode, block: int) -> str:
    if node.op in REORDERS:
        return "reorder"
    if node.domain == BLOCKED_DOMAIN:
        return f"nchwc{block}"
    return "nchw" if node.op in {"Conv", "FusedConv"} else node.op


def layout_findings(rows: Iterable[LayerRow], block: int) -> tuple[Finding, ...]:
    """Convolutions that fell off the blocked layout, and reorders, as findings."""
    rows = list(rows)
    heavy = [
        row
        for row in rows
        if row.op in {"Conv", "Linear"} and row.key is not None and row.key.precision == "int8"
    ]
    convolutions = [
        row
        for row in rows
        if row.op == "Conv" and row.implementation.startswith("nchw") and row not in heavy
    ]
    plain = [row for row in convolutions if row.implementation == "nchw"]
    reorders = [row for row in rows if row.implementation == "reorder"]
    found = []
    in_float = [
        row
        for row in heavy
        if not row.implementation.startswith("Q") and "Integer" not in row.implementation
    ]
    if in_float:
        where = f"{len(in_float)} of {len(heavy)} quantised layers run in fp32 ({_names(in_float)})"
        found.append(
            Finding(
                "fall_back", f"{where}: the runtime has no integer kernel for them as they stand"
            )
        )
    if plain and block > 1:
        where = (
            f"{len(plain)} of {len(convolutions)} convolutions run outside the blocked layout"
            f" ({_names(plain)})"
        )
        found.append(
            Finding("unblocked_layers", f"{where}; widths in multiples of {block} keep them in it")
        )
    if len(reorders) > 2:  # one at each end is the price of the blocked layout
        found.append(
            Finding(
                "reorders",
                f"the runtime inserted {len(reorders)} layout reorders ({_names(reorders)})",
            )
        )
    return tuple(found)


def _names(rows: Sequence[LayerRow]) -> str:
    return ", ".join(row.name for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
