"""Blocks that may be dropped, as decisions beside the widths of a network's groups.

A network is then a row of *decisions*: the widths of all groups, followed by one number per block,
1 where it stays and 0 where it is dropped. So the original's decision is the last of each grid, as
with widths, and budgets, bounds and allocations work on rows of decisions as on rows of widths.

The layers of a dropped block cost nothing, and what lies in it alone no longer matters: the groups
whose layers are all inside it, and smaller blocks. Such decisions stay as the original's, so that
one network is one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import UsageError
from hwbench.search.costs import (
    LARGEST_GRID,
    Addends,
    Floats,
    Integers,
    LayerCost,
    check_size,
)

if TYPE_CHECKING:
    from hwbench.network.structure import Structure

DROPPED, KEPT = 0, 1
"""Decisions on a block."""


@dataclass(frozen=True)
class BlockChoices:
    """The blocks of a network that may be dropped.

    Attributes:
        names: Their names.
        hosts: Of every decision, widths first: the decisions on the blocks that it lies in.
        layer_hosts: Of every layer: the decisions on the blocks that it lies in.
    """

    names: tuple[str, ...]
    hosts: tuple[tuple[int, ...], ...]
    layer_hosts: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def none(cls, groups: int) -> BlockChoices:
        """No block may be dropped.

        Args:
            groups: Number of the network's groups.
        """
        return cls((), ((),) * groups)

    @classmethod
    def of(cls, structure: Structure, names: Iterable[str]) -> BlockChoices:
        """Some of the blocks of a network.

        Args:
            structure: Of the network.
            names: Those that may be dropped.
        """
        wanted = set(names)
        blocks = [block for block in structure.blocks if block.name in wanted]
        inside = [frozenset(block.nodes) for block in blocks]
        groups = len(structure.groups)
        layer_hosts = []
        outside_of: list[set[int]] = [set() for _ in range(groups)]
        for slot in structure.slots:
            hosts = tuple(
                groups + place for place, nodes in enumerate(inside) if slot.layer.name in nodes
            )
            layer_hosts.append(hosts)
            for group in slot.groups:
                outside_of[group].update(set(range(groups, groups + len(blocks))) - set(hosts))
        decision_hosts = [
            tuple(groups + place for place in range(len(blocks)) if groups + place not in outside)
            for outside in outside_of
        ]
        for nodes in inside:
            larger = [groups + place for place, other in enumerate(inside) if nodes < other]
            decision_hosts.append(tuple(larger))
        return cls(tuple(block.name for block in blocks), tuple(decision_hosts), tuple(layer_hosts))

    @property
    def groups(self) -> int:
        """Number of groups, whose widths come first among the decisions."""
        return len(self.hosts) - len(self.names)

    def extend(self, widths: Sequence[Integers]) -> tuple[Integers, ...]:
        """Allowed values of all decisions, by the allowed widths of every group."""
        return (*widths, *(np.array([DROPPED, KEPT]) for _ in self.names))

    def keep_all(self, choices: Sequence[Integers]) -> tuple[Integers, ...]:
        """The same choices where no block may be dropped."""
        return (*choices[: self.groups], *(np.array([KEPT]) for _ in self.names))

    def split(self, decisions: Sequence[int]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The widths, and the names of the dropped blocks."""
        kept = decisions[self.groups :]
        dropped = [name for name, keeps in zip(self.names, kept, strict=True) if keeps == DROPPED]
        return tuple(decisions[: self.groups]), tuple(dropped)

    def join(self, widths: Sequence[int], dropped: Iterable[str]) -> tuple[int, ...]:
        """The decisions of a network of these widths without these blocks."""
        gone = set(dropped)
        return (*widths, *(DROPPED if name in gone else KEPT for name in self.names))

    def settle(self, decisions: Sequence[int], whole: Sequence[int]) -> tuple[int, ...]:
        """The same network with the original's decisions inside of dropped blocks.

        Args:
            decisions: Of any network.
            whole: Those of the original.
        """
        return tuple(
            original if self.is_inside_dropped(decision, decisions) else chosen
            for decision, (chosen, original) in enumerate(zip(decisions, whole, strict=True))
        )

    def own_addend(
        self, decision: int, own: Floats, choices: Sequence[Integers]
    ) -> tuple[tuple[int, ...], Floats]:
        """An addend of one decision alone, which is 0 where a block that it lies in is dropped.

        Args:
            decision: Which.
            own: Its values where all these blocks stay, one for each of its choices.
            choices: Allowed values of all decisions.

        Returns:
            The decisions that it depends on, ascending, and the grid over these.
        """
        hosts = self.hosts[decision]
        grid = where_kept(own, [choices[host] for host in hosts])
        numbers = (decision, *hosts)
        return tuple(sorted(numbers)), np.transpose(grid, np.argsort(numbers))

    def is_inside_dropped(self, decision: int, decisions: Sequence[int]) -> bool:
        """Whether one of the decisions no longer matters, as a block that it lies in is dropped."""
        return any(decisions[host] == DROPPED for host in self.hosts[decision])


