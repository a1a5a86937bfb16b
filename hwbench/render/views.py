"""What a person reads of each record: the answer, reasons to doubt it, where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from hwbench.records.findings import Finding
from hwbench.render.blocks import Block, Column, Line, Notes, Table, View
from hwbench.render.units import (
    bar,
    count,
    frequency,
    interval,
    interval_s,
    macs,
    minute,
    moment,
    percent,
    plural,
    seconds,
    shape,
    size,
    sparkline,
    times,
)

if TYPE_CHECKING:
    from hwbench.devices.base import Found
    from hwbench.records.device import Conditions
    from hwbench.records.measurement import LayerProfile, Measurement
    from hwbench.store import Summary
    from hwbench.workflows.doctor import Diagnosis
    from hwbench.workflows.selftest import SelfTest

PARTIAL = Finding(
    "partial",
    "ended before it was complete: fewer samples than asked for, no layers, nothing checked",
)
SHORT_ID = 12
"""Characters of a record's id that are shown; `hwbench store show` takes them."""


def profile_view(record: Measurement, *, saved: bool = True) -> View:
    """One measurement: latency, findings, distribution, layers, provenance.

    Args:
        record: What to show.
        saved: Whether a store has it.
    """
    latency = "no sample was taken"
    if record.series:
        estimate = record.series.latency()
        latency = (
            f"{seconds(estimate.estimate)} (95 % interval"
            f" {interval_s(estimate.ci, estimate.estimate)},"
            f" {plural(estimate.sessions, 'session')})"
        )
    blocks: list[Block] = [Line(f"{record.model} on {where(record)}: {latency}", "bold")]
    blocks += notes(all_findings(record))
    blocks.append(Line(_describe_size(record)))
    if record.series:
        blocks.append(Line(_describe_distribution(record)))
    if record.series and record.profile is not None:
        blocks += _layer_blocks(record.profile, record.median_s)
    blocks.append(Line(provenance(record, saved=saved), "dim"))
    return blocks


def where(record: Measurement) -> str:
    """Hardware, runtime and what of the settings changes latency."""
    parts = [
        record.device.runtime,
        record.precision,
        plural(record.settings.threads, "thread"),
    ]
    if record.settings.isolate:
        parts.append("isolated")
    return f"{record.device.target} ({', '.join(parts)})"


def all_findings(record: Measurement) -> tuple[Finding, ...]:
    """The findings of a measurement, and that it is partial where it is."""
    return record.findings if record.complete else (*record.findings, PARTIAL)


def finding_rows(findings: Iterable[Finding]) -> tuple[tuple[str, str], ...]:
    """Codes and texts of findings, as notes and the report take them."""
    return tuple((finding.code, finding.text) for finding in findings)


def notes(findings: Iterable[Finding]) -> list[Block]:
    """Findings as a block, if there are any."""
    rows = finding_rows(findings)
    return [Notes(rows)] if rows else []


def provenance(*records: Measurement, saved: bool = True) -> str:
    """When and how the records of one measurement were taken, and their ids in the store."""
    place = "kept nowhere"
    if saved:
        noun = "records" if len(records) > 1 else "record"
        place = f"{noun} {' and '.join(record.id[:SHORT_ID] for record in records)}"
    unfinished = "" if records[0].complete else ", ended before it was complete"
    return f"{_describe_circumstances(records[0])}; {place}{unfinished}"


def _describe_circumstances(record: Measurement) -> str:
    settings = record.settings
    samples = f"{plural(len(record.series), 'sample')} of {plural(record.loops, 'inference')}"
    inputs = ", ".join(f"{spec.name} {shape(spec.shape)} {spec.dtype}" for spec in record.inputs)
    commit = f" (commit {record.commit[:SHORT_ID]})" if record.commit else ""
    parts = (
        f"measured {moment(record.started_utc)} at {record.device.address}",
        f"for at most {settings.budget_s:g} s with seed {settings.seed}",
        f"{samples} by the clock {record.clock}" if record.clock else samples,
        f"input {inputs}",
        f"hwbench {record.hwbench_version}{commit}",
    )
    return "; ".join(parts)


def _describe_size(record: Measurement) -> str:
    parts = [
        f"{macs(record.macs)} MACs at batch {record.batch}",
        f"{count(record.params)} parameters",
        f"{size(record.file_bytes)} of file",
    ]
    if record.peak_memory_bytes is not None:
        parts.append(f"{size(record.peak_memory_bytes)} of memory at its peak")
    return ", ".join(parts)


def _describe_distribution(record: Measurement) -> str:
    low_s, line, high_s = sparkline(record.series.samples_s)
    return (
        f"{seconds(low_s)} {line} {seconds(high_s)} (5th to 95th percentile of"
        f" {plural(len(record.series), 'sample')})"
    )


def layers_sum_text(profile: LayerProfile, median_s: float) -> str:
    """How well the layers add up to the latency of the model, and what the rest is."""
    return (
        f"The layers add up to {percent(profile.layers_sum_s / median_s)} of the latency; the rest"
        f" is {profile.rest_cause}."
    )


