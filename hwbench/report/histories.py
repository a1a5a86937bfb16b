"""Pages of histories: a latency over time, where it changed for good, and what changed with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.records.times import parse_utc
from hwbench.render.units import minute, percent, plural, seconds
from hwbench.render.views import SHORT_ID, where
from hwbench.report.commands import history_command
from hwbench.report.nouns import Cell, Column, Figure, Link, Number, Page, Source, Table
from hwbench.report.numbers import interval_row, interval_text, latency_number, source_of
from hwbench.workflows.history import DEFAULT_MIN_EFFECT, make_timelines

if TYPE_CHECKING:
    from hwbench.records.measurement import Measurement
    from hwbench.workflows.history import Change, Timeline

FEWEST_POINTS = 4
"""Measurements of one model from which a history can show a lasting change: two on each side."""
COMMIT = 10
"""Characters of a commit that are shown."""


@dataclass(frozen=True)
class ModelHistory:
    """One model on one device over time.

    Attributes:
        model: Its name.
        timeline: Its measurements, and where they changed.
    """

    model: str
    timeline: Timeline

    @property
    def page(self) -> str:
        """Address of its page."""
        return f"history/{self.timeline.points[0].id[:SHORT_ID]}"

    @property
    def source(self) -> Source:
        """Provenance of it as a whole: that of its newest point."""
        newest = self.timeline.points[-1]
        return source_of(newest, command=history_command(self.model, newest))


def make_histories(measurements: Iterable[Measurement]) -> tuple[ModelHistory, ...]:
    """The histories that are long enough to show something, the newest first."""
    by_model: dict[str, list[Measurement]] = {}
    for record in measurements:
        if record.complete:
            by_model.setdefault(record.model, []).append(record)
    histories = []
    for model, records in by_model.items():
        timelines = make_timelines(records, DEFAULT_MIN_EFFECT)
        long = [timeline for timeline in timelines if len(timeline.points) >= FEWEST_POINTS]
        histories += [ModelHistory(model, timeline) for timeline in long]
    histories.sort(key=lambda history: history.timeline.points[-1].started_utc, reverse=True)
    return tuple(histories)


def histories_figure(histories: Sequence[ModelHistory]) -> Figure:
    """All histories."""
    columns = (
        Column("model"),
        Column("device"),
        Column("measurements", numeric=True),
        Column("lasting changes", numeric=True),
        Column("the last one"),
    )
    rows: list[tuple[Cell, ...]] = []
    for history in histories:
        timeline = history.timeline
        last = "none"
        if timeline.changes:
            change = timeline.changes[-1]
            point = timeline.points[change.step.index]
            last = f"{_change_text(change)} from {minute(point.started_utc)} on"
        rows.append(
            (
                Link(history.model, history.page),
                where(timeline.points[-1]),
                Number(len(timeline.points), str(len(timeline.points))),
                Number(len(timeline.changes), str(len(timeline.changes))),
                last,
            )
        )
    text = (
        f"Models with {FEWEST_POINTS} measurements or more on one device; a change is one of"
        f" {percent(DEFAULT_MIN_EFFECT)} or more that is sure beside the scatter."
    )
    sources = tuple(history.source for history in histories)
    return Figure("History", text, Table(columns, tuple(rows), sources))


def history_page(history: ModelHistory) -> Page:
    """One history."""
    timeline = history.timeline
    points, newest = timeline.points, timeline.points[-1]
    changes = plural(len(timeline.changes), "lasting change")
    figures = [_timeline_figure(timeline)]
    if timeline.changes:
        figures.append(_changes_figure(timeline))
    return Page(
        id=history.page,
        title=history.model,
        lead=f"{plural(len(points), 'measurement')} on {where(newest)}: {changes}.",
        figures=tuple(figures),
        closing=f"from {minute(points[0].started_utc)} to {minute(newest.started_utc)}",
        source=history.source,
    )


def _milliseconds(record: Measurement) -> int:
    """When it began, as browsers count: since 1970."""
    return round(parse_utc(record.started_utc).timestamp() * 1000)


def _timeline_figure(timeline: Timeline) -> Figure:
    columns = (
        Column("measured (UTC)"),
        Column("latency", numeric=True),
        Column("commit", minor=True),
        Column("record"),
        Column("findings", minor=True),
    )
    rows, drawn = [], []
    for record in reversed(timeline.points):
        codes = [finding.code for finding in record.findings]
        rows.append(
            (
                minute(record.started_utc),
                latency_number(record),
                (record.source_commit or "-")[:COMMIT],
                record.id[:SHORT_ID],
                ", ".join(codes) or "none",
            )
        )
        drawn.append(_draw_point(record))
    parts = [
        {
            "from_ms": _milliseconds(part[0]),
            "to_ms": _milliseconds(part[-1]),
            "mean": float(np.exp(np.mean(np.log([point.median_s for point in part])))),
        }
        for part in timeline.segments
    ]
    changes = [
        {
            "ms": _milliseconds(timeline.points[change.step.index]),
            "text": f"{change.step.ratio - 1:+.1%}",
        }
        for change in timeline.changes
    ]
    chart = {
        "kind": "timeline",
        "label": "latency",
        "points": drawn,
        "parts": parts,
        "changes": changes,
    }
    text = (
        "A dot for each measurement with its 95 % interval, a line for the mean between lasting"
        " changes. Days differ by what the machine did; before claiming a difference, interleave."
    )
    sources = tuple(map(source_of, reversed(timeline.points)))
    return Figure("Latency over time", text, Table(columns, tuple(rows), sources), (chart,))


def _draw_point(record: Measurement) -> dict[str, Any]:
    """A dot of the picture."""
    median_s, ci_s = record.median_s, record.median_ci_s
    text = f"{minute(record.started_utc)}\n{seconds(median_s)}, {interval_text(ci_s, median_s)}"
    row = interval_row("", median_s, ci_s, text)
    kept = {name: row[name] for name in ("value", "low", "high", "text")}
    return {"ms": _milliseconds(record), **kept}


def _changes_figure(timeline: Timeline) -> Figure:
    columns = (
        Column("from (UTC)"),
        Column("change"),
        Column("95 % interval"),
        Column("first commit", minor=True),
        Column("what changed with it"),
    )
    rows: list[tuple[Cell, ...]] = []
    for change in timeline.changes:
        point = timeline.points[change.step.index]
        low, high = change.step.ci
        facts = [f"{name}: {before} → {after}" for name, before, after in change.facts]
        rows.append(
            (
                minute(point.started_utc),
                _change_text(change),
                f"{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %",
                (point.source_commit or "-")[:COMMIT],
                "; ".join(facts) or "nothing that is recorded",
            )
        )
    text = "Where the latency changed for good, and what is recorded differently since."
    return Figure("Lasting changes", text, Table(columns, tuple(rows)))


def _change_text(change: Change) -> str:
    ratio = change.step.ratio
    return f"{percent(abs(ratio - 1))} {'slower' if ratio > 1 else 'faster'}"
