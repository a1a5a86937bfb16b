"""Latencies that depend on the values of the inputs: told where they do, and never by noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwbench.devices.virtual.device import Virtual
from hwbench.devices.virtual.noise import (
    Bimodal,
    Drift,
    SessionOffset,
    Spikes,
    Throttling,
    White,
)
from hwbench.measuring.input_check import CODE, check_inputs
from hwbench.measuring.sessions import measure, measure_interleaved
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from tests.support.models import told

A, B = told("a"), told("b")
SETTINGS = Settings(layers=False, budget_s=10, min_sessions=2, max_sessions=2)
NOISE = {
    "quiet": (White(0.01),),
    "white": (White(0.05),),
    "loud": (White(0.3),),
    "drift": (White(0.02), Drift(per_minute=0.5, swing=0.1, period_s=1)),
    "bimodal": (White(0.02), Bimodal()),
    "spikes": (White(0.02), Spikes()),
    "throttling": (White(0.02), Throttling()),
    "sessions": (White(0.02), SessionOffset(0.05)),
}


def check(noise, seed, inputs_matter=None, latency_s=1e-3):
    """One check by itself, on a device of known truth."""
    device = Virtual(
        noise=noise, seed=seed, latencies_s={A.sha256: latency_s}, inputs_matter=inputs_matter
    )
    with device:
        prepared = device.prepare(A, SETTINGS)

        def time_input(chosen):
            device.draw_inputs(prepared, chosen.offset, chosen.exponent)
            return device.run([prepared, prepared]).values_s[1]

        return check_inputs(time_input, np.random.default_rng(seed), may_confirm=True)


@pytest.mark.parametrize("kind", sorted(NOISE))
def test_noise_is_no_dependence(kind):
    """Of 500 networks whose latency depends on nothing, at most two are said to."""
    assert sum(check(NOISE[kind], seed) is not None for seed in range(500)) <= 2


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("a branch", lambda seed, exponent: 1.3 if seed % 2 else 1.0),
        ("a loop", lambda seed, exponent: 1 + 0.2 * seed),
        ("denormals", lambda seed, exponent: 3.0 if exponent < -10 else 1.0),
        ("large values", lambda seed, exponent: 1.5 if exponent > 0 else 1.0),
    ],
)
@pytest.mark.parametrize("kind", ["quiet", "white", "drift", "sessions"])
def test_a_dependence_is_found(kind, name, factor):
    found = [check(NOISE[kind], seed, factor) for seed in range(40)]
    assert sum(finding is not None for finding in found) >= 38


def test_it_is_told_once_for_the_network_it_is_true_of():
    dependent = {A.sha256: 1e-3, B.sha256: 2e-3}
    with Virtual(
        noise=(White(0.01),), latencies_s=dependent, inputs_matter=lambda seed, exponent: 1 + seed
    ) as device:
        first, second = measure_interleaved(device, [A, B], SETTINGS)
    for record in (first, second):
        (finding,) = (each for each in record.findings if each.code == CODE)
        assert "times as long with values up to 1 of seed +3" in finding.text
    # Whatever else was looked at, the samples are those of the measurement's own inputs.
    assert first.median_s == pytest.approx(1e-3, rel=0.02)
    assert max(first.series.samples_s) < 1.2e-3


@pytest.mark.parametrize(("latency_s", "told_of"), [(0.02, True), (0.2, False), (5.0, False)])
def test_it_costs_a_little_of_the_budget_or_nothing(latency_s, told_of):
    with Virtual(
        noise=(White(0.01),), latencies_s={A.sha256: latency_s}, inputs_matter=lambda s, e: 1.0 + s
    ) as device:
        record = measure(device, A, SETTINGS)
    assert (CODE in {finding.code for finding in record.findings}) is told_of


def test_a_network_without_inputs_has_none_to_depend_on():
    bare = Workload("bare", b"bare", (), 1, "fp32", 0, 0, 4)
    with Virtual(noise=(), latencies_s={bare.sha256: 1e-3}, inputs_matter=lambda s, e: 1 + s) as it:
        record = measure(it, bare, replace(SETTINGS, budget_s=3))
    assert CODE not in {finding.code for finding in record.findings}
