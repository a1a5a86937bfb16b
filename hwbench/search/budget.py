"""Budget: a limit on one cost, the widths to choose from, and the exact bound on every decision.

The bound is that of AMC's Algorithm 1 (He et al. 2018), without its assumption that cost is a
product of shares: latency is neither a product nor monotone in widths. For each allowed width of
the group to decide, the cost of the best network that can still be made of it is known exactly, by
eliminating the undecided groups one after the other, last first (bucket elimination, Dechter 1999):
a group is replaced by the least cost over its widths, as a grid over the groups that it meets in a
layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwbench.errors import Call, UsageError
from hwbench.network.widths import DEFAULT_LOWER, group_step
from hwbench.search.costs import Cost, Floats, Integers, check_size

WIDE_ENOUGH = 4
"""A group is cut in the device's channel steps if it is at least this many of them wide."""
FINE_STEP = 4
"""Channels that narrower groups are cut by; all groups, where the coarse grid misses a budget."""
PAYS = 0.02
"""Share of its layers' cost that a width off the channel step must save: tables err by 1 %."""
LEVELS = 64
"""Steps from 0 to 1 in which the factor of a repair is found."""
SLACK = 1e-9
"""Relative room for rounding when a cost is held against its limit."""


def channel_choices(
    widths: Sequence[int],
    step: int,
    lower: float = DEFAULT_LOWER,
    units: Sequence[int] | None = None,
) -> tuple[Integers, ...]:
    """Allowed widths of every group, ascending.

    They are multiples of the step from the lower bound up, and the original width.

    Args:
        widths: The original ones.
        step: Channel step of the device; groups less than four steps wide are cut by 4 channels
            instead.
        lower: Least share of a width.
        units: Channels that each of a group's stands for; None for one.
    """
    choices = []
    for width, unit in zip(widths, units or [1] * len(widths), strict=True):
        wide = width * unit >= WIDE_ENOUGH * step
        own_step = group_step(step if wide else min(FINE_STEP, step), unit)
        start = max(math.ceil(lower * width / own_step), 1) * own_step
        choices.append(np.unique(np.append(np.arange(start, width, own_step), width)))
    return tuple(choices)


LAYER = -1
"""Origin of a table that is a layer's own cost, not made by an elimination."""


