"""PRACTISE's choice of blocks: scores, intervals, the budget."""

from __future__ import annotations

import pytest

from hwbench.errors import UsageError
from hwbench.search.base import Outcome, Trial
from hwbench.search.blocks import Gain
from hwbench.search.practise.search import Practise

GAINS = {
    "a": Gain(0.10, 0.08, 0.12),
    "b": Gain(0.30, 0.25, 0.35),
    "c": Gain(0.20, 0.0, 0.4),
    "d": Gain(-0.1, -0.2, 0.01),
}


class Latency:
    def gain(self, block):
        return GAINS[block]

    def latency_s(self, dropped):
        return 2.0 * (1 - sum(GAINS[block].share for block in dropped))


def run(limit_s: float, distances: dict[str, float | None], blocks=tuple(GAINS)) -> Practise:
    search = Practise(blocks, Latency(), limit_s)
    while not search.finished:
        trials = []
        for one in search.propose():
            value = distances[one.dropped[0]] if one.task == "score" else None
            if one.task == "score" and value is None:
                trials.append(Trial(one, error="out of memory"))
            else:
                trials.append(
                    Trial(one, Outcome(None if one.task == "score" else 0.5, 1.0, 1, 1, 1, value))
                )
        search.observe(trials)
    return search


def test_lowest_score_goes_first_and_score_is_distance_by_gain():
    # b is farther from the original than a, but saves three times as much
    search = run(1.5, {"a": 0.3, "b": 0.6})
    assert search.scores == pytest.approx({"b": 2.0, "a": 3.0})
    assert list(search.scores) == ["b", "a"]
    assert search.best().candidate.dropped == ("b",)


def test_as_many_blocks_as_the_budget_takes():
    assert run(1.9, {"a": 0.1, "b": 0.9}).best().candidate.dropped == ("a",)
    assert run(1.5, {"a": 0.1, "b": 0.9}).best().candidate.dropped == ("a", "b")


def test_blocks_whose_gain_may_be_none_are_neither_scored_nor_dropped():
    search = run(1.3, {"a": 0.1, "b": 0.9})
    assert search.spared == ("c", "d")
    assert {trial.candidate.dropped for trial in search.trials} == {("a",), ("b",), ("a", "b")}


def test_budget_that_dropping_cannot_reach_names_the_least():
    with pytest.raises(
        UsageError, match=r"without all 2 that may go it is 1.2 s, 60.0% of the original"
    ):
        Practise(tuple(GAINS), Latency(), 1.1)


def test_budget_that_the_original_keeps_to_drops_nothing():
    search = run(2.0, {})
    assert search.best().candidate.dropped == ()


def test_a_block_whose_score_failed_is_kept():
    assert run(1.5, {"a": None, "b": 0.9}).best().candidate.dropped == ("b",)
    with pytest.raises(
        UsageError,
        match=r"only 0 blocks have a score, too few for 1\.9 s; without a: out of memory",
    ):
        run(1.9, {"a": None, "b": None})
