"""What a person reads of a comparison: the verdict, why, and the layers behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hwbench.records.comparison import Comparison, LayerChange, explained_share
from hwbench.render.blocks import Block, Column, Line, Table, View
from hwbench.render.units import (
    count,
    interval,
    interval_s,
    macs,
    percent,
    plural,
    seconds,
    size,
    sparkline,
    times,
)
from hwbench.render.views import notes, provenance, where
from hwbench.stats import Verdict

TOP_LAYERS = 15
"""Layers that are shown unless all are asked for."""
SPARK = 16
"""Columns of a distribution, so that two stand side by side in 80."""


def compare_view(
    comparison: Comparison,
    *,
    all_layers: bool = False,
    layers_hint: str = "",
    saved: bool = True,
    broken_rules: Sequence[str] = (),
) -> View:
    """One comparison: verdict, explanation, both sides, layers by what they saved, provenance.

    Args:
        comparison: What to show.
        all_layers: Show every layer, not only the first `TOP_LAYERS`.
        layers_hint: What makes the layers that are left out appear; empty to name nothing.
        saved: Whether a store has it.
        broken_rules: What the user's rules refuse, in words; said at once.
    """
    baseline, candidate = comparison.baseline, comparison.candidate
    headline = (
        f"{verdict_text(comparison)}: {candidate.model} against {baseline.model} on"
        f" {where(baseline)}"
    )
    if candidate.precision != baseline.precision:
        headline += f" (candidate in {candidate.precision})"
    blocks: list[Block] = [
        Line(headline, "bold"),
        *(Line(f"A rule was hit: {text}", "bold") for text in broken_rules),
        *notes(comparison.findings),
        _make_sides_table(comparison),
    ]
    if comparison.layers:
        top = len(comparison.layers) if all_layers else TOP_LAYERS
        blocks += _layer_blocks(comparison, top, layers_hint)
    return [*blocks, Line(provenance(baseline, candidate, saved=saved), "dim")]


def verdict_text(comparison: Comparison) -> str:
    """The verdict in words, with the speed-up and its interval."""
    ratio, speedup = comparison.ratio, comparison.speedup
    ci, verdict_ci = comparison.speedup_ci, comparison.verdict_ci
    if ratio is None or speedup is None or ci is None or verdict_ci is None:
        return "not comparable"
    speedup_text = times(speedup)
    interval_text = f"(95 % interval {interval(ci, speedup)})"
    if comparison.baseline.group_id != comparison.candidate.group_id:
        return f"not interleaved, so no verdict: {speedup_text} as fast {interval_text}"
    match comparison.verdict:
        case Verdict.SLOWER:
            return f"{times(ratio.ratio)} slower (95 % interval {interval(ratio.ci, ratio.ratio)})"
        case Verdict.FASTER:
            return f"{speedup_text} faster {interval_text}"
        case Verdict.SAME:
            effect = percent(comparison.baseline.settings.min_effect)
            return f"the same speed to within {effect}: {speedup_text} {interval_text}"
        case _:
            # The verdict rests on a wider interval than the one shown, so that one is told too.
            needed = "a verdict needs more of them"
            if math.isfinite(verdict_ci[1]):
                needed = (
                    f"the 99 % interval that verdicts rest on is {interval(verdict_ci, speedup)}"
                )
            sessions = plural(ratio.sessions, "session")
            return f"cannot tell from {sessions}: {speedup_text} {interval_text}; {needed}"


def divide_bytes(before_bytes: int | None, after_bytes: int | None) -> float | None:
    """How many times as large the baseline is; None where a size is unknown or 0."""
    return before_bytes / after_bytes if before_bytes and after_bytes else None


def _make_sides_table(comparison: Comparison) -> Table:
    """Both sides beside each other, with baseline over candidate."""
    first, second = comparison.baseline, comparison.candidate
    file_ratio = divide_bytes(first.file_bytes, second.file_bytes)
    lines, ranges = [], []
    for record in (first, second):
        low_s, line, high_s = sparkline(record.series.samples_s, SPARK)
        lines.append(line)
        ranges.append(interval_s((low_s, high_s), record.median_s))
    rows: list[tuple[str, ...]] = [
        ("model", first.model, second.model, ""),
        ("latency", seconds(first.median_s), seconds(second.median_s), times(comparison.speedup)),
        (
            "95 % interval",
            interval_s(first.median_ci_s, first.median_s),
            interval_s(second.median_ci_s, second.median_s),
            "",
        ),
        ("samples", lines[0], lines[1], ""),
        ("middle 90 %", ranges[0], ranges[1], ""),
        ("MACs", macs(first.macs), macs(second.macs), times(comparison.macs_ratio)),
        ("parameters", count(first.params), count(second.params), times(comparison.params_ratio)),
        ("file", size(first.file_bytes), size(second.file_bytes), times(file_ratio)),
    ]
    memory = first.peak_memory_bytes, second.peak_memory_bytes
    memory_ratio = divide_bytes(*memory)
    if memory_ratio is not None:
        rows.append(("peak memory", *map(size, memory), times(memory_ratio)))
    columns = (
        Column(""),
        Column("baseline", path=True),
        Column("candidate", path=True),
        Column("gain", right=True),
    )
    return Table(columns, tuple(rows))


def _layer_blocks(comparison: Comparison, top: int, hint: str) -> list[Block]:
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
        name = plural(len(hidden), "further layer")
        if hint:
            name += f" ({hint})"
        footer = ((name, "", "", seconds(hidden_s, sign=True), ""),)
    table = Table(columns, tuple(map(_layer_row, shown)), footer)
    share = explained_share(comparison)
    if not share or comparison.verdict not in {Verdict.FASTER, Verdict.SLOWER}:
        return [table]
    whole_s = sum(change.saved_s for change in ranked) / share
    gain = "saved" if whole_s >= 0 else "lost"
    explained = f"The layers account for {percent(share)} of the {seconds(abs(whole_s))} {gain}."
    return [table, Line(explained)]


def _layer_row(change: LayerChange) -> tuple[str, ...]:
    before, after = change.baseline_implementation, change.candidate_implementation
    implementation = before or after or ""
    if before and after and before != after:
        implementation = f"{before} → {after}"
    return (
        change.name,
        seconds(change.baseline_s),
        seconds(change.candidate_s),
        seconds(change.saved_s, sign=True),
        implementation,
    )
