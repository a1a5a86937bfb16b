"""Knapsack: allocations against the truth found by trying everything, what the model of losses
learns, and a synthetic problem whose best network is known.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import UsageError
from hwbench.search.base import Outcome, Trial
from hwbench.search.baselines import POLICIES, uniform
from hwbench.search.budget import Budget
from hwbench.search.knapsack.allocation import Allocator
from hwbench.search.knapsack.search import Knapsack
from hwbench.search.knapsack.sensitivity import Knots, LossModel
from runners.studies._synthetic import SyntheticNetwork
from runners.studies._synthetic_blocks import SyntheticResidual
from tests.support.search_support import CHOICES, GridCost


def random_losses(random):
    losses = {(group,): random.normal(size=len(grid)) for group, grid in enumerate(CHOICES)}
    losses[0, 1] = random.normal(size=(len(CHOICES[0]), len(CHOICES[1])))
    return losses


def loss_of(losses, widths):
    places = [
        int(np.searchsorted(grid, width)) for grid, width in zip(CHOICES, widths, strict=True)
    ]
    return sum(float(grid[tuple(places[g] for g in groups)]) for groups, grid in losses.items())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_an_allocation_is_the_best_of_all_networks_within_the_limit(seed, share):
    cost = GridCost(CHOICES, seed)
    networks = np.array(list(cost.everything()))
    costs = cost.of(networks)
    limit = float(np.quantile(costs, share))
    losses = random_losses(np.random.default_rng(seed))
    budget = Budget(cost, limit, CHOICES)
    allocation = Allocator(budget).allocate(losses)
    within = networks[costs <= limit * (1 + 1e-9)]
    assert budget.fits(allocation.widths)
    assert allocation.is_proved
    assert allocation.loss == pytest.approx(loss_of(losses, allocation.widths))
    assert allocation.loss == pytest.approx(min(loss_of(losses, widths) for widths in within))


def test_the_gap_bounds_what_an_unproved_allocation_may_miss():
    problem = SyntheticNetwork(0)
    losses = problem.losses()
    allocator = Allocator(problem.budget(0.5))
    proved = allocator.allocate(losses, nodes=20_000)
    hasty = allocator.allocate(losses, nodes=3)
    assert proved.is_proved
    assert not hasty.is_proved
    assert hasty.loss - hasty.gap <= proved.loss <= hasty.loss


def test_widths_whose_cost_is_unknown_are_never_allocated():
    cost = GridCost(CHOICES, 1)
    cost.grids[0, 1][0, 0] = np.inf
    losses = {(0,): np.array([-100.0, 0.0, 0.0]), (1,): np.array([-100.0, 0.0, 0.0, 0.0])}
    limit = float(cost.of(np.array([[grid[-1] for grid in CHOICES]]))[0])
    widths = Allocator(Budget(cost, limit, CHOICES)).allocate(losses).widths
    assert (widths[0] == CHOICES[0][0]) != (widths[1] == CHOICES[1][0])


def test_a_cost_that_is_no_sum_is_refused():
    class Live(GridCost):
        def addends(self, choices):
            raise UsageError("a live device answers whole networks only")

    cost = Live(CHOICES, 0)
    with pytest.raises(UsageError, match="live device"):
        Knapsack(Budget(cost, 1e9, CHOICES))


def test_losses_are_measured_from_the_narrowest_width_up():
    knots = Knots.spread((np.array([4, 8, 12, 16]), np.array([8])), 2)
    assert knots.places == ((0, 2), ())
    assert knots.weights(0).tolist() == [[1, 0], [0.5, 0.5], [0, 1], [0, 0]]


def test_whole_networks_correct_what_single_groups_said():
    choices = (np.array([4, 8, 16]), np.array([4, 8, 16]))
    knots = Knots.spread(choices, 2)
    same = dict.fromkeys(knots.pairs, 0.1)
    model = LossModel(knots, same)
    assert model.expected()[0,].tolist() == pytest.approx([0.1, 0.1, 0.0])
    # With the second group narrow the network loses twice what its groups do, with the first one
    # narrow only half.
    model.learn([(16, 4), (4, 16)] * 4, [0.2, 0.05] * 4)
    learnt = model.expected()
    assert learnt[1,][0] > 0.1 > learnt[0,][0]


def test_a_group_that_failed_is_taken_for_like_the_others():
    knots = Knots.spread((np.array([4, 16]), np.array([8, 32])), 1)
    assert LossModel(knots, {(0, 0): 0.3}).expected()[1,].tolist() == pytest.approx([0.3, 0.0])


def drive(search, quality):
    while not search.finished:
        trials = []
        for candidate in search.propose():
            outcome = Outcome(quality(candidate.widths), None, 1, 1, 1)
            trials.append(Trial(candidate, outcome))
        search.observe(trials)
    return search


@pytest.fixture(scope="module")
def searched():
    """A problem of 15 groups that interact and latencies in steps, its budget, and a search."""
    problem = SyntheticNetwork(3)
    budget = problem.budget(0.5)
    return problem, budget, drive(Knapsack(budget, trials=120, seed=3), problem.quality)


@pytest.mark.slow
def test_the_best_network_is_nearly_reached_where_it_is_known(searched):
    """120 of some 10^15 networks are tried."""
    problem, budget, search = searched
    best = problem.best_quality(budget)
    assert len(search.trials) == 120
    assert best - 0.015 <= search.best().outcome.quality <= best
    assert problem.quality(uniform(budget)) < search.best().outcome.quality - 0.05


def drive_with_blocks(problem, budget, **more):
    search = Knapsack(budget, blocks=problem.blocks, **more)
    while not search.finished:
        trials = []
        for candidate in search.propose():
            decisions = problem.blocks.join(candidate.widths, candidate.dropped)
            outcome = Outcome(problem.quality(decisions), None, 1, 1, 1)
            trials.append(Trial(candidate, outcome))
        search.observe(trials)
    return search


@pytest.fixture(scope="module")
def residual():
    """A problem of 15 groups and 9 blocks that may be dropped, its budget, and a search."""
    problem = SyntheticResidual(1)
    budget = problem.budget(0.5, blocks=True)
    return problem, budget, drive_with_blocks(problem, budget, trials=100, seed=1)


@pytest.mark.slow
def test_the_best_network_without_some_blocks_is_nearly_reached(residual):
    problem, budget, search = residual
    best = problem.best_quality(budget)
    assert problem.best_quality(problem.budget(0.5, blocks=False)) <= best
    assert best - 0.015 <= search.best().outcome.quality <= best


@pytest.mark.slow
def test_sensitivities_of_blocks_are_measured_with_those_of_groups(residual):
    problem, _, search = residual
    alone = [trial.candidate for trial in search.trials if "of a block" in trial.candidate.note]
    assert [candidate.dropped for candidate in alone] == [(name,) for name in problem.blocks.names]
    assert {candidate.widths for candidate in alone} == {problem.widths}
    batch = [trial.candidate.note for trial in search.trials].index("sensitivity")
    last = search.trials.index(next(t for t in search.trials if t.candidate is alone[-1]))
    notes = {trial.candidate.note for trial in search.trials[batch : last + 1]}
    assert notes == {"sensitivity", "sensitivity of a block"}


@pytest.mark.slow
def test_allocations_drop_blocks_and_narrow_groups_and_keep_to_the_budget(residual):
    problem, budget, search = residual
    networks = [trial.candidate for trial in search.trials if "alloc" in trial.candidate.note]
    assert any(candidate.dropped for candidate in networks)
    assert all(candidate.widths != problem.widths for candidate in networks)
    for candidate in networks:
        decisions = problem.blocks.join(candidate.widths, candidate.dropped)
        assert budget.fits(decisions)
        assert decisions == problem.blocks.settle(decisions, problem.whole_network)
    tried = [(trial.candidate.widths, trial.candidate.dropped) for trial in search.trials]
    assert len(set(tried)) == len(tried)


def test_budgets_that_only_dropped_blocks_reach_are_searched():
    problem = SyntheticResidual(0)
    least, _ = problem.budget(0.9, blocks=False).least
    whole = float(problem.of(np.array([problem.widths]))[0])
    share = 0.95 * least / whole
    with pytest.raises(UsageError, match="cannot be reached"):
        problem.budget(share, blocks=False)
    budget = problem.budget(share, blocks=True)
    search = drive_with_blocks(problem, budget, trials=12)
    assert search.trials[0].candidate.note == "unpruned"
    assert search.best().candidate.dropped


def test_policies_come_first_then_sensitivities_at_once_then_allocations(searched):
    _, _, search = searched
    notes = [trial.candidate.note for trial in search.trials]
    assert notes[:4] == [*POLICIES, "unpruned"]
    measured = 4 + notes.count("sensitivity")
    assert set(notes[4:measured]) == {"sensitivity"}
    assert 35 <= measured <= 64
    assert set(notes[measured:]) == {"allocation", "sampled allocation"}
    networks = [trial.candidate.widths for trial in search.trials]
    assert len(set(networks)) == len(networks)


def test_allocations_use_the_budget_up(searched):
    problem, budget, search = searched
    for trial in search.trials:
        if "allocation" in trial.candidate.note:
            cost = float(problem.of(np.array([trial.candidate.widths]))[0])
            assert 0.98 * budget.limit <= cost <= budget.limit * (1 + 1e-9)


@pytest.mark.parametrize("trials", [1, 5, 20])
def test_few_trials_still_give_a_network_within_the_budget(trials):
    problem = SyntheticNetwork(5)
    budget = problem.budget(0.5)
    search = drive(Knapsack(budget, trials=trials), problem.quality)
    assert len(search.trials) == trials
    if trials > 10:
        assert any("allocation" in trial.candidate.note for trial in search.trials)
    assert budget.fits(search.best().candidate.widths)


def test_it_ends_where_nothing_new_is_left():
    choices = (np.array([4, 8, 16]), np.array([8, 16, 24, 32]))
    cost = GridCost(choices, 0)
    budget = Budget(cost, 1e9, choices)
    search = drive(Knapsack(budget, trials=500), lambda widths: sum(widths) / 100)
    assert search.finished
    assert len(search.trials) <= 12
    assert search.best().candidate.widths == (16, 32)
