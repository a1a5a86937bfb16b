"""Rows that name nodes of the network, joined to its layers.

They are joined as the rows of hwbench's own drivers are (`hwbench.devices.shared.joining`): a row
belongs to the layer that does its work, and one that does the work of several layers is a group,
whose time is never divided. A row of which nothing is known is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from hwbench.devices.nvidia.trt_names import find_nodes, split_name
from hwbench.devices.shared.joining import RuntimeRow, gather_by_layer, layers_served
from hwbench.errors import Call, UsageError
from hwbench.lookup_tables.exchange.foreign_files import ProfiledRuns, TrtLayers, TrtProfile
from hwbench.lookup_tables.exchange.foreign_network import ForeignEntry
from hwbench.network.graph import Layer, layers
from hwbench.records.findings import Finding
from hwbench.records.layer_key import LayerKey
from hwbench.records.untrusted import quote

if TYPE_CHECKING:
    from onnx import ModelProto

WARM_UP = 1
"""Inferences at the beginning of ONNX Runtime's profile that do not count.

The first one allocates memory.
"""
_REORDERS = frozenset({"ReorderInput", "ReorderOutput"})
_DECORATION = re.compile(
    r"^fused |(?:_nchwc|_token_\d+|/duplicated|/\w+Fusion/?|_new_reshape| \(\d+\))+$"
)
"""What ONNX Runtime adds to the name of a node.

