"""When comparisons stop: simulated on session ratios, where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwbench import stats
from hwbench.measuring.stopping import StopRule
from hwbench.records.measurement import Settings
from hwbench.stats import Verdict

SETTINGS = Settings(max_sessions=33)


def compare_sessions(effect: float, deviation: float, seed: int, settings: Settings = SETTINGS):
    """The ratio at which a comparison ends whose sessions take a second each."""
    logs = np.log(effect) + np.random.default_rng(seed).normal(0, deviation, settings.max_sessions)
    rule, count = StopRule(settings), 0
    while not rule.stops(0.9 * count):
        count += 1
        ratio = stats.ratio_of_sessions(logs[:count])
        rule.add_session([ratio], 0.9)
    return ratio, rule


@pytest.mark.parametrize(("effect", "most"), [(0.4, 3), (0.8, 5), (0.93, 7)])
def test_the_number_of_sessions_follows_the_effect(effect, most):
    for seed in range(20):
        ratio, rule = compare_sessions(effect, 0.005, seed)
        assert ratio.verdict(SETTINGS.min_effect) is Verdict.FASTER
        assert ratio.sessions <= most
        assert rule.has_enough


def test_a_speed_up_that_must_be_known_to_a_limit_takes_more():
    precise = replace(SETTINGS, stop_at_difference=False)
    for seed in range(10):
        ratio, _ = compare_sessions(0.8, 0.005, seed, precise)
        assert ratio.sessions >= precise.min_sessions
        assert ratio.half_width <= precise.target


@pytest.mark.parametrize("deviation", [0.003, 0.01, 0.03])
def test_false_verdicts_are_rare_though_each_session_is_looked_at(deviation):
    runs, false = 500, 0
    for seed in range(runs):
        ratio, _ = compare_sessions(1.0, deviation, seed)
        false += ratio.verdict(SETTINGS.min_effect) in {Verdict.FASTER, Verdict.SLOWER}
    assert false <= 2  # expected: 0.5 of 500 at most


@pytest.mark.parametrize("effect", [1.0, 0.95, 0.8, 0.4])
@pytest.mark.parametrize("deviation", [0.005, 0.02])
def test_intervals_cover_where_the_effect_says_when_to_stop(effect, deviation):
    runs, covered = 500, 0
    for seed in range(runs):
        ratio, _ = compare_sessions(effect, deviation, 10_000 + seed)
        covered += ratio.ci[0] <= effect <= ratio.ci[1]
    assert 0.915 <= covered / runs <= 0.985  # 93 to 97 %, and three deviations of 500 runs


@pytest.mark.parametrize("sessions", [2, 3, 4])
def test_intervals_of_few_sessions_cover(sessions):
    runs, covered = 1500, 0
    few = replace(SETTINGS, max_sessions=sessions, stop_at_difference=False)
    for seed in range(runs):
        ratio, _ = compare_sessions(0.9, 0.01, seed, few)
        assert ratio.sessions == sessions
        covered += ratio.ci[0] <= 0.9 <= ratio.ci[1]
    assert 0.93 <= covered / runs <= 0.97
