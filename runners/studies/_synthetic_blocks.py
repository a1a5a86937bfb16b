"""A residual network that exists as numbers only, whose best version with blocks dropped is known.

Stages of residual blocks share a stream of channels each; every block has channels of its own
inside, and all blocks but the first of a stage can be dropped. Latencies are in steps of 16
channels, for what a layer reads and writes. What a network loses is a sum over groups, each a power
of what is cut, over dropped blocks, and over what makes each other's cuts worse or better: a stream
and the channels inside its blocks, a stream and its dropped blocks, streams that follow each other,
and dropped blocks that follow each other. What is inside a dropped block loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.errors import MeasurementError, UsageError
from hwbench.search.block_choices import DROPPED, BlockChoices, BlockCost, where_kept
from hwbench.search.budget import Budget
from hwbench.search.costs import Addends, Cost, Floats, Integers, LayerAddends, gather
from hwbench.search.knapsack.allocation import Allocator
from runners.studies._synthetic import POINTS

STREAMS = ((16, 24, 32), (32, 48, 64), (64, 96, 128))
"""Channels that the stream of each stage may have."""
BLOCKS = 4
"""Blocks of a stage; the first cannot be dropped."""
SPREAD = 0.3
"""Standard deviation of interactions, as a share of what a group loses that is cut off."""
IMAGE, CLASSES = 3, 10
"""Channels that the first layer reads and the last one writes."""


class SyntheticResidual:
    """One such network, drawn at random; it is its own cost by widths.

    Args:
        seed: What it is drawn by.
        dearness: How much dropped blocks lose; where it is 1, about as much as cut-off groups.
    """

    name, unit = "latency", "s"
    absent = 0.0

    def __init__(self, seed: int, dearness: float = 1.0) -> None:
        self._random = random = np.random.default_rng(seed)
        widths: list[int] = []
        layers: list[tuple[int | None, int | None]] = []
        names: list[str | None] = []  # by layer: the droppable block it lies in
        self._streams: list[int] = []
        self._droppable: list[tuple[int, int]] = []  # by block: the groups of stream and inside
        for stage, options in enumerate(STREAMS):
            before = self._streams[-1] if self._streams else None
            stream = len(widths)
            self._streams.append(stream)
            widths.append(int(random.choice(options)))
            layers.append((before, stream))
            names.append(None)
            for block in range(BLOCKS):
                inside = len(widths)
                widths.append(int(widths[stream] * random.choice([0.5, 1.0, 2.0])))
                layers += [(stream, inside), (inside, stream)]
                names += [f"stage{stage}.{block}" if block else None] * 2
                if block:
                    self._droppable.append((stream, inside))
        layers.append((self._streams[-1], None))
        names.append(None)
        self.widths, self._layers = tuple(widths), layers
        self.choices = tuple(_choices_of(width) for width in widths)
        self.blocks = self._choose_blocks(names)
        self._area = np.sort(random.uniform(0.2, 1, len(layers)))[::-1]
        self._losses = self._draw_losses(dearness)

    @property
    def whole_network(self) -> tuple[int, ...]:
        """Decisions of the original."""
        return self.blocks.join(self.widths, ())

    def layer_addends(self, choices: Sequence[Integers]) -> LayerAddends:
        """Latencies of single layers, by the groups that they read and write."""
        addends = {}
        for layer, ((reads, writes), area) in enumerate(zip(self._layers, self._area, strict=True)):
            inputs = np.array([IMAGE]) if reads is None else choices[reads]
            outputs = np.array([CLASSES]) if writes is None else choices[writes]
            steps = np.outer(np.ceil(inputs / 16) * 16, np.ceil(outputs / 16) * 16)
            grid = area * (steps + 10 * np.add.outer(inputs, outputs) + 300)
            if reads is not None and writes is not None and reads > writes:
                grid = grid.T
            groups = sorted(group for group in (reads, writes) if group is not None)
            shape = [len(choices[group]) for group in groups]
            addends[layer] = tuple(groups), grid.reshape(shape)
        return addends

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """Latencies of layers, gathered by the groups they depend on."""
        return gather(self.layer_addends(choices))

    def whole(self, sums: Floats) -> Floats:
        """The sums themselves."""
        return sums

    def of(self, widths: Integers) -> Floats:
        """Latencies of networks with all blocks, shape (n,)."""
        kept = np.ones((len(widths), len(self.blocks.names)), np.int64)
        return self._cost().of(np.concatenate([widths, kept], axis=1))

    def budget(self, share: float, *, blocks: bool) -> Budget:
        """A limit at a share of the whole network's latency.

        Args:
            share: That share.
            blocks: Whether the decisions on blocks are to choose from; else all blocks stay.
        """
        cost = self._cost()
        limit = share * float(cost.of(np.array([self.whole_network]))[0])
        choices = self.blocks.extend(self.choices)
        return Budget(cost, limit, choices if blocks else self.blocks.keep_all(choices))

    def quality(self, decisions: Sequence[int]) -> float:
        """What a network is worth, from 0 to 1; the whole one 0.94."""
        choices = self.blocks.extend(self.choices)
        pairs = zip(choices, decisions, strict=True)
        places = [int(np.searchsorted(grid, chosen)) for grid, chosen in pairs]
        loss = 0.0
        for numbers, grid in self._losses.items():
            loss += float(grid[tuple(places[number] for number in numbers)])
        return min(max(0.94 - loss / 100, 0.0), 1.0)

    def best_quality(self, budget: Budget) -> float:
        """The quality of the best network within a budget, which is proved to be the best.

        Decisions are taken in another order than by a search: those on blocks beside the widths
        inside, so that dropped blocks may interact and the bound stays small.
        """
        order: list[int] = []
        flags = {inside: number for number, (_, inside) in enumerate(self._droppable)}
        for group in range(len(self.widths)):
            order.append(group)
            if group in flags:
                order.append(len(self.widths) + flags[group])
        reordered = _Reordered(budget.cost, order)
        choices = tuple(budget.choices[decision] for decision in order)
        losses = reordered.reorder(_at(self._losses, self.blocks.extend(self.choices), budget))
        allocator = Allocator(Budget(reordered, budget.limit, choices))
        allocation = allocator.allocate(losses, nodes=300_000)
        if not allocation.is_proved:
            raise MeasurementError("the best network was not found for certain; look at more nodes")
        decisions = dict(zip(order, allocation.widths, strict=True))
        return self.quality([decisions[number] for number in range(len(order))])

    def _cost(self) -> BlockCost:
        return BlockCost(self, self.blocks, self.blocks.extend(self.choices))

    def _choose_blocks(self, names: Sequence[str | None]) -> BlockChoices:
        """The decisions on blocks, and what lies in which."""
        groups = len(self.widths)
        flags = {name: groups + place for place, name in enumerate(_unique(names))}
        hosts: list[tuple[int, ...]] = [()] * (groups + len(flags))
        for place, (_, inside) in enumerate(self._droppable):
            hosts[inside] = (groups + place,)
        layer_hosts = tuple(() if name is None else (flags[name],) for name in names)
        return BlockChoices(tuple(flags), tuple(hosts), layer_hosts)

    def _draw_losses(self, dearness: float) -> Addends:
        """What is lost, in percentage points, by the decisions it depends on."""
        random, choices = self._random, self.blocks.extend(self.choices)
        groups = len(self.widths)
        cuts = [1 - grid / grid[-1] for grid in self.choices]
        losses: dict[tuple[int, ...], Floats] = {}
        for group, cut in enumerate(cuts):
            own = POINTS * random.gamma(1.0) * cut ** random.uniform(1, 3)
            numbers, grid = self.blocks.own_addend(group, own, choices)
            losses[numbers] = grid
        for place, (stream, inside) in enumerate(self._droppable):
            flag = groups + place
            both = POINTS * random.normal(0, SPREAD) * np.outer(cuts[stream], cuts[inside])
            losses[stream, inside, flag] = where_kept(both, [choices[flag]])
            gone = (choices[flag] == DROPPED).astype(np.float64)
            losses[flag,] = POINTS * dearness * random.gamma(1.0) * gone
            losses[stream, flag] = POINTS * random.normal(0, SPREAD) * np.outer(cuts[stream], gone)
            if place and self._droppable[place - 1][0] == stream:
                pair = POINTS * dearness * random.normal(0, SPREAD) * np.outer(gone, gone)
                losses[flag - 1, flag] = pair
        for stream, following in zip(self._streams, self._streams[1:], strict=False):
            both = POINTS * random.normal(0, SPREAD) * np.outer(cuts[stream], cuts[following])
            losses[stream, following] = both
        return losses


class _Reordered:
    """A cost whose decisions are taken in another order.

    Args:
        cost: The cost.
        order: Its decisions, in that order.
    """

    def __init__(self, cost: Cost, order: Sequence[int]) -> None:
        self.name, self.unit = cost.name, cost.unit
        self._cost = cost
        self._place = {decision: place for place, decision in enumerate(order)}

    def of(self, widths: Integers) -> Floats:
        """Not needed: only sums over addends are minimised."""
        raise UsageError(f"the costs of {len(widths)} networks in another order were asked for")

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """Those of the cost, by decisions in this order."""
        own = [choices[self._place[decision]] for decision in range(len(choices))]
        return self.reorder(self._cost.addends(own))

    def whole(self, sums: Floats) -> Floats:
        """As of the cost."""
        return self._cost.whole(sums)

    def reorder(self, addends: Addends) -> Addends:
        """Addends by decisions in this order."""
        reordered = {}
        for decisions, grid in addends.items():
            places = [self._place[decision] for decision in decisions]
            axes = np.argsort(places)
            reordered[tuple(sorted(places))] = np.transpose(grid, axes)
        return reordered


def _choices_of(width: int) -> Integers:
    """Widths to choose from."""
    step = 4 if width < 32 else 8
    return np.unique(np.append(np.arange(step, width, step), width))


def _unique(names: Sequence[str | None]) -> list[str]:
    """The names, each once."""
    return list(dict.fromkeys(name for name in names if name is not None))


def _at(addends: Addends, choices: Sequence[Integers], budget: Budget) -> Addends:
    """Addends at the choices of a budget, which may be fewer."""
    places = [np.searchsorted(grid, own) for grid, own in zip(choices, budget.choices, strict=True)]
    chosen = {}
    for numbers, grid in addends.items():
        chosen[numbers] = grid[np.ix_(*(places[number] for number in numbers))]
    return chosen
