"""Evidence of several measurements is joined, and the verdicts of a long loop are seldom false."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from hwbench import stats
from hwbench.measuring.evidence import (
    ErrorLevels,
    PairedEvidence,
    drop_cut_sessions,
    ratio_at_level,
)
from hwbench.records.series import Series, join_series

pytestmark = pytest.mark.slow

BLOCKS = 5


def pair(
    random: np.random.Generator, ratio: float, sessions: int, sd: float = 0.004
) -> tuple[Series, Series]:
    """Interleaved samples of a baseline of 1 ms and of a candidate, with session offsets."""
    offsets = random.normal(math.log(ratio), sd, sessions)
    baseline_s = 1e-3 * random.lognormal(0, 0.001, (sessions, BLOCKS))
    candidate_s = 1e-3 * np.exp(offsets)[:, None] * random.lognormal(0, 0.001, (sessions, BLOCKS))
    numbers = np.repeat(np.arange(sessions), BLOCKS).tolist()
    blocks = tuple(range(sessions * BLOCKS))
    first = Series(tuple(baseline_s.ravel().tolist()), tuple(numbers), blocks)
    return first, Series(tuple(candidate_s.ravel().tolist()), tuple(numbers), blocks)


def test_measurements_add_up_to_one_with_all_their_sessions():
    random = np.random.default_rng(1)
    parts = [pair(random, 0.9, sessions) for sessions in (3, 5)]
    evidence = PairedEvidence(level=0.001, min_effect=0.01)
    for baseline, candidate in parts:
        evidence.add(baseline, candidate, spent_s=1.0)
    assert evidence.ratio.sessions == 8
    assert evidence.spent_s == 2.0
    assert evidence.ratio.ratio == pytest.approx(0.9, rel=0.01)
    assert evidence.verdict is stats.Verdict.FASTER
    whole = join_series([candidate for _, candidate in parts])
    assert whole.session == (*parts[0][1].session, *(3 + n for n in parts[1][1].session))
    assert len(set(whole.block)) == len(whole)


def test_a_lower_level_gives_a_wider_interval():
    part = pair(np.random.default_rng(2), 1.1, 12)
    wide, narrow = (ratio_at_level([part], level) for level in (1e-4, 1e-2))
    assert wide.verdict_ci[0] < narrow.verdict_ci[0] < narrow.ratio < narrow.verdict_ci[1]
    assert wide.ci == narrow.ci
    few = ratio_at_level([pair(np.random.default_rng(2), 1.1, 2)], 1e-6)
    assert few.verdict_ci == (0.0, math.inf)


def test_levels_add_up_to_what_is_allowed():
    levels = ErrorLevels(0.05)
    given = [levels.next_level() for _ in range(100_000)]
    assert given[0] == stats.VERDICT_ALPHA
    assert all(later <= earlier for earlier, later in pairwise(given))
    assert sum(given) < 0.05
    levels.verdicts = 50_000
    assert levels.next_level() > 1000 * given[-1]


def test_few_verdicts_of_many_candidates_are_false():
    """Half of 200 candidates are as fast as the baseline; every verdict about them says so."""
    false, given = 0, 0
    for seed in range(3):
        random, levels = np.random.default_rng(seed), ErrorLevels(0.05)
        for number in range(200):
            truth = 1.0 if number % 2 else 0.95
            evidence = PairedEvidence(levels.next_level(), min_effect=0.01)
            for _ in range(3):
                evidence.add(*pair(random, truth, 4), spent_s=1.0)
                if evidence.has_verdict:
                    break
            levels.verdicts += evidence.has_verdict
            given += evidence.has_verdict
            expected = stats.Verdict.SAME if truth == 1 else stats.Verdict.FASTER
            false += evidence.has_verdict and evidence.verdict is not expected
    assert given > 250
    assert false <= 0.05 * given


def test_a_session_that_the_end_of_the_budget_cut_off_does_not_count():
    session = (0, 0, 0, 0, 1, 1, 1, 1, 2)
    blocks = tuple(range(9))
    baseline = Series((1.0,) * 9, session, blocks)
    # The round that was interrupted for minutes is the one that ate the rest of the budget.
    candidate = Series((0.6,) * 8 + (9000.0,), session, blocks)
    evidence = PairedEvidence(0.004, 0.01)
    evidence.add(baseline, candidate, 2.0)
    assert evidence.ratio.ratio == pytest.approx(0.6)
    assert evidence.ratio.sessions == 2


@pytest.mark.parametrize(
    "session", [(0, 0, 0, 0, 1), (0, 1, 2), (0, 0, 0, 1, 1, 2, 2, 2), (0, 0, 0, 0)]
)
def test_sessions_of_nearly_one_length_and_the_last_two_all_count(session):
    series = Series((1.0,) * len(session), session, tuple(range(len(session))))
    assert drop_cut_sessions(series, [series]) == (series, [series])
