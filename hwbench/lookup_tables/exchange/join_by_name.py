"""Rows that name nodes of the network, joined to its layers.

A row that fits no layer, or several, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import Call, UsageError
from hwbench.lookup_tables.exchange.foreign_files import ProfiledRuns, TrtLayers, TrtProfile
from hwbench.lookup_tables.exchange.foreign_network import ForeignEntry
from hwbench.network.graph import Layer, layers
from hwbench.records.layer_key import LayerKey

if TYPE_CHECKING:
    from onnx import ModelProto

WARM_UP = 1
"""Inferences at the beginning of ONNX Runtime's profile that do not count.

The first one allocates memory.
"""
_REORDERS = frozenset({"ReorderInput", "ReorderOutput"})
_DECORATION = re.compile(r"^fused |(?:_nchwc|_token_\d+|/duplicated)+$")
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
    """

    name: str
    origins: tuple[str, ...]
    samples_s: tuple[float, ...]


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
            tuple(t for t in times if t),
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
        inserted = layer.name.startswith("Reformatting ")
        origins = () if inserted else told.get(layer.name) or tuple(layer.name.split(" + "))
        value_s = layer.mean_s if layer.median_s is None else layer.median_s
        rows.append(Row(layer.name, origins, () if value_s is None else (value_s,)))
    return rows


def join_rows(rows: Sequence[Row], model: ModelProto, source: str) -> tuple[ForeignEntry, ...]:
    """Entries of one network from rows that name its nodes.

    Rows that the tool inserted belong to no layer; they are in what the layers leave of the whole.
    A layer without multiply-accumulates and without a row costs nothing of its own: the tool lists
    all that it executes.

    Args:
        rows: All rows of the profile.
        model: The network, every node with a name of its own.
        source: Name of the file for messages.

    Raises:
        UsageError: A row stands for no layer or for several, or a convolution or linear layer has
            none.
    """
    found = layers(model)
    made_by = {name: layer for layer in found for name in layer.nodes}
    made_by |= {
        tensor: made_by[node.name]
        for node in model.graph.node
        if node.name in made_by
        for tensor in node.output
    }
    samples_s: dict[str, list[tuple[float, ...]]] = {}
    for row in rows:
        if row.origins:
            samples_s.setdefault(_layer_of(row, made_by, source).name, []).append(row.samples_s)
    entries: dict[LayerKey, ForeignEntry] = {}
    for layer in found:
        parts = samples_s.get(layer.name)
        if parts is None and layer.macs:
            raise UsageError(
                f"{source} has no row for layer {layer.name} ({layer.key}); give the model that was"
                " profiled"
            )
        values_s = (0.0,) if parts is None else tuple(map(sum, zip(*parts, strict=False)))
        known = entries.get(layer.key, ForeignEntry(layer.key, (), 0))
        entries[layer.key] = ForeignEntry(layer.key, (*known.samples_s, *values_s), known.calls + 1)
    return tuple(entry for entry in entries.values() if entry.samples_s)


def _layer_of(row: Row, made_by: dict[str, Layer], source: str) -> Layer:
    found = {made_by[name].name: made_by[name] for name in row.origins if name in made_by}
    if len(found) != 1 or any(name not in made_by for name in row.origins):
        what = (
            f"stands for the layers {', '.join(found)}"
            if len(found) > 1
            else "is of no layer of the model"
        )
        raise UsageError(
            f"row {row.name!r} of {source} {what}, so its time belongs to none; give the model that"
            " was profiled",
            Call("build_table", {"model": None}, purpose="measure its layers"),
        )
    return next(iter(found.values()))
