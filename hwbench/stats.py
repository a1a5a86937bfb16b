"""Statistics of latencies: pure functions on seconds, with sessions as the unit of resampling.

Two sessions of one model (fresh runtime objects) differ by up to 1 % for as long as they live,
because memory is laid out anew. Rounds inside a session therefore do not add evidence about the
model beyond that session: each session is reduced to one number (the median of its log latencies,
or of its log ratios inside blocks), and intervals are taken over sessions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from statistics import median_grouped
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

import numpy as np

from hwbench.errors import MeasurementError

SHOWN_CONFIDENCE = 0.95
"""Confidence of every interval that is shown."""

VERDICT_ALPHA = 0.004
"""Error probability of the interval a verdict rests on; it holds for all looks together.

With it a comparison of at most 33 sessions, which ends at the first difference it sees, claims one
that is none in at most 1 of 1,000 cases, whatever the deviation between sessions.
"""

SAME_ALPHA = 0.01
"""The same for a claim that there is no difference, which does not end a comparison at first sight:
measuring goes on until the interval is narrow and was so for some sessions."""

SMALL_EFFECT, LARGE_EFFECT = (0.7, 1.0), (0.3, 1000.0)
"""How `anytime_half_width` spends its error probability: (share, variance of a prior).

Each prior is one on (true log ratio / between-session deviation). The first makes the interval
tight for effects of the size of that deviation, which many sessions have to tell. The second does
so for effects of many times that size, which three sessions can tell; alone, the first needs six
for any statement.
"""

SESSION_DEVIATION, SESSION_DEGREES = 0.01, 2
"""Deviation of the log ratio between sessions that is expected before any was seen, and the degrees
of freedom that this counts for.

Sessions of one model were seen to differ by up to 1 % on every CPU measured so far. A few of them
may agree by chance, above all where memory is laid out in one of two ways.
"""

TELLING = 2.0
"""An interval that reaches further than this factor to either side tells nothing and is not shown.

Two sessions give a t interval of nine standard errors to each side."""

SETTLED_FROM = 8
"""Warm-up samples from which it can be told whether they have settled."""


class Verdict(Enum):
    """What a comparison may claim about a candidate against its baseline."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    SAME = "SAME"
    UNRESOLVED = "UNRESOLVED"
    INCOMPARABLE = "INCOMPARABLE"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval, in the unit of the value.

    Attributes:
        estimate: The value.
        ci: 95 % interval; infinitely wide from a single session.
        sessions: Sessions it rests on.
    """

    estimate: float
    ci: tuple[float, float]
    sessions: int

    @property
    def half_width(self) -> float:
        """Relative half-width of the interval."""
        return relative_half_width(self.ci)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Latency of the candidate over that of the baseline.

    Attributes:
        ratio: Geometric mean over sessions of the session's median ratio inside blocks; below 1 is
            faster.
        ci: 95 % t interval.
        verdict_ci: 99.6 % interval that holds under any number of looks; verdicts rest on it.
        sessions: Sessions it rests on.
        same_ci: 99 % interval that holds likewise, on which SAME rests; None for `verdict_ci`.
    """

    ratio: float
    ci: tuple[float, float]
    verdict_ci: tuple[float, float]
    sessions: int
    same_ci: tuple[float, float] | None = None

    def verdict(self, min_effect: float) -> Verdict:
        """What may be claimed: two gates for a difference, one for equality.

        FASTER or SLOWER if `verdict_ci` excludes 1 *and* the ratio is beyond `min_effect`; SAME if
        `same_ci` lies inside that effect; else UNRESOLVED.
        """
        low, high = self.verdict_ci
        effect = 1 + min_effect
        if high < 1 and self.ratio < 1 / effect:
            return Verdict.FASTER
        if low > 1 and self.ratio > effect:
            return Verdict.SLOWER
        low, high = self.same_ci or self.verdict_ci
        if 1 / effect < low and high < effect:
            return Verdict.SAME
        return Verdict.UNRESOLVED

    @property
    def half_width(self) -> float:
        """Relative half-width of the 95 % interval."""
        return relative_half_width(self.ci)