@dataclass(frozen=True)
class _Table:
    """Cost over the widths of a few groups.

    Attributes:
        groups: The groups, ascending.
        grid: Costs, one axis per group over its choices.
        origin: The group whose elimination made the table; `LAYER` for a layer's own.
    """

    groups: tuple[int, ...]
    grid: Floats
    origin: int = LAYER

    @property
    def last(self) -> int:
        """The group that is decided last; -1 where the cost depends on none."""
        return self.groups[-1] if self.groups else -1

    def at(self, places: Sequence[int]) -> float:
        """The cost of the choices at these places, one per group of the network."""
        return float(self.grid[tuple(places[group] for group in self.groups)])

    @property
    def unpruned(self) -> float:
        """The cost of the widest choices."""
        return float(self.grid.flat[-1])


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
        for widths in grids:
            self._grid = _Grid(cost, known_widths(cost, widths))
            self.choices = self._grid.choices
            if limit == math.inf or self.least[0] <= limit * (1 + SLACK):
                return
        least = _text(self.least[0], cost)
        if original is not None:
            least += f", {self.least[0] / original:.1%} of the original"
        raise UsageError(
            f"{cost.name} {_text(limit, cost)} cannot be reached: the least on this grid is"
            f" {least}; ask for no less"
        )

    @property
    def least(self) -> tuple[float, tuple[int, ...]]:
        """The least reachable cost, and widths that have it."""
        return self._grid.least

    def fits(self, widths: Sequence[int]) -> bool:
        """Whether a structure keeps to the limit."""
        return float(self.cost.of(np.array([widths], np.int64))[0]) <= self.limit * (1 + SLACK)

    def totals(self, decided: Sequence[int]) -> Floats:
        """Least cost of a whole network for each choice of the next group.

        Args:
            decided: Widths of the groups before it, on the grid.
        """
        return self._grid.bound.totals(decided)

    def bounded(self, decided: Sequence[int], wish: float) -> int:
        """The width of the next group that comes nearest to a wish.

        It is the widest that is not above the wish and from which the limit can still be kept;
        where none is, the one of least cost from which it can.

        Args:
            decided: Widths of the groups before it, on the grid.
            wish: Channels that are wished for.

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

    def fill(
        self, widths: Sequence[int], order: Sequence[int], most: Sequence[int] | None = None
    ) -> tuple[int, ...]:
        """Widen groups, one step at a time and in turn, as long as the limit is kept.

        Args:
            widths: On the grid, within the limit.
            order: The groups, in the order of their turns.
            most: The widest that each group may become; None for the original's widths.
        """
        filled = list(widths)
        if self.limit == math.inf:
            return tuple(filled)
        growing = list(order)
        while growing:
            still_growing = []
            for group in growing:
                grid = self.choices[group]
                place = int(np.searchsorted(grid, filled[group])) + 1
                if place == len(grid) or (most is not None and grid[place] > most[group]):
                    continue
                wider = [*filled]
                wider[group] = int(grid[place])
                if self.fits(wider):
                    filled = wider
                    still_growing.append(group)
            growing = still_growing
        return tuple(filled)

    def repair(self, widths: Sequence[int]) -> tuple[int, ...]:
        """The structure shrunk to the limit: all groups by one factor, the largest that fits.

        The factor is that of the places of the widths among the choices, and is found by bisection
        over `LEVELS`. Latency is not monotone in widths, so the factor that is found may not fit
        after all; then the structure of least cost is taken. What shrinking leaves of the limit
        goes back to the groups, those first that lost most.

        Args:
            widths: On the grid.

        Returns:
            Widths within the limit, none wider than before; the same ones where they fit.
        """
        if self.fits(widths):
            return tuple(widths)
        pairs = zip(self.choices, widths, strict=True)
        places = np.array([int(np.searchsorted(grid, width)) for grid, width in pairs], np.int64)
        low, high = 0, LEVELS
        while high - low > 1:
            level = (low + high) // 2
            if self.fits(self.widths_at(places * level // LEVELS)):
                low = level
            else:
                high = level
        shrunk = places * low // LEVELS
        if not self.fits(self.widths_at(shrunk)):
            return self.least[1]
        lost = places - shrunk
        order = sorted(range(len(lost)), key=lambda group: -int(lost[group]))
        return self.fill(self.widths_at(shrunk), order, most=widths)

    def widths_at(self, places: Iterable[int]) -> tuple[int, ...]:
        """The widths at these places among the choices, one of every group."""
        pairs = zip(self.choices, places, strict=True)
        return tuple(int(grid[place]) for grid, place in pairs)

    def widen(self, widths: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
        """Widen one group after the other, each as far as the limit is kept.

        Args:
            widths: On the grid, within the limit.
            order: The groups, those first that are to have most.
        """
        widened = np.array(widths, np.int64)
        for group in order if self.limit < math.inf else ():
            wider = self.choices[group][self.choices[group] > widened[group]]
            if not len(wider):
                continue
            rows = np.tile(widened, (len(wider), 1))
            rows[:, group] = wider
            fitting = self.cost.of(rows) <= self.limit * (1 + SLACK)
            if fitting.any():
                widened[group] = wider[fitting][-1]
        return tuple(widened.tolist())

    @property
    def parts(self) -> Shares:
        """How the cost of the unpruned network is made up, for states of an agent."""
        return self._grid.bound.parts


class _Grid:
    """Allowed widths of every group, with what follows from them, computed when it is needed."""

    def __init__(self, cost: Cost, choices: tuple[Integers, ...]) -> None:
        self.cost, self.choices = cost, choices

    @cached_property
    def bound(self) -> Bound:
        """The bound on single decisions.

        Raises:
            UsageError: The cost has none, as that of a live device.
        """
        return Bound(self.cost, self.choices)

    @cached_property
    def least(self) -> tuple[float, tuple[int, ...]]:
        """The least cost, and widths that have it; the narrowest where the cost has no bound."""
        try:
            return self.bound.least
        except UsageError:
            narrowest = tuple(int(widths[0]) for widths in self.choices)
            return float(self.cost.of(np.array([narrowest], np.int64))[0]), narrowest


def known_widths(cost: Cost, grid: tuple[Integers, ...]) -> tuple[Integers, ...]:
    """The widths whose cost is known: a table may not reach down to all of them, or know them all.

    A width stays if every layer that depends on it is known for some widths of the other groups.

    Raises:
        UsageError: No width of a group is known.
    """
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
    for group, widths in enumerate(known):
        if len(widths):
            continue
        raise UsageError(
            f"the table knows none of the widths {grid[group].tolist()} of group {group}",
            Call(
                "build_table",
                {"model": None, "lower": None},
                purpose="build one that reaches down to a smaller share",
            ),
        )
    return known


def paying_widths(
    cost: Cost, grid: tuple[Integers, ...], steps: Sequence[int]
) -> tuple[Integers, ...]:
    """The widths without those that are off a group's channel step and save nothing.

    Between two steps a device mostly takes as long as for the next one, or longer: 20 channels can
    cost more than 32. Such a width stays only if the layers of its group, with all other groups
    whole, cost less by `PAYS` than at every wider width that stays.

    Args:
        cost: A sum over layers; of others, all widths stay.
        grid: Allowed widths of every group, ascending.
        steps: Channel step of each group's widths.
    """
    try:
        addends = cost.addends(grid)
    except UsageError:
        return grid
    paying = []
    for group, (widths, step) in enumerate(zip(grid, steps, strict=True)):
        own = np.zeros(len(widths))
        for groups, table in addends.items():
            if group in groups:
                whole = tuple(slice(None) if one == group else -1 for one in groups)
                own += table[whole]
        stays, least = [], math.inf
        for place in reversed(range(len(widths))):
            on_step = widths[place] % step == 0 or place == len(widths) - 1
            if on_step or own[place] < (1 - PAYS) * least:
                stays.append(place)
                least = min(least, float(own[place]))
        paying.append(widths[stays[::-1]])
    return tuple(paying)


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
        return sum(table.unpruned - table.at(places) for table in self.settled[group])


class Bound:
    """Least cost that can still be reached after any decisions.

    Bucket elimination: groups are decided in order, so they are eliminated from the last to the
    first. The *bucket* of a group is the sum of all tables whose last group it is, those that
    earlier eliminations left included; its minimum over that group's widths is a new table over the
    other groups it holds, and stands for whatever is best to do from there on. So after any
    decisions the least total for each width of the next group is one row of its bucket, plus the
    tables that no longer depend on anything undecided. The least cost is exact, since the sum over
    layers is and `Cost.whole` is monotone.
    """

    def __init__(self, cost: Cost, choices: tuple[Integers, ...]) -> None:
        self._cost, self._choices = cost, choices
        self._place = [{int(width): place for place, width in enumerate(grid)} for grid in choices]
        self._layers = [_Table(groups, grid) for groups, grid in cost.addends(choices).items()]
        tables = list(self._layers)
        buckets: list[_Table] = []
        for group in reversed(range(len(choices))):
            bucket = self._sum_tables([table for table in tables if table.last == group], group)
            buckets.append(bucket)
            tables.append(_Table(bucket.groups[:-1], bucket.grid.min(axis=-1), group))
        self._buckets = buckets[::-1]
        self._settled = [_settled_before(group, tables) for group in range(len(choices))]

    def _sum_tables(self, tables: Sequence[_Table], group: int) -> _Table:
        """The sum of tables whose last group is `group`, over all groups that they depend on."""
        groups = tuple(sorted({group}.union(*(table.groups for table in tables))))
        check_size(groups, self._choices)
        counts = {member: len(self._choices[member]) for member in groups}
        grid = np.zeros(tuple(counts.values()))
        for table in tables:
            # An axis of length 1 where the table does not depend on a group repeats it along there.
            shape = [counts[member] if member in table.groups else 1 for member in groups]
            grid += table.grid.reshape(shape)
        return _Table(groups, grid)

    def totals(self, decided: Sequence[int]) -> Floats:
        """Least cost of a whole network for each width of the next group."""
        places = [self._place[group][int(width)] for group, width in enumerate(decided)]
        bucket = self._buckets[len(places)]
        settled = sum(table.at(places) for table in self._settled[len(places)])
        row = bucket.grid[tuple(places[group] for group in bucket.groups[:-1])]
        return self._cost.whole(row + settled)

    @cached_property
    def least(self) -> tuple[float, tuple[int, ...]]:
        """The least cost of all networks, and widths that have it."""
        decided: list[int] = []
        total = math.inf
        for grid in self._choices:
            totals = self.totals(decided)
            decided.append(int(grid[int(totals.argmin())]))
            total = float(totals.min())
        return total, tuple(decided)

    @cached_property
    def parts(self) -> Shares:
        """How the cost of the unpruned network is made up."""
        count = len(self._choices)
        own, rest = np.zeros(count), np.zeros(count)
        settled: list[tuple[_Table, ...]] = []
        for group in range(count):
            for table in self._layers:
                if group in table.groups:
                    own[group] += table.unpruned
                elif table.last > group:
                    rest[group] += table.unpruned
            settled.append(tuple(table for table in self._layers if table.last == group))
        total = sum(table.unpruned for table in self._layers)
        return Shares(own, rest, total, tuple(settled))


def _settled_before(group: int, tables: Sequence[_Table]) -> tuple[_Table, ...]:
    """Tables that depend on groups before `group` alone, and are in no bucket from there on.

    A table that an elimination made counts only while its group is still undecided: once that is
    decided, the layers it stood for are looked up themselves.
    """
    return tuple(
        table
        for table in tables
        if table.last < group and (table.origin == LAYER or table.origin > group)
    )


def _text(value: float, cost: Cost) -> str:
    return f"{value:.4g} {cost.unit}".rstrip()