It does so where it fuses a node, moves it to its blocked layout or copies it.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One executed row of a profile.

    Attributes:
        name: As the tool calls it.
        origins: Nodes or tensors of the original network that it stands for; empty for one that the
            tool inserted.
        samples_s: Latencies, seconds; empty where they are below the tool's resolution.
        serves: Names of the layers that it works for, where they are known already.
    """

    name: str
    origins: tuple[str, ...]
    samples_s: tuple[float, ...]
    serves: tuple[str, ...] | None = None


@dataclass(slots=True)
class LeftOut:
    """What a join found that is in no entry.

    Attributes:
        groups_s: Seconds per inference of the rows that stand for several layers.
        findings: What to know of it.
    """

    groups_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def ort_rows(runs: ProfiledRuns, source: str) -> list[Row]:
    """Rows of a profile of ONNX Runtime, the first inference left out.

    Raises:
        UsageError: It holds the first inference only.
    """
    if len(runs.whole_s) <= WARM_UP:
        raise UsageError(
            f"{source} holds the first, cold inference alone; profile at least {WARM_UP + 1} in one"
            " session"
        )
    warm = runs.select_runs(range(WARM_UP, len(runs.whole_s)))
    return [
        Row(
            name,
            () if runs.ops.get(name) in _REORDERS else (_DECORATION.sub("", name),),
            times,
        )
        for name, times in warm.nodes_s.items()
    ]


def trt_rows(profile: TrtProfile, layers: TrtLayers | None) -> list[Row]:
    """Rows of trtexec's profile.

    What they are made of from its layer information, else from their names.
    """
    told = {} if layers is None else {layer.name: layer.origins for layer in layers.layers}
    rows = []
    for layer in profile.layers:
        origins = split_name(layer.name)  # none for a reformat
        if origins:
            origins = told.get(layer.name) or origins
        value_s = layer.mean_s if layer.median_s is None else layer.median_s
        rows.append(Row(layer.name, origins, () if value_s is None else (value_s,)))
    return rows


def join_rows(
    rows: Sequence[Row],
    model: ModelProto,
    source: str,
    *,
    node_names: Mapping[str, str] | None = None,
    left_out: LeftOut | None = None,
) -> tuple[ForeignEntry, ...]:
    """Entries of one network from rows that name its nodes.

    Rows that the tool inserted belong to no layer; they are in what the layers leave of the whole.
    A layer without multiply-accumulates and without a row costs nothing of its own: the tool lists
    all that it executes.

    Args:
        rows: All rows of the profile.
        model: The network, every node with a name of its own.
        source: Name of the file for messages.
        node_names: Nodes of the model by the names that its file has for them.
        left_out: Takes what is in no entry; None drops it.

    Raises:
        UsageError: A row stands for no layer, or a convolution or linear layer has no row.
    """
    found = layers(model)
    left_out = LeftOut() if left_out is None else left_out
    nodes_of = _find_nodes(rows, model, node_names or {}, source)
    repeats = max((len(row.samples_s) for row in rows), default=0)
    parts = [
        RuntimeRow(
            row.name,
            "",
            row.samples_s or (0.0,) * repeats,
            layers_served(nodes, found) if row.serves is None else row.serves,
        )
        for row, nodes in zip(rows, nodes_of, strict=True)
    ]
    samples_s: dict[str, tuple[float, ...]] = {}
    groups: dict[str, str] = {}  # row of each layer whose time cannot be told apart
    for joined in gather_by_layer(parts, found):
        times_s = tuple(map(sum, zip(*(part.samples_s for part in joined.parts), strict=True)))
        heaviest = joined.heaviest
        if joined.is_group:
            groups |= dict.fromkeys([layer.name for layer in joined.layers], joined.parts[0].kind)
            left_out.groups_s += median(times_s) if times_s else 0.0
        elif heaviest is not None:
            samples_s[heaviest.name] = times_s
    entries: dict[LayerKey, ForeignEntry] = {}
    for layer in found:
        if layer.name in groups:
            continue
        if layer.name not in samples_s and layer.macs:
            raise _missing_row_error(layer, source, groups)
        # One whose times are all 0 is below the resolution, so its latency is unknown.
        values_s = tuple(filter(None, samples_s.get(layer.name, ())))
        if layer.name not in samples_s:
            values_s = (0.0,)
        known = entries.get(layer.key, ForeignEntry(layer.key, (), 0))
        entries[layer.key] = ForeignEntry(layer.key, (*known.samples_s, *values_s), known.calls + 1)
    left_out.findings += [*_find_groups(groups), *_find_shared_nodes(rows, nodes_of, found)]
    return tuple(entry for entry in entries.values() if entry.samples_s)


def _find_nodes(
    rows: Sequence[Row], model: ModelProto, node_names: Mapping[str, str], source: str
) -> list[list[str]]:
    """Find the nodes that each row stands for.

    A file may have other names for its nodes than the model, and one name may be that of different
    nodes: the names are those under which most rows are found.

    Raises:
        UsageError: A row stands for no node.
    """
    places = {node.name: place for place, node in enumerate(model.graph.node)}
    tensors = {
        tensor: place for place, node in enumerate(model.graph.node) for tensor in node.output
    }
    weights = {name: -1 for name, node in node_names.items() if not node}
    constants = {tensor.name for tensor in model.graph.initializer}
    for place, node in enumerate(model.graph.node):
        for name in node.input:
            if name in constants:
                weights.setdefault(name, place)
    in_file = {name: places[node] for name, node in node_names.items() if node in places}
    spellings = [{**tensors, **places, **in_file}, {**in_file, **tensors, **places}]
    open_rows = [row.origins if row.serves is None else () for row in rows]
    readings = [
        [find_nodes(origins, names, weights) for origins in open_rows] for names in spellings
    ]
    found = min(readings, key=lambda reading: sum(bool(row.unknown) for row in reading))
    named = {place for nodes in found if not nodes.is_piece for place in nodes.places}
    result = []
    for row, nodes in zip(rows, found, strict=True):
        if nodes.unknown:
            raise UsageError(
                f"row {row.name!r} of {source} is of no layer of the model, so its time belongs to"
                " none; give the model that was profiled",
                Call("build_table", {"model": None}, purpose="measure its layers"),
            )
        # Between the ends of a piece lie nodes that have rows of their own.
        kept = [place for place in nodes.places if not (nodes.is_piece and place in named)]
        result.append([model.graph.node[place].name for place in kept])
    return result


def _missing_row_error(layer: Layer, source: str, groups: Mapping[str, str]) -> UsageError:
    if groups:
        first = next(iter(groups.values()))
        names = ", ".join(name for name, row in groups.items() if row == first)
        return UsageError(
            f"row {first!r} of {source} stands for the layers {names}, so its time belongs to none,"
            f" and {layer.name} has no row; give the model that was profiled",
            Call("build_table", {"model": None}, purpose="measure its layers"),
        )
    return UsageError(
        f"{source} has no row for layer {layer.name} ({layer.key}); give the model that was"
        " profiled"
    )


def _find_groups(groups: Mapping[str, str]) -> list[Finding]:
    """Say which layers have no entry, because a row stands for several."""
    if not groups:
        return []
    text = (
        f"{len(groups)} layers have no entry, because a row stands for several of them"
        f" ({quote(next(iter(groups.values())))} first), whose time is not divided"
    )
    return [Finding("grouped_rows", text)]


def _find_shared_nodes(
    rows: Sequence[Row], nodes_of: Sequence[Sequence[str]], found: Sequence[Layer]
) -> list[Finding]:
    """Say which rows do work of a layer that another row stands for, as an addition."""
    owners = {node: layer.name for layer in found for node in layer.nodes}
    taken = []
    for row, nodes in zip(rows, nodes_of, strict=True):
        served = set(layers_served(nodes, found))
        others = {owners[node] for node in nodes if node in owners} - served
        if others:
            taken.append(row.name)
    if not taken:
        return []
    text = (
        f"{len(taken)} rows do work that belongs to another layer here, as a residual addition that"
        f" was fused into the other convolution ({quote(taken[0])} first); its time is where the"
        " row is"
    )
    return [Finding("fused_elsewhere", text)]
