"""How the pictures of all studies look: small, one message in the title, colours that colour-blind
readers tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette (Color Universal Design, 2008), strongest contrasts first."""
SIZE = (7.2, 4.2)
"""Inches; at 100 dots per inch a picture stays well below 150 kB."""


def figure(
    title: str, *, xlabel: str, ylabel: str, size: tuple[float, float] = SIZE
) -> tuple[Any, Any]:
    """A figure with one pair of axes; both axes are labelled with their units."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=size, layout="constrained")
    axes = drawn.subplots()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(visible=True, lw=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    return drawn, axes


def points(axes: Any, x: Sequence[float], rows: Sequence[dict[str, Any]], **style: Any) -> None:
    """Ratios of rows over `x`, each with its 95 % interval."""
    errors = errors_of(rows)
    axes.errorbar(
        x,
        [row["ratio"] for row in rows],
        yerr=errors,
        **{"fmt": "o", "ms": 5, "lw": 1, "capsize": 2, **style},
    )


def errors_of(rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Distances of the ends of the intervals from the ratios, below and above."""
    return [
        [row["ratio"] - row["low"] for row in rows],
        [row["high"] - row["ratio"] for row in rows],
    ]
