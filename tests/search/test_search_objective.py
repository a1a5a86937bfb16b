"""What candidates are worth: kept weight, judged networks, gains of blocks, and the log that finds
them again.
"""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch
from torch import nn

from hwbench.devices.virtual.device import Law
from hwbench.errors import MeasurementError, SchemaError, UsageError
from hwbench.network.graph import load
from hwbench.network.intake import load_workload
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.structure import Structure
from hwbench.search.base import Candidate, Outcome, Trial
from hwbench.search.baselines import RandomSearch
from hwbench.search.budget import Budget
from hwbench.search.objective import Judged, KeptWeight, Prices
from hwbench.store import open_store
from hwbench.workflows.search.blocks import TableGains
from hwbench.workflows.search.jobs import tried
from hwbench.workflows.search.journal import Log, Loop
from tests.support.search_support import CHOICES, GridCost, Width
from tests.support.tiny_net import example, table, tiny


def chain() -> tuple[nn.Module, Structure]:
    """Two layers of known weights: 4 channels of weight 1, 2, 3 and 4, made and read."""
    module = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, -3.0, 2.0, 4.0]).view(4, 1, 1, 1))
        module[1].weight.copy_(
            torch.tensor([1.0, 3.0, 2.0, -4.0]).view(1, 4, 1, 1).expand(2, 4, 1, 1)
        )
    model = load(load_workload(module, example_inputs=torch.ones(1, 1, 2, 2)).onnx)
    return module, Structure.from_model(model)


def test_kept_weight_is_the_share_of_the_heaviest_channels():
    module, structure = chain()
    objective = KeptWeight(module, Prices(structure))
    found = [objective.evaluate(Candidate(0, (width,))).quality for width in (1, 2, 3, 4)]
    assert found == pytest.approx([0.4, 0.7, 0.9, 1.0])
    assert objective.original().quality == 1
    with pytest.raises(UsageError, match="--data"):
        objective.evaluate(Candidate(0, dropped=("a",)))


def test_a_judge_that_gives_no_share_is_refused():
    module, structure = chain()
    judged = Judged(
        Prices(structure),
        module,
        lambda _: type("Pruned", (), {"module": module})(),
        lambda _: 50.0,
        name="score",
    )
    with pytest.raises(
        UsageError, match=r"the score of candidate 3 is 50\.0; expected a number from 0 to 1"
    ):
        judged.evaluate(Candidate(3, (2,)))


@pytest.mark.parametrize("numbers", [(float("nan"), 1.0), (0.5, float("inf"))])
def test_outcomes_hold_no_stand_in_numbers(numbers):
    with pytest.raises(MeasurementError, match="finite"):
        Outcome(*numbers, 1, 1, 1)


def test_gains_from_a_table_are_those_of_the_device():
    workload = load_workload(tiny(), example_inputs=example())
    network = PrunableNetwork(workload)
    law = Law(channel_step=4)

    def truth_s(dropped) -> float:
        return law.network_s(network.keys_without(dropped))

    gains = TableGains(table(), network)
    gain = gains.gain("blocks.1")
    truth = 1 - truth_s(["blocks.1"]) / truth_s([])
    assert gain.share == pytest.approx(truth, rel=0.05)
    assert 0 < gain.low < gain.share < gain.high
    two = ["blocks.2", "blocks.0"]
    assert (
        gains.latency_s(two) == gains.latency_s(two[::-1]) == pytest.approx(truth_s(two), rel=0.05)
    )


def test_log_refuses_a_trial_of_another_network(tmp_path):
    with open_store(str(tmp_path / "s.db")) as store:
        Log(store, "key").keep("amc", Trial(Candidate(0, (4, 8)), error="x"))
        log = Log(store, "key")
        assert log.resumed == 1
        assert log.recall("amc", Candidate(0, (4, 8))).error == "x"
        assert log.recall("random", Candidate(0, (4, 8))) is None
        with pytest.raises(SchemaError, match="--fresh"):
            log.recall("amc", Candidate(0, (8, 8)))
        assert Log(store, "other").resumed == 0
        assert Log(store, "key", fresh=True).resumed == 0


def test_time_before_the_first_trial_and_before_a_kill_counts(tmp_path):
    with open_store(str(tmp_path / "s.db")) as store:
        log = Log(store, "key", begun=time.monotonic() - 100)
        assert 100 <= log.elapsed_s < 110
        log.keep("amc", Trial(Candidate(0), error="x"))
        assert 100 <= Log(store, "key").elapsed_s < 120


def test_time_budget_ends_a_search_with_what_there_is():
    search = RandomSearch(Budget(GridCost(CHOICES, 0), 1e9, CHOICES), trials=10**7)
    told = []
    loop = Loop(
        Log(None, "key"), 0.3, partial(map, partial(tried, Width())), lambda *one: told.append(one)
    )
    found = loop.run("random", search)
    assert 1 <= len(found) < 10**6
    assert search.trials == found[: len(search.trials)]
    assert told[-1] == ("random", found[-1], search.best(found))
    assert [trial for _, trial, _ in told] == found


@pytest.mark.parametrize("most", [0, 3, 32, 40])
def test_a_number_of_trials_ends_a_search_in_the_middle_of_a_batch(most):
    search = RandomSearch(Budget(GridCost(CHOICES, 0), 1e9, CHOICES), trials=100)
    found = Loop(Log(None, "key"), None, partial(map, partial(tried, Width()))).run(
        "random", search, most=most
    )
    assert len(found) == most


def test_no_network_is_judged_twice():
    objective = Width(fails=frozenset({0}))
    search = RandomSearch(Budget(GridCost(CHOICES[:2], 0), 1e9, CHOICES[:2]), trials=60)
    found = Loop(Log(None, "key"), None, partial(map, partial(tried, objective))).run(
        "random", search
    )
    assert len(found) == 60
    assert objective.calls == len({trial.candidate.network for trial in found}) <= 12
    failed = found[0].candidate.network
    assert all(
        trial.error == "RuntimeError: as asked"
        for trial in found
        if trial.candidate.network == failed
    )
