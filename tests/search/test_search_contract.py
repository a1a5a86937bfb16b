"""What every search promises, on a table of the simulated device."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from hwbench.errors import SchemaError, UsageError
from hwbench.search import SEARCHES
from hwbench.search.abcpruner.search import AbcPruner, code_choices
from hwbench.search.amc.agent import AgentSettings
from hwbench.search.amc.search import Amc
from hwbench.search.amc.walk import channel_geometry
from hwbench.search.base import Search, Trial
from hwbench.search.baselines import Policy, RandomSearch
from hwbench.search.budget import Budget
from hwbench.search.practise.search import Gain, Practise
from tests.support import table_support
from tests.support.search_support import Width, budget, drive

SMALL = AgentSettings(hidden=16, batch=8)


class Blocks:
    """Every block saves a tenth; the first may save nothing."""

    def gain(self, block: str) -> Gain:
        return Gain(0.1, -0.01 if block == "layer1.0" else 0.05, 0.15)

    def latency_s(self, dropped) -> float:
        return 1 - 0.1 * len(dropped)


def amc(seed: int) -> Search:
    return Amc(
        budget(),
        channel_geometry(table_support.structure()),
        seed=seed,
        episodes=16,
        warm_up=4,
        agent=SMALL,
    )


def colony(seed: int) -> Search:
    tight = budget()
    return AbcPruner(
        Budget(tight.cost, tight.limit, code_choices(table_support.structure().widths, 4)),
        seed=seed,
        sources=4,
        cycles=3,
        limit=2,
    )


def practise(seed: int) -> Search:
    return Practise([block.name for block in table_support.structure().blocks], Blocks(), 0.75)


MAKERS: dict[str, Callable[[int], Search]] = {
    "amc": amc,
    "abcpruner": colony,
    "practise": practise,
    "random": lambda seed: RandomSearch(budget(), seed=seed, trials=12),
    "uniform": lambda seed: Policy(budget(), "uniform"),
    "shallow": lambda seed: Policy(budget(), "shallow"),
    "deep": lambda seed: Policy(budget(), "deep"),
}


@pytest.fixture(params=MAKERS)
def make(request) -> Callable[..., Search]:
    maker = MAKERS[request.param]
    return lambda seed=0: maker(seed)


def test_every_search_of_the_table_is_held_to_this_contract():
    assert set(SEARCHES) <= set(MAKERS)


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
    limit = budget()
    for trial in drive(make()):
        if trial.candidate.widths is not None:
            assert limit.fits(trial.candidate.widths)


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_restored_search_goes_on_as_if_nothing_had_been(make, batches):
    whole, begun, again = make(), make(), make()
    drive(whole)
    drive(begun, batches=batches)
    again.restore(json.loads(json.dumps(begun.state())))
    drive(again)
    assert again.trials == whole.trials
    assert again.best() == whole.best()


def test_state_of_another_search_is_refused(make):
    begun = make()
    drive(begun, batches=1)
    state = begun.state()
    state["trials"][0]["candidate"]["widths"] = [1] * 9
    with pytest.raises(SchemaError, match="another search"):
        make().restore(state)
    with pytest.raises(SchemaError, match="nothing"):
        make().restore({"search": "nothing", "trials": []})
    with pytest.raises(UsageError, match="new search"):
        begun.restore(state)


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
