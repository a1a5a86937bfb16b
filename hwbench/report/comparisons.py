"""Pages of comparisons: verdict and interval, both sets of samples, and the layers behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwbench.records.comparison import Comparison, LayerChange, explained_share
from hwbench.records.measurement import Measurement
from hwbench.records.outputs import ACCURACY
from hwbench.render.comparing import divide_bytes, likeness_lines, verdict_text
from hwbench.render.units import (
    confidence,
    ends_or_early,
    interval,
    interval_s,
    minute,
    percent,
    seconds,
    times,
)
from hwbench.render.views import SHORT_ID, START_TITLES, finding_rows, provenance, tail_rows, where
from hwbench.report.nouns import Cell, Column, Figure, Link, Number, Page, Source, Table
from hwbench.report.numbers import (
    count_number,
    interval_row,
    latency_number,
    layer_macs,
    leave_out_absurd,
    macs_number,
    sample_set,
    seconds_number,
    session_medians,
    share_number,
    size_number,
    source_of,
    speedup_number,
    start_number,
    tell_apart,
    times_number,
    whole_number,
)
from hwbench.stats import Verdict


def compare_address(comparison: Comparison) -> str:
    """Address of its page; each candidate has one comparison."""
    return f"compare/{comparison.candidate.id[:SHORT_ID]}"


def compare_source(comparison: Comparison, commands: Mapping[str, str]) -> Source:
    """Provenance of both records."""
    candidate = comparison.candidate
    return source_of(comparison.baseline, candidate, command=commands.get(candidate.id))


def comparisons_figure(comparisons: Sequence[Comparison], commands: Mapping[str, str]) -> Figure:
    """All comparisons, each with its speed-up."""
    columns = (
        Column("candidate"),
        Column("baseline"),
        Column("device", minor=True),
        Column("precision", minor=True),
        Column("speed-up", numeric=True),
        Column("verdict"),
        Column("fewer MACs", numeric=True, minor=True),
        Column("measured (UTC)", minor=True),
    )
    names = tell_apart([comparison.candidate for comparison in comparisons])
    rows = tuple(
        (
            Link(name, compare_address(comparison)),
            comparison.baseline.model,
            comparison.baseline.device.address,
            _precisions_text(comparison),
            speedup_number(comparison),
            comparison.verdict.value,
            times_number(comparison.macs_ratio),
            minute(comparison.baseline.started_utc),
        )
        for name, comparison in zip(names, comparisons, strict=True)
    )
    intervals = []
    for name, comparison in zip(names, comparisons, strict=True):
        label = f"{name} · {comparison.baseline.device.address}"
        intervals += _interval_rows(comparison, label, compare_address(comparison))[:1]
    intervals, left_out = leave_out_absurd(intervals)
    text = (
        "Speed-up of each candidate over the baseline that it was interleaved with: a dot, and a"
        " line for its 95 % interval. Right of 1 is faster. The scale is logarithmic."
        f"{left_out}"
    )
    chart = {
        "kind": "intervals",
        "label": "speed-up",
        "unit": "x",
        "log": True,
        "reference": 1,
        "rows": intervals,
    }
    sources = tuple(compare_source(comparison, commands) for comparison in comparisons)
    return Figure("Comparisons", text, Table(columns, rows, sources), (chart,) if intervals else ())


def compare_page(
    comparison: Comparison, commands: Mapping[str, str], pages: Mapping[str, str], drawn: int
) -> Page:
    """One comparison.

    Args:
        comparison: What to show.
        commands: What repeats each record that `hwbench compare` did not make, by id.
        pages: Addresses of the pages of models, by id of record.
        drawn: Samples that a picture holds of each side at most.
    """
    baseline, candidate = comparison.baseline, comparison.candidate
    facts: list[tuple[str, Cell]] = [
        ("speed-up", speedup_number(comparison)),
        ("verdict", comparison.verdict.value),
        ("baseline latency", latency_number(baseline)),
        ("candidate latency", latency_number(candidate)),
        ("fewer MACs", times_number(comparison.macs_ratio)),
        ("fewer parameters", times_number(comparison.params_ratio)),
        ("smallest effect", share_number(baseline.settings.min_effect)),
    ]
    quality = comparison.likeness.quality
    if quality is not None and quality.drop is not None and quality.measure == ACCURACY:
        facts.append(("accuracy drop", share_number(quality.drop)))
    verdict = verdict_text(comparison)
    figures = [_speedup_figure(comparison)] if comparison.ratio is not None else []
    figures += [_samples_figure(comparison, drawn), _sides_figure(comparison, pages)]
    if comparison.layers:
        figures.append(_layers_figure(comparison))
    return Page(
        id=compare_address(comparison),
        title=f"{candidate.model} against {baseline.model}",
        lead=f"{verdict[:1].upper()}{verdict[1:]} on {where(baseline)}.",
        facts=tuple(facts),
        findings=finding_rows(comparison.findings),
        figures=tuple(figures),
        closing=provenance(baseline, candidate),
        source=compare_source(comparison, commands),
    )


def _interval_rows(comparison: Comparison, name: str, page: str = "") -> list[Mapping[str, Any]]:
    """The shown interval, and the wider one that the verdict rests on."""
    speedup, ci, verdict_ci = comparison.speedup, comparison.speedup_ci, comparison.verdict_ci
    if speedup is None or ci is None or verdict_ci is None:
        return []
    rows = []
    for share, ends in (("95 %", ci), ("99.6 %", verdict_ci)):
        shown = ends_or_early(ends, interval(ends, speedup))
        text = f"{times(speedup)}, {share} interval: {shown}"
        rows.append(interval_row(name, speedup, ends, text, page))
    return rows


def _precisions_text(comparison: Comparison) -> str:
    before, after = comparison.baseline.precision, comparison.candidate.precision
    return before if before == after else f"{before} → {after}"


def _speedup_figure(comparison: Comparison) -> Figure:
    """Both intervals beside the effect that matters, and the speed-up of each session."""
    columns = (
        Column("session"),
        Column("baseline", numeric=True),
        Column("candidate", numeric=True),
        Column("speed-up", numeric=True),
    )
    before, after = session_medians(comparison.baseline), session_medians(comparison.candidate)
    speedups = _session_speedups(comparison)
    rows = tuple(
        (
            whole_number(session),
            seconds_number(before[session]),
            seconds_number(after[session]),
            times_number(speedup),
        )
        for session, speedup in speedups.items()
    )
    effect = comparison.baseline.settings.min_effect
    narrow, _ = _interval_rows(comparison, "shown (95 %)")
    _, wide = _interval_rows(comparison, "verdict (99.6 %)")
    chart = {
        "kind": "intervals",
        "label": "speed-up",
        "unit": "x",
        "reference": 1,
        "band": [1 - effect, 1 / (1 - effect)],
        "rows": [narrow, wide],
        "ticks": list(speedups.values()),
    }
    text = (
        "The interval that is shown, and the wider one that the verdict rests on. Shaded: less"
        f" than {percent(effect)} either way, which does not matter. Ticks: the single sessions."
        " The table has medians of both sides; the speed-up is taken inside blocks."
    )
    return Figure("Interval", text, Table(columns, rows), (chart,))


def _session_speedups(comparison: Comparison) -> dict[int, float]:
    """Speed-up of each session, from the ratios inside its blocks."""
    baseline, candidate = comparison.baseline.series, comparison.candidate.series
    speedups = {}
    for session in dict.fromkeys(baseline.session):
        ratio = candidate.of_session(session).ratio_to(baseline.of_session(session))
        speedups[session] = 1 / ratio.ratio
    return speedups


def _samples_figure(comparison: Comparison, drawn: int) -> Figure:
    sides = (("baseline", comparison.baseline), ("candidate", comparison.candidate))
    columns = (
        Column("side"),
        Column("model"),
        Column("latency", numeric=True),
        Column("95 % interval", numeric=True),
        Column("sessions", numeric=True),
        Column("samples", numeric=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, record in sides:
        sessions, samples = record.series.sessions, len(record.series)
        rows.append(
            (
                name,
                record.model,
                latency_number(record),
                ends_or_early(record.median_ci_s, interval_s(record.median_ci_s, record.median_s)),
                Number(sessions, f"{sessions:,}"),
                Number(samples, f"{samples:,}"),
            )
        )
    chart = {
        "kind": "distribution",
        "label": "latency",
        "sets": [sample_set(record, drawn, name) for name, record in sides],
    }
    text = (
        "Bars count the samples of each side, ticks below them are the medians of the sessions, the"
        " 95 % intervals are shaded."
    )
    return Figure("Samples", text, Table(columns, tuple(rows)), (chart,))


def _sides_figure(comparison: Comparison, pages: Mapping[str, str]) -> Figure:
    first, second = comparison.baseline, comparison.candidate
    columns = (
        Column(""),
        Column("baseline", numeric=True),
        Column("candidate", numeric=True),
        Column("gain", numeric=True),
    )
    rows: list[tuple[Cell, ...]] = [
        ("model", _model_link(first, pages), _model_link(second, pages), ""),
        ("precision", first.precision, second.precision, ""),
        ("latency", latency_number(first), latency_number(second), speedup_number(comparison)),
        (
            "MACs",
            macs_number(first.macs),
            macs_number(second.macs),
            times_number(comparison.macs_ratio),
        ),
        (
            "parameters",
            count_number(first.params),
            count_number(second.params),
            times_number(comparison.params_ratio),
        ),
        (
            "file",
            size_number(first.file_bytes),
            size_number(second.file_bytes),
            times_number(divide_bytes(first.file_bytes, second.file_bytes)),
        ),
    ]
    for quantity, title in START_TITLES.items():
        before, after = start_number(first, quantity), start_number(second, quantity)
        gain = comparison.start_gain(quantity)
        if gain is not None:
            ratio, ci = gain
            rows.append((title, before, after, times_number(ratio, confidence(ci, ratio))))
    if first.settings.tail and second.settings.tail:
        for before_row, after_row in zip(tail_rows(first), tail_rows(second), strict=True):
            rows.append((before_row[0], before_row[1], after_row[1], ""))
    text = "What each side is. The gain is baseline over candidate."
    text = " ".join([text, *likeness_lines(comparison.likeness)])
    return Figure("Sides", text, Table(columns, tuple(rows)))


def _model_link(record: Measurement, pages: Mapping[str, str]) -> Cell:
    return Link(record.model, pages[record.id]) if record.id in pages else record.model


def _layers_figure(comparison: Comparison) -> Figure:
    columns = (
        Column("layer"),
        Column("baseline", numeric=True),
        Column("candidate", numeric=True),
        Column("saved", numeric=True),
        Column("baseline MACs", numeric=True, minor=True),
        Column("candidate MACs", numeric=True, minor=True),
        Column("runs as", minor=True),
    )
    before, after = _layer_macs(comparison.baseline), _layer_macs(comparison.candidate)
    rows = tuple(
        (
            change.name,
            seconds_number(change.baseline_s),
            seconds_number(change.candidate_s),
            seconds_number(change.saved_s, _margin_note(change), sign=True),
            count_number(before.get(change.name)),
            count_number(after.get(change.name)),
            _implementation_text(change),
        )
        for change in comparison.layers
    )
    savings = {"kind": "savings", "label": "saved", "name": 0, "value": 3}
    work = {"kind": "work", "name": 0, "before": [4, 1], "after": [5, 2]}
    text = (
        "Above, what each layer saved (right) or lost (left), in the order of the network. Below,"
        " the same layers by their MACs and their latency: a line leads from the baseline (ring)"
        " to the candidate (dot); one that runs level saved work but no time."
    )
    share = explained_share(comparison)
    if share is not None and comparison.verdict in {Verdict.FASTER, Verdict.SLOWER}:
        text += f" All layers together account for {percent(share)} of the difference."
    return Figure("Layer by layer", text, Table(columns, rows), (savings, work))


def _margin_note(change: LayerChange) -> str:
    if change.margin_s is None:
        return ""
    note = f"±{seconds(change.margin_s)} at 95 %"
    return f"{note}, so it may be noise" if change.is_noise else note


def _layer_macs(record: Measurement) -> dict[str, int | None]:
    """MACs of each layer by its name; empty where no layers were measured."""
    layers = () if record.profile is None else record.profile.layers
    return {layer.name: layer_macs(layer.key) for layer in layers}


def _implementation_text(change: LayerChange) -> str:
    before = change.baseline_implementation or "absent"
    after = change.candidate_implementation or "absent"
    return before if before == after else f"{before} → {after}"
