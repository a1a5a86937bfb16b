"""Lookup tables for people and tools: what a build found, holds and predicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hwbench.lookup_tables.advice import StepAdvice, advice
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
from hwbench.render.views import SHORT_ID, notes

if TYPE_CHECKING:
    from hwbench.lookup_tables import Grade, LookupTable, Provenance
    from hwbench.render.documents import Document
    from hwbench.workflows.build_table import BuiltTable
    from hwbench.workflows.predict import ModelPrediction, PredictedCell
    from hwbench.workflows.table_files import ExportedTable, ImportedTable

SCHEMA = 1
FAMILIES_SHOWN = 20
MOST_COLUMNS = 2
"""Tables whose predictions stand side by side."""
ENOUGH = 8
"""Held-out networks from which the distribution of their errors is drawn."""


def built_view(outcome: BuiltTable) -> View:
    """A build or a validation: the grade first, then what the table consists of."""
    blocks: list[Block] = []
    if outcome.validation is not None:
        grade = outcome.validation.grade
        blocks += [Line(_describe_grade(grade), "bold"), Line(_describe_errors(grade))]
        if grade.networks >= ENOUGH:
            low, line, high = sparkline([trial.error for trial in outcome.validation.trials])
            ends = f"{percent(low, sign=True)} {line} {percent(high, sign=True)}"
            blocks.append(Line(f"{ends} (5th to 95th percentile of the errors)"))
        drift = percent(outcome.validation.drift - 1, sign=True)
        text = f"The unpruned network is {drift} off its latency when the table was made."
        blocks.append(Line(text))
    if outcome.cross_validated is not None:
        text = (
            "Its own networks, each left out in turn, are predicted with an error of"
            f" {percent(outcome.cross_validated)} (RMSPE)."
        )
        blocks.append(Line(text))
    blocks += _advice_lines(outcome.table)
    return [*blocks, _origin_line(outcome.table, outcome.id)]


def table_view(table: LookupTable) -> View:
    """A table: grades, advice, its layer families, provenance."""
    device = table.provenance.device
    geometries = plural(len(table.families), "geometry").replace("geometrys", "geometries")
    headline = (
        f"{device.target} ({device.runtime}): {plural(len(table.entries), 'layer')} in {geometries}"
    )
    blocks: list[Block] = [Line(headline, "bold")]
    blocks += [Line(_describe_grade(grade)) for grade in table.grades]
    blocks += _advice_lines(table)
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
        rows.append(
            (
                layer(family.pattern),
                str(table.steps[family.kind]),
                f"{low_in}-{high_in}",
                f"{low_out}-{high_out}",
                str(len(points.cin)),
                seconds(float(points.latency_s.min())),
                seconds(float(points.latency_s.max())),
            )
        )
    blocks.append(Table(columns, tuple(rows)))
    if len(ordered) > FAMILIES_SHOWN:
        blocks.append(Line(f"and {len(ordered) - FAMILIES_SHOWN} more, all faster"))
    return [*blocks, Line(_describe_provenance(table), "dim")]


def prediction_view(prediction: ModelPrediction) -> View:
    """A predicted latency and its layers."""
    parts = prediction.layers
    layers = plural(len(parts), "layer")
    origins = Counter(part.origin for part in parts)
    counts = [f"{number} of {layers} {origin}" for origin, number in origins.items()]
    largest_s = max(part.latency_s for part in parts)
    rows = tuple(
        (
            layer(part.key),
            part.origin,
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
    ci = interval_s(prediction.ci_s, prediction.latency_s)
    headline = f"{prediction.model}: {seconds(prediction.latency_s)} predicted (95 % interval {ci})"
    correction_s = _correction_s(prediction)
    share = percent(correction_s / prediction.latency_s, sign=True)
    correction = seconds(correction_s, sign=True)
    footer = (
        ("correction for the whole network", "calibration", correction, share, ""),
        ("the whole network", "", seconds(prediction.latency_s), percent(1.0), ""),
    )
    explanation = (
        "In a whole network, layers take more or less than by themselves: the correction is what"
        " the networks of the table took beyond their layers."
    )
    return [
        Line(headline, "bold"),
        Line(", ".join(counts)),
        Table(columns, rows, footer),
        Line(explanation, "dim"),
    ]


def _correction_s(prediction: ModelPrediction) -> float:
    """What a network takes beyond the sum of its layers, seconds; negative where it takes less."""
    return prediction.latency_s - sum(part.latency_s for part in prediction.layers)


def predictions_view(cells: Sequence[PredictedCell]) -> View:
    """Predictions of several models by several tables, and what could not be predicted.

    A row for each model, and a column for each table where 80 columns hold them.
    """
    tables = list(dict.fromkeys(cell.table for cell in cells))
    table = _make_prediction_grid(cells, tables)
    if len(tables) > MOST_COLUMNS:
        table = _make_prediction_list(cells)
    faults = tuple(
        ("no_prediction", f"{cell.model} by {cell.table}: {cell.error.message}")
        for cell in cells
        if cell.error is not None
    )
    return [table, Notes(faults)] if faults else [table]


def _make_prediction_grid(cells: Sequence[PredictedCell], tables: Sequence[str]) -> Table:
    columns = [Column("model", path=True)]
    for table in tables:
        columns += [Column(table, right=True), Column("95 % interval")]
    rows: dict[str, list[str]] = {}
    for cell in cells:
        rows.setdefault(cell.model, [cell.model]).extend(_prediction_texts(cell))
    return Table(tuple(columns), tuple(map(tuple, rows.values())))


def _make_prediction_list(cells: Sequence[PredictedCell]) -> Table:
    columns = (
        Column("model", path=True),
        Column("table", path=True),
        Column("latency", right=True),
        Column("95 % interval"),
    )
    return Table(
        columns, tuple((cell.model, cell.table, *_prediction_texts(cell)) for cell in cells)
    )


def _prediction_texts(cell: PredictedCell) -> tuple[str, str]:
    """The latency and its interval; a dash where there is none."""
    if cell.prediction is None:
        return "-", ""
    latency_s = cell.prediction.latency_s
    return seconds(latency_s), interval_s(cell.prediction.ci_s, latency_s)


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
        models = dict.fromkeys(source.model.partition("@")[0] for source in made.sources)
        errors = [percent(grade.mean_error) for grade in table.grades]
        rows.append(
            (
                table_id[:SHORT_ID],
                made.device.address,
                ", ".join(models) or "-",
                moment(made.created_utc),
                str(len(table.entries)),
                ", ".join(errors) or "not graded",
            )
        )
    return [Table(columns, tuple(rows))]


def imported_view(outcome: ImportedTable) -> View:
    """An imported table: what it is now, how it is used, what to know of the files."""
    table = outcome.table
    blocks: list[Block] = [Line(f"{outcome.name}: {_describe_contents(table)}", "bold")]
    if table.calibration.networks:
        text = (
            "Each network left out in turn, the others predict it with an error of"
            f" {percent(table.calibration.shared_sd)} (RMS)."
        )
        blocks.append(Line(text))
    return [*blocks, *notes(outcome.findings), _origin_line(table, outcome.id)]


def exported_view(outcome: ExportedTable) -> View:
    """A table that was written to a file."""
    contents = _describe_contents(outcome.table)
    return [Line(f"{outcome.path}: {contents}, {size(outcome.size_bytes)}", "bold")]


def list_document(tables: Mapping[str, LookupTable]) -> Document:
    """All tables as JSON types, without their entries."""
    rows = []
    for table_id, table in tables.items():
        metadata = table.metadata.to_dict()
        metadata.pop("schema", None)
        rows.append({"id": table_id, "entries": len(table.entries), **metadata})
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
    grade, drift, networks = None, None, []
    if outcome.validation is not None:
        grade, drift = asdict(outcome.validation.grade), outcome.validation.drift
        networks = [
            {
                "widths": list(trial.widths),
                "predicted_s": trial.prediction.latency_s,
                "predicted_ci_s": list(trial.prediction.ci_s),
                "sessions_s": list(trial.sessions_s),
            }
            for trial in outcome.validation.trials
        ]
    return {
        "schema": SCHEMA,
        "table": outcome.id,
        "entries": len(outcome.table.entries),
        "steps": dict(outcome.table.steps),
        "cross_validated_rmspe": outcome.cross_validated,
        "grade": grade,
        "drift": drift,
        "networks": networks,
    }


def table_document(table: LookupTable) -> Document:
    """A whole table as JSON types."""
    return {"schema": SCHEMA, "steps": dict(table.steps), **table.to_dict()}


def prediction_document(prediction: ModelPrediction) -> Document:
    """A predicted latency as JSON types."""
    return {
        "schema": SCHEMA,
        "model": prediction.model,
        "latency_s": prediction.latency_s,
        "latency_ci_s": list(prediction.ci_s),
        "correction_s": _correction_s(prediction),
        "layers": [
            {
                "key": str(part.key),
                "latency_s": part.latency_s,
                "sd": part.sd,
                "from": part.origin,
            }
            for part in prediction.layers
        ],
    }


def predictions_document(cells: Sequence[PredictedCell]) -> Document:
    """Predictions of several models by several tables as JSON types."""
    rows = []
    for cell in cells:
        prediction = cell.prediction
        rows.append(
            {
                "model": cell.model,
                "table": cell.table,
                "latency_s": None if prediction is None else prediction.latency_s,
                "latency_ci_s": None if prediction is None else list(prediction.ci_s),
                "error": None if cell.error is None else str(cell.error),
            }
        )
    return {"schema": SCHEMA, "predictions": rows}


def _describe_grade(grade: Grade) -> str:
    return (
        f"{grade.model}: {percent(grade.mean_error)} mean error on"
        f" {plural(grade.networks, 'held-out pruned network')}, {percent(grade.within_5)} of them"
        f" within 5 %, rank correlation {grade.rank:.3f}"
    )


def _describe_errors(grade: Grade) -> str:
    text = (
        f"RMSPE {percent(grade.rmspe)}, 95th percentile {percent(grade.p95_error)}, bias"
        f" {percent(grade.bias, sign=True)}; {percent(grade.coverage)} lie in their 95 % intervals"
    )
    if grade.noise:
        text += f"; two sessions of one network differ by {percent(grade.noise)}"
    return f"{text}."


def _advice_lines(table: LookupTable) -> list[Block]:
    """The channel step of each kind of layer that has one, with the evidence for it."""
    return [
        Line(
            f"{step.kind}: widths in multiples of {step.step}; {describe_evidence(step)}, reading"
            f" {step.cin}."
        )
        for step in advice(table)
    ]


def describe_evidence(step: StepAdvice) -> str:
    """The latencies at two widths that show a channel step."""
    slower = "slower than" if step.narrow_s > step.wide_s else "hardly faster than"
    return (
        f"{step.narrow} channels ({seconds(step.narrow_s)}) are {slower} {step.wide}"
        f" ({seconds(step.wide_s)}) in {layer(step.family.pattern)}"
    )


def _describe_contents(table: LookupTable) -> str:
    """How many layers a table has, of what and where they were measured."""
    device, networks = table.provenance.device, len(table.provenance.sources)
    origin = plural(networks, "network") if networks else "foreign records"
    layers = plural(len(table.entries), "layer")
    return f"{layers} of {origin} on {device.target} ({device.runtime})"


def _origin_line(table: LookupTable, table_id: str | None) -> Line:
    """Provenance of a table, and the id by which the store has it, if it does."""
    place = f"kept as {table_id[:SHORT_ID]}" if table_id else "not kept"
    return Line(f"{_describe_provenance(table)}; {place}", "dim")


def _describe_provenance(table: LookupTable) -> str:
    made = table.provenance
    imported = IMPORTED in dict(made.device.details)
    models = []
    for source in made.sources:
        latency = seconds(source.latency_s)
        if not imported:
            latency = f"{plural(source.networks, 'pruned version')}, {latency} unpruned"
        models.append(f"{source.model} ({latency})")
    return (
        f"{count(len(table.entries))} entries made {moment(made.created_utc)} on"
        f" {made.device.address} with {plural(made.threads, 'thread')} from"
        f" {', '.join(models) or 'foreign records'}; {describe_maker(made)}"
    )


def describe_maker(made: Provenance) -> str:
    """The version of hwbench that made a table, and the note it was given."""
    return "; ".join(filter(None, (f"hwbench {made.hwbench_version}", made.note)))