class BlockCost:
    """The cost of networks with some blocks dropped, by their decisions; only for those on a grid.

    Args:
        cost: The cost by widths, a sum over layers.
        blocks: The blocks that may be dropped.
        choices: Allowed values of all decisions, ascending.
    """

    def __init__(
        self, cost: LayerCost, blocks: BlockChoices, choices: tuple[Integers, ...]
    ) -> None:
        self.name, self.unit = cost.name, cost.unit
        self._cost, self._blocks, self._choices = cost, blocks, choices
        self._grids = self.addends(choices)

    def of(self, decisions: Integers) -> Floats:
        """Costs, shape (n,), of networks of shape (n, decisions).

        Raises:
            UsageError: A decision is not among the choices.
        """
        rows = np.asarray(decisions)
        places = []
        for number, grid in enumerate(self._choices):
            place = np.searchsorted(grid, rows[:, number]).clip(max=len(grid) - 1)
            if (grid[place] != rows[:, number]).any():
                raise UsageError(
                    f"decision {number} is none of {grid.tolist()}; costs of networks with dropped"
                    " blocks are known on the grid of a search alone"
                )
            places.append(place)
        sums = np.zeros(len(rows))
        for numbers, costs in self._grids.items():
            sums += costs[tuple(places[number] for number in numbers)]
        return self.whole(sums)

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """Costs of layers, gathered by the decisions they depend on."""
        addends: dict[tuple[int, ...], Floats] = {}
        layers = self._cost.layer_addends(choices[: self._blocks.groups])
        for layer, (groups, grid) in layers.items():
            hosts = self._blocks.layer_hosts[layer]
            numbers = (*groups, *hosts)
            check_size(numbers, choices)
            kept = [choices[host] for host in hosts]
            costs = where_kept(grid, kept, otherwise=self._cost.absent)
            addends[numbers] = addends.get(numbers, 0.0) + costs
        return addends

    def whole(self, sums: Floats) -> Floats:
        """Costs of networks whose addends sum to `sums`."""
        return self._cost.whole(sums)


def where_kept(grid: Floats, kept: Sequence[Integers], *, otherwise: float = 0.0) -> Floats:
    """A grid with one more axis for each block that it depends on.

    Args:
        grid: Values where all these blocks stay.
        kept: Allowed decisions on each block.
        otherwise: The value where one of them is dropped.
    """
    all_kept = np.ones((), bool)
    for decisions in kept:
        all_kept = np.logical_and.outer(all_kept, decisions == KEPT)
    return np.where(all_kept, grid[(..., *[None] * len(kept))], otherwise)


def find_boundable(
    structure: Structure, names: Iterable[str], choices: Sequence[Integers]
) -> list[str]:
    """Those blocks in whose layers not too many groups meet for the exact bound.

    Args:
        structure: Of the network.
        names: Of blocks.
        choices: Allowed widths of every group.
    """
    boundable = []
    nodes = {block.name: set(block.nodes) for block in structure.blocks}
    for name in names:
        groups: set[int] = set()
        for slot in structure.slots:
            if slot.layer.name in nodes[name]:
                groups.update(slot.groups)
        points = 2.0
        for group in groups:
            points *= len(choices[group])
        if points <= LARGEST_GRID:
            boundable.append(name)
    return boundable
