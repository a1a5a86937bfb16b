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
from hwbench.devices.nvidia.trt_names import find_nodes
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
"""Steps of CUDA events in seconds, which differ by the GPU's generation, coarsest first.

Published profiles have times that are multiples of the first.
"""
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
# Types in which a layer of a precision runs when it falls back.
_WIDER = {"int8": {"fp32", "fp16"}, "fp16": {"fp32"}}


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name: Name of the layer in the profile.
        kind: TensorRT's type of the layer (`CaskConvolution`, `Reformat`, `kgen`); empty where
            TensorRT says only names.
        nodes: ONNX nodes of the network that it was made of.
        precision: Narrowest type of what it reads; empty where unknown.
        tactic: Name of the kernel; empty where unknown.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    precision: str = ""
    tactic: str = ""


def read_engine_layers(text: str, node_names: Sequence[str]) -> tuple[EngineLayer, ...]:
    """Read the engine inspector's JSON.

    Args:
        text: The JSON of any version from 8.x on, detailed or with names alone.
        node_names: Names of the ONNX nodes that TensorRT was given, in order.

    Raises:
        OutputParseError: The text is not in that form.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise OutputParseError(
            f"TensorRT's engine information is damaged JSON ({error})"
        ) from error
    parsed = parse_layers(data, "TensorRT's engine information")
    places = {name: place for place, name in enumerate(node_names)}
    engine = []
    for layer, raw in zip(parsed.layers, data["Layers"], strict=True):
        details = raw if isinstance(raw, dict) else {}
        # A reformat only copies, whatever its metadata names.
        origins = () if layer.kind == "Reformat" else layer.origins
        nodes = [node_names[place] for place in find_nodes(origins, places).places]
        tactic = details.get("TacticName")
        if not isinstance(tactic, str):
            tactic = ""
        precision = _read_precision(details)
        engine.append(EngineLayer(layer.name, layer.kind, tuple(nodes), precision, tactic))
    return tuple(engine)


def _read_precision(details: Mapping[str, Any]) -> str:
    """Read the narrowest type of what a layer reads.

    It is in `Datatype` from TensorRT 10 on, and in the text of `Format/Datatype` in 8.x.
    """
    inputs = details.get("Inputs")
    if not isinstance(inputs, list):
        return ""
    types = set()
    for tensor in inputs:
        if not isinstance(tensor, dict):
            continue
        text = tensor.get("Datatype") or tensor.get("Format/Datatype")
        if isinstance(text, str):
            types |= {_TYPES[match[0].lower()] for match in _TYPE_WORD.finditer(text)}
    for precision in ("int8", "fp8", "fp16", "bf16", "fp32"):
        if precision in types:
            return precision
    return ""


def join_profile(
    engine: Sequence[EngineLayer],
    layers: Sequence[Layer],
    runs: Sequence[Sequence[tuple[str, float]]],
) -> tuple[LayerRow, ...]:
    """Join a profile of TensorRT to the layers of the network.

    Args:
        engine: The engine's layers.
        layers: Layers of the network, in order.
        runs: Per profiled inference, name and seconds of each engine layer, in the order of
            execution.

    Returns:
        The rows in execution order.

    Raises:
        OutputParseError: Inferences differ in their layers, or the profile names layers that the
            engine does not have.
    """
    timed_names = [name for name, _ in runs[0]] if runs else []
    if not timed_names or any([name for name, _ in run] != timed_names for run in runs):
        raise OutputParseError(
            f"TensorRT's profile of {len(runs)} inferences has different layers for each, or none"
        )
    by_name = {layer.name: layer for layer in engine}
    missing = [name for name in timed_names if name not in by_name]
    if missing:
        raise OutputParseError(
            f"TensorRT timed {len(missing)} layers that its engine does not list"
            f" ({missing[0][:120]!r} first)"
        )
    main_nodes = {layer.name for layer in layers}
    rows = []
    for place, name in enumerate(timed_names):
        layer = by_name[name]
        facts = (layer.precision, layer.kind or "fused", layer.tactic[:60])
        rows.append(
            RuntimeRow(
                kind=layer.kind or "reformat",
                implementation=" ".join(filter(None, facts)),
                samples_s=tuple(run[place][1] for run in runs),
                serves=layers_served(layer.nodes, layers),
                principal=not main_nodes.isdisjoint(layer.nodes),
            )
        )
    return join_rows(_add_up_repeated(timed_names, rows), layers)


def _add_up_repeated(names: Sequence[str], rows: Sequence[RuntimeRow]) -> list[RuntimeRow]:
    """Add up rows of equal names: TensorRT reports an engine layer once for each kernel of it."""
    by_name: dict[str, RuntimeRow] = {}
    for name, row in zip(names, rows, strict=True):
        earlier = by_name.get(name)
        if earlier is None:
            by_name[name] = row
        else:
            pairs = zip(earlier.samples_s, row.samples_s, strict=True)
            samples_s = tuple(first_s + second_s for first_s, second_s in pairs)
            by_name[name] = replace(earlier, samples_s=samples_s, nodes=earlier.nodes + 1)
    return list(by_name.values())


def layer_findings(rows: Sequence[LayerRow]) -> tuple[Finding, ...]:
    """Find layers that fell back to a wider type, layers fused together, and reformats."""
    findings = []
    heavy = []
    wide = []
    for row in rows:
        if row.key is not None and row.op in {"Conv", "Linear", "ConvTranspose"}:
            heavy.append(row)
            precision = row.implementation.partition(" ")[0]
            if precision in _WIDER.get(row.key.precision, ()):
                wide.append(row)
    if wide:
        text = (
            f"{len(wide)} of {len(heavy)} layers read a wider type than the file says"
            f" ({_list_names(wide)})"
        )
        findings.append(Finding("fall_back", text))
    fused = [row for row in rows if row.op == "Group"]
    if fused:
        text = (
            f"TensorRT made one kernel of several layers in {len(fused)} places"
            f" ({_list_names(fused)}); its time is not divided"
        )
        findings.append(Finding("fused_layers", text))
    reformats = [row for row in rows if row.key is None and row.op != "Group"]
    if len(reformats) > 2:  # one at each end is the price of the engine's own layout
        text = f"TensorRT inserted {len(reformats)} reformats ({_list_names(reformats)})"
        findings.append(Finding("reorders", text))
    return tuple(findings)


def find_grain_s(runs: Sequence[Sequence[tuple[str, float]]]) -> float:
    """Find the grain of the clock that profiled, in seconds.

    It is the coarsest known step of which all times are multiples, within a hundredth of a step.
    """
    times_s = [seconds for run in runs for _, seconds in run]
    for grain_s in GRAINS_S:
        steps = [time_s / grain_s for time_s in times_s]
        if all(abs(count - round(count)) < 0.01 for count in steps):
            return grain_s
    return GRAINS_S[-1]


def _list_names(rows: Sequence[LayerRow]) -> str:
    """List the names of the first three rows."""
    names = ", ".join(row.name for row in rows[:3])
    return f"{names}, ..." if len(rows) > 3 else names
