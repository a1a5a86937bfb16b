"""Lookup tables for people and tools: what a build found, holds and predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hwbench.lookup_tables.advice import advice
from hwbench.lookup_tables.table import IMPORTED
from hwbench.render.blocks import Block, Column, Line, Notes, Table, View
from hwbench.render.units import (
    bar,
    count,
    interval_s,
    layer,
    moment,
    percent,
    plural,
    seconds,
    size,
    sparkline,
)
from hwbench.render.views import SHORT_ID

if TYPE_CHECKING:
    from hwbench.lookup_tables import Grade, LayerPrediction, LookupTable
    from hwbench.records.prediction import Prediction
    from hwbench.render.documents import Document
    from hwbench.workflows.build_table import BuiltTable
    from hwbench.workflows.table_files import ExportedTable, ImportedTable

SCHEMA = 1
FAMILIES_SHOWN = 20
ENOUGH = 8
"""Held-out networks from which the distribution of their errors is drawn."""


def built_view(outcome: BuiltTable) -> View:
    """A build or a validation: the grade first, then what the table consists of."""
    blocks: list[Block] = []
    if outcome.validation is not None:
        grade = outcome.validation.grade
        blocks += [Line(_grade(grade), "bold"), Line(_doubts(grade))]
        if grade.networks >= ENOUGH:
            low, line, high = sparkline([trial.error for trial in outcome.validation.trials])
            ends = f"{percent(low, sign=True)} {line} {percent(high, sign=True)}"
            blocks.append(Line(f"{ends} (5th to 95th percentile of the errors)"))
        drift = outcome.validation.drift - 1
        blocks.append(
            Line(
                f"The unpruned network is {percent(drift, sign=True)} off its latency when the"
                " table was made."
            )
        )
    if outcome.cross_validated is not None:
        left_out = percent(outcome.cross_validated)
        blocks.append(
            Line(
                "Its own networks, each left out in turn, are predicted with an error of"
                f" {left_out} (RMSPE)."
            )
        )
    blocks += _advice(outcome.table)
    kept = f"; kept as {outcome.id[:SHORT_ID]}" if outcome.id else "; not kept"
    return [*blocks, Line(_provenance(outcome.table) + kept, "dim")]


def table_view(table: LookupTable) -> View:
    """A table: grades, advice, its layer families, provenance."""
    device = table.provenance.device
    held = (
        f"{plural(len(table.entries), 'layer')} in"
        f" {plural(len(table.families), 'geometry').replace('geometrys', 'geometries')}"
    )
    blocks: list[Block] = [Line(f"{device.target} ({device.runtime}): {held}", "bold")]
    blocks += [Line(_grade(grade)) for grade in table.grades]
    blocks += _advice(table)
    columns = (
        Column("layer", path=True),
        Column("step", right=True),
        Column("in", right=True),
        Column("out", right=True),
        Column("points", right=True),
        Column("fastest", right=True),
        Column("slowest", right=True),
    )
    ordered = sorted(table.families.items(), key=lambda item: -item[1].latency_s.max())
    rows = []
    for family, points in ordered[:FAMILIES_SHOWN]:
        low_in, high_in, low_out, high_out = table.surfaces[family].box
        ends = (f"{low_in}-{high_in}", f"{low_out}-{high_out}", str(len(points.cin)))
        ends_s = (seconds(float(points.latency_s.min())), seconds(float(points.latency_s.max())))
        rows.append((layer(family.pattern), str(table.steps[family.kind]), *ends, *ends_s))
    blocks.append(Table(columns, tuple(rows)))
    if len(ordered) > FAMILIES_SHOWN:
        blocks.append(Line(f"and {len(ordered) - FAMILIES_SHOWN} more, all faster"))
    return [*blocks, Line(_provenance(table), "dim")]


def prediction_view(model: str, prediction: Prediction, parts: Sequence[LayerPrediction]) -> View:
    """A predicted latency and its layers."""
    shown = interval_s(prediction.ci_s, prediction.latency_s)
    origins = [_origin(part) for part in parts]
    counts = [
        f"{origins.count(origin)} of {plural(len(parts), 'layer')} {origin}"
        for origin in dict.fromkeys(origins)
    ]
    largest_s = max(part.latency_s for part in parts)
    rows = tuple(
        (
            layer(part.key),
            _origin(part),
            seconds(part.latency_s),
            percent(part.latency_s / prediction.latency_s),
            bar(part.latency_s / largest_s, 8),
        )
        for part in parts
    )
    columns = (
        Column("layer", path=True),
        Column("from"),
        Column("latency", right=True),
        Column("share", right=True),
        Column(""),
    )
    return [
        Line(f"{model}: {seconds(prediction.latency_s)} predicted (95 % interval {shown})", "bold"),
        Line(", ".join(counts)),
        Table(columns, rows),
    ]


def list_view(tables: Mapping[str, LookupTable]) -> View:
    """All tables, one line each."""
    columns = (
        Column("id"),
        Column("device", path=True),
        Column("models", path=True),
        Column("made"),
        Column("entries", right=True),
        Column("mean error", right=True),
    )
    rows = []
    for table_id, table in tables.items():
        made = table.provenance
        models = (
            ", ".join(dict.fromkeys(source.model.partition("@")[0] for source in made.sources))
            or "-"
        )
        errors = ", ".join(percent(grade.mean_error) for grade in table.grades) or "not graded"
        facts = (made.device.address, models, moment(made.created_utc))
        rows.append((table_id[:SHORT_ID], *facts, str(len(table.entries)), errors))
    return [Table(columns, tuple(rows))]


def imported_view(outcome: ImportedTable) -> View:
    """An imported table: what it is now, how it is used, what to know of the files."""
    table = outcome.table
    blocks: list[Block] = [
        Line(f"{outcome.name}: {plural(len(table.entries), 'layer')} of {_origins(table)}", "bold")
    ]
    adding_up = table.calibration
    if adding_up.networks:
        left_out = percent(adding_up.shared_sd)
        blocks.append(
            Line(
                f"Each network left out in turn, the others predict it with an error of {left_out}"
                " (RMS)."
            )
        )
    if outcome.findings:
        blocks.append(Notes(tuple((finding.code, finding.text) for finding in outcome.findings)))
    kept = f"; kept as {outcome.id[:SHORT_ID]}" if outcome.id else "; not kept"
    return [
        *blocks,
        Line(_provenance(table) + kept, "dim"),
        Line(f"hwbench table predict MODEL --table {outcome.name}", "dim"),
    ]


def exported_view(outcome: ExportedTable) -> View:
    """A table that was written to a file."""
    table = outcome.table
    return [
        Line(
            f"{outcome.path}: {plural(len(table.entries), 'layer')} of {_origins(table)},"
            f" {size(outcome.size_bytes)}",
            "bold",
        ),
        Line(f"hwbench table import {outcome.path}", "dim"),
    ]


def list_document(tables: Mapping[str, LookupTable]) -> Document:
    """All tables as JSON types, without their entries."""
    rows = [
        {
            "id": table_id,
            "entries": len(table.entries),
            **{k: v for k, v in table.metadata.to_dict().items() if k != "schema"},
        }
        for table_id, table in tables.items()
    ]
    return {"schema": SCHEMA, "tables": rows}


def imported_document(outcome: ImportedTable) -> Document:
    """An imported table as JSON types, without its entries."""
    table = outcome.table
    return {
        "schema": SCHEMA,
        "table": outcome.id,
        "name": outcome.name,
        "entries": len(table.entries),
        "networks": [asdict(source) for source in table.provenance.sources],
        "left_out_error": table.calibration.shared_sd if table.calibration.networks else None,
        "findings": [asdict(finding) for finding in outcome.findings],
    }


def exported_document(outcome: ExportedTable) -> Document:
    """A written table as JSON types."""
    return {
        "schema": SCHEMA,
        "file": str(outcome.path),
        "size_bytes": outcome.size_bytes,
        "entries": len(outcome.table.entries),
        "device": asdict(outcome.table.provenance.device),
    }


def built_document(outcome: BuiltTable) -> Document:
    """A build or validation as JSON types."""
    trials = outcome.validation.trials if outcome.validation is not None else ()
    return {
        "schema": SCHEMA,
        "table": outcome.id,
        "entries": len(outcome.table.entries),
        "steps": dict(outcome.table.steps),
        "cross_validated_rmspe": outcome.cross_validated,
        "grade": None if outcome.validation is None else asdict(outcome.validation.grade),
        "drift": None if outcome.validation is None else outcome.validation.drift,
        "networks": [
            {
                "widths": list(trial.widths),
                "predicted_s": trial.prediction.latency_s,
                "predicted_ci_s": list(trial.prediction.ci_s),
                "sessions_s": list(trial.sessions_s),
            }
            for trial in trials
        ],
    }


def table_document(table: LookupTable) -> Document:
    """A whole table as JSON types."""
    return {"schema": SCHEMA, "steps": dict(table.steps), **table.to_dict()}


def prediction_document(
    model: str, prediction: Prediction, parts: Sequence[LayerPrediction]
) -> Document:
    """A predicted latency as JSON types."""
    return {
        "schema": SCHEMA,
        "model": model,
        "latency_s": prediction.latency_s,
        "latency_ci_s": list(prediction.ci_s),
        "layers": [
            {
                "key": str(part.key),
                "latency_s": part.latency_s,
                "sd": part.sd,
                "from": _origin(part),
            }
            for part in parts
        ],
    }


def _origin(part: LayerPrediction) -> str:
    return "extrapolated" if part.extrapolated else "measured" if part.measured else "interpolated"


def _grade(grade: Grade) -> str:
    return (
        f"{grade.model}: {percent(grade.mean_error)} mean error on"
        f" {plural(grade.networks, 'held-out pruned network')}, {percent(grade.within_5)} of them"
        f" within 5 %, rank correlation {grade.rank:.3f}"
    )


def _doubts(grade: Grade) -> str:
    floor = f"; two sessions of one network differ by {percent(grade.noise)}" if grade.noise else ""
    return (
        f"RMSPE {percent(grade.rmspe)}, 95th percentile {percent(grade.p95_error)}, bias"
        f" {percent(grade.bias, sign=True)}; {percent(grade.coverage)} lie in their 95 %"
        f" intervals{floor}."
    )


def _advice(table: LookupTable) -> list[Block]:
    lines: list[Block] = []
    for item in advice(table):
        slower = "slower than" if item.narrow_s > item.wide_s else "hardly faster than"
        evidence = (
            f"{item.narrow} channels ({seconds(item.narrow_s)}) are {slower} {item.wide}"
            f" ({seconds(item.wide_s)})"
        )
        text = (
            f"{item.kind}: widths in multiples of {item.step}; {evidence} in"
            f" {layer(item.family.pattern)}, reading {item.cin}."
        )
        lines.append(Line(text))
    return lines


def _origins(table: LookupTable) -> str:
    """Where layers were measured."""
    device, networks = table.provenance.device, len(table.provenance.sources)
    return (
        f"{plural(networks, 'network') if networks else 'foreign records'} on {device.target}"
        f" ({device.runtime})"
    )


def _provenance(table: LookupTable) -> str:
    made = table.provenance
    if IMPORTED in dict(made.device.details):
        models = ", ".join(f"{s.model} ({seconds(s.latency_s)})" for s in made.sources)
    else:
        models = ", ".join(
            f"{s.model} ({plural(s.networks, 'pruned version')}, {seconds(s.latency_s)} unpruned)"
            for s in made.sources
        )
    note = f"; {made.note}" if made.note else ""
    entries = count(len(table.entries))
    return (
        f"{entries} entries made {moment(made.created_utc)} on {made.device.address} with"
        f" {plural(made.threads, 'thread')} from {models or 'foreign records'}; hwbench"
        f" {made.hwbench_version}{note}"
    )
