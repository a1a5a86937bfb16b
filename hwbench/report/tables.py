"""Pages of lookup tables: grades, predicted against measured, widths, channel steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.lookup_tables.advice import advice
from hwbench.render.curves import PANELS, make_curves
from hwbench.render.tables import FAMILIES_SHOWN, describe_evidence, describe_maker
from hwbench.render.units import layer, minute, moment, percent, plural, seconds
from hwbench.render.views import SHORT_ID
from hwbench.report.commands import table_command
from hwbench.report.nouns import Cell, Column, Figure, Link, Number, Page, Source, Table
from hwbench.report.numbers import (
    count_number,
    interval_text,
    round_digits,
    seconds_number,
    share_number,
    whole_number,
)

if TYPE_CHECKING:
    from hwbench.lookup_tables.families import Family
    from hwbench.lookup_tables.metadata import Grade
    from hwbench.lookup_tables.table import LookupTable
    from hwbench.report.contents import KeptTable

POINTS = 160
"""Points of a drawn curve at most."""


def table_address(stored: KeptTable) -> str:
    """Address of its page."""
    return f"table/{stored.id[:SHORT_ID]}"


def table_source(stored: KeptTable) -> Source:
    """Provenance of a table."""
    made = stored.table.provenance
    return Source(
        (stored.id,),
        made.device.address,
        made.device.target,
        made.device.runtime,
        moment(made.created_utc),
        table_command(stored.table),
    )


def tables_figure(tables: Sequence[KeptTable]) -> Figure:
    """All tables."""
    columns = (
        Column("device"),
        Column("models"),
        Column("layers", numeric=True),
        Column("mean error", numeric=True),
        Column("made (UTC)", minor=True),
        Column("earlier", numeric=True, minor=True),
    )
    rows = tuple(
        (
            Link(stored.table.provenance.device.address, table_address(stored)),
            _model_names(stored.table),
            count_number(len(stored.table.entries)),
            _mean_error_number(stored.table.grades),
            minute(stored.table.provenance.created_utc),
            whole_number(stored.earlier, "tables that this one replaces"),
        )
        for stored in tables
    )
    text = (
        "The newest table of each device. The error is that of networks which the table had not"
        " seen."
    )
    return Figure("Lookup tables", text, Table(columns, rows, tuple(map(table_source, tables))))


def _model_names(table: LookupTable) -> str:
    models = dict.fromkeys(source.model for source in table.provenance.sources)
    return ", ".join(models) or "foreign records"


def _mean_error_number(grades: Sequence[Grade]) -> Number:
    if not grades:
        return Number(None, "not graded")
    grade = grades[-1]
    note = f"{grade.model}, {plural(grade.networks, 'held-out network')}"
    return share_number(grade.mean_error, note)


def table_page(stored: KeptTable) -> Page:
    """One table."""
    table = stored.table
    made, device = table.provenance, table.provenance.device
    facts: list[tuple[str, Cell]] = [("layers", count_number(len(table.entries)))]
    figures, findings = [], []
    if stored.validation:
        figures.append(_validation_figure(stored))
    if table.grades:
        facts += _grade_facts(table.grades[-1])
        figures.append(_grades_figure(table))
    else:
        text = "no held-out network was measured: hwbench table validate MODEL"
        findings.append(("not_graded", text))
    figures += [_curves_figure(table), _steps_figure(table)]
    return Page(
        id=table_address(stored),
        title=f"Table of {device.address}",
        lead=(
            f"{plural(len(table.entries), 'layer')} of {_model_names(table)} on {device.target}"
            f" ({device.runtime})."
        ),
        facts=tuple(facts),
        findings=tuple(findings),
        figures=tuple(figures),
        closing=(
            f"made {moment(made.created_utc)} with {plural(made.threads, 'thread')};"
            f" {describe_maker(made)}"
        ),
        source=table_source(stored),
    )


def _grade_facts(grade: Grade) -> list[tuple[str, Cell]]:
    of = f"on {plural(grade.networks, 'held-out network')} of {grade.model}"
    rank = Number(grade.rank, f"{grade.rank:.3f}", f"Spearman's, {of}")
    return [
        ("mean error", share_number(grade.mean_error, of)),
        ("95th percentile of error", share_number(grade.p95_error, of)),
        ("within 5 %", share_number(grade.within_5, of)),
        ("rank correlation", rank),
        ("in their 95 % intervals", share_number(grade.coverage, of)),
    ]


def _grades_figure(table: LookupTable) -> Figure:
    columns = (
        Column("model"),
        Column("networks", numeric=True),
        Column("mean error", numeric=True),
        Column("bias", numeric=True, minor=True),
        Column("RMSPE", numeric=True, minor=True),
        Column("within 5 %", numeric=True),
        Column("within 10 %", numeric=True, minor=True),
        Column("coverage", numeric=True, minor=True),
        Column("two sessions differ by", numeric=True, minor=True),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            grade.model,
            whole_number(grade.networks),
            share_number(grade.mean_error),
            share_number(grade.bias, sign=True),
            share_number(grade.rmspe),
            share_number(grade.within_5),
            share_number(grade.within_10),
            share_number(grade.coverage),
            share_number(grade.noise or None, "no prediction can be seen to do better"),
        )
        for grade in table.grades
    )
    text = "How the table did on networks that it had not seen, model by model."
    return Figure("Grades", text, Table(columns, rows))


def _validation_figure(stored: KeptTable) -> Figure:
    """Predicted against measured latency of every held-out network."""
    columns = (
        Column("network"),
        Column("measured", numeric=True),
        Column("predicted", numeric=True),
        Column("error", numeric=True),
        Column("in its interval"),
    )
    rows, points = [], []
    for index, network in enumerate(stored.validation["networks"], 1):
        sessions_s, predicted_s = network["sessions_s"], network["predicted_s"]
        low_s, high_s = network["predicted_ci_s"]
        measured_s = float(np.median(sessions_s))
        sessions = plural(len(sessions_s), "session")
        interval = interval_text((low_s, high_s), predicted_s)
        rows.append(
            (
                whole_number(index, f"widths {' '.join(map(str, network['widths']))}"),
                seconds_number(
                    measured_s, f"median of {sessions}: {', '.join(map(seconds, sessions_s))}"
                ),
                seconds_number(predicted_s, interval),
                share_number(predicted_s / measured_s - 1, sign=True),
                "yes" if low_s <= measured_s <= high_s else "no",
            )
        )
        text = (
            f"network {index}: measured {seconds(measured_s)}, predicted {seconds(predicted_s)}"
            f" ({interval})"
        )
        points.append(
            {"x": measured_s, "y": predicted_s, "low": low_s, "high": high_s, "text": text}
        )
    drift = stored.validation["drift"] - 1
    text = (
        f"Held-out networks of {stored.validation['model']}: on the line is right, the bars are 95"
        f" % intervals. The unpruned network was {percent(drift, sign=True)} off its latency when"
        " the table was made."
    )
    chart = {"kind": "validation", "points": points}
    return Figure("Predicted against measured", text, Table(columns, tuple(rows)), (chart,))


def _curves_figure(table: LookupTable) -> Figure:
    """The heaviest layers: latency over output channels, for some numbers of channels read."""
    columns = (
        Column("layer"),
        Column("step", numeric=True),
        Column("channels in", numeric=True, minor=True),
        Column("channels out", numeric=True, minor=True),
        Column("measured", numeric=True),
        Column("fastest", numeric=True),
        Column("slowest", numeric=True),
    )
    ordered = sorted(
        table.families, key=lambda family: (-table.families[family].latency_s.max(), str(family))
    )
    rows = []
    for family in ordered[:FAMILIES_SHOWN]:
        points, surface = table.families[family], table.surfaces[family]
        low_in, high_in, low_out, high_out = surface.box
        rows.append(
            (
                layer(family.pattern),
                whole_number(table.steps[family.kind]),
                Number(high_in, f"{low_in} to {high_in}"),
                Number(high_out, f"{low_out} to {high_out}"),
                whole_number(len(points.cin)),
                seconds_number(float(points.latency_s.min())),
                seconds_number(float(points.latency_s.max())),
            )
        )
    varying = [family for family in ordered if _varies(table, family)]
    charts = tuple(_curve_chart(table, family) for family in varying[:PANELS])
    text = (
        "Lines are what the table answers, dots what was measured; the shaded range is the line's"
        " own uncertainty (two deviations). Vertical rules stand at the channel steps."
    )
    hidden = len(ordered) - FAMILIES_SHOWN
    if hidden > 0:
        text += f" The table leaves out {hidden} more geometries, all faster."
    return Figure("Latency over width", text, Table(columns, tuple(rows)), charts)


def _varies(table: LookupTable, family: Family) -> bool:
    """Whether it was measured at more than one width: a single point draws no curve."""
    low_in, high_in, low_out, high_out = table.surfaces[family].box
    return (low_in, low_out) != (high_in, high_out)


def _curve_chart(table: LookupTable, family: Family) -> dict[str, Any]:
    """Lines and dots of one layer."""
    curves = make_curves(table, family, POINTS)
    lines = []
    for curve in curves.lines:
        dots = zip(curve.measured_widths, round_digits(curve.measured_s), strict=True)
        # Two deviations to either side; a latency is never negative.
        low_s = np.maximum(curve.latency_s * (1 - 2 * curve.sd), 0)
        high_s = curve.latency_s * (1 + 2 * curve.sd)
        lines.append(
            {
                "name": curve.name,
                "x": curve.widths.tolist(),
                "y": round_digits(curve.latency_s),
                "low": round_digits(low_s),
                "high": round_digits(high_s),
                "dots": [[int(width), latency_s] for width, latency_s in dots],
            }
        )
    return {
        "kind": "curve",
        "title": layer(family.pattern),
        "axis": curves.axis,
        "step": table.steps[family.kind],
        "lines": lines,
    }


def _steps_figure(table: LookupTable) -> Figure:
    evidence = {step.kind: describe_evidence(step) for step in advice(table)}
    rows = []
    for kind, step in sorted(table.steps.items()):
        otherwise = "" if step > 1 else "latency has no steps"
        rows.append((kind, whole_number(step), evidence.get(kind, otherwise)))
    columns = (Column("kind of layer"), Column("step", numeric=True), Column("evidence"))
    text = "Widths that are multiples of the step waste nothing."
    return Figure("Channel steps", text, Table(columns, tuple(rows)))
