"""Latencies that other tools measured, read from their files as plain facts.

Knows nothing of tables and layer keys.

Milliseconds and microseconds become seconds in the reader of a format and nowhere else. What a file
is, is told by its content:

    benchmark_model text or CSV      ->  TfliteLog
    ONNX Runtime profile JSON        ->  ProfiledRuns
    ProxylessNAS, once-for-all YAML  ->  OfaTable
    trtexec --exportProfile          ->  TrtProfile
    trtexec --exportTimes            ->  TrtTimes
    trtexec --exportLayerInfo        ->  TrtLayers
    log of trtexec                   ->  TrtLog

A number that cannot be read is an error, never a 0; pickles are never opened.
"""

from __future__ import annotations

from pathlib import Path

from hwbench.devices.android import tflite_log
from hwbench.devices.android.tflite_log import TfliteLog
from hwbench.devices.nvidia import trtexec
from hwbench.devices.nvidia.trtexec import TrtLayers, TrtLog, TrtProfile, TrtTimes
from hwbench.devices.shared.ort.profile import ProfiledRuns, read_profile
from hwbench.errors import SchemaError
from hwbench.lookup_tables.exchange import ofa_yaml
from hwbench.lookup_tables.exchange.ofa_yaml import OfaTable
from hwbench.records.untrusted import parse_json, quote, read_text

__all__ = [
    "OfaTable",
    "ProfiledRuns",
    "Record",
    "TfliteLog",
    "TrtLayers",
    "TrtLog",
    "TrtProfile",
    "TrtTimes",
    "parse",
    "read",
]

Record = TfliteLog | ProfiledRuns | TrtProfile | TrtTimes | TrtLayers | TrtLog | OfaTable


def read(path: str | Path) -> Record:
    """Read a foreign file of any format named above.

    Raises:
        UsageError: No such file, or too large.
        UnsafeModelError: It is a pickle, an archive, or YAML that would build Python objects.
        SchemaError: It is of no known format, or a damaged latency table.
        OutputParseError: It is a damaged log or profile.
    """
    return parse(read_text(Path(path)), quote(Path(path)))


def parse(text: str, source: str) -> Record:
    """As `read`, for text that is at hand already; `source` names it in messages."""
    if trtexec.SIGNS.search(text):
        return trtexec.parse_log(text, source)
    if tflite_log.SIGNS.search(text):
        return tflite_log.parse(text, source)
    if ofa_yaml.SIGNS.search(text) or "!!python/" in text:
        return ofa_yaml.parse(text, source)
    if text.lstrip()[:1] in {"[", "{"}:
        return _from_json(parse_json(text, source), source)
    raise SchemaError(
        f"{source} is of no known format; expected a log of benchmark_model or trtexec, a profile"
        " of ONNX Runtime or TensorRT, or a latency table of once-for-all"
    )


def _from_json(data: object, source: str) -> Record:
    if isinstance(data, dict) and "Layers" in data:
        return trtexec.parse_layers(data, source)
    first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
    if "count" in first:
        return trtexec.parse_profile(data, source)
    if "computeMs" in first:
        return trtexec.parse_times(data, source)
    if "cat" in first:
        return read_profile(data)
    raise SchemaError(
        f"{source} is JSON of no known form; expected a profile of ONNX Runtime, or a file that"
        " trtexec exported"
    )