def _layer_blocks(profile: LayerProfile, median_s: float) -> list[Block]:
    """Table of the layers with the rest below it, and how well they add up."""
    largest_s = max((layer.inference_s for layer in profile.layers), default=0.0)
    rows = tuple(
        (
            layer.name,
            layer.op,
            layer.implementation,
            seconds(layer.inference_s),
            percent(layer.inference_s / median_s),
            bar(layer.inference_s / largest_s, 8),
        )
        for layer in profile.layers
    )
    sum_s = profile.layers_sum_s
    rest = ("rest", "", "", seconds(median_s - sum_s), percent(1 - sum_s / median_s), "")
    columns = (
        Column("layer", path=True),
        Column("op", path=True, limit=13),
        Column("runs as", path=True, limit=10),
        Column("latency", right=True),
        Column("share", right=True),
        Column(""),
    )
    return [Table(columns, rows, (rest,)), Line(layers_sum_text(profile, median_s))]


def selftest_view(outcome: SelfTest) -> View:
    """A/A comparisons: false verdicts, noise floor, and each comparison."""
    runs, first = len(outcome.comparisons), outcome.comparisons[0].baseline
    claimed = (
        f"{outcome.false_verdicts} of {runs} comparisons of {first.model} with itself claimed a"
        " difference"
    )
    columns = (
        Column("comparison", right=True),
        Column("ratio", right=True),
        Column("95 % interval"),
        Column("sessions", right=True),
        Column("verdict"),
    )
    rows = []
    for number, comparison in enumerate(outcome.comparisons, 1):
        ratio, verdict = comparison.ratio, comparison.verdict.value
        if ratio is not None:
            ci = interval(ratio.ci, ratio.ratio)
            rows.append((str(number), times(ratio.ratio), ci, str(ratio.sessions), verdict))
    return [
        Line(f"{claimed} on {where(first)}; noise floor {percent(outcome.noise_floor)}", "bold"),
        Table(columns, tuple(rows)),
        Line(f"The truth, a ratio of 1, lay in {outcome.covered} of {runs} intervals."),
        Line(f"Each {_describe_circumstances(first)}", "dim"),
    ]


def doctor_view(diagnosis: Diagnosis) -> View:
    """What was checked on a device, what is wrong first, and its state."""
    problems, passed = [], []
    for advice in diagnosis.advice:
        if advice.ok:
            passed.append((advice.code, advice.text))
        elif advice.remedy:
            problems.append((advice.code, f"{advice.text}; {advice.remedy}"))
        else:
            problems.append((advice.code, advice.text))
    verdict = "nothing stands in the way of a good measurement"
    if problems:
        verdict = f"{plural(len(problems), 'thing')} to mend"
    headline = f"{diagnosis.device.target} ({diagnosis.device.runtime}): {verdict}"
    blocks: list[Block] = [Line(headline, "bold")]
    if problems:
        blocks.append(Notes(tuple(problems)))
    if passed:
        blocks.append(Table((Column("in order"), Column("", wrap=True)), tuple(passed)))
    conditions = _describe_conditions(diagnosis.conditions)
    if conditions:
        blocks.append(Line(f"now: {conditions}", "dim"))
    return blocks


def _describe_conditions(now: Conditions) -> str:
    """What is known of a device's state; empty where nothing is."""
    parts = []
    if now.frequency_hz:
        parts.append(f"{frequency(max(now.frequency_hz))} at most")
    if now.governor:
        parts.append(f"governor {now.governor}")
    if now.temperature_c is not None:
        parts.append(f"{now.temperature_c:.0f} °C")
    if now.load_1m is not None:
        parts.append(f"load {now.load_1m:.2f}")
    if now.battery is not None:
        parts.append(f"battery {percent(now.battery)}")
    if now.throttled:
        parts.append("throttled")
    return ", ".join(parts)


def devices_view(targets: Sequence[Found], *, proof_hint: str = "") -> View:
    """Every target in reach, and what is missing for the others.

    Args:
        targets: The targets.
        proof_hint: How to prove a driver on a target, shown where one is not fully proven.
    """
    columns = (
        Column("address"),
        Column("ready"),
        Column("description", wrap=True),
        Column("hint", wrap=True),
    )
    rows = []
    for target in targets:
        ready = "yes" if target.ready else "no"
        rows.append((target.address, ready, target.description, target.hint))
    table = Table(columns, tuple(rows))
    if proof_hint and any(target.ready and target.hint for target in targets):
        return [table, Line(proof_hint, "dim")]
    return [table]


def store_view(
    url: str, summaries: Sequence[Summary], latencies_s: Mapping[str, float] | None = None
) -> View:
    """What a store holds, newest first.

    Args:
        url: Of the store.
        summaries: Its measurements.
        latencies_s: Their latencies by id, where they have samples.
    """
    if not summaries:
        return [Line(f"no measurement in {url}")]
    columns = (
        Column("record"),
        Column("started (UTC)"),
        Column("model", path=True),
        Column("device", path=True),
        Column("latency", right=True),
        Column("samples", right=True),
    )
    known_s = latencies_s or {}
    rows = []
    for summary in summaries:
        record, started = summary.id[:SHORT_ID], minute(summary.started_utc)
        latency = seconds(known_s.get(summary.id))
        samples = str(summary.samples)
        if not summary.complete:
            samples += " (partial)"
        rows.append((record, started, summary.model, summary.device, latency, samples))
    total = f"{plural(len(summaries), 'measurement')} in {url}"
    return [Table(columns, tuple(rows)), Line(total, "dim")]
