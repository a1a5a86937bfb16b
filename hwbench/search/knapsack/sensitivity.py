"""What narrower groups cost in quality: measured one by one, then learnt from whole networks.

The loss of a network is modelled as a sum over its groups, each a line through a few widths that
were measured (`Knots`), plus one number for what pruned networks lose beyond that. A block that may
be dropped is one more term: what the network loses without it; what lies inside of it loses nothing
then. Networks with one narrow group, or without one block, give the first estimate. Together,
groups lose more or less than their sum, so the estimate is then updated by the networks within the
budget that were evaluated: linear regression with a normal prior around the first estimate (Bishop
2006, section 3.3). Of what is still uncertain, samples are drawn (Thompson 1933).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwbench.search.block_choices import BlockChoices
from hwbench.search.costs import Addends, Floats, Integers

DOUBT = 0.5
"""Standard deviation of the prior of a loss, as a share of it."""
FLOOR = 0.3
"""What is added to every loss before that share is taken, in mean losses: none is sure to be 0."""
NOISE = 0.3
"""Standard deviation of what the sum over groups misses of a network, in mean losses."""
COMMON = 3.0
"""Standard deviation of what all networks within the budget lose in common, in mean losses."""
LEAST = 1e-6
"""Mean loss that is taken where no group loses anything."""


@dataclass(frozen=True)
class Knots:
    """The widths of every group at which its loss is measured.

    Attributes:
        choices: Allowed widths of every group, ascending; the last is the original's.
        places: Places in these of the knots of every group, ascending, without the last.
    """

    choices: tuple[Integers, ...]
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def spread(cls, choices: Sequence[Integers], count: int) -> Knots:
        """Up to `count` knots in every group, spread evenly from the narrowest width up."""
        places = []
        for grid in choices:
            last = len(grid) - 1
            spots = np.linspace(0, last, count + 1).round().astype(int)
            places.append(tuple(sorted({int(place) for place in spots if place < last})))
        return cls(tuple(choices), tuple(places))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Group and place of every knot, group by group."""
        return [(group, place) for group, places in enumerate(self.places) for place in places]

    def weights(self, group: int) -> Floats:
        """How much each knot of a group counts at each of its widths, shape (widths, knots)."""
        last = len(self.choices[group]) - 1
        spots = [*self.places[group], last]
        weights = np.zeros((last + 1, len(spots)))
        for index in range(len(spots)):
            weights[:, index] = np.interp(range(last + 1), spots, np.eye(len(spots))[index])
        return weights[:, :-1]


class LossModel:
    """The loss of quality of networks, by their widths, or decisions where blocks may be dropped.

    Args:
        knots: Where the loss of each group is measured.
        measured: Loss with one group at one knot, by group and place. Of groups for which none is
            known the others' mean at the same share of the width is taken.
        blocks: The blocks that may be dropped, decisions behind the groups; none if not given.
    """

    def __init__(
        self,
        knots: Knots,
        measured: Mapping[tuple[int, int], float],
        blocks: BlockChoices | None = None,
    ) -> None:
        self._knots = knots
        self._blocks = blocks or BlockChoices.none(len(knots.choices))
        self._weights = [knots.weights(group) for group in range(len(knots.choices))]
        self._first = [0]
        for places in knots.places:
            self._first.append(self._first[-1] + len(places))
        losses = self._first_estimate(measured)
        self._unit = max(float(np.abs(losses).mean()) if len(losses) else 0.0, LEAST)
        deviations = DOUBT * (np.abs(losses) + FLOOR * self._unit)
        self._prior_mean = np.concatenate([[0.0], losses])
        self._prior_precision = np.diag(np.concatenate([[COMMON * self._unit], deviations]) ** -2.0)
        self._mean = self._prior_mean
        self._covariance = np.linalg.inv(self._prior_precision)

    def learn(self, networks: Sequence[tuple[int, ...]], losses: Sequence[float]) -> None:
        """Update the first estimate by whole networks, all that are known so far.

        Args:
            networks: Their widths.
            losses: Their losses.
        """
        rows = np.array([self._row(widths) for widths in networks]).reshape(-1, len(self._mean))
        missed = np.asarray(losses, np.float64) - rows @ self._prior_mean
        precision = 1 / (NOISE * self._unit) ** 2
        self._covariance = np.linalg.inv(self._prior_precision + precision * rows.T @ rows)
        self._mean = self._prior_mean + self._covariance @ (precision * rows.T @ missed)

    def expected(self) -> Addends:
        """The losses that are expected, as grids over the widths of each group.

        Where it lies in a block that may be dropped, over the decision on that block as well.
        """
        return self._grids(self._mean)

    def sample(self, random: np.random.Generator, temperature: float) -> Addends:
        """Losses that may be true, given what was observed.

        Args:
            random: Where the sample comes from.
            temperature: Share of its standard deviation by which it strays from the mean.
        """
        root = np.linalg.cholesky(self._covariance)
        strayed = root @ random.standard_normal(len(self._mean))
        return self._grids(self._mean + temperature * strayed)

    def _grids(self, coefficients: Floats) -> Addends:
        """Losses at all widths; wider is never worse, as differences the other way are noise."""
        from scipy.optimize import isotonic_regression

        own = coefficients[1:]
        grids: dict[tuple[int, ...], Floats] = {}
        for group, weights in enumerate(self._weights):
            losses = weights @ own[self._first[group] : self._first[group + 1]]
            falling = isotonic_regression(losses, increasing=False).x
            if self._blocks.hosts[group]:
                falling = falling - falling[-1]  # what is dropped and what is whole lose nothing
            numbers, grid = self._blocks.own_addend(group, falling, self._knots.choices)
            grids[numbers] = grid
        return grids

    def _row(self, widths: Sequence[int]) -> Floats:
        """What each coefficient counts in the loss of a network."""
        parts = [np.ones(1)]
        decisions = zip(self._knots.choices, widths, self._weights, strict=True)
        for decision, (grid, width, weights) in enumerate(decisions):
            if self._blocks.is_inside_dropped(decision, widths):
                parts.append(np.zeros(weights.shape[1]))
            else:
                parts.append(weights[int(np.searchsorted(grid, width))])
        return np.concatenate(parts)

    def _first_estimate(self, measured: Mapping[tuple[int, int], float]) -> Floats:
        """The loss at every knot: as measured, else the mean of other groups about as narrow."""
        losses = []
        for group, place in self._knots.pairs:
            if (group, place) in measured:
                losses.append(measured[group, place])
            else:
                losses.append(self._guess(group, place, measured))
        return np.array(losses)

    def _guess(self, group: int, place: int, measured: Mapping[tuple[int, int], float]) -> float:
        """The loss at a knot that was not measured; blocks are compared with blocks alone."""
        shares: list[float] = []
        known: list[float] = []
        for (other, spot), loss in measured.items():
            if self._is_block(other) == self._is_block(group):
                shares.append(self._share(other, spot))
                known.append(loss)
        share = self._share(group, place)
        if not known:
            return 1.0 - share
        nearness = np.exp(-(((np.array(shares) - share) / 0.25) ** 2)) + 1e-9
        return float(nearness @ np.array(known) / nearness.sum())

    def _is_block(self, decision: int) -> bool:
        return decision >= self._blocks.groups

    def _share(self, group: int, place: int) -> float:
        grid = self._knots.choices[group]
        return float(grid[place] / grid[-1])
