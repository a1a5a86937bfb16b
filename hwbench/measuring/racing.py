"""Which of many candidates is the fastest: a race in heats, and a proof for its winner.

Every candidate runs beside the baseline in a few sessions; then the slower half is left out, again
and again (sequential halving: Karnin, Koren and Somekh, Almost optimal exploration in multi-armed
bandits, 2013), so that most of the time goes to those that may be the fastest. The proof does not
rest on the order of the estimates: it asks anytime-valid intervals, of the candidates that ran in
one heat against each other, of the others against the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from hwbench.measuring.evidence import drop_cut_sessions, ratio_at_level
from hwbench.records.series import Series

FINALISTS = 4
"""Candidates that are not halved further: all of them run in the last heat."""
HEAT = 7
"""Candidates of a heat at most; with the baseline, so many are prepared at once."""
PROOF_ALPHA = 0.01
"""Error probability of a proof, over all candidates together."""


class Race:
    """A race of candidates, each known by a name of its own.

    Args:
        names: The candidates, each once.
        min_effect: Relative difference that does not matter: a rival may be that much faster.
    """

    def __init__(self, names: Sequence[str], min_effect: float) -> None:
        self._min_effect = min_effect
        self._running = list(dict.fromkeys(names))
        self._left_out: list[str] = []  # those left out last come first
        self._heats: list[tuple[Series, Mapping[str, Series]]] = []

    def heats(self, budget_s: float) -> Iterator[tuple[Sequence[str], float]]:
        """The candidates of each heat in turn, and the seconds it may take.

        After each heat, its samples have to be added, and candidates that cannot run dropped.
        """
        rounds, running = 1, len(self._running)
        while running > FINALISTS:
            running = _halve(running)
            rounds += 1
        for _ in range(rounds):
            for heat in _split(self._running):
                yield heat, budget_s / rounds * len(heat) / max(len(self._running), 1)
            self._leave_out_the_slower_half()

    def add(self, baseline: Series, candidates: Mapping[str, Series]) -> None:
        """Take note of a heat: the samples of the baseline and those of each candidate."""
        baseline, series = drop_cut_sessions(baseline, list(candidates.values()))
        self._heats.append((baseline, dict(zip(candidates, series, strict=True))))

    def drop(self, name: str) -> None:
        """Take out a candidate that cannot run."""
        self._running = [other for other in self._running if other != name]

    def order(self) -> list[str]:
        """All candidates that can run, the fastest first; whoever got further is ahead."""
        return [*sorted(self._running, key=self._ratio), *self._left_out]

    def find_rivals(self, winner: str) -> list[str]:
        """Candidates that may be faster than the winner by more than what matters, in order."""
        others = [name for name in self.order() if name != winner]
        return [name for name in others if not self._is_behind(name, winner, len(others))]

    def _ratio(self, name: str) -> float:
        return ratio_at_level(self._beside_baseline(name), PROOF_ALPHA).ratio

    def _leave_out_the_slower_half(self) -> None:
        if len(self._running) <= FINALISTS:
            return
        ranked = sorted(self._running, key=self._ratio)
        kept = _halve(len(ranked))
        self._running = ranked[:kept]
        self._left_out = [*ranked[kept:], *self._left_out]

    def _is_behind(self, name: str, winner: str, others: int) -> bool:
        """Whether the winner is proven to be faster, or slower by no more than what matters.

        Half of the error probability goes to the intervals of the pairs, the other half to those of
        all candidates against the baseline.
        """
        least = 1 / (1 + self._min_effect)
        pairs = [
            (candidates[winner], candidates[name])
            for _, candidates in self._heats
            if winner in candidates and name in candidates
        ]
        if pairs and ratio_at_level(pairs, PROOF_ALPHA / 2 / others).verdict_ci[0] > least:
            return True
        level = PROOF_ALPHA / 2 / (others + 1)
        low = ratio_at_level(self._beside_baseline(name), level).verdict_ci[0]
        high = ratio_at_level(self._beside_baseline(winner), level).verdict_ci[1]
        return math.isfinite(high) and low / high > least

    def _beside_baseline(self, name: str) -> list[tuple[Series, Series]]:
        return [
            (baseline, candidates[name])
            for baseline, candidates in self._heats
            if name in candidates
        ]


def _halve(running: int) -> int:
    return max(FINALISTS, -(-running // 2))


def _split(names: Sequence[str]) -> list[Sequence[str]]:
    """Heats of about the same size, neighbours together."""
    count = max(1, -(-len(names) // HEAT))
    ends = [round(number * len(names) / count) for number in range(count + 1)]
    return [names[start:end] for start, end in pairwise(ends) if end > start]
