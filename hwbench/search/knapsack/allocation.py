"""Exact allocation: the widths of least loss whose cost keeps to a limit.

Both the loss and the cost of a network are sums of addends over few groups each, so what is asked
for is a knapsack problem: every group takes one of its widths, and the cost of a layer depends on
the widths of the groups that meet in it.

The limit is priced (Everett 1963): for a multiplier m, the network that minimises loss + m * cost
is found exactly by eliminating one group after the other (`budget.Bound`), however the layers are
connected. What it costs beyond m * limit bounds the loss of every network within the limit from
below, and the multiplier that makes this bound greatest is found in a few steps, each along a line
between a network within the limit and one beyond it. The multiplier alone reaches only the networks
on the convex hull of loss against cost; those between them are found by branch and bound (Geoffrion
1974): groups are decided one by one, the cheapest completion of each decision is known exactly, and
whatever cannot be better than the best network known is cut off. When nothing is left, the network
is the optimum.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwbench.errors import UsageError
from hwbench.search.budget import SLACK, Bound, Budget
from hwbench.search.costs import Addends, Floats, Integers

STEPS = 60
"""Multipliers that are tried at most; each is that of one more edge of the convex hull."""
NODES = 4000
"""Partial networks that branch and bound looks at before it gives up on a proof."""
ROUNDING = 1e-12
"""Difference of losses that is rounding."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Widths of little loss within a limit.

    Attributes:
        widths: One per group.
        loss: Their loss.
        gap: By how much the least loss of all networks within the limit may be smaller; 0 where
            these widths are proved to be best.
    """

    widths: tuple[int, ...]
    loss: float
    gap: float

    @property
    def is_proved(self) -> bool:
        """Whether no network within the limit has a smaller loss."""
        return self.gap <= ROUNDING


class Allocator:
    """Finds the widths of least loss within a budget; the costs are looked up once for many losses.

    Args:
        budget: The limit, and the widths to choose from.

    Raises:
        UsageError: The cost is no sum over layers, as that of a live device.
    """

    def __init__(self, budget: Budget) -> None:
        self._choices = budget.choices
        self._costs = budget.cost.addends(budget.choices)
        self._limit = _limit_of_sums(budget, self._costs)
        self._price = 1.0 / self._typical_cost()
        self._place = [
            {int(width): place for place, width in enumerate(grid)} for grid in budget.choices
        ]

    def allocate(self, losses: Addends, *, nodes: int = NODES) -> Allocation:
        """The widths of least loss within the limit.

        Args:
            losses: Loss as grids over the widths of each group, or of groups together, as
                `Cost.addends` gives costs. Finite.
            nodes: Partial networks to look at, at most, for a proof.

        Raises:
            UsageError: No widths keep to the limit.
        """
        dear = self._solve(losses, 0.0)
        if self._cost(dear) <= self._limit:  # the limit does not bind
            return Allocation(self._widths(dear), _total(losses, dear), 0.0)
        best = self._solve({}, self._price)
        if self._cost(best) > self._limit:
            raise UsageError("no widths keep to the limit")
        # The multiplier at which the two networks are worth the same is that of the line between
        # them. Where the minimiser there is neither, it takes the place of one of them; where it
        # is one, the line is an edge of the convex hull, and its multiplier the best.
        for _ in range(STEPS):
            saved = self._cost(dear) - self._cost(best)
            multiplier = (_total(losses, best) - _total(losses, dear)) / saved
            places = self._solve(losses, multiplier)
            if places in (dear, best):
                break
            if self._cost(places) > self._limit:
                dear = places
            else:
                best = places
        return self._branch(losses, multiplier, best, nodes)

    def _branch(
        self, losses: Addends, multiplier: float, best: tuple[int, ...], nodes: int
    ) -> Allocation:
        """Search all that the priced bound leaves open, the most promising first."""
        loss = _total(losses, best)
        bound = Bound(_Priced(losses, self._costs, multiplier), self._choices)
        allowance = multiplier * self._limit
        # Partial networks by the least loss of any completion within the limit.
        open_nodes: list[tuple[float, tuple[int, ...]]] = [(-math.inf, ())]
        least = loss
        for _ in range(nodes):
            if not open_nodes or open_nodes[0][0] >= loss - ROUNDING:
                return Allocation(self._widths(best), loss, 0.0)
            least, places = heapq.heappop(open_nodes)
            decided = self._widths(places)
            floors = bound.totals(decided) - allowance
            for place in np.flatnonzero(floors < loss - ROUNDING).tolist():
                child = (*places, place)
                if len(child) < len(self._choices):
                    heapq.heappush(open_nodes, (float(floors[place]), child))
                elif self._cost(child) <= self._limit and _total(losses, child) < loss:
                    best, loss = child, _total(losses, child)
        return Allocation(self._widths(best), loss, max(loss - least, 0.0))

    def _solve(self, losses: Addends, multiplier: float) -> tuple[int, ...]:
        """Places of the widths that minimise loss + multiplier * cost."""
        _, widths = Bound(_Priced(losses, self._costs, multiplier), self._choices).least
        return tuple(self._place[group][width] for group, width in enumerate(widths))

    def _cost(self, places: Sequence[int]) -> float:
        return _total(self._costs, places)

    def _widths(self, places: Sequence[int]) -> tuple[int, ...]:
        pairs = zip(self._choices, places, strict=False)
        return tuple(int(grid[place]) for grid, place in pairs)

    def _typical_cost(self) -> float:
        """The sum of the greatest known cost of each layer: what a price can be counted in."""
        total = 0.0
        for grid in self._costs.values():
            total += float(grid[np.isfinite(grid)].max())
        return max(total, float(np.finfo(np.float64).tiny))


class _Priced:
    """Loss + multiplier * cost, as a cost that can be minimised."""

    name, unit = "loss", ""

    def __init__(self, losses: Addends, costs: Addends, multiplier: float) -> None:
        self._losses, self._costs, self._multiplier = losses, costs, multiplier

    def of(self, widths: Integers) -> Floats:
        """Not needed: only sums over addends are minimised."""
        raise UsageError(f"a priced loss of {len(widths)} networks was asked for")

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """The sums of both, by groups."""
        del choices
        summed: dict[tuple[int, ...], Floats] = {}
        for groups, grid in self._costs.items():
            # Widths whose cost is not known are never chosen, whatever cost is worth.
            priced = self._multiplier * np.where(np.isfinite(grid), grid, 0.0)
            summed[groups] = np.where(np.isfinite(grid), priced, np.inf)
        for groups, grid in self._losses.items():
            summed[groups] = summed.get(groups, 0.0) + grid
        return summed

    def whole(self, sums: Floats) -> Floats:
        """The sums themselves."""
        return sums


def _total(addends: Mapping[tuple[int, ...], Floats], places: Sequence[int]) -> float:
    """The sum of addends at the places of some widths."""
    total = 0.0
    for groups, grid in addends.items():
        total += float(grid[tuple(places[group] for group in groups)])
    return total


def _limit_of_sums(budget: Budget, costs: Addends) -> float:
    """The greatest sum of addends whose cost keeps to the limit; cost rises with that sum."""
    limit = budget.limit * (1 + SLACK)
    low, high = 0.0, 0.0
    for grid in costs.values():
        known = grid[np.isfinite(grid)]
        low += float(known.min())
        high += float(known.max())
    if float(budget.cost.whole(np.array([high]))[0]) <= limit:
        return high
    for _ in range(200):
        middle = (low + high) / 2
        if float(budget.cost.whole(np.array([middle]))[0]) <= limit:
            low = middle
        else:
            high = middle
    return low
