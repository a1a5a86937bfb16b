"""Pictures of lookup tables, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UsageError
from hwbench.optional import import_optional
from hwbench.render.curves import PANELS, make_curves

if TYPE_CHECKING:
    from hwbench.lookup_tables import LookupTable, Validation
    from hwbench.lookup_tables.families import Family


def plot_table(table: LookupTable, path: Path) -> None:
    """Latency against output channels of the heaviest layers, as a PNG, PDF or SVG file.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    ordered = sorted(table.families, key=lambda family: -table.families[family].latency_s.max())
    heaviest = ordered[:PANELS]
    rows = -(-len(heaviest) // 3)
    figure = _make_figure((15, 3.2 * rows))
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis, family in zip(axes, heaviest, strict=False):
        _draw_family(axis, table, family)
    for axis in axes[len(heaviest) :]:
        axis.set_axis_off()
    figure.suptitle(
        f"Layers on {table.provenance.device.target} ({table.provenance.device.runtime})"
    )
    _save(figure, path)


def plot_validation(validation: Validation, path: Path) -> None:
    """Draw predicted against measured latency of held-out networks, as PNG, PDF or SVG.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    figure = _make_figure((6, 6))
    axis = figure.subplots()
    measured_ms = np.array([trial.measured_s for trial in validation.trials]) * 1e3
    predicted_ms = np.array([trial.prediction.latency_s for trial in validation.trials]) * 1e3
    ends_ms = np.array([trial.prediction.ci_s for trial in validation.trials]).T * 1e3
    axis.errorbar(
        measured_ms, predicted_ms, yerr=np.abs(ends_ms - predicted_ms), fmt="o", ms=3, lw=0.8
    )
    both_ms = np.concatenate([measured_ms, predicted_ms])
    span = [float(both_ms.min()), float(both_ms.max())]
    axis.plot(span, span, color="grey", lw=0.8)
    axis.set_xlabel("measured (ms)")
    axis.set_ylabel("predicted, with its 95 % interval (ms)")
    grade = validation.grade
    axis.set_title(
        f"{validation.model}: {100 * grade.mean_error:.1f} % mean error, rank correlation"
        f" {grade.rank:.3f}"
    )
    _save(figure, path)


def _draw_family(axis: Any, table: LookupTable, family: Family) -> None:
    """Draw the curves of one layer, with the measured layers on each of them as dots."""
    curves = make_curves(table, family)
    for curve in curves.lines:
        (line,) = axis.plot(curve.widths, curve.latency_s * 1e6, lw=1, label=curve.name)
        axis.plot(curve.measured_widths, curve.measured_s * 1e6, ".", ms=4, color=line.get_color())
    axis.set_ylim(bottom=0)
    axis.set_title(str(family), fontsize=6)
    axis.set_xlabel(f"{curves.axis} (step {table.steps[family.kind]})", fontsize=7)
    axis.set_ylabel("latency (us)", fontsize=7)
    axis.tick_params(labelsize=7)
    if any(curve.name for curve in curves.lines):
        axis.legend(fontsize=6)


def _make_figure(inches: tuple[float, float]) -> Any:
    figure_type = import_optional("matplotlib.figure", "report", "pictures").Figure
    return figure_type(figsize=inches, layout="constrained")


def _save(figure: Any, path: Path) -> None:
    """Write a picture in the format that its name ends in."""
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot write the picture to {path}: {error}; give a .png, .pdf or .svg file"
        ) from error
