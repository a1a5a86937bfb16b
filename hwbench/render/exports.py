"""One measurement for other tools: its samples as CSV, its layers as a trace of Chrome's format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping

from hwbench.errors import UsageError
from hwbench.records.measurement import Measurement


def to_csv(record: Measurement) -> str:
    """Every sample in a line: its session, its block, whether it was warm-up, and its latency."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["session", "block", "warm_up", "latency_s"])
    for session, sample_s in zip(record.warm_up.session, record.warm_up.samples_s, strict=True):
        writer.writerow([session, "", 1, repr(sample_s)])
    series = record.series
    for session, block, sample_s in zip(
        series.session, series.block, series.samples_s, strict=True
    ):
        writer.writerow([session, block, 0, repr(sample_s)])
    return text.getvalue()


def to_chrome_trace(record: Measurement) -> str:
    """The layers of one inference, for `chrome://tracing` or https://ui.perfetto.dev.

    Each has its median latency, and they stand one after the other in the order of the network:
    when they ran, the record does not say. The row above them is the whole, unprofiled inference.

    Raises:
        UsageError: The record has no layers.
    """
    if record.profile is None or not record.series:
        raise UsageError(
            f"measurement {record.id[:12]} of {record.model} has no layers to make a trace of;"
            " export its samples as csv"
        )
    what = f"{record.model} on {record.device.target}"
    events: list[dict[str, object]] = [
        _name_row("process_name", 0, what),
        _name_row("thread_name", 0, "inference (median, unprofiled)"),
        _name_row("thread_name", 1, "layers (medians, one after the other)"),
        _event(record.model, 0, 0.0, record.median_s, {"record": record.id}),
    ]
    start_s = 0.0
    for layer in record.profile.layers:
        arguments = {
            "op": layer.op,
            "implementation": layer.implementation,
            "calls": layer.calls,
            "key": "" if layer.key is None else str(layer.key),
        }
        events.append(_event(layer.name, 1, start_s, layer.inference_s, arguments))
        start_s += layer.inference_s
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, indent=1) + "\n"


EXPORTS: Mapping[str, Callable[[Measurement], str]] = {
    "csv": to_csv,
    "chrome-trace": to_chrome_trace,
}
"""What a measurement can be exported to."""


def _name_row(kind: str, row: int, name: str) -> dict[str, object]:
    return {"name": kind, "ph": "M", "pid": 1, "tid": row, "args": {"name": name}}


def _event(
    name: str, row: int, start_s: float, duration_s: float, arguments: Mapping[str, object]
) -> dict[str, object]:
    """A complete event; the format counts in microseconds."""
    return {
        "name": name,
        "ph": "X",
        "pid": 1,
        "tid": row,
        "ts": start_s * 1e6,
        "dur": duration_s * 1e6,
        "args": dict(arguments),
    }
