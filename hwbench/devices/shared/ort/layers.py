"""From ONNX Runtime's profile to the layers of the network.

ONNX Runtime executes another graph than it was given. `origins` finds out which layers each node of
that graph works for; here their times become rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hwbench.devices.base import LayerRow
from hwbench.devices.shared.joining import RuntimeRow, join_rows
from hwbench.devices.shared.ort.executed_graph import ExecutedNode
from hwbench.devices.shared.ort.origins import REORDERS, NodeOrigin
from hwbench.devices.shared.ort.profile import ProfiledRuns
from hwbench.network.graph import PartialLayer
from hwbench.records.comparison import ChangeExplanation
from hwbench.records.findings import Finding

BLOCKED_DOMAIN = "com.microsoft.nchwc"
REST_CAUSE = (
    "ONNX Runtime's work between layers and before the first one (scheduling, binding, allocation)"
)


def join_profile(
    origins: Sequence[NodeOrigin], layers: Sequence[PartialLayer], runs: ProfiledRuns, block: int
) -> tuple[LayerRow, ...]:
    """Join the profile of ONNX Runtime to the layers of the network.

    Args:
        origins: Nodes of the executed graph with the layers they work for, in order.
        layers: Layers of the network, in order.
        runs: The profile of the executed graph.
        block: Channels in a block of the blocked layout.

    Returns:
        One row per layer in execution order, and one per node that the runtime inserted or that
        could not be joined.
    """
    rows = []
    for entry, origin in match_entries(origins, runs):
        rows.append(
            RuntimeRow(
                kind=origin.node.op,
                implementation=_implementation(origin.node, block),
                samples_s=runs.nodes_s[entry],
                serves=origin.serves,
                near=origin.near,
                principal=origin.principal,
            )
        )
    return join_rows(rows, layers)


def match_entries(
    origins: Sequence[NodeOrigin], runs: ProfiledRuns
) -> list[tuple[str, NodeOrigin]]:
    """Match the entries of a profile to the executed nodes.

    Names tell, where nodes have one of their own. The runtime leaves nodes without a name where it
    replaced an operator by its definition; in the profile they are called after their operator.
    They follow each other in the same order.

    Returns:
        The name of each entry with its node, in the order of execution. An entry that is not in
        the graph has a node that nothing is known of.
    """
    by_name: dict[str, NodeOrigin] = {}
    nameless: dict[str, list[NodeOrigin]] = {}
    for origin in origins:
        if origin.node.name and origin.node.name not in by_name:
            by_name[origin.node.name] = origin
        else:
            nameless.setdefault(origin.node.op, []).append(origin)
    matched = []
    for entry in runs.nodes_s:
        op = runs.ops.get(entry, "")
        if entry in by_name:
            origin = by_name[entry]
        elif nameless.get(op):
            origin = nameless[op].pop(0)
        else:
            stranger = ExecutedNode(entry, op or "Node", "", (), ())
            origin = NodeOrigin(stranger, (), "", principal=False, known=False)
        matched.append((entry, origin))
    return matched


def _implementation(node: ExecutedNode, block: int) -> str:
    """Name the layout that a node works in, or its operator where the layout says nothing."""
    if node.op in REORDERS:
        return "reorder"
    if node.domain == BLOCKED_DOMAIN:
        return f"nchwc{block}"
    return "nchw" if node.op in {"Conv", "FusedConv"} else node.op


def unknown_rows_finding(origins: Sequence[NodeOrigin], runs: ProfiledRuns) -> tuple[Finding, ...]:
    """Say how many nodes of a profile belong to no layer that could be found, as a finding."""
    times_s = {entry: sum(values) for entry, values in runs.nodes_s.items()}
    unknown = [
        (entry, origin) for entry, origin in match_entries(origins, runs) if not origin.known
    ]
    if not unknown:
        return ()
    share = sum(times_s[entry] for entry, _ in unknown) / max(sum(times_s.values()), 1e-9)
    examples = ", ".join(dict.fromkeys(origin.node.op for _, origin in unknown[:3]))
    text = (
        f"{len(unknown)} of {len(times_s)} nodes that ONNX Runtime executes ({examples};"
        f" {share:.1%} of the time) could not be joined to a layer and are rows without a key"
    )
    return (Finding("layers_unknown", text),)


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
