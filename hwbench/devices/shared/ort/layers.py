"""From ONNX Runtime's profile to the layers of the network.

ONNX Runtime executes another graph than it was given: operators are fused, convolutions moved to a
blocked layout, reorders inserted. Node names survive only in part, but tensors do: a fused node
writes the tensor that the last operator of its group wrote in the original graph (a blocked node is
*named* after that tensor, plus `_nchwc`). So an executed node is joined to the layer that made its
output, and a node that writes no original tensor was inserted by the runtime for its neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from hwbench.devices.base import LayerRow
from hwbench.devices.shared.joining import RuntimeRow, join_rows
from hwbench.devices.shared.ort.executed_graph import ExecutedNode
from hwbench.devices.shared.ort.profile import ProfiledRuns
from hwbench.errors import OutputParseError
from hwbench.network.graph import Layer
from hwbench.records.comparison import ChangeExplanation
from hwbench.records.findings import Finding

BLOCKED = "_nchwc"
BLOCKED_DOMAIN = "com.microsoft.nchwc"
REORDERS = frozenset({"ReorderInput", "ReorderOutput"})
_SUFFIX = re.compile(r"(_token_\d+|/duplicated)+$")
REST_CAUSE = (
    "ONNX Runtime's work between layers and before the first one (scheduling, binding, allocation)"
)


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
    named = {node: layer for layer in layers for node in layer.nodes}
    source: dict[str, Layer] = {}  # tensors the runtime invented -> the layer they come from
    rows = []
    for node in executed:
        if node.name not in runs.nodes_s:
            continue
        layer = _layer_of(node, named, made_by)
        neighbour = layer
        if layer is None:
            origins = [source.get(tensor) or made_by.get(tensor) for tensor in node.inputs]
            neighbour = next(filter(None, origins), None)
        if neighbour is not None:
            source.update({tensor: neighbour for tensor in node.outputs if tensor not in made_by})
        rows.append(
            RuntimeRow(
                kind=node.op,
                implementation=_implementation(node, block),
                samples_s=runs.nodes_s[node.name],
                serves=() if layer is None else (layer.name,),
                near="input" if neighbour is None else neighbour.name,
                principal=layer is not None and _does_work_of(node, layer),
            )
        )
    return join_rows(rows, layers)


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


def _does_work_of(node: ExecutedNode, layer: Layer) -> bool:
    """Whether a node does a layer's own work, and not only a conversion for it."""
    wanted = ("Gemm", "MatMul", "Conv") if layer.op == "Linear" else (layer.op,)
    return node.op.endswith(wanted)


def _implementation(node: ExecutedNode, block: int) -> str:
    if node.op in REORDERS:
        return "reorder"
    if node.domain == BLOCKED_DOMAIN:
        return f"nchwc{block}"
    return "nchw" if node.op in {"Conv", "FusedConv"} else node.op


def explain_change(baseline: str, candidate: str) -> ChangeExplanation | None:
    """Explain that a convolution left the blocked layout, which is what costs time in ONNX Runtime."""
    if not baseline.startswith("nchwc") or candidate != "nchw":
        return None
    block = baseline.removeprefix("nchwc")
    return ChangeExplanation(
        code="fell_off_layout",
        change="left the blocked layout in the candidate",
        cause=(f"fell off the blocked layout because their widths are not multiples of {block}"),
    )


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