def relative_half_width(ci: tuple[float, float]) -> float:
    """Factor from the middle of an interval of positive values to its ends, minus 1."""
    return math.sqrt(ci[1] / ci[0]) - 1 if ci[0] > 0 else math.inf


def is_telling(ci: tuple[float, float]) -> bool:
    """Whether an interval of positive values is narrow enough to tell anything, see `TELLING`."""
    return 1 + relative_half_width(ci) <= TELLING


def by_session(values: ArrayLike, session: ArrayLike) -> list[NDArray[np.float64]]:
    """Split `values` (n,) by their session numbers (n,), sessions in ascending order."""
    data, numbers = np.asarray(values, dtype=np.float64), np.asarray(session)
    return [data[numbers == number] for number in np.unique(numbers)]


def latency(samples_s: ArrayLike, session: ArrayLike) -> Estimate:
    """Latency of one workload from samples (n,) in seconds and their session numbers (n,).

    Returns:
        Geometric mean over sessions of the session medians, with its t interval, in seconds.

    Raises:
        MeasurementError: There are no samples.
    """
    medians = np.array([np.median(np.log(part)) for part in by_session(samples_s, session)])
    if not len(medians):
        raise MeasurementError("no samples were taken, so there is no latency; measure again")
    return estimate_of_sessions(medians)


def estimate_of_sessions(logs: NDArray[np.float64]) -> Estimate:
    """A positive quantity from its logarithm in each session, shape (n,), n >= 1."""
    centre, half = float(logs.mean()), t_half_width(logs)
    return Estimate(
        math.exp(centre),
        (exp_or_infinity(centre - half), exp_or_infinity(centre + half)),
        len(logs),
    )


def ratio(
    baseline_s: ArrayLike,
    candidate_s: ArrayLike,
    session: ArrayLike,
    baseline_block: ArrayLike,
    candidate_block: ArrayLike,
) -> Ratio:
    """Ratio of candidate to baseline from interleaved samples.

    A ratio is taken inside each block, where both ran within milliseconds of each other, so that
    drift cancels; a session gives the median of its log ratios, and both intervals are over
    sessions.

    Args:
        baseline_s: Samples (n,) in seconds.
        candidate_s: Samples (n,) in seconds.
        session: Session numbers (n,) of the baseline's samples.
        baseline_block: Block numbers (n,), unique over the whole measurement.
        candidate_block: Block numbers (n,); each must occur among the baseline's.
    """
    logs = np.log(_aligned(candidate_s, candidate_block)) - np.log(
        _aligned(baseline_s, baseline_block)
    )
    sessions = np.asarray(session)[np.argsort(baseline_block, kind="stable")]
    return ratio_of_sessions(np.array([np.median(part) for part in by_session(logs, sessions)]))


def ratio_of_sessions(logs: NDArray[np.float64]) -> Ratio:
    """Ratio of candidate to baseline from one log ratio per session, shape (n,), n >= 1."""
    centre = float(logs.mean())

    def interval(half: float) -> tuple[float, float]:
        return exp_or_infinity(centre - half), exp_or_infinity(centre + half)

    return Ratio(
        ratio=math.exp(centre),
        ci=interval(t_half_width(logs)),
        verdict_ci=interval(anytime_half_width(logs)),
        sessions=len(logs),
        same_ci=interval(_half_width_under(logs, SAME_ALPHA, SMALL_EFFECT[1], _deviation)),
    )


