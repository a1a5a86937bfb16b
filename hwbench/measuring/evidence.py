"""What is known of a candidate after several measurements beside one baseline.

One comparison claims something false with a small probability; hundreds of them in one loop would
claim something false now and then. So the verdicts of a loop share a bound: the expected share of
false ones among them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from hwbench import stats
from hwbench.records.series import Series, join_series

FALSE_VERDICTS = 0.05
"""Expected share of false verdicts among those of one loop, at most."""
SERIES_SUM = 2.109742801
"""Sum of 1 / (n log(n)^2) over n = 2, 3, ... (OEIS A115563)."""


class ErrorLevels:
    """Error probabilities of the verdicts of one loop, however long it goes on.

    The rule is e-LOND (Xu and Ramdas, Online multiple testing with e-values, 2024), for intervals
    (Xu, Wang and Ramdas, Post-selection inference for e-value based confidence intervals, 2024):
    the t-th candidate gets the level d * g(t) * (v + 1), where d is the share of false verdicts
    allowed, v the verdicts given before, and g sums to 1. The share holds whatever the candidates
    have in common, since anytime-valid intervals are inverted e-processes. Here g(t) is
    1 / (n log(n)^2) with n = t + 1, over its sum: it falls slowly, so that late candidates can
    still be told from the baseline.

    Args:
        false_verdicts: The share.
    """

    def __init__(self, false_verdicts: float = FALSE_VERDICTS) -> None:
        self._share = false_verdicts
        self._candidates = 0
        self.verdicts = 0

    def next_level(self) -> float:
        """Level of the next candidate; never above that of a single comparison."""
        self._candidates += 1
        n = self._candidates + 1
        weight = 1 / (n * math.log(n) ** 2 * SERIES_SUM)
        return min(stats.VERDICT_ALPHA, self._share * weight * (self.verdicts + 1))


@dataclass
class PairedEvidence:
    """Samples of a candidate and of the baseline that was interleaved with it, so far.

    Attributes:
        level: Error probability of the interval its verdict rests on; it holds however often one
            looks.
        min_effect: Smallest relative difference that matters.
        spent_s: Seconds that were spent on it.
        parts: Baseline and candidate of each measurement.
    """

    level: float
    min_effect: float
    spent_s: float = 0.0
    parts: list[tuple[Series, Series]] = field(default_factory=list)

    def add(self, baseline: Series, candidate: Series, spent_s: float) -> None:
        """Take note of another measurement."""
        baseline, (candidate,) = drop_cut_sessions(baseline, [candidate])
        self.parts.append((baseline, candidate))
        self.spent_s += spent_s

    @property
    def has_verdict(self) -> bool:
        """Whether anything may be claimed."""
        return bool(self.parts) and self.verdict is not stats.Verdict.UNRESOLVED

    @property
    def latency_s(self) -> float:
        """Latency of the candidate, seconds."""
        return join_series([candidate for _, candidate in self.parts]).latency().estimate

    @property
    def ratio(self) -> stats.Ratio:
        """Ratio to the baseline, its `verdict_ci` at the level of this candidate."""
        return ratio_at_level(self.parts, self.level)

    @property
    def verdict(self) -> stats.Verdict:
        """What may be claimed so far."""
        return self.ratio.verdict(self.min_effect)


def drop_cut_sessions(
    baseline: Series, candidates: Sequence[Series]
) -> tuple[Series, list[Series]]:
    """Leave out sessions that the end of the budget cut off.

    Every session counts alike, so one of a single round could turn a short measurement over: what
    eats the rest of a budget is a round that was interrupted for long. A session counts as cut with
    less than half of the usual number of rounds, if two others remain.

    Args:
        baseline: Samples of the baseline.
        candidates: Those of workloads that were interleaved with it, each with as many rounds.
    """
    rounds = Counter(baseline.session)
    usual = median(rounds.values())
    whole = {number for number, count in rounds.items() if 2 * count >= usual}
    if len(whole) < 2 or len(whole) == len(rounds):
        return baseline, list(candidates)
    return baseline.of_sessions(whole), [series.of_sessions(whole) for series in candidates]


def ratio_at_level(parts: Sequence[tuple[Series, Series]], level: float) -> stats.Ratio:
    """Ratio of candidate to baseline over several measurements.

    Args:
        parts: Baseline and candidate of each, at least one.
        level: Error probability of `verdict_ci`, over all looks together.
    """
    baseline = join_series([first for first, _ in parts])
    candidate = join_series([second for _, second in parts])
    ratio = candidate.ratio_to(baseline)
    logs = np.log(list(candidate.session_ratios_to(baseline).values()))
    half = stats.anytime_half_width(logs, level)
    centre = math.log(ratio.ratio)
    return replace(
        ratio, verdict_ci=(math.exp(centre - half), stats.exp_or_infinity(centre + half))
    )
