"""What a person reads of each record: the answer, reasons to doubt it, where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwbench.records.findings import Finding
from hwbench.render.blocks import Block, Column, Line, Notes, Table, View
from hwbench.render.units import (
    bar,
    count,
    frequency,
    interval,
    interval_s,
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


def profile_view(record: Measurement, *, kept: bool = True) -> View:
    """One measurement: latency, findings, distribution, layers, provenance.

    Args:
        record: What to show.
        kept: Whether a store has it.
    """
    blocks: list[Block] = [Line(f"{record.model} on {where(record)}: {_latency(record)}", "bold")]
    blocks += notes((*record.findings, *(() if record.complete else (PARTIAL,))))
    blocks.append(Line(_size_of(record)))
    if record.series:
        blocks.append(Line(_distribution(record)))
    if record.series and record.profile is not None:
        blocks += _layers(record.profile, record.median_s)
    blocks.append(Line(provenance(record, kept=kept), "dim"))
    return blocks


def where(record: Measurement) -> str:
    """Hardware, runtime and what of the settings changes latency."""
    isolated = ", isolated" if record.settings.isolate else ""
    how = (
        f"{record.device.runtime}, {record.precision},"
        f" {plural(record.settings.threads, 'thread')}{isolated}"
    )
    return f"{record.device.target} ({how})"


def notes(findings: Sequence[Finding]) -> list[Block]:
    """Findings as a block, if there are any."""
    return [Notes(tuple((finding.code, finding.text) for finding in findings))] if findings else []


def provenance(*records: Measurement, kept: bool = True) -> str:
    """When and how the records of one measurement were taken, and their ids in the store."""
    ids = (
        f"record{'s' if len(records) > 1 else ''}"
        f" {' and '.join(record.id[:SHORT_ID] for record in records)}"
    )
    unfinished = "" if records[0].complete else ", ended before it was complete"
    return f"{_circumstances(records[0])}; {ids if kept else 'kept nowhere'}{unfinished}"


def _circumstances(record: Measurement) -> str:
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


def _latency(record: Measurement) -> str:
    if not record.series:
        return "no sample was taken"
    estimate = record.series.latency()
    shown = interval_s(estimate.ci, estimate.estimate)
    return (
        f"{seconds(estimate.estimate)} (95 % interval {shown},"
        f" {plural(estimate.sessions, 'session')})"
    )


def _size_of(record: Measurement) -> str:
    memory = (
        ""
        if record.peak_memory_bytes is None
        else f", {size(record.peak_memory_bytes)} of memory at its peak"
    )
    parameters = f"{count(record.params)} parameters, {size(record.file_bytes)} of file{memory}"
    return f"{count(record.macs)} MACs at batch {record.batch}, {parameters}"


def _distribution(record: Measurement) -> str:
    low_s, line, high_s = sparkline(record.series.samples_s)
    return (
        f"{seconds(low_s)} {line} {seconds(high_s)} (5th to 95th percentile of"
        f" {plural(len(record.series), 'sample')})"
    )


def _layers(profile: LayerProfile, median_s: float) -> list[Block]:
    """Table of the layers with the rest below it, and how well they add up."""
    latencies_s = [layer.inference_s for layer in profile.layers]
    largest_s = max(latencies_s, default=0.0)
    rows = tuple(
        (
            layer.name,
            layer.op,
            layer.implementation,
            seconds(row_s),
            percent(row_s / median_s),
            bar(row_s / largest_s, 8),
        )
        for layer, row_s in zip(profile.layers, latencies_s, strict=True)
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
    closing = (
        f"The layers add up to {percent(sum_s / median_s)} of the latency; the rest is"
        f" {profile.rest_cause}."
    )
    return [Table(columns, rows, (rest,)), Line(closing)]


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
    rows = tuple(
        (
            str(number),
            times(c.ratio.ratio),
            interval(c.ratio.ci, c.ratio.ratio),
            str(c.ratio.sessions),
            c.verdict.value,
        )
        for number, c in enumerate(outcome.comparisons, 1)
        if c.ratio is not None
    )
    return [
        Line(f"{claimed} on {where(first)}; noise floor {percent(outcome.noise_floor)}", "bold"),
        Table(columns, rows),
        Line(f"The truth, a ratio of 1, lay in {outcome.covered} of {runs} intervals."),
        Line(f"Each {_circumstances(first)}", "dim"),
    ]


def doctor_view(diagnosis: Diagnosis) -> View:
    """What was checked on a device, what is wrong first, and its state."""
    wrong = [item for item in diagnosis.advice if not item.ok]
    verdict = (
        f"{plural(len(wrong), 'thing')} to mend"
        if wrong
        else "nothing stands in the way of a good measurement"
    )
    headline = f"{diagnosis.device.target} ({diagnosis.device.runtime}): {verdict}"
    blocks: list[Block] = [Line(headline, "bold")]
    if wrong:
        blocks.append(
            Notes(
                tuple(
                    (item.code, f"{item.text}; {item.remedy}" if item.remedy else item.text)
                    for item in wrong
                )
            )
        )
    good = [(item.code, item.text) for item in diagnosis.advice if item.ok]
    if good:
        blocks.append(Table((Column("in order"), Column("", wrap=True)), tuple(good)))
    state = _state(diagnosis.conditions)
    return [*blocks, Line(state, "dim")] if state else blocks


def _state(now: Conditions) -> str:
    parts = [
        f"{frequency(max(now.frequency_hz))} at most" if now.frequency_hz else "",
        f"governor {now.governor}" if now.governor else "",
        f"{now.temperature_c:.0f} °C" if now.temperature_c is not None else "",
        f"load {now.load_1m:.2f}" if now.load_1m is not None else "",
        f"battery {percent(now.battery)}" if now.battery is not None else "",
        "throttled" if now.throttled else "",
    ]
    known = ", ".join(filter(None, parts))
    return f"now: {known}" if known else ""


def devices_view(found: Sequence[Found]) -> View:
    """Every target in reach, and what is missing for the others."""
    columns = (
        Column("address"),
        Column("ready"),
        Column("description", wrap=True),
        Column("hint", wrap=True),
    )
    rows = tuple(
        (item.address, "yes" if item.ready else "no", item.description, item.hint) for item in found
    )
    return [Table(columns, rows)]


def store_view(url: str, summaries: Sequence[Summary]) -> View:
    """What a store holds, newest first."""
    if not summaries:
        return [Line(f"no measurement in {url}")]
    columns = (
        Column("record"),
        Column("started (UTC)"),
        Column("model", path=True),
        Column("device", path=True),
        Column("samples", right=True),
        Column("state"),
    )
    rows = tuple(
        (
            s.id[:SHORT_ID],
            minute(s.started_utc),
            s.model,
            s.device,
            str(s.samples),
            "complete" if s.complete else "partial",
        )
        for s in summaries
    )
    return [Table(columns, rows), Line(f"{plural(len(summaries), 'measurement')} in {url}", "dim")]
