"""The journal of a search, and the loop that drives it."""

from __future__ import annotations

import time
from functools import partial

import pytest

from hwbench.errors import SchemaError
from hwbench.search.base import Candidate, Trial
from hwbench.search.baselines import RandomSearch
from hwbench.search.budget import Budget
from hwbench.store import open_store
from hwbench.workflows.search.jobs import evaluate_candidate
from hwbench.workflows.search.journal import Journal
from hwbench.workflows.search.time_budget import TimeBudget
from hwbench.workflows.search.trials import TrialLoop
from tests.support.search_support import CHOICES, GridCost, Width


def test_journal_refuses_a_trial_of_another_network(tmp_path):
    with open_store(str(tmp_path / "s.db")) as store:
        Journal(store, "key").keep("amc", Trial(Candidate(0, (4, 8)), error="x"))
        journal = Journal(store, "key")
        assert journal.resumed == 1
        assert journal.recall("amc", Candidate(0, (4, 8))).error == "x"
        assert journal.recall("random", Candidate(0, (4, 8))) is None
        with pytest.raises(SchemaError, match="begin anew: pass fresh=True"):
            journal.recall("amc", Candidate(0, (8, 8)))
        assert Journal(store, "other").resumed == 0
        assert Journal(store, "key", fresh=True).resumed == 0


def test_time_before_the_first_trial_and_before_a_kill_counts(tmp_path):
    with open_store(str(tmp_path / "s.db")) as store:
        clock = TimeBudget(begun=time.monotonic() - 100)
        journal = Journal(store, "key", time_budget=clock)
        assert 100 <= journal.elapsed_s < 110
        journal.keep("amc", Trial(Candidate(0), error="x"))
        assert 100 <= Journal(store, "key").elapsed_s < 120


def test_time_budget_ends_a_search_with_what_there_is():
    search = RandomSearch(Budget(GridCost(CHOICES, 0), 1e9, CHOICES), trials=10**7)
    told = []
    loop = TrialLoop(
        Journal(None, "key"),
        0.3,
        partial(map, partial(evaluate_candidate, Width())),
        lambda *one: told.append(one),
    )
    found = loop.run("random", search)
    assert 1 <= len(found) < 10**6
    assert search.trials == found[: len(search.trials)]
    assert told[-1] == ("random", found[-1], search.best(found))
    assert [trial for _, trial, _ in told] == found


@pytest.mark.parametrize("most", [0, 3, 32, 40])
def test_a_number_of_trials_ends_a_search_in_the_middle_of_a_batch(most):
    search = RandomSearch(Budget(GridCost(CHOICES, 0), 1e9, CHOICES), trials=100)
    found = TrialLoop(
        Journal(None, "key"), None, partial(map, partial(evaluate_candidate, Width()))
    ).run("random", search, most=most)
    assert len(found) == most


def test_no_network_is_evaluated_twice():
    objective = Width(fails=frozenset({0}))
    search = RandomSearch(Budget(GridCost(CHOICES[:2], 0), 1e9, CHOICES[:2]), trials=60)
    found = TrialLoop(
        Journal(None, "key"), None, partial(map, partial(evaluate_candidate, objective))
    ).run("random", search)
    assert len(found) == 60
    assert objective.calls == len({trial.candidate.network for trial in found}) <= 12
    failed = found[0].candidate.network
    assert all(
        trial.error == "RuntimeError: as asked"
        for trial in found
        if trial.candidate.network == failed
    )
