"""What every registered search promises, and every baseline, on a table of the simulated device."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from hwbench.errors import UsageError
from hwbench.search import load_method, searches
from hwbench.search.base import Search, Trial
from hwbench.search.baselines import POLICIES, Policy, RandomSearch
from hwbench.search.knapsack.method import KnapsackOptions
from tests.support.search_support import SHARE, Width, budget, context, drive, source
from tests.support.table_support import structure

STRUCTURE = structure()


def registered(name: str, seed: int) -> Search:
    """A small search of that name, made as a workflow makes it."""
    method_class = load_method(name)
    method = method_class(name, method_class.options_type())
    resnet = context()
    limit = SHARE * method.original_cost(resnet)
    return method.make_search(resnet, limit, seed=seed, trials=16)


def with_blocks(seed: int) -> Search:
    """A knapsack that may drop blocks."""
    method = load_method("knapsack")("knapsack", KnapsackOptions(blocks=True))
    resnet = context()
    limit = SHARE * method.original_cost(resnet)
    return method.make_search(resnet, limit, seed=seed, trials=30)


def policy(name: str, seed: int) -> Search:
    del seed  # nothing about it is random
    return Policy(budget(), name)


MAKERS: dict[str, Callable[[int], Search]] = {
    **{name: partial(registered, name) for name in searches()},
    **{name: partial(policy, name) for name in POLICIES},
    "knapsack with blocks": with_blocks,
    "random": lambda seed: RandomSearch(budget(), seed=seed, trials=12),
}


@pytest.fixture(params=MAKERS)
def make(request) -> Callable[..., Search]:
    maker = MAKERS[request.param]
    return lambda seed=0: maker(seed)


def test_same_seed_same_search(make):
    assert drive(make()) == drive(make())


def test_ends_and_numbers_its_candidates_from_zero(make):
    search = make()
    trials = drive(search)
    assert search.finished
    assert search.propose() == []
    assert [trial.candidate.number for trial in trials] == list(range(len(trials)))


def test_proposes_the_same_until_it_observed(make):
    search = make()
    first = search.propose()
    assert first == search.propose()
    with pytest.raises(UsageError, match="proposed"):
        search.observe([])
    with pytest.raises(UsageError, match="proposed"):
        search.observe([Trial(first[0], error="x")] * (len(first) + 1))


def test_best_is_the_highest_ranked_result(make):
    search = make()
    assert search.best() is None
    trials = [
        trial for trial in drive(search) if trial.outcome is not None and search.eligible(trial)
    ]
    assert search.best() in trials
    assert search.rank(search.best().outcome) == max(search.rank(trial.outcome) for trial in trials)


def test_structures_keep_to_the_budget(make):
    limit, search = budget(), make()
    for trial in drive(search):
        if search.eligible(trial) and trial.candidate.widths is not None:
            keys = STRUCTURE.keys(trial.candidate.widths, trial.candidate.dropped)
            assert source().predict(keys).latency_s <= limit.limit * (1 + 1e-9)


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_a_search_that_is_given_its_stored_trials_goes_on_as_if_nothing_had_been(make, batches):
    whole, begun, again = make(), make(), make()
    drive(whole)
    drive(begun, batches=batches)
    stored = json.loads(json.dumps([trial.to_dict() for trial in begun.trials]))
    trials = [Trial.from_dict(data) for data in stored]
    while trials:
        proposed = again.propose()
        again.observe(trials[: len(proposed)])
        del trials[: len(proposed)]
    drive(again)
    assert again.trials == whole.trials
    assert again.best() == whole.best()


def test_trials_of_another_network_are_refused(make):
    search = make()
    others = [
        Trial(replace(candidate, widths=(1,) * 9), error="x") for candidate in search.propose()
    ]
    with pytest.raises(UsageError, match="proposed"):
        search.observe(others)
    assert search.trials == []


def test_a_failed_trial_ends_nothing_and_is_never_the_best(make):
    search = make()
    trials = drive(search, Width(fails=frozenset({0, 3})))
    assert trials[0].error == "as asked"
    assert search.best() is None or search.best().outcome is not None
    assert search.finished


def test_trial_has_an_outcome_or_an_error(make):
    candidate = make().propose()[0]
    with pytest.raises(UsageError, match="not both"):
        Trial(candidate)
    with pytest.raises(UsageError, match="not both"):
        Trial(candidate, Width().evaluate(candidate), "x")
