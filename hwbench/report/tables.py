"""Pages of lookup tables: grades, predicted against measured, widths, channel steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.lookup_tables.advice import advice
from hwbench.render.curves import PANELS, make_curves
from hwbench.render.tables import FAMILIES_SHOWN
from hwbench.render.units import interval_s, layer, minute, moment, percent, plural, seconds
from hwbench.render.views import SHORT_ID
from hwbench.report.commands import table_command
from hwbench.report.nouns import Cell, Column, Figure, Link, Number, Page, Source, Table
from hwbench.report.numbers import count_number, round_digits, seconds_number, share_number

if TYPE_CHECKING:
    from hwbench.lookup_tables.families import Family
    from hwbench.lookup_tables.metadata import Grade
    from hwbench.lookup_tables.table import LookupTable
    from hwbench.report.contents import KeptTable

POINTS = 160
"""Points of a drawn curve at most."""


def table_address(kept: KeptTable) -> str:
    """Address of its page."""
    return f"table/{kept.id[:SHORT_ID]}"


def table_source(kept: KeptTable) -> Source:
    """Provenance of a table."""
    made = kept.table.provenance
    device = made.device
    return Source(
        (kept.id,),
        device.address,
        device.target,
        device.runtime,
        moment(made.created_utc),
        table_command(kept.table),
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
            Link(kept.table.provenance.device.address, table_address(kept)),
            _model_names(kept.table),
            count_number(len(kept.table.entries)),
            _mean_error_number(kept.table.grades),
            minute(kept.table.provenance.created_utc),
            Number(kept.earlier, str(kept.earlier), "tables that this one replaces"),
        )
        for kept in tables
    )
    text = (
        "The newest table of each device. The error is that of networks which the table had not"
        " seen."
    )
    return Figure("Lookup tables", text, Table(columns, rows, tuple(map(table_source, tables))))


def _model_names(table: LookupTable) -> str:
    return (
        ", ".join(dict.fromkeys(source.model for source in table.provenance.sources))
        or "foreign records"
    )


def _mean_error_number(grades: Sequence[Grade]) -> Number:
    if not grades:
        return Number(None, "not graded")
    grade = grades[-1]
    return share_number(
        grade.mean_error, f"{grade.model}, {plural(grade.networks, 'held-out network')}"
    )


def table_page(kept: KeptTable) -> Page:
    """One table."""
    table = kept.table
    made, device = table.provenance, table.provenance.device
    facts: list[tuple[str, Cell]] = [("layers", count_number(len(table.entries)))]
    if table.grades:
        facts += _grade_facts(table.grades[-1])
    figures = [_validation_figure(kept)] if kept.validation else []
    figures += [_grades_figure(table)] if table.grades else []
    figures += [_curves_figure(table), _steps_figure(table)]
    note = f"; {made.note}" if made.note else ""
    return Page(
        id=table_address(kept),
        title=f"Table of {device.address}",
        lead=(
            f"{plural(len(table.entries), 'layer')} of {_model_names(table)} on {device.target}"
            f" ({device.runtime})."
        ),
        facts=tuple(facts),
        findings=(
            ()
            if table.grades
            else (("not_graded", "no held-out network was measured: hwbench table validate MODEL"),)
        ),
        figures=tuple(figures),
        closing=(
            f"made {moment(made.created_utc)} with {plural(made.threads, 'thread')}; hwbench"
            f" {made.hwbench_version}{note}"
        ),
        source=table_source(kept),
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
            Number(grade.networks, str(grade.networks)),
            share_number(grade.mean_error),
            share_number(grade.bias, sign=True),
            *map(share_number, (grade.rmspe, grade.within_5, grade.within_10, grade.coverage)),
            share_number(grade.noise or None, "no prediction can be seen to do better"),
        )
        for grade in table.grades
    )
    return Figure(
        "Grades",
        "How the table did on networks that it had not seen, model by model.",
        Table(columns, rows),
    )


def _validation_figure(kept: KeptTable) -> Figure:
    """Predicted against measured latency of every held-out network."""
    columns = (
        Column("network"),
        Column("measured", numeric=True),
        Column("predicted", numeric=True),
        Column("error", numeric=True),
        Column("in its interval"),
    )
    rows, points = [], []
    for index, network in enumerate(kept.validation["networks"], 1):
        sessions_s, (low_s, high_s), predicted_s = (
            network["sessions_s"],
            network["predicted_ci_s"],
            network["predicted_s"],
        )
        measured_s = float(np.median(sessions_s))
        sessions = (
            f"median of {plural(len(sessions_s), 'session')}: {', '.join(map(seconds, sessions_s))}"
        )
        interval = f"95 % interval {interval_s((low_s, high_s), predicted_s)}"
        error = predicted_s / measured_s - 1
        numbers = (
            seconds_number(measured_s, sessions),
            seconds_number(predicted_s, interval),
            share_number(error, sign=True),
        )
        inside = "yes" if low_s <= measured_s <= high_s else "no"
        widths = f"widths {' '.join(map(str, network['widths']))}"
        rows.append((Number(index, str(index), widths), *numbers, inside))
        text = (
            f"network {index}: measured {seconds(measured_s)}, predicted {seconds(predicted_s)}"
            f" ({interval})"
        )
        points.append(
            {"x": measured_s, "y": predicted_s, "low": low_s, "high": high_s, "text": text}
        )
    drift = kept.validation["drift"] - 1
    text = (
        f"Held-out networks of {kept.validation['model']}: on the line is right, the bars are 95 %"
        f" intervals. The unpruned network was {percent(drift, sign=True)} off its latency when the"
        " table was made."
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
        points, (low_in, high_in, low_out, high_out) = (
            table.families[family],
            table.surfaces[family].box,
        )
        ends = (
            Number(high_in, f"{low_in} to {high_in}"),
            Number(high_out, f"{low_out} to {high_out}"),
        )
        step, measured = table.steps[family.kind], len(points.cin)
        extremes = (
            seconds_number(float(points.latency_s.min())),
            seconds_number(float(points.latency_s.max())),
        )
        rows.append(
            (
                layer(family.pattern),
                Number(step, str(step)),
                *ends,
                Number(measured, str(measured)),
                *extremes,
            )
        )
    charts = tuple(
        _curve_chart(table, family)
        for family in [family for family in ordered if _varies(table, family)][:PANELS]
    )
    hidden = len(ordered) - FAMILIES_SHOWN
    left_out = f" The table leaves out {hidden} more geometries, all faster." if hidden > 0 else ""
    text = (
        "Lines are what the table answers, dots what was measured; the shaded range is the line's"
        f" own uncertainty (two deviations). Vertical rules stand at the channel steps.{left_out}"
    )
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
    advice_by_kind = {item.kind: item for item in advice(table)}
    rows = []
    for kind, step in sorted(table.steps.items()):
        item = advice_by_kind.get(kind)
        evidence = "" if step > 1 else "latency has no steps"
        if item is not None:
            slower = "slower than" if item.narrow_s > item.wide_s else "hardly faster than"
            narrow = f"{item.narrow} channels ({seconds(item.narrow_s)})"
            wide = f"{item.wide} ({seconds(item.wide_s)})"
            evidence = f"{narrow} are {slower} {wide} in {layer(item.family.pattern)}"
        rows.append((kind, Number(step, str(step)), evidence))
    columns = (Column("kind of layer"), Column("step", numeric=True), Column("evidence"))
    return Figure(
        "Channel steps",
        "Widths that are multiples of the step waste nothing.",
        Table(columns, tuple(rows)),
    )
