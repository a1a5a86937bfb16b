"""PRACTISE (Wang and Wu, CVPR 2023): drop the blocks that are slow and easy to do without.

The score of a block is `R / tau`: recoverability R, the distance of the network's features without
the block to those with it, after adaptors were trained; and tau, the share of latency that goes
with it. The lowest are dropped first, until the budget is met.

The authors' code (github.com/DoctorKey/Practise) measures the original once and each candidate
later, so that drift lands in the score, and drops a block *first* whose tau came out negative. Here
tau has an interval, and a block whose interval reaches 0 is never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hwbench.errors import UsageError
from hwbench.search.base import Candidate, Search, Trial

if TYPE_CHECKING:
    from hwbench.search.blocks import BlockLatency, Gain


class Practise(Search):
    """First the scores of all blocks that may go, at once; then the one network without the lowest.

    Args:
        blocks: Names of the blocks that can be dropped.
        latency: Tells what dropping them saves.
        limit_s: Most seconds that the network may take.

    Attributes:
        gains: What dropping each block saves, by its name.
        spared: Blocks that are never dropped, as their gain may be none.

    Raises:
        UsageError: The limit cannot be reached; the message has the least that can.
    """

    name = "practise"

    def __init__(self, blocks: Sequence[str], latency: BlockLatency, limit_s: float) -> None:
        super().__init__()
        self.gains: Mapping[str, Gain] = {block: latency.gain(block) for block in blocks}
        self.spared = tuple(block for block, gain in self.gains.items() if gain.low <= 0)
        self._droppable = tuple(block for block in blocks if block not in self.spared)
        self._latency, self._limit_s = latency, limit_s
        least_s, original_s = latency.latency_s(self._droppable), latency.latency_s(())
        if least_s > limit_s:
            raise UsageError(
                f"latency {limit_s:.4g} s cannot be reached by dropping blocks: without all"
                f" {len(self._droppable)} that may go it is {least_s:.4g} s,"
                f" {least_s / original_s:.1%} of the original; ask for no less, or search for"
                " widths instead (amc)"
            )

    @property
    def finished(self) -> bool:
        """Whether the resulting network was observed."""
        return any(trial.candidate.task == "network" for trial in self.trials)

    @property
    def scores(self) -> dict[str, float]:
        """Score of every block that was scored, the lowest first."""
        scores = {}
        for trial in self.trials:
            outcome = trial.outcome
            if trial.candidate.task != "score" or outcome is None or outcome.distance is None:
                continue
            block = trial.candidate.dropped[0]
            scores[block] = outcome.distance / self.gains[block].share
        return dict(sorted(scores.items(), key=lambda item: item[1]))

    def eligible(self, trial: Trial) -> bool:
        """Only the network in the end is a result."""
        return trial.candidate.task == "network" and trial.outcome is not None

    def _next(self) -> list[Candidate]:
        if not self.trials and self._droppable and self._limit_s < self._latency.latency_s(()):
            return [
                Candidate(self._number(), dropped=(block,), task="score", note=f"without {block}")
                for block in self._droppable
            ]
        return [Candidate(self._number(), dropped=self._choose_blocks(), note="lowest scores")]

    def _learn(self, trials: Sequence[Trial]) -> None:
        """Scores are read from the trials."""

    def _choose_blocks(self) -> tuple[str, ...]:
        """Blocks of the lowest scores, as many as it takes to keep to the limit."""
        chosen: list[str] = []
        lowest_first = list(self.scores)
        while self._latency.latency_s(chosen) > self._limit_s:
            if not lowest_first:
                raise UsageError(
                    f"only {len(chosen)} blocks have a score, too few for {self._limit_s:.4g}"
                    f" s{self._first_failure()}"
                )
            chosen.append(lowest_first.pop(0))
        return tuple(block for block in self.gains if block in chosen)

    def _first_failure(self) -> str:
        """The first trial that failed, for a message; empty if none did."""
        for trial in self.trials:
            if trial.error:
                return f"; {trial.candidate.note}: {trial.error}"
        return ""
