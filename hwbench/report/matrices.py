"""Pages of matrices: every model in every column as a heat map, latency against quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwbench.records.outputs import ACCURACY
from hwbench.render.comparing import quality_number
from hwbench.render.matrix import describe_column, failure_rows, likeness_rows
from hwbench.render.units import minute, moment, percent, plural, seconds, times
from hwbench.render.views import SHORT_ID
from hwbench.report.commands import matrix_command
from hwbench.report.comparisons import compare_address
from hwbench.report.nouns import Cell, Column, Figure, Link, Number, Page, Source, Table
from hwbench.report.numbers import latency_number, round_digits, source_of, speedup_number
from hwbench.workflows.search.front import pareto

if TYPE_CHECKING:
    from hwbench.workflows.matrix import KeptMatrix, Matrix, MatrixCell, MatrixColumn

FEWEST_POINTS = 2
"""Models whose quality has to be known for a picture of it."""


@dataclass(frozen=True, slots=True)
class _QualityPoint:
    """A model of one column: its latency over that of the first model, and how well it does."""

    model: str
    ratio: float
    quality: float


def matrix_address(kept: KeptMatrix) -> str:
    """Address of its page."""
    return f"matrix/{kept.id[:SHORT_ID]}"


def matrices_figure(matrices: Sequence[KeptMatrix]) -> Figure:
    """All matrices."""
    columns = (
        Column("first model"),
        Column("models", numeric=True),
        Column("columns", numeric=True),
        Column("cells measured", numeric=True),
        Column("begun (UTC)", minor=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for kept in matrices:
        matrix = kept.matrix
        measured = sum(cell.record is not None for cell in matrix.cells)
        of_all = len(matrix.models) * len(matrix.columns)
        rows.append(
            (
                Link(matrix.models[0], matrix_address(kept)),
                Number(len(matrix.models), str(len(matrix.models))),
                Number(len(matrix.columns), str(len(matrix.columns))),
                Number(measured, f"{measured} of {of_all}"),
                minute(_begun_utc(matrix)),
            )
        )
    text = "Many models in many ways, each beside the first one."
    sources = tuple(_source(kept.matrix) for kept in matrices)
    return Figure("Matrices", text, Table(columns, tuple(rows), sources))


def matrix_page(kept: KeptMatrix, addresses: Mapping[str, str]) -> Page:
    """One matrix.

    Args:
        kept: What to show.
        addresses: Pages of measurements, by id.
    """
    matrix = kept.matrix
    failed = [cell for cell in matrix.cells if cell.error is not None]
    lead = (
        f"{plural(len(matrix.models), 'model')} in {plural(len(matrix.columns), 'column')};"
        f" speed-ups are over {matrix.models[0]} in the same column."
    )
    if failed:
        lead += f" {plural(len(failed), 'cell')} failed."
    figures = [_heat_figure(matrix, addresses), *_quality_figures(matrix)]
    return Page(
        id=matrix_address(kept),
        title=f"{matrix.models[0]} and {len(matrix.models) - 1} more",
        lead=lead,
        findings=(*failure_rows(failed), *likeness_rows(matrix)),
        figures=tuple(figures),
        closing=f"matrix {kept.id[:SHORT_ID]}, begun {moment(_begun_utc(matrix))}",
        source=_source(matrix),
    )


def _begun_utc(matrix: Matrix) -> str:
    return min(cell.record.started_utc for cell in matrix.cells if cell.record is not None)


def _source(matrix: Matrix) -> Source:
    """Provenance of the matrix as a whole."""
    records = [cell.record for cell in matrix.cells if cell.record is not None]
    devices = dict.fromkeys(record.device.address for record in records)
    targets = dict.fromkeys(record.device.target for record in records)
    runtimes = dict.fromkeys(record.device.runtime for record in records)
    return Source(
        tuple(record.id for record in records[:1]),
        ", ".join(devices),
        ", ".join(targets),
        ", ".join(runtimes),
        moment(_begun_utc(matrix)),
        matrix_command(matrix),
    )


def _heat_figure(matrix: Matrix, addresses: Mapping[str, str]) -> Figure:
    columns = (
        Column("model"),
        Column("column"),
        Column("latency", numeric=True),
        Column("speed-up", numeric=True),
        Column("verdict"),
    )
    rows, drawn = [], []
    for cell in matrix.cells:
        rows.append(_cell_row(cell, addresses))
        drawn.append(
            {
                "row": matrix.models.index(cell.model),
                "column": matrix.columns.index(cell.column),
                **_draw_cell(cell),
            }
        )
    chart = {
        "kind": "heat",
        "models": list(matrix.models),
        "columns": [describe_column(column).split(", ") for column in matrix.columns],
        "cells": drawn,
    }
    text = (
        "Each cell has the speed-up over the first model and the latency; the deeper its colour,"
        " the larger the difference, in the other colour where it is slower."
    )
    return Figure("Latency", text, Table(columns, tuple(rows)), (chart,))


def _cell_row(cell: MatrixCell, addresses: Mapping[str, str]) -> tuple[Cell, ...]:
    record, comparison = cell.record, cell.comparison
    place = describe_column(cell.column)
    if record is None:
        return cell.model, place, Number(None, "-"), Number(None, "-"), "failed"
    page = addresses.get(record.id)
    name: Cell = cell.model if page is None else Link(cell.model, page)
    source = source_of(record)
    latency = latency_number(record, source)
    if comparison is None:
        return name, place, latency, Number(None, "-", "the first model"), "the first model"
    speedup = speedup_number(comparison, source)
    return (
        name,
        place,
        latency,
        speedup,
        Link(comparison.verdict.value, compare_address(comparison)),
    )


def _draw_cell(cell: MatrixCell) -> Mapping[str, Any]:
    """What the heat map writes into a cell, and how deep its colour is."""
    record, comparison = cell.record, cell.comparison
    where = f"{cell.model}\n{describe_column(cell.column)}"
    if record is None or not record.series:
        reason = "not measured" if cell.error is None else cell.error.message
        return {"log": None, "speedup": "", "latency": "failed", "text": f"{where}\n{reason}"}
    latency = seconds(record.median_s)
    speedup = None if comparison is None else comparison.speedup
    if comparison is None or speedup is None:
        return {"log": 0.0, "speedup": "", "latency": latency, "text": f"{where}\n{latency}"}
    text = f"{where}\n{latency}, {times(speedup)}: {comparison.verdict.value}"
    (log,) = round_digits([math.log2(speedup)])
    return {"log": log, "speedup": times(speedup), "latency": latency, "text": text}


def _quality_figures(matrix: Matrix) -> list[Figure]:
    """Latency against quality in every column in which that is known of several models."""
    changes = [
        cell.comparison.likeness.quality for cell in matrix.cells if cell.comparison is not None
    ]
    measured = next((change for change in changes if change is not None), None)
    if measured is None:
        return []
    columns = (
        Column("model"),
        Column("column"),
        Column(measured.measure, numeric=True),
        Column("latency of first model's", numeric=True),
        Column("state"),
    )
    rows: list[tuple[Cell, ...]] = []
    charts = []
    for column in matrix.columns:
        points = _quality_points(matrix, column)
        if len(points) < FEWEST_POINTS:
            continue
        on_front = pareto([(point.ratio, point.quality) for point in points])
        drawn = []
        for point, is_on_front in zip(points, on_front, strict=True):
            quality_text = quality_number(point.quality, measured)
            state = "on the front" if is_on_front else "beaten"
            quality = Number(point.quality, quality_text)
            ratio = Number(point.ratio, percent(point.ratio))
            rows.append((point.model, describe_column(column), quality, ratio, state))
            x, y = round_digits([point.ratio, point.quality])
            text = f"{point.model}\n{quality_text} at {percent(point.ratio)}"
            drawn.append({"x": x, "y": y, "on_front": is_on_front, "text": text})
        charts.append(
            {
                "kind": "front",
                "label": f"{measured.measure} · {describe_column(column)}",
                "cost": "latency over the first model's",
                "plain": measured.measure != ACCURACY,
                "points": drawn,
            }
        )
    if not charts:
        return []
    text = (
        f"{measured.measure} on {measured.data} over latency, a picture for each column; the line"
        " joins the models that no other one beats in both."
    )
    return [Figure("Quality and latency", text, Table(columns, tuple(rows)), tuple(charts))]


def _quality_points(matrix: Matrix, column: MatrixColumn) -> list[_QualityPoint]:
    """The models of one column whose ratio and quality are known."""
    points = []
    for cell in matrix.cells:
        quality = matrix.quality_of(cell)
        if cell.column != column or cell.record is None or quality is None:
            continue
        if cell.comparison is None:
            points.append(_QualityPoint(cell.model, 1.0, quality))
        elif cell.comparison.ratio is not None:
            points.append(_QualityPoint(cell.model, cell.comparison.ratio.ratio, quality))
    return points
