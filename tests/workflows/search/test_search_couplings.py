"""Networks whose channels are coupled in all kinds of ways are searched, with and without tables."""

from __future__ import annotations

import pytest
import torch

from hwbench.records.measurement import Settings
from hwbench.search.limit import Limit
from hwbench.workflows.search.plan import Plan
from hwbench.workflows.search.run import run_search
from tests.support.coupled_nets import COUPLED, Attending
from tests.support.tiny_net import DEVICE

IMAGE = torch.ones(1, 3, 32, 32)


def search(net, method: str, limit: Limit, **more):
    torch.manual_seed(0)
    plan = Plan.of(method, limit, trials=6, **({"levels": 1} if method == "knapsack" else {}))
    return run_search(net().eval(), plan, example_inputs=IMAGE, save=False, **more)


@pytest.mark.parametrize("net", COUPLED)
@pytest.mark.parametrize("method", ["amc", "knapsack"])
def test_couplings_are_searched(net, method):
    result = search(net, method, Limit("macs", share=0.8))
    assert 0 < result.best.outcome.macs <= 0.8 * result.original.macs
    assert not [trial for trial in result.trials if trial.error]
    assert set(result.baselines) == {"uniform", "shallow", "deep", "random"}
    assert all(trial is not None for trial in result.baselines.values())


@pytest.mark.parametrize("kind", ["latency", "macs"])
def test_widths_that_a_table_cannot_know_are_left_alone(kind):
    """Attention spreads channels over several axes, so that its layers are known as measured only.

    The table is built and graded on a device all the same, and every trial has a latency.
    """
    share = {"latency": 0.99, "macs": 0.8}[kind]
    result = search(
        Attending,
        "knapsack",
        Limit(kind, share=share),
        device=DEVICE,
        settings=Settings(budget_s=0.5, layers=False),
    )
    assert not [trial for trial in result.trials if trial.error]
    assert all(trial.outcome.latency_s for trial in result.trials)
    assert result.comparison is not None
    assert "table_ungraded" not in {finding.code for finding in result.findings}
