"""The log of a search in the store: every trial as soon as it is known, and found again by a search that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hwbench.errors import SchemaError
from hwbench.search.base import Candidate, Objective, Outcome, Search, Trial

if TYPE_CHECKING:
    from hwbench.store import Store

RECORD = "search_trial"


class Log:
    """Trials of one search and of its baselines, each a *part* of its own.

    Args:
        store: Where they are kept; None to keep them in memory alone.
        key: Identity of the search.
        fresh: Do not go on from earlier trials.
        begun: When the run began, by `time.monotonic`, where reading, training and building a table came first.
    """

    def __init__(self, store: Store | None, key: str, *, fresh: bool = False, begun: float | None = None) -> None:
        self._store, self.key = store, key
        self._known: dict[tuple[str, int], Trial] = {}
        self._begun = time.monotonic() if begun is None else begun
        self.run = 0
        earlier = [] if store is None else [data for data in store.records(RECORD).values() if data.get("search") == key]
        if earlier:
            self.run = max(int(data["run"]) for data in earlier) + int(fresh)
        for data in earlier:
            if data["run"] == self.run:
                self._known[data["part"], int(data["trial"]["candidate"]["number"])] = Trial.from_dict(data["trial"])
                self._begun = min(self._begun, time.monotonic() - float(data["elapsed_s"]))
        self.resumed = len(self._known)

    @property
    def elapsed_s(self) -> float:
        """Seconds spent on the search, those before it was killed included."""
        return time.monotonic() - self._begun

    def recall(self, part: str, candidate: Candidate) -> Trial | None:
        """The trial of a candidate, if an earlier run of the same search made it.

        Raises:
            SchemaError: That run proposed another network at this point.
        """
        known = self._known.get((part, candidate.number))
        if known is not None and known.candidate.network != candidate.network:
            raise SchemaError(
                f"trial {candidate.number} of the kept search {self.key[:12]} is another network than is proposed now: it was "
                "made by another version; start anew with --fresh"
            )
        return known

    def keep(self, part: str, trial: Trial) -> None:
        """Note a trial."""
        self._known[part, trial.candidate.number] = trial
        if self._store is not None:
            data = {"search": self.key, "run": self.run, "part": part, "elapsed_s": self.elapsed_s, "trial": trial.to_dict()}
            self._store.save_record(RECORD, data)


class Loop:
    """Drives searches: proposals to the objective, trials to the log, until they are finished or time is up.

    Args:
        log: Of the search.
        limit_s: Seconds on the log's clock after which nothing new is evaluated; None for no limit.
        told: Called after each trial with the search's part, the search and the trial.
    """

    def __init__(self, log: Log, limit_s: float | None, told: Callable[[str, Search, Trial], None]) -> None:
        self._log, self._limit_s, self._told = log, limit_s, told

    def run(self, part: str, search: Search, objective: Objective, share: float = 1.0) -> None:
        """Run one search.

        Args:
            part: Its name in the log.
            search: A new one.
            objective: Who evaluates.
            share: Of the time left that it may take.
        """
        end_s = None if self._limit_s is None else self._log.elapsed_s + share * (self._limit_s - self._log.elapsed_s)
        seen: dict[object, Outcome] = {}
        while not search.finished:
            trials: list[Trial] = []
            for candidate in search.propose():
                trial = self._log.recall(part, candidate)
                if trial is None:
                    if end_s is not None and self._log.elapsed_s > end_s:
                        return
                    trial = _tried(objective, candidate, seen)
                    self._log.keep(part, trial)
                if trial.outcome is not None:
                    seen[candidate.network] = trial.outcome
                trials.append(trial)
                self._told(part, search, trial)
            search.observe(trials)


def _tried(objective: Objective, candidate: Candidate, seen: dict[object, Outcome]) -> Trial:
    """One trial; whatever goes wrong in it is its error, and no network is evaluated twice."""
    known = seen.get(candidate.network)
    if known is not None:
        return Trial(candidate, known)
    try:
        return Trial(candidate, objective.evaluate(candidate))
    except Exception as error:  # noqa: BLE001 - one failed trial must not end the search
        return Trial(candidate, error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
