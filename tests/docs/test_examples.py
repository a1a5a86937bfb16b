"""The driver and the search of the documentation do what their pages say, held to the contracts of
all others.
"""

from __future__ import annotations

from inspect import signature

import numpy as np
import pytest

from hwbench.devices.base import Device
from hwbench.devices.contract import DeviceContract
from hwbench.measuring.sessions import measure
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from hwbench.search import SEARCHES, load_method, searches
from hwbench.search.base import Search, Trial
from tests.docs.pages import blocks, module, page
from tests.search import test_search_contract as promises
from tests.support.models import conv_workload
from tests.support.search_support import SHARE, Width, budget, context, drive

DRIVER, SEARCH = module("drivers.md", 0), module("searches.md", 0)
TESTS = [test for name, test in vars(promises).items() if name.startswith("test_")]
PROMISES = [test for test in TESTS if list(signature(test).parameters) == ["make"]]


class TestReference(DeviceContract):
    def make_device(self) -> Device:
        return DRIVER.Reference()

    def make_workload(self) -> Workload:
        return conv_workload((4,), size=8)

    def make_slow_workload(self) -> Workload:
        return conv_workload((32, 32), size=32, name="slow")


def test_the_driver_measures_with_intervals():
    with DRIVER.Reference() as device:
        record = measure(
            device,
            conv_workload((4,), size=8),
            Settings(budget_s=2.0, session_s=0.05, max_sessions=4),
        )
    low_s, high_s = record.median_ci_s
    assert 0 < low_s < record.median_s < high_s
    assert record.device.address == "reference"


def test_the_contract_on_the_page_is_the_contract_here():
    assert "class TestReference(DeviceContract)" in blocks("drivers.md", "python")[1]


def hill_climb(seed: int = 0, trials: int = 12) -> Search:
    return SEARCH.HillClimb(budget(), seed=seed, trials=trials)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_the_search_keeps_what_every_search_promises(promise):
    promise(hill_climb)


@pytest.mark.parametrize("batches", [1, 5])
def test_the_search_goes_on_after_it_was_killed(batches):
    promises.test_a_search_that_is_given_its_stored_trials_goes_on_as_if_nothing_had_been(
        hill_climb, batches
    )


def test_the_search_climbs():
    search = hill_climb(trials=60)
    first = drive(search)[0].outcome.quality
    assert search.best().outcome.quality > first


def test_the_method_on_the_page_makes_it_a_search_of_hwbench():
    names = dict(vars(SEARCH))
    code = blocks("searches.md", "python")[2]
    exec(compile(code, "docs/searches.md", "exec", dont_inherit=True), names)
    method = names["HillClimbMethod"]("hillclimb", names["HillClimbOptions"](steps=12))
    resnet = context()
    search = method.make_search(resnet, SHARE * method.original_cost(resnet), seed=0, trials=None)
    limit = budget()
    assert len(drive(search)) == 12
    assert all(limit.fits(trial.candidate.widths) for trial in search.trials)


def test_the_table_of_searches_is_that_of_the_registry():
    rows = [line.strip("| ").split(" | ") for line in page("searches.md").splitlines()]
    on_page = {row[0].strip("`"): row[1:] for row in rows if row[0].strip("`") in searches()}
    for name in SEARCHES:
        method = load_method(name)
        published, budgets, proposes, tuned = on_page[name]
        assert published == method.published
        assert budgets == ", ".join(method.budgets)
        what = "dropped blocks" if method.drops_blocks else "widths"
        if name == "knapsack":
            what += ", with `--blocks` dropped blocks too"
        assert proposes == what
        assert tuned == f"`{method.tuning}`"


def test_the_loop_on_the_page_drives_it(capsys):
    names = {"search": hill_climb(), "objective": Width(), "Trial": SEARCH.Trial}
    exec(blocks("searches.md", "python")[1], names)
    assert "Trial(candidate=Candidate(" in capsys.readouterr().out


def optuna_search(seed: int = 0, trials: int = 12) -> Search:
    pytest.importorskip("optuna").logging.disable_default_handler()
    return module("searches.md", 4).OptunaSearch(budget(), seed=seed, trials=trials)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_an_optimiser_of_others_keeps_what_every_search_promises(promise):
    promise(optuna_search)


def test_an_optimiser_of_others_uses_the_budget_up_and_learns():
    search, limit = optuna_search(trials=60), budget()
    trials = drive(search)
    used = [limit.cost.of(np.array([trial.candidate.widths]))[0] for trial in trials]
    assert min(used) > 0.9 * limit.limit
    late = np.mean([trial.outcome.quality for trial in trials[-20:]])
    assert late > np.mean([trial.outcome.quality for trial in trials[:10]])


def test_a_failed_trial_ends_no_optimiser():
    search = optuna_search()
    search.observe([Trial(search.propose()[0], error="out of memory")])
    drive(search)
    assert search.best() is not None
