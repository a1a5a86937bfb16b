"""Blocks as decisions beside widths: allocations against the truth found by trying everything,
costs against those of the networks themselves.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import UsageError
from hwbench.lookup_tables.structure_latency import StructureLatency
from hwbench.network.prunable import PrunableNetwork
from hwbench.search import costs
from hwbench.search.base import Candidate
from hwbench.search.block_choices import (
    DROPPED,
    KEPT,
    BlockChoices,
    BlockCost,
    find_boundable,
)
from hwbench.search.budget import Budget, channel_choices
from hwbench.search.knapsack.allocation import Allocator
from hwbench.search.objective import Prices
from tests.support import table_support

WIDTHS = (np.array([4, 8, 16]), np.array([8, 16, 24]), np.array([4, 8]), np.array([8, 16]))
BLOCKS = BlockChoices(
    ("outer", "inner", "last"),
    hosts=((), (4,), (4, 5), (6,), (), (4,), ()),
    layer_hosts=((), (4,), (4,), (4, 5), (6,), (6,)),
)
"""A block inside another one, and one behind it."""
LAYERS = ((0,), (0, 1), (1,), (1, 2), (0, 3), (0, 3))
"""Groups that each layer depends on."""
CHOICES = BLOCKS.extend(WIDTHS)
WHOLE = tuple(int(grid[-1]) for grid in CHOICES)


class LayerGrids:
    """Random costs of layers; a layer that is left out takes less than nothing from the sum."""

    name, unit = "latency", "s"

    def __init__(self, seed: int, absent: float) -> None:
        random = np.random.default_rng(seed)
        self.absent = absent
        self.grids = [
            random.uniform(0.1, 1, [len(WIDTHS[group]) for group in groups]) for groups in LAYERS
        ]

    def layer_addends(self, choices):
        layers = {}
        for layer, groups in enumerate(LAYERS):
            places = [np.searchsorted(WIDTHS[group], choices[group]) for group in groups]
            layers[layer] = groups, self.grids[layer][np.ix_(*places)]
        return layers

    def whole(self, sums):
        return np.asarray(sums) ** 3 + 1

    def cost(self, decisions) -> float:
        """The cost of one network, layer by layer."""
        total = 0.0
        for layer, groups in enumerate(LAYERS):
            if any(decisions[host] == DROPPED for host in BLOCKS.layer_hosts[layer]):
                total += self.absent
                continue
            places = [int(np.searchsorted(WIDTHS[one], decisions[one])) for one in groups]
            total += float(self.grids[layer][tuple(places)])
        return float(self.whole(total))


def draw_losses(random):
    """Losses of groups, of blocks, and of pairs; none inside of what is dropped."""
    losses = {}
    for decision, grid in enumerate(CHOICES):
        numbers, addend = BLOCKS.own_addend(decision, random.normal(size=len(grid)), CHOICES)
        losses[numbers] = losses.get(numbers, 0.0) + addend
    losses[0, 6] = random.normal(size=(len(CHOICES[0]), 2))
    return losses


def loss_of(losses, decisions) -> float:
    places = [int(np.searchsorted(grid, one)) for grid, one in zip(CHOICES, decisions, strict=True)]
    return sum(float(grid[tuple(places[d] for d in numbers)]) for numbers, grid in losses.items())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0.0, 1.0),
    absent=st.sampled_from([0.0, -0.05]),
)
def test_an_allocation_with_blocks_is_the_best_of_all_networks_within_the_limit(
    seed, share, absent
):
    layers = LayerGrids(seed, absent)
    networks = list(itertools.product(*(map(int, grid) for grid in CHOICES)))
    truth = np.array([layers.cost(decisions) for decisions in networks])
    limit = float(np.quantile(truth, share))
    cost = BlockCost(layers, BLOCKS, CHOICES)
    assert cost.of(np.array(networks)) == pytest.approx(truth)
    losses = draw_losses(np.random.default_rng(seed))
    budget = Budget(cost, limit, CHOICES)
    allocation = Allocator(budget).allocate(losses)
    within = [
        decisions
        for decisions, one in zip(networks, truth, strict=True)
        if one <= limit * (1 + 1e-9)
    ]
    assert allocation.is_proved
    assert budget.fits(allocation.widths)
    assert allocation.loss == pytest.approx(loss_of(losses, allocation.widths))
    assert allocation.loss == pytest.approx(min(loss_of(losses, one) for one in within))
    settled = BLOCKS.settle(allocation.widths, WHOLE)
    assert loss_of(losses, settled) == pytest.approx(allocation.loss)
    assert layers.cost(settled) == pytest.approx(layers.cost(allocation.widths))


def test_what_lies_in_a_dropped_block_is_as_in_the_original():
    narrow = (4, 8, 4, 8, DROPPED, DROPPED, KEPT)
    assert BLOCKS.settle(narrow, WHOLE) == (4, 24, 8, 8, DROPPED, KEPT, KEPT)
    assert BLOCKS.split(BLOCKS.settle(narrow, WHOLE)) == ((4, 24, 8, 8), ("outer",))
    assert BLOCKS.join((4, 24, 8, 8), ["outer"]) == BLOCKS.settle(narrow, WHOLE)


def test_costs_off_the_grid_are_refused():
    cost = BlockCost(LayerGrids(0, 0.0), BLOCKS, CHOICES)
    with pytest.raises(UsageError, match=r"decision 1 is none of \[8, 16, 24\]"):
        cost.of(np.array([[4, 9, 4, 8, 1, 1, 1]]))


@pytest.fixture(scope="module")
def resnet():
    """ResNet-20, its blocks, and all widths that are multiples of 4."""
    structure = table_support.structure()
    blocks = BlockChoices.of(structure, [block.name for block in structure.blocks])
    return structure, blocks, blocks.extend(channel_choices(structure.widths, 4))


def random_networks(choices, count=15):
    random = np.random.default_rng(1)
    return [tuple(int(random.choice(grid)) for grid in choices) for _ in range(count)]


def test_only_what_lies_in_a_block_alone_goes_with_it(resnet):
    structure, blocks, _ = resnet
    for group, hosts in zip(structure.groups, blocks.hosts, strict=False):
        inside = [name for name in blocks.names if group.name.startswith(f"{name}.")]
        assert [blocks.names[host - blocks.groups] for host in hosts] == inside
    assert sum(map(len, blocks.hosts)) == len(blocks.names) == 7


@pytest.mark.parametrize("kind", ["macs", "params", "size"])
def test_counted_costs_are_those_of_the_networks(resnet, kind):
    structure, blocks, choices = resnet
    cost = BlockCost(getattr(costs, kind)(structure), blocks, choices)
    prices = Prices(structure)
    for decisions in random_networks(choices):
        widths, dropped = blocks.split(decisions)
        outcome = prices.outcome(Candidate(0, widths, dropped), 1.0)
        told = {"macs": outcome.macs, "params": outcome.params, "size": outcome.size_bytes}[kind]
        assert cost.of(np.array([decisions]))[0] == pytest.approx(told)


def test_no_latency_is_told_below_that_of_the_table(resnet):
    """It is the table's to 1 %: a sum over layers cannot know what a smaller number of them does."""
    structure, blocks, choices = resnet
    table = table_support.built(quiet=True).table
    assert table.calibration.per_layer_s > 0
    cost = BlockCost(costs.Latency(StructureLatency(table, structure, 4)), blocks, choices)
    for decisions in random_networks(choices):
        widths, dropped = blocks.split(decisions)
        told_s = table.predict(structure.keys(widths, dropped)).latency_s
        assert told_s * (1 - 1e-9) <= cost.of(np.array([decisions]))[0] <= 1.01 * told_s


def test_without_some_blocks_and_narrower_a_network_has_the_layers_that_were_foretold(resnet):
    structure, blocks, choices = resnet
    network = PrunableNetwork(table_support.workload())
    for decisions in random_networks(choices, 3):
        widths, dropped = blocks.split(decisions)
        assert network.keys_of(widths, dropped) == structure.keys(widths, dropped)
    with pytest.raises(UsageError, match="no block that can be left out"):
        structure.keys(structure.widths, ["layer9"])


def test_blocks_in_which_too_many_groups_meet_are_not_offered(resnet):
    structure, blocks, choices = resnet
    assert find_boundable(structure, blocks.names, choices[: blocks.groups]) == list(blocks.names)
    endless = [np.arange(3_000_000)] * blocks.groups
    assert find_boundable(structure, blocks.names, endless) == []
