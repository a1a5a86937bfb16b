"""A matrix of models by devices: tables of 80 columns, JSON, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hwbench.records.codec import to_plain
from hwbench.records.findings import order_findings
from hwbench.records.outputs import Likeness
from hwbench.render.blocks import Block, Column, Line, Notes, Table, View
from hwbench.render.comparing import quality_number, rule_lines
from hwbench.render.documents import SCHEMA
from hwbench.render.units import plural, seconds, times
from hwbench.stats import Verdict

if TYPE_CHECKING:
    from hwbench.records.findings import Finding
    from hwbench.render.documents import Document
    from hwbench.workflows.matrix import Matrix, MatrixCell, MatrixColumn

COLUMNS = 2
"""Columns of a matrix that stand side by side, each with a latency and a speed-up."""
MARKS = {
    Verdict.FASTER: "",
    Verdict.SLOWER: "",
    Verdict.SAME: " =",
    Verdict.UNRESOLVED: " ?",
    Verdict.INCOMPARABLE: " !",
}
"""What stands behind a speed-up; nothing where it is beyond doubt."""
CSV_FIELDS = (
    "model",
    "device",
    "precision",
    "threads",
    "batch",
    "latency_s",
    "latency_low_s",
    "latency_high_s",
    "speedup",
    "speedup_low",
    "speedup_high",
    "verdict",
    "quality",
    "quality_drop",
    "error",
)


def matrix_view(matrix: Matrix, broken_rules: Sequence[str] = ()) -> View:
    """A row for each model; as many tables beside each other as a terminal holds columns.

    Args:
        matrix: What to show.
        broken_rules: What the user's rules refuse, in words; said at once.
    """
    failed = [cell for cell in matrix.cells if cell.error is not None]
    headline = (
        f"{plural(len(matrix.models), 'model')} in {plural(len(matrix.columns), 'column')};"
        f" speed-ups are over {matrix.models[0]} in the same column"
    )
    blocks: list[Block] = [Line(headline, "bold"), *rule_lines(broken_rules)]
    blocks += [
        _make_table(matrix, matrix.columns[start : start + COLUMNS])
        for start in range(0, len(matrix.columns), COLUMNS)
    ]
    marks = {MARKS[cell.comparison.verdict] for cell in matrix.cells if cell.comparison is not None}
    legend = [
        text
        for mark, text in ((" =", "= the same speed"), (" ?", "? not resolved yet"))
        if mark in marks
    ]
    if legend:
        blocks.append(Line("; ".join(legend), "dim"))
    blocks += _quality_blocks(matrix)
    notes = (*failure_rows(failed), *likeness_rows(matrix))
    if notes:
        blocks.append(Notes(notes))
    return blocks


def _quality_blocks(matrix: Matrix) -> list[Block]:
    """How well each model does on the data, in each precision; nothing where none was given."""
    columns = (
        Column("model", path=True),
        Column("precision"),
        Column("quality", right=True),
        Column("drop", right=True),
        Column("95 % interval", right=True),
    )
    changes = [
        cell.comparison.likeness.quality for cell in matrix.cells if cell.comparison is not None
    ]
    measured = next((change for change in changes if change is not None), None)
    if measured is None:
        return []
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    for cell in matrix.cells:
        value = matrix.quality_of(cell)
        if value is None:
            continue
        drop, interval_text = "", ""
        change = None if cell.comparison is None else cell.comparison.likeness.quality
        if change is not None:
            drop = quality_number(change.drop, measured)
            if change.drop_ci is not None:
                low, high = (quality_number(end, measured) for end in change.drop_ci)
                interval_text = f"{low} to {high}"
        key = (cell.model, cell.column.precision)
        rows.setdefault(key, (*key, quality_number(value, measured), drop, interval_text))
    text = f"{measured.measure} on {measured.data}; drops are from the first model:"
    return [Line(text), Table(columns, tuple(rows.values()))]


def failure_rows(failed: Sequence[MatrixCell]) -> tuple[tuple[str, str], ...]:
    """Each reason once, with the cell that it is the reason for, or the first of them."""
    by_reason: dict[str, list[MatrixCell]] = {}
    for cell in failed:
        by_reason.setdefault(_error_text(cell), []).append(cell)
    rows = []
    for reason, cells in by_reason.items():
        who = describe_cell(cells[0])
        if len(cells) > 1:
            who = f"{plural(len(cells), 'cell')}, first {who}"
        rows.append(("failed", f"{who}: {reason}"))
    return tuple(rows)


def likeness_rows(matrix: Matrix) -> tuple[tuple[str, str], ...]:
    """What was found about the outputs and the quality of models: each code once.

    It says the reason of the first model, and the names of the others.
    """
    reasons: dict[str, str] = {}
    models: dict[str, dict[str, None]] = {}
    for cell in matrix.cells:
        if cell.comparison is None:
            continue
        for finding in order_findings(cell.comparison.likeness.findings):
            reasons.setdefault(finding.code, finding.text)
            names = models.setdefault(finding.code, {})
            names[f"{cell.model} in {cell.column.precision}"] = None
    rows = []
    for code, reason in reasons.items():
        first, *others = models[code]
        text = f"{first}: {reason}"
        if others:
            text += f"; the same holds for {', '.join(others)}"
        rows.append((code, text))
    return tuple(rows)


def describe_cell(cell: MatrixCell) -> str:
    """A cell in words: `net.onnx on cpu int8, 2 threads`."""
    return f"{cell.model} on {describe_column(cell.column)}"


def describe_column(column: MatrixColumn) -> str:
    """A column in words: `cpu int8, 2 threads, batch 8`."""
    parts = [f"{column.device} {column.precision}", plural(column.threads, "thread")]
    if column.batch is not None:
        parts.append(f"batch {column.batch}")
    return ", ".join(parts)


def matrix_document(matrix: Matrix) -> Document:
    """A matrix as JSON types."""
    return {
        "schema": SCHEMA,
        "models": list(matrix.models),
        "columns": [asdict(column) for column in matrix.columns],
        "cells": [cell_document(cell, matrix.quality_of(cell)) for cell in matrix.cells],
        "resumed": matrix.resumed,
    }


def cell_document(cell: MatrixCell, quality: float | None = None) -> Document:
    """One cell; what is not known is null.

    Args:
        cell: What came of it.
        quality: How well its model does on the data.
    """
    record, comparison = cell.record, cell.comparison
    likeness = Likeness() if comparison is None else comparison.likeness
    findings: tuple[Finding, ...] = () if record is None else record.findings
    if comparison is not None:
        findings = comparison.findings
    return {
        "model": cell.model,
        "column": asdict(cell.column),
        "latency_s": None if record is None else record.median_s,
        "latency_ci_s": None if record is None else list(record.median_ci_s),
        "speedup": None if comparison is None else comparison.speedup,
        "speedup_ci": None if comparison is None else comparison.speedup_ci,
        "verdict": None if comparison is None else comparison.verdict.value,
        "quality": quality,
        "quality_drop": likeness.accuracy_drop,
        "agreement": likeness.agreement,
        "findings": [to_plain(finding) for finding in findings],
        "record": None if record is None else record.id,
        "error": _error_text(cell) or None,
    }


def matrix_csv(matrix: Matrix) -> str:
    """A matrix as CSV: a line for each cell, latencies in seconds, empty where not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for cell in matrix.cells:
        document = cell_document(cell, matrix.quality_of(cell))
        low_s, high_s = document["latency_ci_s"] or (None, None)
        low, high = document["speedup_ci"] or (None, None)
        column = cell.column
        writer.writerow(
            [
                cell.model,
                column.device,
                column.precision,
                column.threads,
                column.batch,
                document["latency_s"],
                low_s,
                high_s,
                document["speedup"],
                low,
                high,
                document["verdict"],
                document["quality"],
                document["quality_drop"],
                document["error"],
            ]
        )
    return text.getvalue()


def _make_table(matrix: Matrix, columns: Sequence[MatrixColumn]) -> Table:
    titles = [Column("model", path=True)]
    for column in columns:
        titles += [Column(describe_column(column), right=True, wrap=True), Column("", right=True)]
    rows = []
    for model in matrix.models:
        row = [model]
        for column in columns:
            for cell in matrix.cells:
                if cell.model == model and cell.column == column:
                    row += _cell_texts(cell)
        rows.append(tuple(row))
    return Table(tuple(titles), tuple(rows))


def _cell_texts(cell: MatrixCell) -> tuple[str, str]:
    """Latency and speed-up of a cell."""
    if cell.record is None:
        return "failed", ""
    if cell.comparison is None:
        return seconds(cell.record.median_s), ""
    speedup = f"{times(cell.comparison.speedup)}{MARKS[cell.comparison.verdict]}"
    return seconds(cell.record.median_s), speedup


def _error_text(cell: MatrixCell) -> str:
    return "" if cell.error is None else cell.error.message