def quantile(samples_s: ArrayLike, session: ArrayLike, share: float) -> Estimate:
    """Latency that a share of all inferences does not exceed, from samples of single inferences.

    The interval is Woodruff's (Confidence intervals for medians and other position measures, 1952)
    with sessions as clusters: the share of samples up to the quantile varies from session to
    session, and its t interval is carried over to the samples.

    Args:
        samples_s: Samples (n,) in seconds, n >= 1, each of one inference.
        session: Their session numbers (n,).
        share: From 0 to 1.

    Returns:
        The quantile with its interval in seconds; the upper end is infinite where it lies beyond
        all samples.
    """
    ordered = np.sort(np.asarray(samples_s, dtype=np.float64))
    value = float(np.quantile(ordered, share, method="inverted_cdf"))
    parts = by_session(samples_s, session)
    shares = np.array([np.mean(part <= value) for part in parts])
    half = t_half_width(shares)
    low, high = 0.0, math.inf
    if math.isfinite(half):
        low = float(np.quantile(ordered, max(0.0, share - half)))
        if share + half < 1:
            high = float(np.quantile(ordered, share + half))
    return Estimate(value, (low, high), len(parts))


def _aligned(values: ArrayLike, block: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)[np.argsort(block, kind="stable")]


def exp_or_infinity(value: float) -> float:
    """The exponential of an end of an interval, infinite where Python's would overflow."""
    return math.exp(value) if value < 700 else math.inf


def anytime_half_width(values: ArrayLike, alpha: float = VERDICT_ALPHA) -> float:
    """Half-width of an interval that stays valid however often one looks.

    It is for the mean of log ratios, normal and of unknown variance, one per session.

    The Bayes factor of the t statistic under a normal prior on the effect size (Gonen et al., The
    Bayesian two-sample t test, 2005) is, with the right-Haar prior on the scale, a martingale under
    the null (Hendriksen, de Heide and Grunwald, Optional stopping with Bayes factors, 2021), so
    that the set of means for which it stays below 1 / alpha covers the truth at all times with
    probability 1 - alpha (Ville's inequality). With r = 1 + n*prior and K = (sqrt(r) / alpha)^(2 /
    n) it is t^2 < (n - 1)(K - 1) / (1 - K / r).

    Two priors share alpha, and the narrower of their intervals counts: either of them excludes the
    truth with at most the sum of their probabilities. The one for large effects, which few sessions
    tell, takes the deviation for what can be expected of it (`expected_deviation`), never for less
    than the sample's, which widens the interval.

    Args:
        values: One log ratio per session, shape (n,).
        alpha: Probability of ever excluding the truth.

    Returns:
        The half-width; infinite while n is too small for any statement.
    """
    data = np.asarray(values, dtype=np.float64)
    share, variance = SMALL_EFFECT
    small = _half_width_under(data, share * alpha, variance, _deviation)
    share, variance = LARGE_EFFECT
    return min(small, _half_width_under(data, share * alpha, variance, expected_deviation))


def _half_width_under(
    values: NDArray[np.float64],
    alpha: float,
    variance: float,
    deviate: Callable[[NDArray[np.float64]], float],
) -> float:
    """Half-width of the interval of `anytime_half_width` under one prior of that variance."""
    n = len(values)
    t = _anytime_t(n, alpha, variance)
    return t * deviate(values) / math.sqrt(n) if math.isfinite(t) else math.inf


def _anytime_t(n: int, alpha: float, variance: float) -> float:
    """The t statistic of n values at which the Bayes factor under one prior reaches 1 / alpha."""
    if n < 2:
        return math.inf
    r = 1 + n * variance
    k = (math.sqrt(r) / alpha) ** (2 / n)
    return math.inf if k >= r else math.sqrt((n - 1) * (k - 1) / (1 - k / r))


def _deviation(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1))


