"""From the layers of an engine, and their times, to the layers of the network.

Pure functions over what TensorRT printed.

An engine layer says in its `Metadata` which ONNX nodes it was made of (TensorRT 10 on), or is named
after them (8.x: `conv1 + relu`, `PWN(sigmoid, mul)`). Engine layers that serve the same layer of
the network, and layers whose main nodes share an engine layer, make one row; so a fused layer's
time is never divided. Layers that have none of their own (a reshape) belong to the row of the layer
that reads them. Reformats and the like are real cost and have rows of their own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hwbench.devices.base import LayerRow
from hwbench.devices.nvidia.trtexec import parse_layers
from hwbench.errors import OutputParseError
from hwbench.network.graph import Layer
from hwbench.records.findings import Finding

REST_CAUSE = (
    "what the layers' times do not contain: gaps between kernels, and in the request clock"
    " launching and waiting"
)
GRAINS_S = (1.024e-6, 0.512e-6, 32e-9)
"""Steps of CUDA events, by the GPU's generation: published profiles are multiples of the first, see `grain_s`."""
_FOREIGN = re.compile(r"\{?ForeignNode\[(.+?)\.\.\.(.+?)\]\}?")
_TYPES = {
    "int8": "int8",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "fp8": "fp8",
    "float": "fp32",
    "fp32": "fp32",
}
_TYPE_WORD = re.compile("|".join(_TYPES), re.IGNORECASE)
_WIDER = {"int8": {"fp32", "fp16"}, "fp16": {"fp32"}}


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name: As the profiler calls it.
        kind: TensorRT's type of it (`CaskConvolution`, `Reformat`, `kgen`); empty where only names
            are told.
        nodes: ONNX nodes of the network that it was made of.
        precision: Of what it reads; empty where not told.
        tactic: The kernel; empty where not told.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    precision: str = ""
    tactic: str = ""


