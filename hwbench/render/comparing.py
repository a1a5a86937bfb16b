"""What a person reads of a comparison: the verdict, why, and the layers behind it."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.records.comparison import IMPOSSIBLE, Comparison, LayerChange, explained_share
from hwbench.records.outputs import ACCURACY, Likeness, QualityChange
from hwbench.render.blocks import Block, Column, Line, Table, View
from hwbench.render.units import (
    confidence,
    count,
    decibels,
    ends_or_early,
    interval,
    interval_s,
    macs,
    percent,
    plural,
    seconds,
    size,
    sparkline,
    times,
    with_margin,
)
from hwbench.render.views import (
    START_TITLES,
    describe_load,
    describe_start,
    notes,
    provenance,
    tail_rows,
    where,
)
from hwbench.stats import Verdict, is_telling

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
    if candidate.device.runtime != baseline.device.runtime:
        headline += f" (candidate on {candidate.device.runtime})"
    if candidate.precision != baseline.precision:
        headline += f" (candidate in {candidate.precision})"
    blocks: list[Block] = [
        Line(headline, "bold"),
        *rule_lines(broken_rules),
        *notes(comparison.findings),
        _make_sides_table(comparison),
    ]
    blocks += [Line(text) for text in likeness_lines(comparison.likeness)]
    blocks += [Line(text) for text in _load_lines(comparison)]
    if comparison.layers:
        top = len(comparison.layers) if all_layers else TOP_LAYERS
        blocks += _layer_blocks(comparison, top, layers_hint)
    return [*blocks, Line(provenance(baseline, candidate, saved=saved), "dim")]


def rule_lines(broken_rules: Sequence[str]) -> list[Line]:
    """A line for each of the user's rules that was hit."""
    return [Line(f"A rule was hit: {text}", "bold") for text in broken_rules]


def verdict_text(comparison: Comparison) -> str:
    """The verdict in words, with the speed-up and its interval."""
    ratio, speedup = comparison.ratio, comparison.speedup
    ci, verdict_ci = comparison.speedup_ci, comparison.verdict_ci
    if ratio is None or speedup is None or ci is None or verdict_ci is None:
        return "not comparable"
    speedup_text = times(speedup)
    interval_text = f"({confidence(ci, speedup)})"
    if comparison.baseline.group_id != comparison.candidate.group_id:
        return f"not interleaved, so no verdict: {speedup_text} as fast {interval_text}"
    match comparison.verdict:
        case Verdict.SLOWER:
            return f"{times(ratio.ratio)} slower ({confidence(ratio.ci, ratio.ratio)})"
        case Verdict.FASTER:
            return f"{speedup_text} faster {interval_text}"
        case Verdict.SAME:
            effect = percent(comparison.baseline.settings.min_effect)
            return f"the same speed to within {effect}: {speedup_text} {interval_text}"
        case _:
            # The verdict rests on a wider interval than the one shown, so that one is told too.
            needed = "a verdict needs more of them"
            if rests_on_impossible(comparison):
                needed = "no verdict rests on a latency that cannot be"
            elif is_telling(verdict_ci):
                needed = (
                    f"the 99.6 % interval that verdicts rest on is {interval(verdict_ci, speedup)}"
                )
            sessions = plural(ratio.sessions, "session")
            return f"cannot tell from {sessions}: {speedup_text} {interval_text}; {needed}"


def rests_on_impossible(comparison: Comparison) -> bool:
    """Whether a latency is below what the device can do, so that there is no verdict."""
    return any(finding.code == IMPOSSIBLE for finding in comparison.findings)


def likeness_lines(likeness: Likeness) -> list[str]:
    """What is known of how far both networks compute the same, in sentences."""
    lines = []
    quality, outputs = likeness.quality, likeness.outputs
    if quality is not None:
        lines.append(_describe_quality(quality))
    if outputs is not None and outputs.relative_error is not None:
        parts = [f"signal-to-noise {decibels(outputs.snr_db)}"]
        if outputs.correlation is not None:
            parts.append(f"correlation {outputs.correlation:.3f}")
        if outputs.agreement is not None:
            parts.append(f"the same class in {percent(outputs.agreement)}")
        lines.append(f"Outputs on {outputs.inputs} ({outputs.runtime}): {', '.join(parts)}.")
    return lines


def _load_lines(comparison: Comparison) -> list[str]:
    """What became of both latencies under load without a pause, in sentences."""
    steady = comparison.steady_speedup
    if steady is None:
        return []
    ends = ends_or_early(steady.ci, interval(steady.ci, steady.estimate))
    text = (
        f"At the end of load without a pause, by turns, the speed-up is {times(steady.estimate)}"
        f" (95 % interval {ends})."
    )
    lines = [text]
    for name, side in (("Baseline", comparison.baseline), ("Candidate", comparison.candidate)):
        if side.sustained is not None:
            lines.append(f"{name}: {describe_load(side.sustained)}")
    return lines