def expected_deviation(values: NDArray[np.float64]) -> float:
    """Deviation between sessions that is expected after log ratios of shape (n,), n >= 2.

    It is that of the values, or where that is smaller one that is moderated by what is known of
    other devices (`SESSION_DEVIATION`): both variances weighted by their degrees of freedom, as in
    the moderated t statistic (Smyth, Linear models and empirical Bayes methods, 2004).
    """
    own, degrees = float(values.var(ddof=1)), len(values) - 1
    known = SESSION_DEGREES * SESSION_DEVIATION**2
    return math.sqrt(max(own, (known + degrees * own) / (SESSION_DEGREES + degrees)))


def t_half_width(values: NDArray[np.float64]) -> float:
    """Half-width of the 95 % t interval for the mean of values of shape (n,), one per session.

    Infinite for fewer than two.
    """
    n = len(values)
    return math.inf if n < 2 else t_quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)


@lru_cache(maxsize=256)
def t_quantile(degrees: int) -> float:
    """Standard errors that the 95 % t interval reaches to each side, with `degrees` of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + SHOWN_CONFIDENCE / 2))


def t_upper_p(t: float, degrees: int) -> float:
    """Probability that Student's t with `degrees` of freedom is above `t`."""
    from scipy.special import stdtr

    return float(stdtr(degrees, -t))


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share: `hits` of `n` >= 1, by Wilson's score (1927)."""
    z = normal_quantile()
    centre = (hits + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(hits * (n - hits) / n + z**2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference_interval(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the difference between two shares of the same `n` >= 1 samples.

    It inverts the score test of which McNemar's is the case of no difference (Tango, Equivalence
    test and confidence interval for the difference in proportions for the paired-sample design,
    1998). Unlike Wald's it covers where few samples differ, or none.

    Args:
        only_first: Samples that hit in the first share alone.
        only_second: Samples that hit in the second alone.
        n: All samples.

    Returns:
        The interval of (first - second), from -1 to 1.
    """
    from scipy.optimize import brentq

    z = normal_quantile()
    estimate = (only_first - only_second) / n

    def excess(difference: float) -> float:
        """By how much the score is beyond its quantile if this were the true difference."""
        # The most likely probability of `only_second` under that difference solves a quadratic.
        b = -only_first - only_second + (2 * n - only_first + only_second) * difference
        c = -only_second * difference * (1 - difference)
        second = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = max(2 * second + difference * (1 - difference), 0.0) / n
        return abs(estimate - difference) - z * math.sqrt(variance)

    ends = []
    for bound in (-1.0, 1.0):
        # The estimate itself has no excess where no sample differs, and is no end for that.
        beside = estimate + math.copysign(1e-9, bound)
        is_inside = abs(estimate - bound) < 1e-9 or excess(bound) <= 0
        ends.append(bound if is_inside else float(brentq(excess, beside, bound)))
    return ends[0], ends[1]


@lru_cache(maxsize=1)
def normal_quantile() -> float:
    """Standard errors that a 95 % interval reaches to each side where the deviation is known."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + SHOWN_CONFIDENCE / 2))


def grouped_median(values_s: Sequence[float], grain_s: float) -> float:
    """Median of values that a clock of grain `grain_s` seconds has rounded.

    It is interpolated inside the middle grain.

    A plain median of whole microseconds would be wrong by up to half of one, which is 10 % of a 5
    us layer.
    """
    return (
        float(median_grouped(values_s, interval=grain_s))
        if grain_s > 0
        else float(np.median(values_s))
    )


def settled(samples_s: ArrayLike, tolerance: float = 0.02) -> bool:
    """Whether warm-up has ended.

    It has if the latest quarter of the samples agrees with the quarter before it.

    Args:
        samples_s: Warm-up samples (n,) of one workload in order.
        tolerance: Relative difference of the medians that counts as agreement.
    """
    data = np.asarray(samples_s, dtype=np.float64)
    if len(data) < SETTLED_FROM:
        return False
    quarter = len(data) // 4
    late, before = np.median(data[-quarter:]), np.median(data[-2 * quarter : -quarter])
    return bool(abs(late / before - 1) <= tolerance)


def spread(samples_s: ArrayLike, session: ArrayLike) -> float:
    """Typical relative spread inside a session.

    It is the median over sessions of 1.4826 * MAD / median (a robust deviation).
    """
    parts = by_session(samples_s, session)
    return float(
        np.median([1.4826 * np.median(np.abs(p - np.median(p))) / np.median(p) for p in parts])
    )


def drift(samples_s: ArrayLike, session: ArrayLike, least: float = 0.0) -> tuple[float, float]:
    """Trend of the session medians over the measurement.

    Args:
        samples_s: Samples (n,) in seconds.
        session: Their session numbers (n,).
        least: Relative change up to which nobody asks whether it is chance.

    Returns:
        (relative change from first to last session along the fitted line, p value of Kendall's tau
        against no trend; 1 where the change is no more than `least`).
    """
    medians = np.array([np.median(part) for part in by_session(samples_s, session)])
    if len(medians) < 4:
        return 0.0, 1.0
    first, second = np.triu_indices(len(medians), 1)
    slopes = (medians[second] - medians[first]) / (second - first)
    slope = float(np.median(slopes))  # Theil and Sen's: no single session can turn it
    change = slope * (len(medians) - 1) / float(np.median(medians))
    if abs(change) <= least:
        return change, 1.0
    # Loading SciPy's statistics takes longer than many a measurement, and few of them drift.
    from scipy.stats import kendalltau

    p_value = float(kendalltau(np.arange(len(medians)), medians).pvalue)
    return change, 1.0 if math.isnan(p_value) else p_value  # all medians equal: no trend to test


def modes(samples_s: ArrayLike) -> tuple[float, float, float] | None:
    """Two modes of a bimodal sample, or None if one mode describes it.

    The samples are split where that reduces the variance of their logs the most. The split counts
    if each part holds at least 10 % of the samples, and the parts' centres are over 2 % and over 4
    of their pooled deviations apart (Ashman's D > 4 with equal deviations; Ashman, Bird and Zepf
    1994 ask for D > 2, which splits skewed single modes too).

    Returns:
        (lower mode in seconds, upper mode in seconds, share of samples in the upper mode).
    """
    every = np.sort(np.log(np.asarray(samples_s, dtype=np.float64)))
    if len(every) < 20:
        return None
    logs = every[
        int(0.01 * len(every)) : len(every) - int(0.05 * len(every))
    ]  # rare long rounds are spikes, not a mode
    n = len(logs)
    size = np.arange(1, n)
    sums, squares = np.cumsum(logs), np.cumsum(logs**2)
    within = (squares[-1] - sums[:-1] ** 2 / size - (sums[-1] - sums[:-1]) ** 2 / (n - size)) / n
    edge = max(2, math.ceil(0.1 * n))
    split = edge + int(np.argmin(within[edge - 1 : n - edge]))
    gap = float(logs[split:].mean() - logs[:split].mean())
    if (
        logs[split] == logs[split - 1]
    ):  # a coarse clock; where samples do differ, one part is too small
        return None
    if gap < 0.02 or gap <= 4 * math.sqrt(max(float(within[split - 1]), 0.0)):
        return None
    low, high = every[every < logs[split]], every[every >= logs[split]]
    return math.exp(float(np.median(low))), math.exp(float(np.median(high))), len(high) / len(every)


def spikes(samples_s: ArrayLike) -> tuple[int, float]:
    """Rounds far beyond the rest: how many there are, and the longest, seconds.

    They exceed the upper quartile by 3 interquartile ranges and by 10 %.

    The fence is Tukey's outer one (Exploratory Data Analysis, 1977). They are counted, never
    dropped.
    """
    data = np.asarray(samples_s, dtype=np.float64)
    low, high = np.quantile(data, [0.25, 0.75])
    fence = max(high + 3 * (high - low), 1.1 * high)
    return int((data > fence).sum()), float(data.max())
