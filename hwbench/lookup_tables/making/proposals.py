"""Which pruned networks to measure: random ones first, then those the table is least sure of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwbench.errors import UsageError
from hwbench.network.widths import group_step

if TYPE_CHECKING:
    from hwbench.lookup_tables.table import LayerPrediction, LookupTable
    from hwbench.network.structure import Structure

CANDIDATES = 200
"""Random networks among which the least certain are looked for."""


@dataclass(frozen=True)
class Grid:
    """Widths that pruning may choose.

    Attributes:
        originals: Unpruned widths, one per group.
        step: Pruned widths are multiples of it.
        lower: Smallest share of a width.
        units: Channels that each of a group's stands for; empty for one.

    Raises:
        UsageError: The step or the share is impossible.
    """

    originals: tuple[int, ...]
    step: int
    lower: float
    units: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.step < 1:
            raise UsageError(f"widths must be multiples of at least 1, not {self.step}")
        if not 0 < self.lower < 1:
            raise UsageError(
                f"the lower bound of a width is a share between 0 and 1, not {self.lower:g}"
            )
        if not self.originals:
            raise UsageError(
                "the network has nothing to prune, so there is no table to build for it"
            )

    @property
    def least(self) -> tuple[int, ...]:
        """The smallest structure."""
        return self.at(np.zeros(len(self.originals)))

    def at(self, shares: NDArray[np.float64]) -> tuple[int, ...]:
        """The structure on the way from the smallest to the unpruned one.

        Args:
            shares: How far each group has come, 0 to 1, shape (groups,).
        """
        widths = []
        units = self.units or (1,) * len(self.originals)
        for original, share, unit in zip(self.originals, shares.tolist(), units, strict=True):
            step = group_step(self.step, unit)
            aim = original * (self.lower + (1 - self.lower) * share)
            rounded = min(max(step, round(aim / step) * step), original)
            widths.append(original if original - aim < abs(aim - rounded) else rounded)
        return tuple(widths)

    def random(self, rng: np.random.Generator) -> tuple[int, ...]:
        """One random structure.

        A level for the whole network and how far single groups stray from it are both drawn.

        Groups drawn independently would all give networks of middling latency; searches go to both
        ends.
        """
        level, stray = rng.uniform(0, 1), rng.uniform(0.2, 1)
        shares = level + stray * rng.uniform(-1, 1, len(self.originals))
        reflected = np.abs(shares)
        return self.at(np.clip(np.where(reflected > 1, 2 - reflected, reflected), 0, 1))


def propose_first(grid: Grid, count: int, seed: int) -> list[tuple[int, ...]]:
    """The first networks of a campaign: the smallest one, then random ones.

    The same for the same seed.
    """
    rng = np.random.default_rng([seed, 0])
    return [grid.least, *(grid.random(rng) for _ in range(count - 1))]


def propose_uncertain(
    grid: Grid, table: LookupTable, structure: Structure, count: int, seed: Sequence[int]
) -> list[tuple[int, ...]]:
    """Networks whose layers are known least, among random ones.

    The sum of their layers has the largest deviation; where widths are part of a layer's family, as
    in reshapes, those that no network had yet come first.

    Half of them; the other half is random, so that what the table believes of itself does not
    decide alone.
    """
    rng, sure = np.random.default_rng(list(seed)), table.extrapolating()
    drawn = [grid.random(rng) for _ in range(CANDIDATES)]
    networks = [structure.keys(widths) for widths in drawn]
    # Candidates share most of their layers, and a family answers a thousand layers nearly as
    # quickly as one: each layer is asked for once, all of them together.
    distinct = [
        key for key in dict.fromkeys(key for keys in networks for key in keys) if table.knows(key)
    ]
    answers = dict(zip(distinct, sure.layers(distinct), strict=True))
    doubts = []
    for keys in networks:
        is_known = all(key in answers for key in keys)
        parts = [answers[key] for key in keys] if is_known else []
        doubts.append(_uncertainty_of(sure, parts))
    by_doubt = sorted(range(CANDIDATES), key=lambda index: -doubts[index])[: count // 2]
    rest = [index for index in range(CANDIDATES) if index not in by_doubt][: count - len(by_doubt)]
    return [drawn[index] for index in (*by_doubt, *rest)]


def _uncertainty_of(table: LookupTable, parts: Sequence[LayerPrediction]) -> float:
    sum_s = sum(part.latency_s for part in parts)
    if sum_s == 0:
        # After a few noisy networks layers may seem to explain nothing: then all is uncertain, and
        # so are networks with layers that are not known at all.
        return math.inf
    return table.deviation(parts, sum_s)
