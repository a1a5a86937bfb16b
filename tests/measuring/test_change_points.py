"""Lasting steps are found where they were planted, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench.devices.virtual.device import (
    Bimodal,
    Drift,
    SessionOffset,
    Spikes,
    Throttling,
    Virtual,
    White,
)
from hwbench.measuring.change_points import find_steps, find_steps_of_any
from hwbench.measuring.sessions import measure
from hwbench.records.measurement import Settings
from tests.support.models import told

MIN_EFFECT = 0.01
SERIES = 200
NOISES = {
    "white": (White(),),
    "sessions": (White(), SessionOffset()),
    "drift": (White(), SessionOffset(), Drift()),
    "bimodal": (White(), SessionOffset(), Bimodal()),
    "spikes": (White(), SessionOffset(), Spikes()),
    "throttling": (White(), SessionOffset(), Throttling()),
}


def series(seed: int, points: int, step_at: int | None, scatter: float = 0.005) -> np.ndarray:
    """Latencies of about 1 ms, 3 % more from a point on."""
    latencies_s = 1e-3 * np.random.default_rng(seed).lognormal(0, scatter, points)
    if step_at is not None:
        latencies_s[step_at:] *= 1.03
    return latencies_s


def test_a_step_of_3_percent_is_found_within_one_point():
    near = 0
    for seed in range(SERIES):
        step_at = 4 + seed % 17
        steps = find_steps(series(seed, 25, step_at), MIN_EFFECT)
        near += len(steps) >= 1 and min(abs(step.index - step_at) for step in steps) <= 1
    assert near >= 0.95 * SERIES


@pytest.mark.parametrize("points", [3, 5, 12, 40])
def test_alarms_are_seldom_false(points):
    alarms = [bool(find_steps(series(seed, points, None, 0.02), MIN_EFFECT)) for seed in range(400)]
    assert sum(alarms) <= 4


def test_several_steps_are_told_apart_with_their_sizes():
    latencies_s = np.concatenate(
        [series(1, 10, None), 1.05 * series(2, 12, None), 0.9 * series(3, 8, None)]
    )
    steps = find_steps(latencies_s, MIN_EFFECT)
    assert [step.index for step in steps] == [10, 22]
    for step, truth in zip(steps, (1.05, 0.9 / 1.05), strict=True):
        assert step.ci[0] < step.ratio < step.ci[1]
        assert step.ratio == pytest.approx(truth, rel=0.01)


def test_what_is_too_small_to_matter_or_does_not_last_is_no_step():
    latencies_s = series(5, 40, 20, scatter=0.0005)
    assert [step.index for step in find_steps(latencies_s, MIN_EFFECT)] == [20]
    assert find_steps(latencies_s, 0.05) == ()
    once = series(6, 20, None)
    once[11] *= 1.5
    assert find_steps(once, MIN_EFFECT) == ()
    assert find_steps([1e-3], MIN_EFFECT) == find_steps([1e-3] * 6, MIN_EFFECT) == ()


def test_a_device_that_repeats_itself_exactly_shows_its_step():
    steps = find_steps([1e-3] * 4 + [1.02e-3] * 4, MIN_EFFECT)
    assert [(step.index, round(step.ratio, 4)) for step in steps] == [(4, 1.02)]


@pytest.mark.parametrize("noise", NOISES)
def test_a_step_is_found_in_what_a_noisy_device_measured(noise):
    """Drift and two modes scatter by 2 % from one measurement to the next, and hide 3 %."""
    step = 1.06 if noise in {"bimodal", "drift"} else 1.03
    latencies_s = []
    for number in range(20):
        workload = told("net")
        truth = {workload.sha256: 1e-3 * step if number >= 10 else 1e-3}
        with Virtual(noise=NOISES[noise], latencies_s=truth, seed=number) as device:
            settings = Settings(budget_s=2, layers=False, seed=number)
            latencies_s.append(measure(device, workload, settings).median_s)
    steps = find_steps(latencies_s, MIN_EFFECT)
    assert len(steps) == 1
    assert abs(steps[0].index - 10) <= 1


def test_a_step_that_one_statistic_hides_is_found_in_another():
    generator = np.random.default_rng(0)
    quick_s = series(0, 24, 12, scatter=0.002)
    # The time that is spent at each of two clock rates scatters, and hides 3 % in the medians.
    medians_s = quick_s * generator.lognormal(0, 0.04, 24)
    assert find_steps(medians_s, MIN_EFFECT) == ()
    (step,) = find_steps_of_any([medians_s, quick_s], MIN_EFFECT)
    assert step.index == 12
    assert step.ratio == pytest.approx(1.03, abs=0.003)


def test_a_step_in_the_medians_alone_counts_too_and_one_in_both_counts_once():
    quick_s, medians_s = series(1, 24, None, 0.001), series(2, 24, 16, 0.002)
    (step,) = find_steps_of_any([medians_s, quick_s], MIN_EFFECT)
    assert step.index == 16
    (step,) = find_steps_of_any([medians_s, 0.99 * medians_s], MIN_EFFECT)
    assert step.index == 16
    assert find_steps_of_any([[1e-3]], MIN_EFFECT) == ()
