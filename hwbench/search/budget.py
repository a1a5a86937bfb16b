"""Budget: a limit on one cost, the widths it is searched over, and the exact bound on every single decision.

The bound is that of AMC's Algorithm 1 (He et al. 2018), without its assumption that cost is a
product of shares: latency is neither a product nor monotone in widths. For each allowed width of
the group to decide, the cost of the best network that can still be made of it is known exactly, by
eliminating the undecided groups one after the other, last first (bucket elimination, Dechter 1999):
a group is replaced by the least cost over its widths, as a grid over the groups that it meets in a
layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwbench.errors import Call, UsageError
from hwbench.network.widths import DEFAULT_LOWER
from hwbench.search.costs import Cost, Floats, Integers, check_size

WIDE_ENOUGH = 4
"""A group is cut in the device's channel steps if it is at least this many of them wide."""
FINE_STEP = 4
"""Channels that narrower groups are cut by, and all groups where the coarse grid cannot reach a budget."""
SLACK = 1e-9
"""Relative room for rounding when a cost is held against its limit."""


def channel_choices(
    widths: Sequence[int], step: int, lower: float = DEFAULT_LOWER
) -> tuple[Integers, ...]:
    """Allowed widths of every group, ascending: multiples of the step from the lower bound up, and the original.

    Args:
        widths: The original ones.
        step: Channel step of the device; groups less than four steps wide are cut by 4 channels
            instead.
        lower: Least share of a width.
    """
    found = []
    for width in widths:
        own = step if width >= WIDE_ENOUGH * step else min(FINE_STEP, step)
        start = max(math.ceil(lower * width / own), 1) * own
        found.append(np.unique(np.append(np.arange(start, width, own), width)))
    return tuple(found)


@dataclass(frozen=True)
class _Table:
    """Cost over the widths of a few groups, ascending.

    `born` is the group whose elimination made it, -1 for a layer's own.
    """

    groups: tuple[int, ...]
    grid: Floats
    born: int = -1

    @property
    def last(self) -> int:
        return self.groups[-1] if self.groups else -1

    def at(self, places: Sequence[int]) -> float:
        return float(self.grid[tuple(places[group] for group in self.groups)])


class Budget:
    """A limit on one cost, over a grid of widths.

    Args:
        cost: What is limited.
        limit: The most it may be; infinite for no limit.
        grids: Allowed widths of every group, ascending. The coarsest first: the first on which the
            limit can be reached is used.
        original: Cost of the unpruned network, for messages.

    Attributes:
        choices: The grid in use.

    Raises:
        UsageError: The limit cannot be reached; the message has the least that can.
    """

    def __init__(
        self, cost: Cost, limit: float, *grids: tuple[Integers, ...], original: float | None = None
    ) -> None:
        if not limit > 0:
            raise UsageError(
                f"a budget of {limit:g} {cost.unit or cost.name} was given; expected a positive"
                " number"
            )
        self.cost, self.limit = cost, limit
        for grid in grids:
            self.choices = _known(cost, grid)
            vars(self).pop("least", None)
            vars(self).pop("_bound", None)
            if limit == math.inf or self.least[0] <= limit * (1 + SLACK):
                return
        raise UsageError(
            f"{cost.name} {_text(limit, cost)} cannot be reached: the least on this grid is"
            f" {_text(self.least[0], cost)}{'' if original is None else f', {self.least[0] / original:.1%} of the original'};"
            " ask for no less"
        )

    @cached_property
    def least(self) -> tuple[float, tuple[int, ...]]:
        """The least reachable cost, and widths that have it.

        The narrowest where a cost has no bound (a live device).
        """
        try:
            return self._bound.least
        except UsageError:
            narrowest = tuple(int(grid[0]) for grid in self.choices)
            return float(self.cost.of(np.array([narrowest], np.int64))[0]), narrowest

    def fits(self, widths: Sequence[int]) -> bool:
        """Whether a structure keeps to the limit."""
        return float(self.cost.of(np.array([widths], np.int64))[0]) <= self.limit * (1 + SLACK)

    def totals(self, decided: Sequence[int]) -> Floats:
        """Least cost of a whole network for each choice of the next group.

        Args:
            decided: Widths of the groups before it, on the grid.
        """
        return self._bound.totals(decided)

    def bounded(self, decided: Sequence[int], wish: float) -> int:
        """The widest width of the next group that is not above `wish` and can still be completed within the limit.

        Where none is, the one with the least cost of those that can.

        Raises:
            UsageError: The limit was missed already by the groups `decided`.
        """
        choices = self.choices[len(decided)]
        if self.limit == math.inf:
            return int(choices[max(int(np.searchsorted(choices, wish, side="right")) - 1, 0)])
        totals = self.totals(decided)
        reachable = totals <= self.limit * (1 + SLACK)
        if not reachable.any():
            least = _text(float(totals.min()), self.cost)
            raise UsageError(
                f"widths {tuple(decided)} leave {self.cost.name} of at least {least}, over"
                f" {_text(self.limit, self.cost)}"
            )
        wished = reachable & (choices <= wish)
        if wished.any():
            return int(choices[wished][-1])
        return int(choices[int(totals.argmin())])

    @cached_property
    def _bound(self) -> _Bound:
        return _Bound(self.cost, self.choices)

    @property
    def parts(self) -> Shares:
        """How the cost of the unpruned network is made up, for states of an agent."""
        return self._bound.parts


