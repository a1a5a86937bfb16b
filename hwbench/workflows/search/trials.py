"""The loop that drives a search: proposals are evaluated, and it observes what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hwbench.search.base import Candidate, Search, Trial

if TYPE_CHECKING:
    from hwbench.workflows.search.jobs import Evaluate
    from hwbench.workflows.search.journal import Journal


class TrialLoop:
    """Drives searches until they are finished or time is up.

    Their proposals are evaluated, and the trials are noted in the journal.

    Args:
        journal: Where trials are kept, and found again.
        limit_s: Seconds on the journal's clock after which nothing new is evaluated; None for no
            limit.
        evaluate: Evaluates candidates.
        progress: Called after each trial with the search's part, the trial and the best so far.
        known: Trials by their network, which no search evaluates again; new ones are added, so that
            searches of one network for other budgets, and baselines, share them. None for none.

    Attributes:
        journal: Where trials are kept.
        trials: All trials of the searches that were run.
    """

    def __init__(
        self,
        journal: Journal,
        limit_s: float | None,
        evaluate: Evaluate,
        progress: Callable[[str, Trial, Trial | None], None] = lambda *_: None,
        known: dict[object, Trial] | None = None,
    ) -> None:
        self.journal = journal
        self.trials: list[Trial] = []
        self._known = {} if known is None else known
        self._limit_s, self._evaluate, self._progress = limit_s, evaluate, progress

    @property
    def left_s(self) -> float | None:
        """Seconds that are left; None for no limit."""
        return None if self._limit_s is None else self._limit_s - self.journal.elapsed_s

    def run(
        self,
        part: str,
        search: Search,
        *,
        share: float = 1.0,
        keep_s: float = 0.0,
        most: int | None = None,
    ) -> list[Trial]:
        """Run one search.

        Args:
            part: Its name in the journal.
            search: A new one.
            share: Share of the time left that it may take.
            keep_s: Seconds of the time left that are kept for what follows, before that share is
                taken.
            most: Number of trials after which it ends, finished or not; None for no such number.

        Returns:
            All trials, also those of a last batch that the search did not observe, as its time was
            up before the batch was whole.
        """
        end_s = None
        if self.left_s is not None:
            end_s = self.journal.elapsed_s + share * (self.left_s - keep_s)
        trials: list[Trial] = []
        while not search.finished:
            batch = search.propose()
            begun = len(trials)
            within = batch if most is None else batch[: most - begun]
            for trial in self._run_batch(part, within, end_s):
                trials.append(trial)
                self.trials.append(trial)
                self._progress(part, trial, search.best(trials))
            if len(trials) - begun < len(batch):
                break
            search.observe(trials[begun:])
        return trials

    def _run_batch(
        self, part: str, batch: Sequence[Candidate], end_s: float | None
    ) -> Iterator[Trial]:
        """Trials of a batch in its order; no network is evaluated twice.

        Args:
            part: Name of the search in the journal.
            batch: What it proposed.
            end_s: When to stop, on the journal's clock.
        """
        evaluated = self._evaluate(self._unknown(part, batch, end_s))
        for candidate in batch:
            trial = self.journal.recall(part, candidate)
            if trial is None:
                same_network = self._known.get(candidate.network)
                if same_network is None:
                    trial = next(evaluated, None)
                elif not self._is_over(end_s):
                    trial = replace(same_network, candidate=candidate)
                if trial is None:
                    return
                self.journal.keep(part, trial)
            self._known[candidate.network] = trial
            yield trial

    def _unknown(
        self, part: str, batch: Sequence[Candidate], end_s: float | None
    ) -> Iterator[Candidate]:
        """Candidates whose network is not evaluated yet, as long as there is time.

        Whoever evaluates takes candidates ahead of their trials, so networks that are under way
        count as evaluated too.
        """
        under_way: set[object] = set()
        for candidate in batch:
            network = candidate.network
            recalled = self.journal.recall(part, candidate) is not None
            if not recalled and network not in self._known and network not in under_way:
                if self._is_over(end_s):
                    return
                yield candidate
            under_way.add(network)

    def _is_over(self, end_s: float | None) -> bool:
        return end_s is not None and self.journal.elapsed_s > end_s
