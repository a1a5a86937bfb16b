"""The budget: the bound on single decisions against the truth found by trying everything, grids,
and limits out of reach.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import UsageError
from hwbench.lookup_tables.structure_latency import StructureLatency
from hwbench.network.graph import count
from hwbench.network.prunable import PrunableNetwork
from hwbench.search import costs
from hwbench.search.base import Candidate
from hwbench.search.baselines import Policy
from hwbench.search.budget import Budget, channel_choices, paying_widths
from hwbench.search.objective import Prices
from tests.support import table_support
from tests.support.search_support import CHOICES, GridCost
from tests.support.search_support import budget as share_of


def brute(cost, decided):
    """Least cost of all structures that begin with `decided`, by the width that follows."""
    found = {}
    for widths in cost.everything():
        if widths[: len(decided)] == tuple(decided):
            value = float(cost.of(np.array([widths]))[0])
            found[widths[len(decided)]] = min(found.get(widths[len(decided)], np.inf), value)
    return [found[int(width)] for width in CHOICES[len(decided)]]


@pytest.mark.parametrize("seed", range(4))
def test_bound_is_the_true_minimum_after_any_decisions(seed):
    cost = GridCost(CHOICES, seed)
    budget = Budget(cost, np.inf, CHOICES)
    for length in range(len(CHOICES)):
        for decided in itertools.product(*(map(int, grid) for grid in CHOICES[:length])):
            assert budget.totals(decided) == pytest.approx(brute(cost, decided), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_widest_reachable_width_not_above_the_wish_else_the_cheapest(seed):
    cost = GridCost(CHOICES, seed)
    every = sorted(float(cost.of(np.array([widths]))[0]) for widths in cost.everything())
    budget = Budget(cost, every[len(every) // 10], CHOICES)
    for decided in ([], [4], [16, 32]):
        totals = np.array(brute(cost, decided))
        choices = CHOICES[len(decided)]
        reachable = totals <= budget.limit * (1 + 1e-9)
        if not reachable.any():
            with pytest.raises(UsageError, match="leave latency of at least"):
                budget.bounded(decided, 100)
            continue
        for wish in (1, 9, 100):
            wished = [
                int(w) for w, fine in zip(choices, reachable, strict=True) if fine and w <= wish
            ]
            expected = max(wished) if wished else int(choices[totals.argmin()])
            assert budget.bounded(decided, wish) == expected


@pytest.mark.parametrize("wish", [0, 7, 13, 100])
def test_any_walk_within_a_reachable_budget_ends_within_it(wish):
    cost = GridCost(CHOICES, 7)
    budget = Budget(cost, Budget(cost, np.inf, CHOICES).least[0] * 1.05, CHOICES)
    decided = []
    for _ in CHOICES:
        decided.append(budget.bounded(decided, wish))
    assert budget.fits(decided)


def test_least_is_the_global_minimum_and_named_when_out_of_reach():
    cost = GridCost(CHOICES, 1)
    least = min(float(cost.of(np.array([widths]))[0]) for widths in cost.everything())
    budget = Budget(cost, np.inf, CHOICES)
    assert budget.least[0] == pytest.approx(least)
    assert float(cost.of(np.array([budget.least[1]]))[0]) == pytest.approx(least)
    with pytest.raises(
        UsageError, match=f"cannot be reached: the least on this grid is {least:.4g} s"
    ):
        Budget(cost, least * 0.99, CHOICES)
    with pytest.raises(UsageError, match="positive"):
        Budget(cost, 0.0, CHOICES)


def test_finer_grid_is_tried_before_a_budget_is_refused():
    cost = GridCost(CHOICES, 1)
    coarse = tuple(grid[-1:] for grid in CHOICES)
    least = Budget(cost, np.inf, CHOICES).least[0]
    assert [len(grid) for grid in Budget(cost, least * 1.01, coarse, CHOICES).choices] == [
        3,
        4,
        2,
        3,
    ]
    assert [len(grid) for grid in Budget(cost, 1e9, coarse, CHOICES).choices] == [1, 1, 1, 1]


def test_widths_that_the_table_does_not_know_are_not_offered():
    cost = GridCost(CHOICES, 1)
    for groups in ((0,), (0, 1), (0, 3)):
        cost.grids[groups][0] = np.inf
    assert [grid.tolist() for grid in Budget(cost, 1e9, CHOICES).choices][:2] == [
        [8, 16],
        [8, 16, 24, 32],
    ]


def test_channel_choices_keep_to_the_step_where_it_is_not_too_coarse():
    narrow, wide, odd, tiny = channel_choices((16, 64, 70, 3), 16, 0.2)
    assert narrow.tolist() == [4, 8, 12, 16]
    assert wide.tolist() == [16, 32, 48, 64]
    assert odd.tolist() == [16, 32, 48, 64, 70]
    assert tiny.tolist() == [3]
    assert channel_choices((100,), 8, 0.2)[0][0] == 24  # a fifth is 20, rounded up to the step


def test_costs_are_those_of_the_pruned_graph():
    structure, random = table_support.structure(), np.random.default_rng(3)
    graph = PrunableNetwork(table_support.workload()).graph
    prices = Prices(structure)
    for _ in range(3):
        widths = tuple(int(random.integers(1, width + 1)) for width in structure.widths)
        counts, outcome = (
            count(graph.with_widths(widths)),
            prices.outcome(Candidate(0, widths), 1.0),
        )
        assert (outcome.macs, outcome.params, outcome.size_bytes) == (
            counts.macs,
            counts.params,
            4 * counts.params,
        )
        assert float(costs.macs(structure).of(np.array([widths]))[0]) == pytest.approx(counts.macs)


@pytest.mark.parametrize("kind", [costs.macs, costs.params, costs.size])
def test_addends_sum_to_the_cost(kind):
    structure = table_support.structure()
    cost, choices = kind(structure), channel_choices(structure.widths, 4)
    bound = Budget(cost, np.inf, choices)
    decided = [int(grid[len(grid) // 2]) for grid in choices]
    last = bound.totals(decided[:-1])[len(choices[-1]) // 2]
    assert last == pytest.approx(float(cost.of(np.array([decided]))[0]))


def test_latency_addends_sum_to_what_the_table_predicts():
    structure = table_support.structure()
    source = StructureLatency(table_support.built().table, structure, 4)
    budget = Budget(costs.Latency(source), np.inf, channel_choices(structure.widths, 4, 0.25))
    decided = [int(grid[0]) for grid in budget.choices]
    predicted = float(source.predict_widths(np.array([decided]))[0])
    assert budget.totals(decided[:-1])[0] == pytest.approx(predicted, rel=1e-12)


def test_grids_beyond_memory_are_refused():
    choices = [np.arange(1, 200)] * 4
    with pytest.raises(UsageError, match="abcpruner"):
        costs.check_size((0, 1, 2, 3), choices)


@pytest.mark.parametrize("policy", ["uniform", "shallow", "deep"])
def test_policies_use_their_budget_up_and_keep_their_shape(policy):
    tight = share_of(0.5)
    widths = np.array(Policy(tight, policy).propose()[0].widths)
    assert 0.8 < float(tight.cost.of(widths[None])[0]) / tight.limit <= 1
    shares = widths / np.array([grid[-1] for grid in tight.choices])
    trend = np.polyfit(np.linspace(0, 1, len(shares)), shares, 1)[0]
    assert {"uniform": abs(trend) < 0.25, "shallow": trend > 0.3, "deep": trend < -0.3}[policy], (
        widths,
        trend,
    )


class Stepped(GridCost):
    """A device that works on 16 channels at a time, and is slow at what is left over."""

    def __init__(self, choices) -> None:
        super().__init__(choices, 0)
        counts = [np.ceil(grid / 16) + 0.1 * (grid % 16 > 0) for grid in choices]
        self.grids = {(0, 1): np.add.outer(counts[0], counts[1]), (): np.array(1.0)}
        self.grids[0, 1][0, :] -= 0.4  # but 4 channels of the first group pay


def test_widths_off_the_step_are_proposed_only_where_they_pay():
    choices = (np.array([4, 12, 16, 20, 32]), np.array([4, 8, 16, 24, 28]))
    cost = Stepped(choices)
    first, second = paying_widths(cost, choices, [16, 16])
    assert first.tolist() == [4, 16, 32]
    assert second.tolist() == [16, 28]
    every = paying_widths(cost, choices, [4, 4])
    assert [grid.tolist() for grid in every] == [grid.tolist() for grid in choices]


def test_where_costs_are_no_sums_all_widths_stay():
    class Live(GridCost):
        def addends(self, choices):
            raise UsageError("a live device answers whole networks only")

    assert paying_widths(Live(CHOICES, 0), CHOICES, [16] * 4) is CHOICES


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 1.0))
def test_no_group_can_be_widened_further_where_all_were(seed, share):
    cost = GridCost(CHOICES, seed)
    networks = np.array(list(cost.everything()))
    costs = cost.of(networks)
    budget = Budget(cost, float(np.quantile(costs, share)), CHOICES)
    widths = budget.least[1]
    widened = budget.widen(widths, [3, 1, 0, 2])
    assert budget.fits(widened)
    assert all(wide >= narrow for wide, narrow in zip(widened, widths, strict=True))
    first = [int(width) for width in CHOICES[3] if budget.fits((*widths[:3], int(width)))]
    assert widened[3] == max(first)
