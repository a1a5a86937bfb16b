"""The history of a model: its latencies over time, where they changed, and what with them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from hwbench.render.blocks import Block, Column, Line, Notes, Table, View
from hwbench.render.documents import SCHEMA
from hwbench.render.units import minute, percent, plural, seconds, trace
from hwbench.render.views import SHORT_ID, where

if TYPE_CHECKING:
    from hwbench.records.measurement import Measurement
    from hwbench.render.documents import Document
    from hwbench.workflows.history import Change, History, Timeline

TRACE = 60
"""Columns of the line that draws the latencies."""
COMMIT = 10
"""Characters of a commit that are shown."""


def history_view(history: History) -> View:
    """Every timeline: the latencies, the parts between changes, and each change with its causes."""
    blocks: list[Block] = []
    for timeline in history.timelines:
        blocks += _timeline_blocks(history, timeline)
    return blocks


def history_document(history: History) -> Document:
    """A history as JSON types."""
    timelines = [_timeline_document(timeline) for timeline in history.timelines]
    slowdowns = [timeline["changes"][-1]["ratio"] for timeline in timelines if timeline["changes"]]
    return {
        "schema": SCHEMA,
        "model": history.model,
        "min_effect": history.min_effect,
        "slowdown": max(slowdowns, default=1.0),
        "timelines": timelines,
    }


def _timeline_document(timeline: Timeline) -> Document:
    first = timeline.points[0]
    return {
        "device": asdict(first.device) | {"details": dict(first.device.details)},
        "precision": first.precision,
        "threads": first.settings.threads,
        "batch": first.batch,
        "points": [
            {
                "record": point.id,
                "started_utc": point.started_utc,
                "median_s": point.median_s,
                "median_ci_s": list(point.median_ci_s),
                "model_sha256": point.model_sha256,
                "source_commit": point.source_commit,
            }
            for point in timeline.points
        ],
        "changes": [
            {
                "index": change.step.index,
                "record": timeline.points[change.step.index].id,
                "ratio": change.step.ratio,
                "ratio_ci": list(change.step.ci),
                "facts": [
                    {"name": name, "before": before, "after": after}
                    for name, before, after in change.facts
                ],
            }
            for change in timeline.changes
        ],
    }


def _timeline_blocks(history: History, timeline: Timeline) -> list[Block]:
    points = timeline.points
    changes = plural(len(timeline.changes), "lasting change")
    headline = (
        f"{history.model} on {where(points[-1])}, batch {points[-1].batch}:"
        f" {plural(len(points), 'measurement')}, {changes} of {percent(history.min_effect)} or more"
    )
    latencies_s = [point.median_s for point in points]
    drawn = trace(latencies_s[-TRACE:])
    range_text = f"{seconds(min(latencies_s))} {drawn} {seconds(max(latencies_s))}"
    columns = (
        Column("from (UTC)"),
        Column("first commit"),
        Column("first record"),
        Column("points", right=True),
        Column("latency", right=True),
        Column("scatter", right=True),
    )
    rows = tuple(map(_segment_row, timeline.segments))
    blocks: list[Block] = [Line(headline, "bold"), Line(range_text), Table(columns, rows)]
    for change in timeline.changes:
        blocks += _change_blocks(timeline, change)
    return blocks


def _segment_row(points: tuple[Measurement, ...]) -> tuple[str, ...]:
    first = points[0]
    logs = np.log([point.median_s for point in points])
    scatter = "-" if len(points) < 2 else percent(float(logs.std(ddof=1)))
    return (
        minute(first.started_utc),
        (first.source_commit or "-")[:COMMIT],
        first.id[:SHORT_ID],
        str(len(points)),
        seconds(float(np.exp(logs.mean()))),
        scatter,
    )


def _change_blocks(timeline: Timeline, change: Change) -> list[Block]:
    """A change in a line, and what changed with it."""
    point = timeline.points[change.step.index]
    (low, high), ratio = change.step.ci, change.step.ratio
    what = "slower" if ratio > 1 else "faster"
    text = (
        f"{percent(abs(ratio - 1))} {what} from {minute(point.started_utc)} on (95 % interval"
        f" {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %)"
    )
    if not change.facts:
        return [Line(f"{text}; nothing recorded changed with it", "bold")]
    facts = tuple((name, f"{before} → {after}") for name, before, after in change.facts)
    return [Line(f"{text}; with it changed:", "bold"), Notes(facts)]