def engine_layers(text: str, node_names: Sequence[str]) -> tuple[EngineLayer, ...]:
    """Read the engine inspector's JSON.

    Args:
        text: Of any version from 8.x on, detailed or names alone.
        node_names: The ONNX nodes that TensorRT was given, in order.

    Raises:
        OutputParseError: It is not in that form.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise OutputParseError(
            f"TensorRT's engine information is damaged JSON ({error})"
        ) from error
    parsed = parse_layers(data, "TensorRT's engine information")
    places = {name: place for place, name in enumerate(node_names)}
    found = []
    for layer, raw in zip(parsed.layers, data["Layers"], strict=True):
        details = raw if isinstance(raw, dict) else {}
        origins = () if layer.kind == "Reformat" else layer.origins
        nodes = tuple(dict.fromkeys(node for origin in origins for node in _nodes(origin, places)))
        tactic = details.get("TacticName")
        found.append(
            EngineLayer(
                layer.name,
                layer.kind,
                nodes,
                _precision(details),
                tactic if isinstance(tactic, str) else "",
            )
        )
    return tuple(found)


def _nodes(origin: str, places: Mapping[str, int]) -> Sequence[str]:
    """ONNX nodes in one part of an engine layer's name or metadata.

    What names none of ours gives none.
    """
    if origin in places:
        return (origin,)
    if foreign := _FOREIGN.search(
        origin
    ):  # a part of the network in one piece, told by its ends, which may bear a number
        first, last = (
            places.get(name, places.get(re.sub(r"_\d+$", "", name))) for name in foreign.groups()
        )
        return (
            ()
            if first is None or last is None
            else list(places)[min(first, last) : max(first, last) + 1]
        )
    if origin.startswith("PWN("):  # a chain of pointwise operators
        return [name for name in re.split(r"PWN\(|, |\)+(?:, |$)", origin) if name in places]
    return ()


def _precision(details: Mapping[str, Any]) -> str:
    """Narrowest type of what a layer reads: `Datatype` (10 on), or inside `Format/Datatype` (8.x)."""
    inputs = details.get("Inputs")
    words = []
    for tensor in inputs if isinstance(inputs, list) else ():
        text = (
            tensor.get("Datatype") or tensor.get("Format/Datatype")
            if isinstance(tensor, dict)
            else None
        )
        words += (
            [match[0].lower() for match in _TYPE_WORD.finditer(text)]
            if isinstance(text, str)
            else []
        )
    kinds = {_TYPES[word] for word in words}
    return next((kind for kind in ("int8", "fp8", "fp16", "bf16", "fp32") if kind in kinds), "")


@dataclass(slots=True)
class _Row:
    """A row being gathered."""

    engine: list[EngineLayer] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)


def join(
    engine: Sequence[EngineLayer],
    layers: Sequence[Layer],
    runs: Sequence[Sequence[tuple[str, float]]],
) -> tuple[LayerRow, ...]:
    """Rows in execution order.

    Args:
        engine: The engine's layers.
        layers: Layers of the network, in order.
        runs: Per profiled inference, name and seconds of each engine layer, in the order of
            execution.

    Raises:
        OutputParseError: Inferences differ in their layers, or the profile names layers that the
            engine does not have.
    """
    timed = [name for name, _ in runs[0]] if runs else []
    if not timed or any([name for name, _ in run] != timed for run in runs):
        raise OutputParseError(
            f"TensorRT's profile of {len(runs)} inferences tells different layers for each, or none"
        )
    known = {layer.name: layer for layer in engine}
    strangers = [name for name in timed if name not in known]
    if strangers:
        raise OutputParseError(
            f"TensorRT timed {len(strangers)} layers that its engine does not list"
            f" ({strangers[0][:120]!r} first)"
        )
    columns = [tuple(run[place][1] for run in runs) for place in range(len(timed))]
    times: dict[str, tuple[float, ...]] = {}
    for name, column in zip(timed, columns, strict=True):
        times[name] = (
            tuple(map(sum, zip(times[name], column, strict=True))) if name in times else column
        )
    rows = _rows([known[name] for name in times], layers)
    _absorb(rows, layers)
    labels = _labels(rows)
    nodes = Counter(timed)
    return tuple(
        _layer_row(row, label, times, nodes) for row, label in zip(rows, labels, strict=True)
    )


def _rows(engine: Iterable[EngineLayer], layers: Sequence[Layer]) -> list[_Row]:
    """Engine layers gathered in rows, and the network's layers that each serves."""
    by_name = {layer.name: layer for layer in layers}
    owner = {node: layer.name for layer in layers for node in layer.nodes}
    row_of: dict[str, _Row] = {}
    rows: list[_Row] = []
    for part in engine:
        mine = _served(part, by_name, owner)
        joined = list({id(row_of[name]): row_of[name] for name in mine if name in row_of}.values())
        row = joined[0] if joined else _Row()
        for other in joined[1:]:  # this engine layer ties rows together that were apart until now
            row.engine += other.engine
            row.layers += other.layers
            rows = [kept for kept in rows if kept is not other]
        if not joined:
            rows.append(row)
        row.engine.append(part)
        row.layers += [by_name[name] for name in mine if name not in row_of]
        row_of.update((layer.name, row) for layer in row.layers)
    return rows


def _served(part: EngineLayer, by_name: Mapping[str, Layer], owner: Mapping[str, str]) -> list[str]:
    """Names of the layers whose main nodes an engine layer computes.

    Without any, the one whose other nodes it mostly computes.

    So a kernel that only adds or quantises between two layers belongs to one of them and ties
    nothing together.
    """
    mains = [node for node in part.nodes if node in by_name]
    others = Counter(owner[node] for node in part.nodes if node in owner)
    return mains or [name for name, _ in others.most_common(1)]


def _absorb(rows: list[_Row], layers: Sequence[Layer]) -> None:
    """Give layers without an engine layer of their own to the row of the layer that reads them, else of the one they read."""
    row_of = {layer.name: row for row in rows for layer in row.layers}
    readers = {tensor: layer for layer in reversed(layers) for tensor in layer.inputs}
    writers = {layer.output: layer for layer in layers}
    for layer in reversed(layers):
        near = [readers.get(layer.output), *(writers.get(tensor) for tensor in layer.inputs)]
        row = next(
            (row_of[other.name] for other in near if other is not None and other.name in row_of),
            None,
        )
        if layer.name not in row_of and row is not None:
            row.layers.append(layer)
            row_of[layer.name] = row


def _heaviest(row: _Row) -> Layer | None:
    return max(row.layers, key=lambda layer: layer.macs, default=None)


def _is_group(row: _Row) -> bool:
    """Whether several layers that do real work are one: then no single key has this time."""
    return sum(layer.macs > 0 for layer in row.layers) > 1


