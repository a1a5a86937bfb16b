"""Pages of models: one for each model on one device, with layers and earlier measurements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwbench.records.ceilings import Ceilings, choose_ceilings
from hwbench.records.measurement import LayerLatency, LayerProfile, Measurement
from hwbench.records.sustained import SustainedLoad
from hwbench.render.units import ends_or_early, interval_s, minute, plural, seconds
from hwbench.render.views import (
    SHORT_ID,
    START_TITLES,
    all_findings,
    describe_load,
    finding_rows,
    layers_sum_text,
    provenance,
    where,
)
from hwbench.report.nouns import Cell, Column, Figure, Link, Number, Page, Source, Table
from hwbench.report.numbers import (
    count_number,
    interval_row,
    interval_text,
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
    start_number,
    whole_number,
)
from hwbench.report.rooflines import roofline_figure


@dataclass(frozen=True)
class Model:
    """One model on one device, measured in one way.

    Attributes:
        records: Its measurements, newest first.
        commands: What repeats each of those that `hwbench profile` did not make, by id.
    """

    records: tuple[Measurement, ...]
    commands: Mapping[str, str]

    @property
    def newest(self) -> Measurement:
        """The measurement that speaks for it: the newest that is complete, else the newest."""
        return next(
            (record for record in self.records if record.complete and record.series),
            self.records[0],
        )

    @property
    def page(self) -> str:
        """Address of its page."""
        return f"model/{self.newest.id[:SHORT_ID]}"

    def source(self, record: Measurement | None = None) -> Source:
        """Provenance of one of its measurements."""
        record = record or self.newest
        return source_of(record, command=self.commands.get(record.id))


def group_models(records: Sequence[Measurement], commands: Mapping[str, str]) -> tuple[Model, ...]:
    """Group measurements by what was measured and how; newest first."""
    groups: dict[object, list[Measurement]] = {}
    for record in records:
        groups.setdefault(_identity(record), []).append(record)
    return tuple(Model(tuple(group), commands) for group in groups.values())


def _identity(record: Measurement) -> object:
    shapes = tuple((spec.name, spec.shape) for spec in record.inputs)
    how = (record.settings.threads, record.settings.isolate)
    device = (record.device.address, record.device.target_id, record.device.runtime)
    return record.model, record.model_sha256, record.precision, device, shapes, how


def models_figure(models: Sequence[Model]) -> Figure:
    """All models, each with its latency."""
    columns = (
        Column("model"),
        Column("device"),
        Column("precision", minor=True),
        Column("latency", numeric=True),
        Column("MACs", numeric=True),
        Column("parameters", numeric=True, minor=True),
        Column("measured (UTC)", minor=True),
        Column("findings"),
    )
    rows, intervals = [], []
    for model in models:
        record = model.newest
        findings = ", ".join(dict.fromkeys(finding.code for finding in record.findings)) or "none"
        if not record.complete:
            findings = f"partial, {findings}"
        rows.append(
            (
                Link(record.model, model.page),
                record.device.address,
                record.precision,
                latency_number(record),
                macs_number(record.macs),
                count_number(record.params),
                minute(record.started_utc),
                findings,
            )
        )
        if record.series:
            name = f"{record.model} · {record.device.address}"
            intervals.append(_interval_row(record, name, model.page))
    intervals, left_out = leave_out_absurd(intervals)
    text = (
        "The newest measurement of each model on each device: a dot for the latency, a line for its"
        " 95 % interval, often narrower than the dot. The scale is logarithmic."
        f"{left_out}"
    )
    chart = {"kind": "intervals", "label": "latency", "unit": "s", "log": True, "rows": intervals}
    table = Table(columns, tuple(rows), tuple(model.source() for model in models))
    return Figure("Models", text, table, (chart,) if intervals else ())


def _interval_row(record: Measurement, name: str, page: str = "") -> Mapping[str, object]:
    median_s, ci_s = record.median_s, record.median_ci_s
    text = f"{seconds(median_s)}, {interval_text(ci_s, median_s)}"
    return interval_row(name, median_s, ci_s, text, page)


def model_page(model: Model, drawn: int, ceilings: Sequence[Ceilings] = ()) -> Page:
    """One model: its latency, distribution, layers, roofline and earlier measurements.

    Args:
        model: What to show.
        drawn: Samples that the picture of the distribution holds at most.
        ceilings: The most that devices can do, of whatever devices.
    """
    record = model.newest
    facts: list[tuple[str, Cell]] = [("latency", latency_number(record))]
    if record.series:
        ends = interval_s(record.median_ci_s, record.median_s)
        facts.append(("95 % interval", ends_or_early(record.median_ci_s, ends)))
    facts += [
        ("MACs", macs_number(record.macs)),
        ("parameters", count_number(record.params)),
        ("file", size_number(record.file_bytes)),
    ]
    for quantity, title in START_TITLES.items():
        if record.start(quantity) is not None:
            facts.append((title, start_number(record, quantity)))
    if record.series and record.closure is not None:
        closure = share_number(record.closure, "sum of the layers over the latency")
        facts.append(("layers add up to", closure))
    figures = [_distribution_figure(record, drawn)] if record.series else []
    for measured in model.records:
        if measured.profile is not None and measured.series:
            source = model.source(measured)
            figures.append(_layers_figure(measured, measured.profile, source))
            known = choose_ceilings(ceilings, measured.device, measured.settings.threads)
            if known is not None:
                figures += roofline_figure(measured.profile, known, source)
            break
    for measured in model.records:
        if measured.sustained is not None:
            figures.append(_load_figure(measured.sustained, model.source(measured)))
            break
    if len(model.records) > 1:
        figures.append(_history_figure(model))
    return Page(
        id=model.page,
        title=record.model,
        lead=where(record),
        facts=tuple(facts),
        findings=finding_rows(all_findings(record)),
        figures=tuple(figures),
        closing=provenance(record),
        source=model.source(),
    )


def _distribution_figure(record: Measurement, drawn: int) -> Figure:
    columns = (Column("session"), Column("median", numeric=True), Column("samples", numeric=True))
    counts = Counter(record.series.session)
    rows = tuple(
        (whole_number(session), seconds_number(median_s), whole_number(counts[session]))
        for session, median_s in session_medians(record).items()
    )
    text = (
        "Bars count the samples; the ticks below them are the medians of the sessions, which give"
        " the 95 % interval (shaded)."
    )
    chart = {"kind": "distribution", "label": "latency", "sets": [sample_set(record, drawn)]}
    return Figure("Distribution", text, Table(columns, rows), (chart,))


def _layers_figure(record: Measurement, profile: LayerProfile, source: Source) -> Figure:
    """Layers in order of execution, each beginning where the one before it ends, and the rest."""
    columns = (
        Column("layer"),
        Column("op", minor=True),
        Column("runs as", minor=True),
        Column("latency", numeric=True),
        Column("share", numeric=True),
        Column("MACs", numeric=True, minor=True),
        Column("key", minor=True),
    )
    median_s = record.median_s
    rows = [_layer_row(layer, median_s) for layer in profile.layers]
    rest_s = median_s - profile.layers_sum_s
    rest: tuple[Cell, ...] = (
        "rest",
        "",
        "",
        seconds_number(rest_s, profile.rest_cause),
        share_number(rest_s / median_s),
        "",
        "",
    )
    text = (
        "From the first layer to the last, each bar begins where the one before it ends."
        f" {layers_sum_text(profile, median_s)}"
    )
    chart = {"kind": "waterfall", "label": "latency", "total": median_s, "name": 0, "value": 3}
    return Figure("Layers", text, Table(columns, (*rows, rest)), (chart,), source)


def _layer_row(layer: LayerLatency, median_s: float) -> tuple[Cell, ...]:
    note = "median over the profiled inferences, which has no interval of its own"
    if layer.calls > 1:
        note = f"{plural(layer.calls, 'call')} of {seconds(layer.median_s)} each; {note}"
    return (
        layer.name,
        layer.op,
        layer.implementation,
        seconds_number(layer.inference_s, note),
        share_number(layer.inference_s / median_s),
        count_number(layer_macs(layer.key)),
        str(layer.key or ""),
    )


def _load_figure(load: SustainedLoad, source: Source) -> Figure:
    """Latency under load without a pause, over time."""
    columns = (
        Column("after", numeric=True),
        Column("latency", numeric=True),
        Column("temperature", numeric=True),
        Column("throttled", minor=True),
    )
    rows, points = [], []
    for window in load.windows:
        heat = "-" if window.temperature_c is None else f"{window.temperature_c:.1f} °C"
        said = {None: "does not tell", True: "yes", False: "no"}[window.throttled]
        after = f"{window.at_s:.1f} s"
        rows.append(
            (
                Number(window.at_s, after),
                seconds_number(window.latency_s),
                Number(window.temperature_c, heat),
                said,
            )
        )
        text = f"after {after}\n{seconds(window.latency_s)}, {heat}"
        points.append({"x": window.at_s, "y": window.latency_s, "text": text})
    chart = {"kind": "load", "label": "latency", "points": points}
    text = f"{describe_load(load)}."
    return Figure("Without a pause", text, Table(columns, tuple(rows)), (chart,), source)


def _history_figure(model: Model) -> Figure:
    columns = (
        Column("measured (UTC)"),
        Column("latency", numeric=True),
        Column("sessions", numeric=True),
        Column("samples", numeric=True, minor=True),
        Column("record", minor=True),
        Column("findings"),
    )
    rows = []
    for record in model.records:
        codes = [finding.code for finding in record.findings]
        rows.append(
            (
                minute(record.started_utc),
                latency_number(record),
                whole_number(record.series.sessions),
                whole_number(len(record.series)),
                record.id[:SHORT_ID],
                ", ".join(codes) or "none",
            )
        )
    intervals = [
        _interval_row(record, f"{minute(record.started_utc)} · {record.id[:4]}")
        for record in model.records
        if record.series
    ]
    chart = {"kind": "intervals", "label": "latency", "unit": "s", "rows": intervals}
    text = (
        "Every measurement of this model here, newest first. Before claiming a difference,"
        " interleave: hwbench compare."
    )
    table = Table(columns, tuple(rows), tuple(map(model.source, model.records)))
    return Figure("History", text, table, (chart,) if intervals else ())
