"""The profiler's own cost, from profiles whose cost is known."""

from __future__ import annotations

import pytest

from hwbench.devices.shared.chains import (
    COST_RUNS,
    LONG_CHAIN,
    SHORT_CHAIN,
    ChainProfile,
    chain_workload,
    count_chain_runs,
    node_cost_s,
    profile_chains,
    share_inside,
)
from hwbench.devices.shared.turns import TURN
from hwbench.network.graph import layers, load


def profile(nodes: int, plain_s: float, sum_s: float, whole_s: float | None = None) -> ChainProfile:
    whole_s = sum_s if whole_s is None else whole_s
    return ChainProfile(nodes, [sum_s] * 3, [whole_s] * 3, [plain_s] * 3)


def test_the_constant_is_the_slope():
    cost_s = 3e-6
    short, long = (
        profile(count, plain_s, plain_s + 2e-6 + count * cost_s)
        for count, plain_s in ((6, 30e-6), (30, 150e-6))
    )
    assert node_cost_s(short, long) == pytest.approx(cost_s)
    assert node_cost_s(profile(6, 2e-6, 1e-6), profile(30, 5e-6, 1e-6)) == 0.0, "never negative"
    assert node_cost_s(profile(1, 3e-6, 9e-6), profile(1, 3e-6, 9e-6)) == pytest.approx(6e-6), (
        "chains that became one kernel each"
    )


def test_drift_between_inferences_cancels():
    """An inference that was slower was slower in both kinds."""
    plain_s = [1e-3, 2e-3, 9e-3]
    long = ChainProfile(30, [value + 30e-6 for value in plain_s], plain_s, plain_s)
    short = ChainProfile(6, [value + 6e-6 for value in plain_s], plain_s, plain_s)
    assert node_cost_s(short, long) == pytest.approx(1e-6)


@pytest.mark.parametrize(("inside", "expected"), [(0.4, 0.4), (1.7, 1.0), (-0.3, 0.0)])
def test_the_share_inside_the_nodes(inside, expected):
    short, long = (
        profile(count, 1e-3, sum_s=1e-3 + inside * count * 1e-6, whole_s=1e-3 + 5e-6 + count * 1e-6)
        for count in (6, 30)
    )
    assert share_inside(short, long) == pytest.approx(expected)
    assert share_inside(long, long) == 0.0, "profiling costs nothing"


def test_chains_differ_in_length_alone():
    seen = []

    def record(workload):
        seen.append([str(layer.key) for layer in layers(load(workload.onnx))])
        return profile(len(seen[-1]), 1.0, 1.0)

    short, long = profile_chains(record)
    assert (short.nodes, long.nodes) == (SHORT_CHAIN, LONG_CHAIN)
    assert len({key for keys in seen for key in keys}) == 1
    assert chain_workload(6) is chain_workload(6)


def test_a_slow_processor_runs_chains_less_often() -> None:
    assert count_chain_runs(1e-5) == COST_RUNS
    assert count_chain_runs(0.02) == 50
    assert count_chain_runs(10.0) == TURN
