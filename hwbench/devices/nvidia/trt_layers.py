"""From the layers of an engine, and their times, to the layers of the network.

Pure functions over what TensorRT printed.

An engine layer says in its `Metadata` which ONNX nodes it was made of (TensorRT 10 on), or is named
after them (8.x: `conv1 + relu`, `PWN(sigmoid, mul)`); `joining` makes rows of that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hwbench.devices.base import LayerRow
from hwbench.devices.nvidia.trtexec import parse_layers
from hwbench.devices.shared.joining import RuntimeRow, join_rows, layers_served
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
    main_nodes = {layer.name for layer in layers}
    rows = []
    for place, name in enumerate(timed):
        part = known[name]
        words = (part.precision, part.kind or "fused", part.tactic[:60])
        rows.append(
            RuntimeRow(
                kind=part.kind or "reformat",
                implementation=" ".join(filter(None, words)),
                samples_s=tuple(run[place][1] for run in runs),
                serves=layers_served(part.nodes, layers),
                principal=not main_nodes.isdisjoint(part.nodes),
            )
        )
    return join_rows(_add_up_repeated(timed, rows), layers)


def _add_up_repeated(names: Sequence[str], rows: Sequence[RuntimeRow]) -> list[RuntimeRow]:
    """Rows of equal names as one: TensorRT reports an engine layer again for each kernel of it."""
    by_name: dict[str, RuntimeRow] = {}
    for name, row in zip(names, rows, strict=True):
        before = by_name.get(name)
        if before is None:
            by_name[name] = row
        else:
            pairs = zip(before.samples_s, row.samples_s, strict=True)
            samples_s = tuple(first_s + second_s for first_s, second_s in pairs)
            by_name[name] = replace(before, samples_s=samples_s, nodes=before.nodes + 1)
    return list(by_name.values())


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


def grain_s(runs: Sequence[Sequence[tuple[str, float]]]) -> float:
    """Grain in seconds of the clock that profiled: the coarsest known step of which all times are multiples."""
    times_s = [seconds for run in runs for _, seconds in run]
    on_grid = (
        step for step in GRAINS_S if all(abs(t / step - round(t / step)) < 0.01 for t in times_s)
    )
    return next(on_grid, GRAINS_S[-1])


def _names(rows: Sequence[LayerRow]) -> str:
    return ", ".join(row.name for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
