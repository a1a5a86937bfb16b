"""Statistics: intervals, verdicts, warm-up, modes, spikes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench import stats
from hwbench.errors import MeasurementError
from hwbench.stats import Ratio, Verdict

latencies = st.lists(st.floats(1e-6, 10.0), min_size=8, max_size=60)


def sessions(count: int, each: int) -> list[int]:
    return [number for number in range(count) for _ in range(each)]


@given(latencies, st.floats(0.01, 100.0))
def test_latency_scales_with_its_unit(values, factor):
    session = [i % 4 for i in range(len(values))]
    once, scaled = (
        stats.latency(values, session),
        stats.latency([v * factor for v in values], session),
    )
    assert scaled.estimate == pytest.approx(once.estimate * factor, rel=1e-9)
    assert scaled.half_width == pytest.approx(once.half_width, rel=1e-6, abs=1e-12)


@given(latencies)
def test_latency_lies_between_extremes_and_inside_its_interval(values):
    found = stats.latency(values, [i % 4 for i in range(len(values))])
    assert min(values) <= found.estimate * (1 + 1e-12)
    assert found.estimate <= max(values) * (1 + 1e-12)
    assert found.ci[0] <= found.estimate <= found.ci[1]


def test_no_samples_are_no_latency():
    with pytest.raises(MeasurementError):
        stats.latency([], [])


def test_one_session_gives_no_interval():
    assert stats.latency([1.0, 1.1, 0.9], [0, 0, 0]).ci == (0.0, math.inf)


@given(st.lists(st.tuples(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0)), min_size=6, max_size=40))
def test_ratio_of_swapped_sides_is_the_inverse(pairs):
    base, cand = zip(*pairs, strict=True)
    block, session = list(range(len(pairs))), [i % 3 for i in range(len(pairs))]
    there = stats.ratio(base, cand, session, block, block)
    back = stats.ratio(cand, base, session, block, block)
    assert there.ratio * back.ratio == pytest.approx(1.0, rel=1e-9)


def test_ratio_pairs_by_block_not_by_position():
    base = [1.0, 10.0, 100.0, 1000.0]
    found = stats.ratio(base, [2000.0, 200.0, 20.0, 2.0], [0, 0, 1, 1], [0, 1, 2, 3], [3, 2, 1, 0])
    assert found.ratio == pytest.approx(2.0)
    assert found.half_width == pytest.approx(0.0, abs=1e-12)


def test_drift_shared_by_both_sides_cancels():
    rng = np.random.default_rng(0)
    drift = np.linspace(1.0, 3.0, 800)
    base = 0.01 * drift * rng.lognormal(0, 0.01, 800)
    cand = 0.0098 * drift * rng.lognormal(0, 0.01, 800)
    found = stats.ratio(base, cand, sessions(20, 40), range(800), range(800))
    assert found.ci[0] < 0.98 < found.ci[1]
    assert found.half_width < 0.005


def test_intervals_cover_the_truth_between_sessions():
    """Sessions carry an offset that rounds cannot average out.

    The interval must be as wide as that demands.
    """
    rng, hits, runs = np.random.default_rng(1), 0, 1500
    for _ in range(runs):
        offset = np.repeat(rng.normal(0, 0.01, 8), 20)
        found = stats.latency(np.exp(offset + rng.normal(0, 0.02, 160)), sessions(8, 20))
        hits += found.ci[0] <= 1 <= found.ci[1]
    assert 0.93 <= hits / runs <= 0.97


@pytest.mark.slow
def test_anytime_interval_survives_a_look_after_every_session():
    """A fixed-size interval looked at 40 times would be wrong in far more than 0.4 % of rows."""
    rng, runs, wrong = np.random.default_rng(2), 2000, 0
    for row in rng.standard_normal((runs, 40)):
        wrong += any(abs(row[:n].mean()) > stats.anytime_half_width(row[:n]) for n in range(2, 41))
    assert wrong / runs <= stats.VERDICT_ALPHA


def test_anytime_interval_is_wider_than_a_single_look_and_shrinks():
    values = np.random.default_rng(3).standard_normal(200)
    assert stats.anytime_half_width(values[:2]) == math.inf
    assert stats.anytime_half_width(values[:3]) > 20 * values[:3].std(ddof=1)
    assert stats.anytime_half_width(values[:20]) > stats.anytime_half_width(values[:200])
    assert stats.anytime_half_width(values[:20]) > 2.861 * values[:20].std(ddof=1) / math.sqrt(20)


def test_large_effects_are_told_by_few_sessions_and_small_ones_by_many():
    scatter = np.array([-1.0, 1.0, 0.0, 0.5, -0.5, 0.2, -0.2, 0.0, 0.7, -0.7]) * 0.005

    def sessions_for(effect: float) -> int:
        for count in range(1, len(scatter) + 1):
            ratio = stats.ratio_of_sessions(math.log(effect) + scatter[:count])
            if ratio.verdict(0.01) is not Verdict.UNRESOLVED:
                return count
        return len(scatter) + 1

    assert sessions_for(1 / 2.48) == sessions_for(2.48) == 3
    assert sessions_for(1 / 1.2) == 4
    assert 5 <= sessions_for(1 / 1.05) <= 7
    assert sessions_for(1 / 1.01) > len(scatter)


def test_few_sessions_that_agree_by_chance_tell_no_small_effect():
    """Memory laid out in one of two ways makes three sessions of one model agree perfectly."""
    for effect in (0.97, 1.05, 1.2):
        ratio = stats.ratio_of_sessions(np.full(3, math.log(effect)))
        assert ratio.verdict(0.01) is Verdict.UNRESOLVED
    assert stats.expected_deviation(np.zeros(3)) == pytest.approx(0.01 / math.sqrt(2))
    assert stats.expected_deviation(np.array([0.0, 1.0])) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("ci", "tells"),
    [((0.9, 1.1), True), ((0.5, 2.0), True), ((0.49, 2.0), False), ((0.0, math.inf), False)],
)
def test_an_interval_beyond_a_factor_of_two_tells_nothing(ci, tells):
    assert stats.is_telling(ci) is tells


@pytest.mark.parametrize(
    ("ratio", "interval", "verdict"),
    [
        (0.95, (0.93, 0.97), Verdict.FASTER),
        (1.05, (1.03, 1.07), Verdict.SLOWER),
        (1.0, (0.995, 1.005), Verdict.SAME),
        (0.995, (0.993, 0.997), Verdict.SAME),
        (0.985, (0.97, 1.0), Verdict.UNRESOLVED),
        (0.995, (0.98, 0.999), Verdict.UNRESOLVED),
        (1.0, (0.0, math.inf), Verdict.UNRESOLVED),
    ],
)
def test_verdict_needs_both_gates(ratio, interval, verdict):
    assert Ratio(ratio, interval, interval, 10).verdict(0.01) is verdict


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_intervals_of_quantiles_cover_though_sessions_differ(share):
    random, runs, covered = np.random.default_rng(9), 300, 0

    def draw(count: int) -> np.ndarray:
        offsets = random.lognormal(0, 0.01, (count, 1))
        rounds = random.lognormal(0, 0.02, (count, 200))
        hit = random.random((count, 200)) < 0.03
        return (offsets * rounds * (1 + hit * random.pareto(1.5, (count, 200)))).ravel()

    truth = np.quantile(draw(10_000), share)
    for _ in range(runs):
        low, high = stats.quantile(draw(12), sessions(12, 200), share).ci
        covered += low <= truth <= high
    assert 0.91 <= covered / runs <= 0.99  # 95 %, and three deviations of 300 runs


def test_a_quantile_of_one_session_has_no_interval():
    found = stats.quantile([1.0, 2.0, 3.0, 4.0], [0] * 4, 0.5)
    assert (found.estimate, found.ci) == (2.0, (0.0, math.inf))
    assert stats.quantile([1.0, 2.0] * 2, [0, 0, 1, 1], 1.0).ci[1] == math.inf


@pytest.mark.parametrize("only_first", [0, 3, 10, 24, 25])
def test_a_paired_interval_excludes_no_difference_where_mcnemar_does(only_first):
    only_second, n = 10, 100
    low, high = stats.paired_difference_interval(only_first, only_second, n)
    assert low < (only_first - only_second) / n < high
    differs = abs(only_first - only_second) / math.sqrt(only_first + only_second) > 1.96
    assert (low > 0 or high < 0) == differs
    assert stats.paired_difference_interval(only_second, only_first, n) == pytest.approx(
        (-high, -low), abs=1e-9
    )


def test_a_paired_interval_is_no_point_where_no_sample_differs():
    low, high = stats.paired_difference_interval(0, 0, 100)
    assert (low, high) == pytest.approx((-0.037, 0.037), abs=0.001)
    assert stats.paired_difference_interval(100, 0, 100)[1] == 1


@pytest.mark.parametrize("n", [120, 360])
@pytest.mark.parametrize(("first", "second"), [(0.02, 0.02), (0.05, 0.02), (0.2, 0.1)])
def test_paired_intervals_cover_the_true_difference(n, first, second):
    """Where less than about three samples differ the interval can only be too wide."""
    random, covered, runs = np.random.default_rng(8), 0, 1000
    for only_first, only_second, _ in random.multinomial(
        n, [first, second, 1 - first - second], runs
    ):
        low, high = stats.paired_difference_interval(int(only_first), int(only_second), n)
        covered += low <= first - second <= high
    assert 0.93 <= covered / runs <= 0.98


def test_the_interval_of_a_share_is_wilsons():
    assert stats.share_interval(8, 10) == pytest.approx((0.490, 0.943), abs=0.001)
    assert stats.share_interval(10, 10) == pytest.approx((0.722, 1.0), abs=0.001)


def test_grouped_median_recovers_what_whole_microseconds_hide():
    rng = np.random.default_rng(4)
    starts = rng.uniform(0, 1e-3, 4000)
    read = (np.floor((starts + 3.4e-6) * 1e6) - np.floor(starts * 1e6)) * 1e-6
    assert np.median(read) == pytest.approx(3e-6)
    assert stats.grouped_median(read.tolist(), 1e-6) == pytest.approx(3.4e-6, abs=0.15e-6)


def test_settled_needs_a_flat_end():
    assert not stats.settled([1.0] * 7)
    assert stats.settled([2.0] * 8 + [1.0] * 8)
    assert not stats.settled(np.linspace(2, 1, 16))


def test_drift_is_found_and_flat_is_not():
    flat = np.random.default_rng(5).lognormal(0, 0.01, 200)
    assert stats.drift(flat, sessions(10, 20))[1] > 0.01
    change, p_value = stats.drift(flat * np.linspace(1, 1.2, 200), sessions(10, 20))
    assert change == pytest.approx(0.18, abs=0.03)
    assert p_value < 0.01


def test_equal_samples_are_not_torn_into_two_modes():
    assert (
        stats.modes([1.0] * 172 + [2.0] * 28) is None
    )  # the clock is coarse, and the upper part is just too small


def test_two_modes_are_told_from_one():
    rng = np.random.default_rng(6)
    one = rng.lognormal(0, 0.02, 400)
    assert stats.modes(one) is None
    assert stats.modes(rng.lognormal(0, 0.2, 400)) is None
    low, high, share = stats.modes(np.concatenate([one[:300], 1.15 * one[300:]])) or pytest.fail(
        "missed"
    )
    assert high / low == pytest.approx(1.15, abs=0.01)
    assert share == pytest.approx(0.25, abs=0.05)


def test_spikes_are_counted():
    values = np.random.default_rng(7).lognormal(0, 0.01, 500)
    assert stats.spikes(values)[0] == 0
    values[::100] *= 3
    assert stats.spikes(values)[0] == 5
