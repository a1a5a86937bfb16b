"""What a person reads of each record: the answer, reasons to doubt it, where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from hwbench.measuring.sustained import find_throttling
from hwbench.records.findings import Finding
from hwbench.records.measurement import TAIL
from hwbench.render.blocks import Block, Column, Line, Notes, Table, View
from hwbench.render.units import (
    bar,
    confidence_s,
    count,
    ends_or_early,
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
    with_margin,
)
from hwbench.stats import is_telling

if TYPE_CHECKING:
    from hwbench.devices.base import Found
    from hwbench.records.ceilings import Ceilings, LayerBound
    from hwbench.records.device import Conditions
    from hwbench.records.measurement import LayerLatency, LayerProfile, Measurement
    from hwbench.records.sustained import SustainedLoad
    from hwbench.stats import Estimate
    from hwbench.store import Summary
    from hwbench.workflows.doctor import Diagnosis
    from hwbench.workflows.selftest import SelfTest

PARTIAL = Finding(
    "partial",
    "ended before it was complete: fewer samples than asked for, no layers, nothing checked",
)
ABOVE = 1.1
"""Share of a ceiling from which on it is said that it cannot be one."""
SHORT_ID = 12
"""Characters of a record's id that are shown; `hwbench store show` takes them."""


def profile_view(
    record: Measurement, *, saved: bool = True, ceilings: Ceilings | None = None
) -> View:
    """One measurement: latency, findings, distribution, layers, provenance.

    Args:
        record: What to show.
        saved: Whether a store has it.
        ceilings: The most that its device can do; None where that is not known.
    """
    latency = "no sample was taken"
    if record.series:
        estimate = record.series.latency()
        latency = (
            f"{seconds(estimate.estimate)} ({confidence_s(estimate.ci, estimate.estimate)},"
            f" {plural(estimate.sessions, 'session')})"
        )
    blocks: list[Block] = [Line(f"{record.model} on {where(record)}: {latency}", "bold")]
    blocks += notes(all_findings(record))
    blocks.append(Line(_describe_size(record)))
    start = _describe_start(record)
    if start:
        blocks.append(Line(start))
    if record.series:
        blocks.append(Line(_describe_distribution(record)))
    if record.settings.tail:
        rows = tail_rows(record)
        columns = (Column("single inferences"), Column("latency (95 % interval)"))
        blocks.append(Table(columns, tuple(rows)))
    if record.sustained is not None:
        blocks.append(Line(describe_load(record.sustained)))
    if record.series and record.profile is not None:
        blocks += _layer_blocks(record.profile, record.median_s, ceilings)
    blocks.append(Line(provenance(record, saved=saved), "dim"))
    return blocks


START_TITLES = {
    "load_s": "load",
    "first_run_s": "first inference",
    "peak_memory_bytes": "peak memory",
}
"""What the quantities of a session's start are called."""


def describe_start(quantity: str, estimate: Estimate | None) -> str:
    """One quantity of a session's start with its margin; a dash where it is not known."""
    if estimate is None:
        return "-"
    write = size_of if quantity == "peak_memory_bytes" else seconds
    return with_margin(write(estimate.estimate), estimate.ci)


def size_of(value_bytes: float) -> str:
    """A mean number of bytes."""
    return size(round(value_bytes))


def describe_quantile(estimate: Estimate) -> str:
    """A quantile of latencies with its 95 % interval, which is not even to both sides."""
    text = seconds(estimate.estimate)
    if not is_telling(estimate.ci):
        return text
    return f"{text} ({interval_s(estimate.ci, estimate.estimate)})"


def describe_load(load: SustainedLoad) -> str:
    """What became of a latency under load without a pause, in a sentence."""
    slowdown = load.slowdown
    sure = ends_or_early(slowdown.ci, interval(slowdown.ci, slowdown.estimate))
    after_s = find_throttling(load)
    change = (
        f"{seconds(load.burst.estimate)} at first, {seconds(load.steady.estimate)} in the last"
        f" quarter: {times(slowdown.estimate)} (95 % interval {sure})"
    )
    parts = [
        change,
        "no lasting slow-down" if after_s is None else f"slower from {after_s:.0f} s on",
    ]
    told = [w.temperature_c for w in load.windows if w.temperature_c is not None]
    if told:
        parts.append(f"{told[0]:.0f} °C at first, {max(told):.0f} °C at most")
    if load.rest_s:
        parts.append(f"after a rest of {load.rest_s:.0f} s")
    return f"Without a pause for {load.asked_s:g} s: {'; '.join(parts)}"


