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


def join_profile(
    executed: Sequence[ExecutedNode],
    layers: Sequence[Layer],
    makers: Mapping[str, Layer],
    runs: ProfiledRuns,
    block: int,
) -> tuple[LayerRow, ...]:
    """Join the profile of ONNX Runtime to the layers of the network.

    Args:
        executed: Nodes of the optimised graph, in order.
        layers: Layers of the original graph, in order.
        makers: For every tensor of the original graph, the layer that writes it, at its end or
            inside.
        runs: The profile of the optimised graph.
        block: Channels in a block of the blocked layout.

    Returns:
        One row per layer in execution order, and one per node that the runtime inserted.

    Raises:
        OutputParseError: The profile names a node that the optimised graph does not have.
    """
    missing = set(runs.nodes_s) - {node.name for node in executed}
    if missing:
        raise OutputParseError(
            f"profile and graph of ONNX Runtime disagree: {sorted(missing)[:3]} were timed but are"
            " not in the graph"
        )
    layer_of_node = {node: layer for layer in layers for node in layer.nodes}
    # Tensors that the runtime invented (a reordered copy, say), with the layer they come from.
    origins: dict[str, Layer] = {}
    rows = []
    for node in executed:
        if node.name not in runs.nodes_s:
            continue
        layer = _find_layer(node, layer_of_node, makers)
        neighbour = layer
        if layer is None:
            # An inserted node stands near the first layer that it reads, also through the tensors
            # of other inserted nodes.
            for tensor in node.inputs:
                neighbour = origins.get(tensor) or makers.get(tensor)
                if neighbour is not None:
                    break
        if neighbour is not None:
            for tensor in node.outputs:
                if tensor not in makers:
                    origins[tensor] = neighbour
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


def _find_layer(
    node: ExecutedNode, layer_of_node: Mapping[str, Layer], makers: Mapping[str, Layer]
) -> Layer | None:
    """Find the layer whose work a node does; None if the runtime inserted the node."""
    # ReorderOutput writes an original tensor, but is not the layer that made it.
    if node.op in REORDERS:
        return None
    for tensor in (*node.outputs, node.name.removesuffix(BLOCKED)):
        if tensor in makers:
            return makers[tensor]
    # Quantised nodes write tensors of their own, but keep their names but for a suffix that makes
    # them unique.
    return layer_of_node.get(_SUFFIX.sub("", node.name))


def _does_work_of(node: ExecutedNode, layer: Layer) -> bool:
    """Tell whether a node does a layer's own work, and not only a conversion for it.

    The runtime's fused and quantised operators end in the name of the original (`FusedConv`,
    `QLinearConv`).
    """
    operators = ("Gemm", "MatMul", "Conv") if layer.op == "Linear" else (layer.op,)
    return node.op.endswith(operators)


def _implementation(node: ExecutedNode, block: int) -> str:
    """Name the layout that a node works in, or its operator where the layout says nothing."""
    if node.op in REORDERS:
        return "reorder"
    if node.domain == BLOCKED_DOMAIN:
        return f"nchwc{block}"
    return "nchw" if node.op in {"Conv", "FusedConv"} else node.op


def explain_change(baseline: str, candidate: str) -> ChangeExplanation | None:
    """Explain that a convolution left the blocked layout, which costs time in ONNX Runtime."""
    if not baseline.startswith("nchwc") or candidate != "nchw":
        return None
    block = baseline.removeprefix("nchwc")
    return ChangeExplanation(
        code="fell_off_layout",
        change="left the blocked layout in the candidate",
        cause=(f"fell off the blocked layout because their widths are not multiples of {block}"),
    )


def layout_findings(rows: Iterable[LayerRow], block: int) -> tuple[Finding, ...]:
    """Find quantised layers in fp32, convolutions outside the blocked layout, and reorders."""
    quantised = []
    in_float = []
    convolutions = []
    unblocked = []
    reorders = []
    for row in rows:
        name = row.implementation
        heavy = row.op in {"Conv", "Linear"}
        if heavy and row.key is not None and row.key.precision == "int8":
            quantised.append(row)
            # Integer kernels are QLinearConv, QGemm, MatMulIntegerToFloat and the like.
            if not name.startswith("Q") and "Integer" not in name:
                in_float.append(row)
        elif row.op == "Conv" and name.startswith("nchw"):
            convolutions.append(row)
            if name == "nchw":
                unblocked.append(row)
        if name == "reorder":
            reorders.append(row)
    findings = []
    if in_float:
        where = (
            f"{len(in_float)} of {len(quantised)} quantised layers run in fp32"
            f" ({_list_names(in_float)})"
        )
        findings.append(
            Finding(
                "fall_back", f"{where}: the runtime has no integer kernel for them as they stand"
            )
        )
    if unblocked and block > 1:
        where = (
            f"{len(unblocked)} of {len(convolutions)} convolutions run outside the blocked layout"
            f" ({_list_names(unblocked)})"
        )
        findings.append(
            Finding("unblocked_layers", f"{where}; widths in multiples of {block} keep them in it")
        )
    if len(reorders) > 2:  # one at each end is the price of the blocked layout
        findings.append(
            Finding(
                "reorders",
                f"the runtime inserted {len(reorders)} layout reorders ({_list_names(reorders)})",
            )
        )
    return tuple(findings)


def _list_names(rows: Sequence[LayerRow]) -> str:
    """List the names of the first three rows."""
    names = ", ".join(row.name for row in rows[:3])
    return f"{names}, ..." if len(rows) > 3 else names
