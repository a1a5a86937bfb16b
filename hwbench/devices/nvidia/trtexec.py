"""What NVIDIA's `trtexec` writes.

Files of its `--exportProfile`, `--exportTimes` and `--exportLayerInfo`, and its log on standard
output.

Keys came and went between TensorRT 7 and 11, so a missing one is None, not an error, where the rest
still means something. TensorRT 11 changed what is timed by default (a CUDA graph, a spinning wait,
no transfers), so the command line belongs to the numbers. Layer times include the profiler's own
cost, several microseconds a layer, so their sum is more than the latency.

Layout after samples/common/sampleReporting.cpp of github.com/NVIDIA/TensorRT (Apache-2.0), read,
not copied.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwbench.devices.nvidia.trt_names import split_name
from hwbench.devices.shared.log_lines import strip_prefixes
from hwbench.errors import OutputParseError
from hwbench.records.findings import Finding
from hwbench.records.untrusted import parse_seconds, parse_seconds_or_zero, parse_whole, quote

SIGNS = re.compile(r"&&&& \w+ TensorRT\.trtexec|\bGPU Compute(?: Time)?: min = ")
"""What the log shows and no other format does."""

_ANCHORS = re.compile(
    r"(?:\[\d\d/\d\d/\d{4}-[^\]\n]*\] ?)?(?:\[[VIWE]\] |&&&& \w+ TensorRT\.trtexec|GPU Compute)"
)
"""How lines begin that nothing else prints."""
_MS = 1e3  # milliseconds in a second
_COMMAND = re.compile(
    r"^&&&& RUNNING TensorRT\.trtexec(?: \[([^\]\n]*)\])?(?: \[[^\]\n]*\])* # (.+)$", re.MULTILINE
)
_FAILED = re.compile(r"^&&&& FAILED TensorRT\.trtexec", re.MULTILINE)
_METRIC = re.compile(r"^(?:\[[^\]\n]*\] ?)*([A-Z][\w /-]{2,40}): (min = .+)$", re.MULTILINE)
_WARNING = re.compile(r"^(?:\[[^\]\n]*\] ?)*\[W\] \* (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One engine layer of `--exportProfile`, or a reformat the engine inserted.

    Attributes:
        name: The engine's name of it: ONNX nodes joined by ` + `, or a name that it made up.
        mean_s: Mean latency per inference, seconds; None where it is below the profiler's
            resolution.
        median_s: Median latency per inference, seconds; None before TensorRT 8.5, or where it is
            below the resolution.
    """

    name: str
    mean_s: float | None
    median_s: float | None