def _describe_quality(quality: QualityChange) -> str:
    parts = []
    if quality.baseline is not None and quality.candidate is not None and quality.drop is not None:
        before, after, drop = (
            quality_number(value, quality)
            for value in (quality.baseline, quality.candidate, quality.drop)
        )
        sure = "one number for each network, so no interval"
        if quality.drop_ci is not None:
            low, high = (quality_number(end, quality) for end in quality.drop_ci)
            sure = f"95 % interval {low} to {high}"
        parts.append(f"{quality.measure} {after} against {before}, a drop of {drop} ({sure})")
    if quality.agreement is not None and quality.agreement_ci is not None:
        low, high = map(percent, quality.agreement_ci)
        same = percent(quality.agreement)
        parts.append(f"the same class in {same} (95 % interval {low} to {high})")
    data = quality.data
    if quality.samples:
        data = f"{plural(quality.samples, 'sample')} of {quality.data}"
    return f"On {data} ({quality.runtime}): {'; '.join(parts)}."


def quality_number(value: float | None, quality: QualityChange) -> str:
    """An accuracy as a share; what a function of the user's says as it is."""
    if value is None:
        return "-"
    return percent(value) if quality.measure == ACCURACY else f"{value:.4g}"


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
        ("precision", first.precision, second.precision, ""),
        ("latency", seconds(first.median_s), seconds(second.median_s), times(comparison.speedup)),
        (
            "95 % interval",
            *(
                ends_or_early(side.median_ci_s, interval_s(side.median_ci_s, side.median_s))
                for side in (first, second)
            ),
            "",
        ),
        ("samples", lines[0], lines[1], ""),
        ("middle 90 %", ranges[0], ranges[1], ""),
        ("MACs", macs(first.macs), macs(second.macs), times(comparison.macs_ratio)),
        ("parameters", count(first.params), count(second.params), times(comparison.params_ratio)),
        ("file", size(first.file_bytes), size(second.file_bytes), times(file_ratio)),
    ]
    rows += _make_tail_rows(comparison)
    rows += _make_start_rows(comparison)
    columns = (
        Column(""),
        Column("baseline", path=True),
        Column("candidate", path=True),
        Column("gain", right=True),
    )
    return Table(columns, tuple(rows))


def _make_start_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """What both sides take to start: rows of the quantities that the device tells of."""
    rows: list[tuple[str, ...]] = []
    for quantity, title in START_TITLES.items():
        estimates = [side.start(quantity) for side in (comparison.baseline, comparison.candidate)]
        if any(estimates):
            gain = comparison.start_gain(quantity)
            cells = [describe_start(quantity, estimate) for estimate in estimates]
            ratio_text = ""
            if gain is not None and is_telling(gain[1]):
                ratio_text = with_margin(times(gain[0]), gain[1])
            rows.append((title, *cells, ratio_text))
    return rows


def _make_tail_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The tails of both sides, where single inferences were timed."""
    sides = comparison.baseline, comparison.candidate
    if not all(side.has_tail and side.settings.tail for side in sides):
        return []
    rows: list[tuple[str, ...]] = []
    for before, after in zip(*map(tail_rows, sides), strict=True):
        rows.append((before[0], before[1], after[1], ""))
    return rows


def _layer_blocks(comparison: Comparison, top: int, hint: str) -> list[Block]:
    """The layers by what they saved or lost, those left out in one row, and what all explain."""
    ranked = sorted(comparison.layers, key=lambda change: abs(change.saved_s), reverse=True)
    shown, hidden = ranked[:top], ranked[top:]
    columns = (
        Column("layer", path=True),
        Column("baseline", right=True),
        Column("candidate", right=True),
        Column("saved", right=True),
        Column("95 %", right=True),
        Column("runs as", path=True, limit=16),
    )
    footer: tuple[tuple[str, ...], ...] = ()
    if hidden:
        hidden_s = sum(change.saved_s for change in hidden)
        name = plural(len(hidden), "further layer")
        if hint:
            name += f" ({hint})"
        footer = ((name, "", "", seconds(hidden_s, sign=True), "", ""),)
    table = Table(columns, tuple(map(_layer_row, shown)), footer)
    share = explained_share(comparison)
    if not share or comparison.verdict not in {Verdict.FASTER, Verdict.SLOWER}:
        return [table]
    whole_s = sum(change.saved_s for change in ranked) / share
    gain = "saved" if whole_s >= 0 else "lost"
    explained = f"The layers account for {percent(share)} of the {seconds(abs(whole_s))} {gain}."
    return [table, Line(explained)]


def _describe_margin(change: LayerChange) -> str:
    """How sure a change is, and whether it may be none."""
    if change.margin_s is None:
        return ""
    return f"±{seconds(change.margin_s)}{' noise' if change.is_noise else ''}"


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
        _describe_margin(change),
        implementation,
    )
