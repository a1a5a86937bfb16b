"""The log of a search in the store: every trial as soon as it is known, and found again by a search that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hwbench.errors import SchemaError
from hwbench.search.base import Candidate, Search, Trial

if TYPE_CHECKING:
    from hwbench.store import Store
    from hwbench.workflows.search.jobs import Judge

RECORD = "search_trial"
DECISION = "search_decision"


class Log:
    """Trials of one search and of its baselines, each a *part* of its own.

    Args:
        store: Where they are kept; None to keep them in memory alone.
        key: Identity of the search.
        fresh: Do not go on from earlier trials.
        begun: When the run began, by `time.monotonic`, where reading, training and building a table
            came first.
    """

    def __init__(
        self, store: Store | None, key: str, *, fresh: bool = False, begun: float | None = None
    ) -> None:
        self._store, self.key = store, key
        self._known: dict[tuple[str, int], Trial] = {}
        self._begun = time.monotonic() if begun is None else begun
        self.run = 0
        found = {} if store is None else store.records(RECORD, holding=key)
        earlier = [data for data in found.values() if data.get("search") == key]
        if earlier:
            self.run = max(int(data["run"]) for data in earlier) + int(fresh)
        for data in earlier:
            if data["run"] == self.run:
                self._known[data["part"], int(data["trial"]["candidate"]["number"])] = (
                    Trial.from_dict(data["trial"])
                )
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
                f"trial {candidate.number} of the kept search {self.key[:12]} is another network"
                " than is proposed now: it was made by another version; start anew with --fresh"
            )
        return known

    def once(self, decide: Callable[[], int]) -> int:
        """A number that hangs on how fast things are just now: decided once, and the same when the search goes on."""
        earlier = (
            [] if self._store is None else self._store.records(DECISION, holding=self.key).values()
        )
        for data in earlier:
            if data.get("search") == self.key and data["run"] == self.run:
                return int(data["value"])
        value = decide()
        if self._store is not None:
            self._store.save_record(DECISION, {"search": self.key, "run": self.run, "value": value})
        return value

    def keep(self, part: str, trial: Trial) -> None:
        """Note a trial."""
        self._known[part, trial.candidate.number] = trial
        if self._store is not None:
            data = {
                "search": self.key,
                "run": self.run,
                "part": part,
                "elapsed_s": self.elapsed_s,
                "trial": trial.to_dict(),
            }
            self._store.save_record(RECORD, data)


class Loop:
    """Drives searches: proposals to a judge, trials to the log, until they are finished or time is up.

    Args:
        log: Of the search.
        limit_s: Seconds on the log's clock after which nothing new is judged; None for no limit.
        judge: Judges candidates.
        told: Called after each trial with the search's part, the trial and the best so far.
    """

    def __init__(
        self,
        log: Log,
        limit_s: float | None,
        judge: Judge,
        told: Callable[[str, Trial, Trial | None], None] = lambda *_: None,
    ) -> None:
        self.log, self._limit_s, self._judge, self._told = log, limit_s, judge, told

    def run(
        self, part: str, search: Search, *, share: float = 1.0, most: int | None = None
    ) -> list[Trial]:
        """Run one search.

        Args:
            part: Its name in the log.
            search: A new one.
            share: Of the time left that it may take.
            most: Trials after which it ends, finished or not.

        Returns:
            All trials, also those of a last batch that the search did not observe, as its time was
            up before it was whole.
        """
        end_s = (
            None
            if self._limit_s is None
            else self.log.elapsed_s + share * (self._limit_s - self.log.elapsed_s)
        )
        found: list[Trial] = []
        seen: dict[object, Trial] = {}
        while not search.finished:
            batch = search.propose()
            begun = len(found)
            for trial in self._batch(
                part, batch[: None if most is None else most - begun], seen, end_s
            ):
                found.append(trial)
                self._told(part, trial, search.best(found))
            if len(found) - begun < len(batch):
                break
            search.observe(found[begun:])
        return found

    def _batch(
        self, part: str, batch: Sequence[Candidate], seen: dict[object, Trial], end_s: float | None
    ) -> Iterator[Trial]:
        """Trials of a batch in its order; no network is judged twice."""
        judged = self._judge(self._due(part, batch, seen, end_s))
        for candidate in batch:
            trial = self.log.recall(part, candidate)
            if trial is None:
                known = seen.get(candidate.network)
                trial = next(judged, None) if known is None else replace(known, candidate=candidate)
                if trial is None or (known is not None and self._is_over(end_s)):
                    return
                self.log.keep(part, trial)
            seen[candidate.network] = trial
            yield trial

    def _due(
        self,
        part: str,
        batch: Sequence[Candidate],
        seen: Mapping[object, Trial],
        end_s: float | None,
    ) -> Iterator[Candidate]:
        """Candidates that nobody has judged yet, as long as there is time."""
        coming: set[object] = set()
        for candidate in batch:
            network = candidate.network
            if (
                self.log.recall(part, candidate) is None
                and network not in seen
                and network not in coming
            ):
                if self._is_over(end_s):
                    return
                yield candidate
            coming.add(network)

    def _is_over(self, end_s: float | None) -> bool:
        return end_s is not None and self.log.elapsed_s > end_s
