"""Curves of a lookup table: what it answers over the widths of one layer, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwbench.lookup_tables import LookupTable
    from hwbench.lookup_tables.families import Family

PANELS = 12
"""Layers drawn at most: those that can take longest."""
SHARES_READ = (1.0, 0.5)
"""Shares of the most channels read, one line each."""


@dataclass(frozen=True)
class Curve:
    """Latency over widths, for one number of channels read.

    Attributes:
        name: The channels read, in words; empty where the curve is over them.
        widths: Numbers of channels, of shape (n,).
        latency_s: What the table answers at them, in seconds.
        sd: Relative deviation of those answers.
        measured_widths: Numbers of channels that were measured, of shape (m,).
        measured_s: The latencies measured at them, in seconds.
    """

    name: str
    widths: NDArray[np.integer]
    latency_s: NDArray[np.float64]
    sd: NDArray[np.float64]
    measured_widths: NDArray[np.float64]
    measured_s: NDArray[np.float64]


@dataclass(frozen=True)
class FamilyCurves:
    """The curves of one layer.

    Attributes:
        axis: What the widths are: channels read, or output channels.
        lines: One curve for each number of channels read that is drawn.
    """

    axis: str
    lines: tuple[Curve, ...]


def make_curves(table: LookupTable, family: Family, most_points: int | None = None) -> FamilyCurves:
    """The curves of one layer over its output channels.

    Where those are the same throughout, there is one curve, over the channels read. There is also
    one where every measured layer writes as many channels as it reads.

    Args:
        table: The table to ask.
        family: The layer.
        most_points: Points of each curve at most; None for one at every width.
    """
    points, surface = table.families[family], table.surfaces[family]
    low_in, high_in, low_out, high_out = surface.box
    low, high, axis, measured = low_out, high_out, "output channels", points.cout
    fixed = low_out == high_out
    if fixed:
        low, high, axis, measured = low_in, high_in, "channels read", points.cin
    number = high - low + 1
    if most_points is not None:
        number = min(most_points, number)
    widths = np.unique(np.linspace(low, high, number).round().astype(int))
    if fixed:
        latency_s, sd = surface.at(widths, np.full_like(widths, high_out))
        return FamilyCurves(axis, (Curve("", widths, latency_s, sd, measured, points.latency_s),))
    if (points.cin == points.cout).all():
        latency_s, sd = surface.at(widths, widths)
        curve = Curve("as many read", widths, latency_s, sd, measured, points.latency_s)
        return FamilyCurves(axis, (curve,))
    lines = []
    # Measured numbers of channels read, those nearest to the wanted shares.
    nearest = [np.argmin(np.abs(points.cin - share * high_in)) for share in SHARES_READ]
    for cin in sorted({int(points.cin[index]) for index in nearest}, reverse=True):
        latency_s, sd = surface.at(np.full_like(widths, cin), widths)
        near = points.cin == cin
        lines.append(
            Curve(f"{cin} read", widths, latency_s, sd, measured[near], points.latency_s[near])
        )
    return FamilyCurves(axis, tuple(lines))
