"""The colony: codes, phases, repair to the budget, and the defects of the public code that it does
not have.
"""

from __future__ import annotations

import numpy as np
import pytest

from hwbench.errors import UsageError
from hwbench.search.abcpruner.search import AbcPruner, code_choices
from hwbench.search.budget import Budget
from hwbench.search.costs import Latency
from tests.support.search_support import CHOICES, GridCost, Width, drive


def loose(seed: int = 0) -> Budget:
    return Budget(GridCost(CHOICES, seed), 1e9, CHOICES)


class First(Width):
    """Likes nothing; every later candidate is worse."""

    def evaluate(self, candidate):
        outcome = super().evaluate(candidate)
        return type(outcome)(1 / (1 + candidate.number), *[1] * 4)


def test_codes_are_tenths_on_the_step_at_least_one_channel_wide():
    assert code_choices((100,), 1)[0].tolist() == [10, 20, 30, 40, 50, 60, 70]
    assert code_choices((64,), 8, 1.0)[0].tolist() == [8, 16, 24, 32, 40, 48, 56, 64]
    assert code_choices((3,), 8, 1.0)[0].tolist() == [1, 2, 3]
    assert code_choices((512,), 1, 0.1)[0].tolist() == [51]
    for alpha in (0.01, 1.1):
        with pytest.raises(UsageError, match="alpha"):
            code_choices((64,), 8, alpha)


def test_phases_follow_each_other_and_count_as_published():
    colony = AbcPruner(loose(), sources=3, cycles=2, limit=1000)
    notes = [trial.candidate.note for trial in drive(colony)]
    assert notes == ["sources"] * 3 + (["employed"] * 3 + ["onlookers"] * 3) * 2


def test_exhausted_source_is_replaced_by_a_scout():
    colony = AbcPruner(loose(), sources=3, cycles=4, limit=2)
    notes = [trial.candidate.note for trial in drive(colony, First())]
    assert notes.count("scout") == 4
    assert len(notes) == 3 + 4 * 7


def test_every_group_mutates_and_every_code_is_drawn():
    seen = [set() for _ in CHOICES]
    for seed in range(6):
        colony = AbcPruner(loose(), seed=seed, sources=4, cycles=6, limit=1)
        for trial in drive(colony, First()):
            if trial.candidate.note in {"employed", "scout"}:
                for group, width in enumerate(trial.candidate.widths):
                    seen[group].add(width)
    assert seen == [set(map(int, grid)) for grid in CHOICES]


def test_a_neighbour_differs_in_two_groups_at_most():
    colony = AbcPruner(loose(), seed=1, sources=4, cycles=1)
    trials = drive(colony)
    for source, employed in zip(trials[:4], trials[4:8], strict=True):
        changed = np.count_nonzero(np.array(source.candidate.widths) != employed.candidate.widths)
        assert changed <= 2


@pytest.mark.parametrize("seed", range(5))
def test_structures_are_repaired_to_a_tight_budget(seed):
    cost = GridCost(CHOICES, seed)
    limit = Budget(cost, np.inf, CHOICES).least[0] * 1.01
    budget = Budget(cost, limit, CHOICES)
    for trial in drive(AbcPruner(budget, seed=seed, sources=4, cycles=2)):
        assert budget.fits(trial.candidate.widths)


def test_a_live_source_without_a_bound_is_enough():
    class Live:
        def predict(self, keys):
            raise NotImplementedError

        def predict_widths(self, widths):
            return np.asarray(widths, float).sum(axis=1)

    budget = Budget(Latency(Live()), 40.0, CHOICES)
    assert budget.least == (24.0, (4, 8, 4, 8))
    for trial in drive(AbcPruner(budget, sources=4, cycles=2)):
        assert sum(trial.candidate.widths) <= 40
    with pytest.raises(UsageError, match="live device answers whole networks only"):
        budget.totals([])
    with pytest.raises(UsageError, match="24 s"):
        Budget(Latency(Live()), 20.0, CHOICES)


def test_impossible_colonies_are_refused():
    with pytest.raises(UsageError, match="at least 2"):
        AbcPruner(loose(), sources=1)
    with pytest.raises(UsageError, match="no group"):
        AbcPruner(Budget(GridCost((), 0), np.inf, ()), sources=3)
