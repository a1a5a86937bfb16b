"""Pictures of lookup tables, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UsageError
from hwbench.lookup_tables.families import Family
from hwbench.optional import import_optional

if TYPE_CHECKING:
    from hwbench.lookup_tables import LookupTable, Validation

PANELS = 12
"""Layers drawn at most: those that can take longest."""
READ = (1.0, 0.5)
"""Shares of the most channels read, one line each."""


def plot_table(table: LookupTable, path: Path) -> None:
    """Latency against output channels of the heaviest layers, as a PNG, PDF or SVG file.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    figure_of = _figure()
    heaviest = sorted(table.families, key=lambda family: -table.families[family].latency_s.max())[
        :PANELS
    ]
    rows = -(-len(heaviest) // 3)
    figure = figure_of(figsize=(15, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis, family in zip(axes, heaviest, strict=False):
        _panel(axis, table, family)
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
    figure = _figure()(figsize=(6, 6), layout="constrained")
    axis = figure.subplots()
    measured_ms = np.array([trial.measured_s for trial in validation.trials]) * 1e3
    predicted_ms = np.array([trial.prediction.latency_s for trial in validation.trials]) * 1e3
    ends_ms = np.array([trial.prediction.ci_s for trial in validation.trials]).T * 1e3
    axis.errorbar(
        measured_ms, predicted_ms, yerr=np.abs(ends_ms - predicted_ms), fmt="o", ms=3, lw=0.8
    )
    span = [
        float(min(measured_ms.min(), predicted_ms.min())),
        float(max(measured_ms.max(), predicted_ms.max())),
    ]
    axis.plot(span, span, color="grey", lw=0.8)
    axis.set_xlabel("measured (ms)")
    axis.set_ylabel("predicted, with its 95 % interval (ms)")
    grade = validation.grade
    axis.set_title(
        f"{validation.model}: {100 * grade.mean_error:.1f} % mean error, rank correlation"
        f" {grade.rank:.3f}"
    )
    _save(figure, path)


def _panel(axis: Any, table: LookupTable, family: Family) -> None:
    """Latency over output channels, for some numbers of channels read.

    Measured layers that read as many as dots.

    Where output channels are the same throughout, over channels read.
    """
    points, surface = table.families[family], table.surfaces[family]
    low_in, high_in, low_out, high_out = surface.box
    tied, fixed = bool((points.cin == points.cout).all()), low_out == high_out
    over = np.arange(low_in, high_in + 1) if fixed else np.arange(low_out, high_out + 1)
    for cin in [0] if tied or fixed else _reads(points.cin, high_in):
        read = over if tied or fixed else np.full_like(over, cin)
        latency_s, _ = surface.at(read, np.full_like(over, high_out) if fixed else over)
        (line,) = axis.plot(
            over, latency_s * 1e6, lw=1, label="as many read" if tied else f"{cin} read"
        )
        near = np.ones(len(points.cin), bool) if tied or fixed else points.cin == cin
        places = points.cin if fixed else points.cout
        axis.plot(places[near], points.latency_s[near] * 1e6, ".", ms=4, color=line.get_color())
    axis.set_ylim(bottom=0)
    axis.set_title(str(family), fontsize=6)
    axis.set_xlabel(
        f"{'channels read' if fixed else 'output channels'} (step {table.steps[family.kind]})",
        fontsize=7,
    )
    axis.set_ylabel("latency (us)", fontsize=7)
    axis.tick_params(labelsize=7)
    if not fixed:
        axis.legend(fontsize=6)


def _reads(measured: np.ndarray[Any, np.dtype[np.float64]], most: int) -> Sequence[int]:
    """Numbers of channels read to draw: measured ones near the wanted shares."""
    return sorted(
        {int(measured[np.argmin(np.abs(measured - share * most))]) for share in READ}, reverse=True
    )


def _figure() -> Any:
    return import_optional("matplotlib.figure", "report", "pictures").Figure


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot write the picture to {path}: {error}; give a .png, .pdf or .svg file"
        ) from error
