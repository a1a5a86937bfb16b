"""From LiteRT's profile to the layers of the network."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.devices.base import LayerRow
from hwbench.devices.shared.joining import RuntimeRow, join_rows
from hwbench.devices.shared.litert.alignment import align_rows
from hwbench.devices.shared.litert.profile import Row
from hwbench.network.graph import PartialLayer
from hwbench.network.tflite import layers
from hwbench.network.tflite.graph import Operator, TfliteGraph
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding

REST_CAUSE = "LiteRT's work around operators (buffers, the way into the graph and out of it)"


def join_profile(
    rows: Sequence[Row], workload: Workload
) -> tuple[tuple[LayerRow, ...], tuple[Finding, ...]]:
    """Join a profile to the layers of a network.

    Args:
        rows: What LiteRT executed, in order.
        workload: The network.

    Returns:
        (one row per layer in the order of execution, and one per row that belongs to none; what
        there is to say of them).
    """
    graph = TfliteGraph(workload.artifact, workload.name)
    network = layers(graph)
    owners = {node: layer for layer in network for node in layer.nodes}
    # The runtime adds a row that stands for all that it has given away.
    executed = [row for row in rows if row.is_delegated or (row.index or 0) < len(graph.operators)]
    workers = _find_operators(executed, graph)
    joined = []
    for row, operator in zip(executed, workers, strict=True):
        serves: tuple[str, ...] = ()
        if operator is not None and operator.name in owners:
            serves = (owners[operator.name].name,)
        joined.append(
            RuntimeRow(
                kind=row.tag.partition(" (")[0],
                implementation=_name_kernel(row),
                samples_s=row.samples_s,
                serves=serves,
                principal=operator is not None and _is_main(row, operator, owners),
            )
        )
    findings = (
        *_describe_fallback(executed, graph, network),
        *_describe_strays(joined),
        *_describe_short_rows(executed),
    )
    return join_rows(joined, network), findings


def _find_operators(rows: Sequence[Row], graph: TfliteGraph) -> list[Operator | None]:
    """Find the operator of the file that each row works for."""
    own = {row.index for row in rows if not row.is_delegated}
    others = [
        operator
        for operator in graph.operators
        if operator.index not in own and not graph.unpacks(operator)
    ]
    delegated = iter(align_rows([row.tag for row in rows if row.is_delegated], others))
    return [next(delegated) if row.index is None else graph.operators[row.index] for row in rows]


def _name_kernel(row: Row) -> str:
    """Name what ran a row: of XNNPACK its types and kernel (`F32 IGEMM`), or `TFLite`."""
    if not row.is_delegated:
        return "TFLite"
    layout, _, kernel = row.tag.partition("(")[2].partition(")")
    types = [part.strip() for part in layout.split(",")][1:]
    return " ".join([*types[-1:], *kernel.split()]) or "XNNPACK"


def _is_main(row: Row, operator: Operator, owners: dict[str, PartialLayer]) -> bool:
    """Whether a row does the work that its layer is known by, and is no clamp behind it."""
    if row.is_delegated:
        return not row.tag.startswith(("Clamp", "Constant Pad", "Static Reshape", "Transpose"))
    layer = owners.get(operator.name)
    return layer is None or len(layer.nodes) == 1 or operator.name == _heaviest_node(layer)


def _heaviest_node(layer: PartialLayer) -> str:
    """Name the node of a layer that does its work: pads come before it, activations behind."""
    helpers = ("PAD", "DEQUANTIZE", "DENSIFY", "RELU")
    names = [name for name in layer.nodes if not name.startswith(helpers)]
    return (names or list(layer.nodes))[0]


def _describe_fallback(
    rows: Sequence[Row], graph: TfliteGraph, network: Sequence[PartialLayer]
) -> tuple[Finding, ...]:
    """Say how much of a network XNNPACK left to TensorFlow Lite's own kernels, if it ran any."""
    left = [graph.operators[row.index] for row in rows if row.index is not None]
    left = [operator for operator in left if not graph.unpacks(operator)]
    if not left or not any(row.is_delegated for row in rows):
        return ()
    names = {operator.name for operator in left}
    macs = sum(layer.macs for layer in network)
    fallen = sum(layer.macs for layer in network if names.intersection(layer.nodes))
    share = fallen / macs if macs else 0.0
    kinds = ", ".join(list(dict.fromkeys(operator.kind for operator in left))[:3])
    text = (
        f"TensorFlow Lite's own kernels ran {len(left)} of {len(graph.operators)} operators"
        f" ({kinds}) that XNNPACK did not take, {share:.1%} of the multiply-accumulates"
    )
    return (Finding("partly_delegated", text),)


def _describe_strays(rows: Sequence[RuntimeRow]) -> tuple[Finding, ...]:
    """Say how many rows belong to no layer that could be found."""
    strays = [row for row in rows if not row.serves]
    if not strays:
        return ()
    total_s = sum(sum(row.samples_s) for row in rows)
    share = sum(sum(row.samples_s) for row in strays) / max(total_s, 1e-9)
    examples = ", ".join(list(dict.fromkeys(row.kind for row in strays))[:3])
    text = (
        f"{len(strays)} of {len(rows)} operators that LiteRT executes ({examples}; {share:.1%} of"
        " the time) could not be joined to a layer and are rows without a key"
    )
    return (Finding("layers_unknown", text),)


def _describe_short_rows(rows: Sequence[Row]) -> tuple[Finding, ...]:
    """Say how many operators are too short for the profiler."""
    short = sum(row.is_below_grain for row in rows)
    if not short:
        return ()
    text = (
        f"{short} of {len(rows)} operators took less than the whole microseconds in which XNNPACK"
        " tells its times, and are taken for half of one, or less where less is left"
    )
    return (Finding("below_grain", text),)