def _known(cost: Cost, grid: tuple[Integers, ...]) -> tuple[Integers, ...]:
    """The widths whose cost is known: a table may not reach down to all of them."""
    try:
        addends = cost.addends(grid)
    except UsageError:  # no bound on single decisions, as of a live device, which knows all widths
        return grid
    kept = [np.ones(len(widths), bool) for widths in grid]
    for groups, table in addends.items():
        for axis, group in enumerate(groups):
            others = tuple(place for place in range(len(groups)) if place != axis)
            kept[group] &= np.isfinite(table).any(axis=others)
    known = tuple(widths[mask] for widths, mask in zip(grid, kept, strict=True))
    if not all(map(len, known)):
        group = next(place for place, widths in enumerate(known) if not len(widths))
        raise UsageError(
            f"the table knows none of the widths {grid[group].tolist()} of group {group}",
            Call(
                "build_table",
                {"model": None, "lower": None},
                purpose="build one that reaches down to a smaller share",
            ),
        )
    return known


@dataclass(frozen=True)
class Shares:
    """The cost of a network, decision by decision.

    Attributes:
        own: Cost, unpruned, of the layers that each decision changes, shape (decisions,).
        rest: Cost, unpruned, of the layers that only later decisions change.
        total: Cost of all layers.
        settled: By decision, the layers whose last undecided width it is.
    """

    own: Floats
    rest: Floats
    total: float
    settled: tuple[tuple[_Table, ...], ...]

    def freed(self, group: int, places: Sequence[int]) -> float:
        """Cost taken off the layers that the decision on `group` settled.

        Args:
            group: Decided last.
            places: Of the widths so far, in the choices.
        """
        return sum(float(table.grid.flat[-1]) - table.at(places) for table in self.settled[group])


class _Bound:
    """Least cost that can still be reached after any decisions."""

    def __init__(self, cost: Cost, choices: tuple[Integers, ...]) -> None:
        self._cost, self._choices = cost, choices
        self._place = [{int(width): place for place, width in enumerate(grid)} for grid in choices]
        self._layers = [_Table(groups, grid) for groups, grid in cost.addends(choices).items()]
        every = list(self._layers)
        buckets: list[_Table] = []
        for group in reversed(range(len(choices))):
            bucket = self._joined([table for table in every if table.last == group], group)
            buckets.append(bucket)
            every.append(_Table(bucket.groups[:-1], bucket.grid.min(axis=-1), group))
        self._buckets = buckets[::-1]
        self._beside = [
            tuple(
                table
                for table in every
                if table.last < group and (table.born == -1 or table.born > group)
            )
            for group in range(len(choices))
        ]

    def _joined(self, tables: Sequence[_Table], group: int) -> _Table:
        """The sum of tables that end in `group`."""
        groups = tuple(sorted({group}.union(*(table.groups for table in tables))))
        shape = tuple(len(self._choices[one]) for one in groups)
        check_size(groups, self._choices)
        grid = np.zeros(shape)
        for table in tables:
            grid += table.grid.reshape(
                [len(self._choices[one]) if one in table.groups else 1 for one in groups]
            )
        return _Table(groups, grid)

    def totals(self, decided: Sequence[int]) -> Floats:
        places = [self._place[group][int(width)] for group, width in enumerate(decided)]
        bucket = self._buckets[len(places)]
        beside = sum(table.at(places) for table in self._beside[len(places)])
        return self._cost.whole(
            bucket.grid[tuple(places[group] for group in bucket.groups[:-1])] + beside
        )

    @cached_property
    def least(self) -> tuple[float, tuple[int, ...]]:
        decided: list[int] = []
        total = math.inf
        for grid in self._choices:
            totals = self.totals(decided)
            decided.append(int(grid[int(totals.argmin())]))
            total = float(totals.min())
        return total, tuple(decided)

    @cached_property
    def parts(self) -> Shares:
        groups = range(len(self._choices))
        full = [(table, float(table.grid.flat[-1])) for table in self._layers]
        own = np.array(
            [sum(value for table, value in full if group in table.groups) for group in groups]
        )
        rest = np.array(
            [
                sum(v for table, v in full if table.last > group and group not in table.groups)
                for group in groups
            ]
        )
        settled = tuple(
            tuple(table for table in self._layers if table.last == group) for group in groups
        )
        return Shares(own, rest, sum(value for _, value in full), settled)


def _text(value: float, cost: Cost) -> str:
    return f"{value:.4g} {cost.unit}".rstrip()