def tail_rows(record: Measurement) -> list[tuple[str, str]]:
    """Names and values of the latencies that few single inferences exceed; empty without them."""
    rows = []
    for field, share in TAIL.items():
        estimate = record.quantile(share)
        if estimate is not None:
            rows.append((field.removesuffix("_s"), describe_quantile(estimate)))
    if record.worst_s is not None:
        rows.append((f"worst of {len(record.series):,}", seconds(record.worst_s)))
    return rows


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
    """Findings as a block, if there are any; those of one code, of both sides, as one."""
    texts: dict[str, list[str]] = {}
    for finding in findings:
        texts.setdefault(finding.code, []).append(finding.text)
    rows = tuple((code, "; ".join(parts)) for code, parts in texts.items())
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
    return ", ".join(parts)


def _describe_start(record: Measurement) -> str:
    """What it took to make sessions ready; empty where the device does not tell."""
    parts = []
    for quantity, title in START_TITLES.items():
        estimate = record.start(quantity)
        if estimate is not None:
            parts.append(f"{title} {describe_start(quantity, estimate)}")
    if not parts:
        return ""
    return f"Fresh process, files in the page cache: {', '.join(parts)}"


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


def _layer_blocks(profile: LayerProfile, median_s: float, ceilings: Ceilings | None) -> list[Block]:
    """Table of the layers with the rest below it, and how well they add up.

    Where the ceilings of the device are known, the last column says how far each layer is from
    them; else it is a bar.
    """
    largest_s = max((layer.inference_s for layer in profile.layers), default=0.0)
    rows = tuple(
        (
            layer.name,
            layer.op,
            layer.implementation,
            _describe_layer(layer),
            percent(layer.inference_s / median_s),
            bar(layer.inference_s / largest_s, 8)
            if ceilings is None
            else describe_bound(ceilings.bound(layer)),
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
        Column("" if ceilings is None else "of ceiling"),
    )
    blocks: list[Block] = [Table(columns, rows, (rest,)), Line(layers_sum_text(profile, median_s))]
    if ceilings is not None:
        text = f"Ceilings measured {moment(ceilings.created_utc)}."
        bounds = [ceilings.bound(layer) for layer in profile.layers]
        above = sum(bound is not None and bound.share > ABOVE for bound in bounds)
        if above:
            text += (
                f" {plural(above, 'layer')} above them: the device was slower then than now;"
                " measure them in quiet: hwbench doctor --ceilings"
            )
        blocks.append(Line(text, "dim"))
    return blocks


def describe_bound(bound: LayerBound | None) -> str:
    """How far a layer is from what the device can do, and what binds it."""
    return "" if bound is None else f"{percent(bound.share)} {bound.binds}"


def ceilings_blocks(ceilings: Ceilings) -> list[Block]:
    """The most that a device can do in each precision."""
    columns = (
        Column("precision"),
        Column("multiply-accumulates", right=True),
        Column("bytes, in caches", right=True),
        Column("bytes, most", right=True),
        Column("best layer", path=True),
    )
    rows = []
    for ceiling in ceilings.ceilings:
        last = ceiling.bandwidths[-1]
        rows.append(
            (
                ceiling.precision,
                f"{macs(round(ceiling.macs_per_s))}/s",
                f"{size(round(ceiling.bytes_per_s))}/s",
                f"{size(round(last.bytes_per_s))}/s",
                str(ceiling.best),
            )
        )
    threads = plural(ceilings.threads, "thread")
    blocks: list[Block] = [
        Line(f"The most that it can do with {threads}, measured by single layers:"),
        Table(columns, tuple(rows)),
    ]
    if ceilings.left_out:
        blocks.append(Line(f"Left out: {'; '.join(ceilings.left_out)}"))
    return blocks


def _describe_layer(layer: LayerLatency) -> str:
    """The latency of a layer with its margin, or that it is at most so much."""
    latency = seconds(layer.inference_s)
    if layer.is_bound:
        return f"≤ {latency}"
    return latency if layer.ci_s is None else with_margin(latency, layer.ci_s)


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
            ci = ends_or_early(ratio.ci, interval(ratio.ci, ratio.ratio))
            rows.append((str(number), times(ratio.ratio), ci, str(ratio.sessions), verdict))
    return [
        Line(f"{claimed} on {where(first)}; noise floor {percent(outcome.noise_floor)}", "bold"),
        Table(columns, tuple(rows)),
        Line(f"The truth, a ratio of 1, lay in {outcome.covered} of {runs} intervals."),
        Line(f"Each {_describe_circumstances(first)}", "dim"),
    ]


def doctor_view(diagnosis: Diagnosis, ceilings: Ceilings | None = None) -> View:
    """What was checked on a device, what is wrong first, and its state.

    Args:
        diagnosis: The state.
        ceilings: The most that it can do; None where that was not measured.
    """
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
    if ceilings is not None:
        blocks += ceilings_blocks(ceilings)
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
