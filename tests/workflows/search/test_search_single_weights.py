"""Single weights: what is zero is not counted, and how few may stay is kept to."""

from __future__ import annotations

import pytest

from hwbench.errors import UsageError
from hwbench.search.limit import Limit
from hwbench.workflows.search.plan import Plan
from hwbench.workflows.search.run import run_search
from tests.support.tiny_net import example, tiny


def search(limit: Limit | None, **more):
    plan = Plan.of("amc", limit, **({"single_weights": True, "trials": 4} | more))
    return run_search(
        tiny(),
        plan.changed(evaluate="tests.workflows.search.test_search_single_weights:nonzero"),
        example_inputs=example(),
        save=False,
    )


def nonzero(module) -> float:
    """Share of the parameters that are not zero."""
    count = sum(int(value.count_nonzero()) for value in module.parameters())
    return count / sum(value.numel() for value in module.parameters())


def test_parameters_that_are_zero_are_not_counted():
    result = search(Limit("params", share=0.6))
    counted = result.best.outcome.params
    assert counted <= 0.6 * result.original.params + 1
    assert counted == pytest.approx(result.best.outcome.quality * result.original.params, rel=0.05)
    assert result.best.outcome.size_bytes == pytest.approx(4 * counted, abs=4)
    assert result.best.outcome.macs == result.original.macs


def test_the_reward_by_parameters_sees_them_without_a_budget():
    result = search(None, reward="params")
    assert len({trial.outcome.params for trial in result.trials}) > 1


def test_the_smallest_share_that_stays_is_kept_to():
    result = search(Limit("size", share=0.8), lower=0.6)
    for trial in result.trials:
        assert min(trial.candidate.shares) >= 0.6
    assert search(Limit("size", share=0.1), lower=0.03).best is not None
    with pytest.raises(UsageError, match="the least on this grid is"):
        search(Limit("size", share=0.1), lower=0.5)


@pytest.mark.parametrize(
    ("limit", "more", "said"),
    [
        (Limit("macs", share=0.5), {}, "a budget of parameters or size only"),
        (Limit("size", share=0.5), {"reward": "macs"}, "do not change macs"),
        (None, {"reward": "latency"}, "do not change latency"),
        (None, {}, "needs a budget"),
    ],
)
def test_what_sparsity_does_not_change_is_refused(limit, more, said):
    with pytest.raises(UsageError, match=said):
        Plan.of("amc", limit, single_weights=True, **more)