@dataclass(frozen=True, slots=True)
class TrtProfile:
    """`--exportProfile`: layers in execution order, over `count` inferences."""

    source: str
    count: int
    layers: tuple[LayerTime, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class TrtTimes:
    """`--exportTimes`: one latency per inference.

    Attributes:
        source: Where it was read from.
        compute_s: Seconds on the GPU alone.
        latency_s: Seconds with the transfers from and to the host; empty where the file has none.
    """

    source: str
    compute_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class TrtexecLayer:
    """One layer of `--exportLayerInfo`.

    Attributes:
        name: Name of the layer in the profile.
        kind: `LayerType`; empty unless the engine was built with `--profilingVerbosity=detailed`.
        origins: ONNX nodes it was made of, from `Metadata`, else from the parts of its name; empty
            for a reformat.
    """

    name: str
    kind: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrtLayers:
    """`--exportLayerInfo`: the engine's layers in order, and its inputs and outputs."""

    source: str
    layers: tuple[TrtexecLayer, ...]
    bindings: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantity:
    """One line of the log's summary, in seconds; what it does not have is None."""

    median_s: float
    mean_s: float | None
    min_s: float | None
    max_s: float | None
    percentiles_s: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TrtLog:
    """The summary on standard output.

    Attributes:
        source: Where it was read from.
        command: Command line; None where the log does not start with it.
        version: Version as the log writes it (`TensorRT v8601`); None if it does not.
        compute: Latency on the GPU alone.
        latency: Latency with transfers; None where the log has none.
        findings: The tool's own warnings about these numbers.
    """

    source: str
    command: str | None
    version: str | None
    compute: Quantity
    latency: Quantity | None
    findings: tuple[Finding, ...] = ()


def parse_profile(data: object, source: str = "the profile") -> TrtProfile:
    """Read the JSON of `--exportProfile`.

    Raises:
        OutputParseError: It is not in that form.
    """
    head, *rows = _dicts(data, source) or [{}]
    if "count" not in head or not rows:
        raise OutputParseError(
            f"{source} is no trtexec profile; expected [{{'count': N}}, {{'name': .., 'averageMs':"
            " ..}, ..]"
        )
    count = parse_whole(head["count"], f"{source}: count")
    layers = tuple(_read_layer_time(row, count, source) for row in rows)
    below = [layer.name for layer in layers if layer.mean_s is None]
    findings: tuple[Finding, ...] = ()
    if below:
        text = f"layers below the profiler's resolution: {len(below)}, {quote(below[0])} first"
        findings = (Finding("below_resolution", text),)
    return TrtProfile(source, count, layers, findings)


def _read_layer_time(row: dict[str, Any], count: int, source: str) -> LayerTime:
    name = row.get("name")
    if not isinstance(name, str) or not ({"averageMs", "timeMs"} & set(row)):
        raise OutputParseError(
            f"{source}: layer {quote(name)} has no name or no time; expected 'name' and 'averageMs'"
        )
    what = f"{source}: time of layer {quote(name)}"
    if "averageMs" in row:
        mean_s = parse_seconds_or_zero(row["averageMs"], _MS, what)
    else:
        mean_s = parse_seconds_or_zero(row["timeMs"], _MS, what) / count
    median_s = None
    if "medianMs" in row:
        median_s = parse_seconds_or_zero(row["medianMs"], _MS, what)
    return LayerTime(name, mean_s or None, median_s or None)  # a time of 0 is an unknown one


def parse_times(data: object, source: str = "the times") -> TrtTimes:
    """Read the JSON of `--exportTimes`.

    Raises:
        OutputParseError: It is not in that form.
    """
    runs = _dicts(data, source)
    if not runs:
        raise OutputParseError(
            f"{source} holds no inferences; expected one object with 'computeMs' for each"
        )
    if not all("computeMs" in run for run in runs):
        raise OutputParseError(
            f"{source}: an inference without 'computeMs'; expected a file of trtexec --exportTimes"
        )
    compute_s = tuple(parse_seconds(run["computeMs"], _MS, f"{source}: computeMs") for run in runs)
    latency_s: tuple[float, ...] = ()
    if all("latencyMs" in run for run in runs):
        latency_s = tuple(
            parse_seconds(run["latencyMs"], _MS, f"{source}: latencyMs") for run in runs
        )
    return TrtTimes(source, compute_s, latency_s)


def parse_layers(data: object, source: str = "the layer information") -> TrtLayers:
    """Read the JSON of `--exportLayerInfo`, which is the engine inspector's.

    Raises:
        OutputParseError: It is not in that form.
    """
    layers = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(layers, list) or not layers:
        raise OutputParseError(
            f"{source} is no layer information of trtexec; expected {{'Layers': [..], 'Bindings':"
            " [..]}"
        )
    ends = data.get("Bindings", data.get("I/O Tensors", []))
    bindings = tuple(_read_name(end, source) for end in ends) if isinstance(ends, list) else ()
    return TrtLayers(source, tuple(_read_layer(layer, source) for layer in layers), bindings)


def _read_layer(layer: object, source: str) -> TrtexecLayer:
    name = _read_name(layer, source)
    details = layer if isinstance(layer, dict) else {}
    metadata, kind = details.get("Metadata"), details.get("LayerType", "")
    origins: Sequence[str] = split_name(name)
    if isinstance(metadata, str) and metadata:
        origins = []
        # Entries are separated by a unit or a record separator, depending on the version.
        for part in re.split("[\x1e\x1f]", metadata):
            match = re.fullmatch(r"\[ONNX Layer: (.*)\]", part)
            if match:
                origins.append(match[1])
    return TrtexecLayer(name, kind if isinstance(kind, str) else "", tuple(origins))


def _read_name(item: object, source: str) -> str:
    """Read the name of a layer or tensor, which is bare or inside its description."""
    name = item.get("Name") if isinstance(item, dict) else item
    if not isinstance(name, str) or not name:
        raise OutputParseError(
            f"{source}: {quote(name)} is no name of a layer or tensor; expected text"
        )
    return name


def parse_log(text: str, source: str = "the log") -> TrtLog:
    """Read the summary in a log of trtexec (TensorRT 8 and later).

    Raises:
        OutputParseError: The run failed, holds no summary, or more than one.
    """
    text = "\n".join(line.lstrip() for line in strip_prefixes(text, _ANCHORS))
    if _FAILED.search(text):
        raise OutputParseError(
            f"{source}: trtexec says that it FAILED; its log holds no latency to believe"
        )
    metrics: dict[str, Quantity] = {}
    for match in _METRIC.finditer(text):
        name = match[1].removesuffix(" Time")
        if name in metrics:
            raise OutputParseError(
                f"{source} holds several summaries ({quote(match[1])} twice); put each run into a"
                " file of its own"
            )
        if name in {"GPU Compute", "Latency", "Host Latency"}:
            metrics[name] = _read_quantity(match[2], f"{source}: {quote(match[1])}")
    if "GPU Compute" not in metrics:
        raise OutputParseError(
            f"{source} holds no 'GPU Compute Time: min = ..' of trtexec; was it written to its end?"
        )
    command = _COMMAND.search(text)
    return TrtLog(
        source,
        command=command[2].strip() if command else None,
        version=command[1] if command else None,
        compute=metrics["GPU Compute"],
        latency=metrics.get("Latency", metrics.get("Host Latency")),
        findings=tuple(
            Finding("trtexec_warning", match[1].strip()) for match in _WARNING.finditer(text)
        ),
    )


def _read_quantity(text: str, what: str) -> Quantity:
    parts = dict(re.findall(r"\b(percentile\(\d{1,3}(?:\.\d+)?%\)|[a-z]+) = (\S+) ms", text))
    if "median" not in parts:
        raise OutputParseError(
            f"{what} has no median; expected 'min = .. ms, max = .. ms, mean = .. ms, median ="
            " .. ms'"
        )
    values = {name: parse_seconds(value, _MS, what) for name, value in parts.items()}
    percentiles = []
    for name, value_s in values.items():
        if name.startswith("percentile("):  # percentile(99%)
            percentiles.append((float(name[len("percentile(") : -2]) / 100, value_s))
    return Quantity(
        values["median"],
        values.get("mean"),
        values.get("min"),
        values.get("max"),
        tuple(percentiles),
    )


def _dicts(data: object, source: str) -> list[dict[str, Any]]:
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise OutputParseError(f"{source} is not of trtexec; expected a list of objects")
    return data