def _labels(rows: Sequence[_Row]) -> list[str]:
    """Unique names: the layer's.

    For a group or an inserted row that of the layer it serves, and its kind.
    """
    taken: Counter[str] = Counter()
    labels, near = [], "input"
    for row in rows:
        heaviest = _heaviest(row)
        near = heaviest.name if heaviest is not None else near
        kind = (
            f"group of {len(row.layers)}"
            if heaviest is not None
            else row.engine[0].kind or "reformat"
        )
        label = near if heaviest is not None and not _is_group(row) else f"{near}/{kind}"
        taken[label] += 1
        labels.append(label if taken[label] == 1 else f"{label}_{taken[label]}")
    return labels


def _layer_row(
    row: _Row, label: str, times: Mapping[str, tuple[float, ...]], nodes: Mapping[str, int]
) -> LayerRow:
    heaviest = _heaviest(row)
    single = heaviest is not None and not _is_group(row)
    main = row.engine[0]
    if (
        heaviest is not None
    ):  # the engine layer that does the work, beside those that only convert for it
        main = max(row.engine, key=lambda part: (heaviest.name in part.nodes, times[part.name]))
    return LayerRow(
        name=label,
        op=(
            heaviest.op
            if single and heaviest is not None
            else "Group"
            if heaviest is not None
            else main.kind or "Reformat"
        ),
        key=heaviest.key if single and heaviest is not None else None,
        implementation=" ".join(
            filter(None, (main.precision, main.kind or "fused", main.tactic[:60]))
        ),
        samples_s=tuple(map(sum, zip(*(times[part.name] for part in row.engine), strict=True))),
        nodes=sum(nodes[part.name] for part in row.engine),
    )


def findings(rows: Sequence[LayerRow]) -> tuple[Finding, ...]:
    """Layers that fell back to a wider type, layers fused together, and reformats, as findings."""
    found = []
    heavy = [
        row for row in rows if row.key is not None and row.op in {"Conv", "Linear", "ConvTranspose"}
    ]
    wide = [
        row
        for row in heavy
        if row.key is not None
        and row.implementation.partition(" ")[0] in _WIDER.get(row.key.precision, ())
    ]
    if wide:
        text = (
            f"{len(wide)} of {len(heavy)} layers read a wider type than the file says"
            f" ({_names(wide)})"
        )
        found.append(Finding("fall_back", text))
    fused = [row for row in rows if row.op == "Group"]
    if fused:
        text = (
            f"TensorRT made one kernel of several layers in {len(fused)} places ({_names(fused)});"
            " its time is not divided"
        )
        found.append(Finding("fused_layers", text))
    reformats = [row for row in rows if row.key is None and row.op != "Group"]
    if len(reformats) > 2:  # one at each end is the price of the engine's own layout
        found.append(
            Finding(
                "reorders", f"TensorRT inserted {len(reformats)} reformats ({_names(reformats)})"
            )
        )
    return tuple(found)


def node_cost_s(sums_s: Sequence[float], wholes_s: Sequence[float], nodes: Sequence[int]) -> float:
    """The profiler's constant per engine layer, from two networks that differ in their number of equal layers.

    What the layers' sum exceeds the unprofiled latency by grows with their number; the slope is the
    constant. Published captures have 1.7 us (TITAN RTX) to 7.5 us (A100). It is not fitted on the
    network that is measured: then closure would say nothing.

    Args:
        sums_s: Median sum of the layers' times of each network.
        wholes_s: Median unprofiled latency of each.
        nodes: Engine layers of each.
    """
    excess_s = [total - whole for total, whole in zip(sums_s, wholes_s, strict=True)]
    more = nodes[1] - nodes[0]
    slope_s = (excess_s[1] - excess_s[0]) / more if more > 0 else excess_s[1] / max(1, nodes[1])
    return max(0.0, slope_s)


def grain_s(runs: Sequence[Sequence[tuple[str, float]]]) -> float:
    """Grain in seconds of the clock that profiled: the coarsest known step of which all times are multiples."""
    times_s = [seconds for run in runs for _, seconds in run]
    on_grid = (
        step for step in GRAINS_S if all(abs(t / step - round(t / step)) < 0.01 for t in times_s)
    )
    return next(on_grid, GRAINS_S[-1])


def _names(rows: Sequence[LayerRow]) -> str:
    return ", ".join(row.name for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
