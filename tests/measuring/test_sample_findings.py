"""Reasons to distrust a measurement, each from a device that gives that reason and none from one
that does not.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.devices.virtual.device import Fault, Virtual
from hwbench.devices.virtual.noise import Bimodal, Drift, SessionOffset, Spikes, White
from hwbench.measuring.sample_findings import find_sample_faults
from hwbench.measuring.sessions import measure
from hwbench.records.measurement import LayerLatency, LayerProfile, Settings
from tests.support.models import told

A = told("a")
LONG = Settings(layers=False, target=0.0005, min_sessions=20, max_sessions=25)


def found(*noise, settings=LONG, faults=()) -> dict[str, str]:
    with Virtual(noise=noise, faults=faults, latencies_s={A.sha256: 0.002}) as device:
        return {finding.code: finding.text for finding in measure(device, A, settings).findings}


def test_an_ordinary_device_gives_none():
    assert found(White(0.01), SessionOffset(0.003)) == {}


@pytest.mark.parametrize(
    ("code", "noise"),
    [
        ("drift", Drift(per_minute=0.5, swing=0.0)),
        ("bimodal", Bimodal(gap=0.2, dwell_s=0.3)),
        ("spikes", Spikes(probability=0.04, factor=3.0)),
        ("noisy_host", White(0.1)),
    ],
)
def test_each_kind_of_noise_is_named(code, noise):
    assert code in found(White(0.01), noise)


def test_too_small_a_budget_is_named():
    assert (
        "2 of at least 20 sessions"
        in found(White(0.01), settings=replace(LONG, budget_s=0.1))["too_few_samples"]
    )


def test_a_device_that_stays_throttled_is_named():
    assert "throttled" in found(White(0.01), faults=[Fault("throttled", after_rounds=100)])


@pytest.mark.parametrize(
    ("sum_s", "doubted"), [(0.01, False), (0.0104, False), (0.0112, True), (0.0045, True)]
)
def test_layers_that_do_not_close_are_named(sum_s, doubted):
    with Virtual(noise=(), latencies_s={A.sha256: 0.01}) as device:
        record = measure(device, A, Settings(layers=False, budget_s=10))
    profile = LayerProfile((LayerLatency("a", "Conv", None, "x", sum_s),), 0.012, 0.0, "nothing")
    codes = {finding.code for finding in find_sample_faults(replace(record, profile=profile))}
    assert ("layers_do_not_close" in codes) is doubted
