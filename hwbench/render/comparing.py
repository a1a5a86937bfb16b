"""What a person reads of a comparison: the verdict, why, and the layers behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.records.comparison import Comparison, LayerChange, explained_share
from hwbench.render.blocks import Block, Column, Line, Table, View
from hwbench.render.units import (
    count,
    interval,
    interval_s,
    percent,
    plural,
    seconds,
    size,
    sparkline,
    times,
)
from hwbench.render.views import notes, provenance, where
from hwbench.stats import Ratio, Verdict

if TYPE_CHECKING:
    from hwbench.records.measurement import Measurement

TOP_LAYERS = 15
"""Layers that are shown unless all are asked for."""
SPARK = 16
"""Columns of a distribution, so that two stand side by side in 80."""


def compare_view(comparison: Comparison, *, all_layers: bool = False, kept: bool = True) -> View:
    """One comparison: verdict, explanation, both sides, layers by what they saved, provenance.

    Args:
        comparison: What to show.
        all_layers: Show every layer, not only the first `TOP_LAYERS`.
        kept: Whether a store has it.
    """
    baseline, candidate = comparison.baseline, comparison.candidate
    precision = (
        f" (candidate in {candidate.precision})"
        if candidate.precision != baseline.precision
        else ""
    )
    headline = (
        f"{verdict_text(comparison)}: {candidate.model} against {baseline.model} on"
        f" {where(baseline)}{precision}"
    )
    blocks: list[Block] = [Line(headline, "bold"), *notes(comparison.findings), _sides(comparison)]
    if comparison.layers:
        blocks += _layers(comparison, len(comparison.layers) if all_layers else TOP_LAYERS)
    return [*blocks, Line(provenance(baseline, candidate, kept=kept), "dim")]


def verdict_text(comparison: Comparison) -> str:
    """The verdict in words, with the speed-up and its interval."""
    ratio = comparison.ratio
    if ratio is None:
        return "not comparable"
    effect = percent(comparison.baseline.settings.min_effect)
    match comparison.verdict:
        case Verdict.SLOWER:
            return f"{times(ratio.ratio)} slower (95 % interval {interval(ratio.ci, ratio.ratio)})"
        case Verdict.FASTER:
            return f"{_speedup(ratio)} faster{_shown(ratio)}"
        case Verdict.SAME:
            return f"the same speed to within {effect}: {_speedup(ratio)}{_shown(ratio)}"
        case _:
            so_far = f"cannot tell from {plural(ratio.sessions, 'session')}"
            return f"{so_far}: {_speedup(ratio)}{_shown(ratio)}; {_needed(ratio)}"


def _needed(ratio: Ratio) -> str:
    """What the verdict rests on, which is wider than the interval shown."""
    low, high = ratio.verdict_ci
    if low <= 0:
        return "a verdict needs more of them"
    return (
        "the 99 % interval that verdicts rest on is"
        f" {interval((1 / high, 1 / low), 1 / ratio.ratio)}"
    )


def _speedup(ratio: Ratio) -> str:
    return times(1 / ratio.ratio)


def _shown(ratio: Ratio) -> str:
    low, high = ratio.ci
    return (
        " (95 % interval"
        f" {interval((1 / high, 1 / low), 1 / ratio.ratio) if low > 0 else 'unknown'})"
    )


def _sides(comparison: Comparison) -> Table:
    """Both sides beside each other, with baseline over candidate."""
    first, second = comparison.baseline, comparison.candidate
    file_ratio = first.file_bytes / second.file_bytes if second.file_bytes else None
    rows = [
        ("model", first.model, second.model, ""),
        ("latency", seconds(first.median_s), seconds(second.median_s), times(comparison.speedup)),
        (
            "95 % interval",
            interval_s(first.median_ci_s, first.median_s),
            interval_s(second.median_ci_s, second.median_s),
            "",
        ),
        *zip(("samples", "middle 90 %"), _spread(first), _spread(second), ("", ""), strict=True),
        ("MACs", count(first.macs), count(second.macs), times(comparison.macs_ratio)),
        ("parameters", count(first.params), count(second.params), times(comparison.params_ratio)),
        ("file", size(first.file_bytes), size(second.file_bytes), times(file_ratio)),
    ]
    if first.peak_memory_bytes and second.peak_memory_bytes:
        memory_ratio = first.peak_memory_bytes / second.peak_memory_bytes
        rows.append(
            (
                "peak memory",
                size(first.peak_memory_bytes),
                size(second.peak_memory_bytes),
                times(memory_ratio),
            )
        )
    columns = (
        Column(""),
        Column("baseline", path=True),
        Column("candidate", path=True),
        Column("gain", right=True),
    )
    return Table(columns, tuple(rows))


def _spread(record: Measurement) -> tuple[str, str]:
    """Distribution of the samples, and what lies between their 5th and 95th percentile."""
    low_s, line, high_s = sparkline(record.series.samples_s, SPARK)
    return line, interval_s((low_s, high_s), record.median_s)


def _layers(comparison: Comparison, top: int) -> list[Block]:
    """The layers by what they saved or lost, those left out in one row, and what all explain."""
    ranked = sorted(comparison.layers, key=lambda change: abs(change.saved_s), reverse=True)
    shown, hidden = ranked[:top], ranked[top:]
    columns = (
        Column("layer", path=True),
        Column("baseline", right=True),
        Column("candidate", right=True),
        Column("saved", right=True),
        Column("runs as", path=True, limit=16),
    )
    footer: tuple[tuple[str, ...], ...] = ()
    if hidden:
        hidden_s = sum(change.saved_s for change in hidden)
        name = f"{plural(len(hidden), 'further layer')} (--all-layers)"
        footer = ((name, "", "", seconds(hidden_s, sign=True), ""),)
    table = Table(columns, tuple(map(_row, shown)), footer)
    share = explained_share(comparison)
    if not share or comparison.verdict not in {Verdict.FASTER, Verdict.SLOWER}:
        return [table]
    whole_s = sum(change.saved_s for change in ranked) / share
    difference = f"{seconds(abs(whole_s))} {'saved' if whole_s >= 0 else 'lost'}"
    return [table, Line(f"The layers account for {percent(share)} of the {difference}.")]


def _row(change: LayerChange) -> tuple[str, ...]:
    before, after = change.baseline_implementation, change.candidate_implementation
    how = (
        before or after or ""
        if before == after or not before or not after
        else f"{before} → {after}"
    )
    return (
        change.name,
        seconds(change.baseline_s),
        seconds(change.candidate_s),
        seconds(change.saved_s, sign=True),
        how,
    )
