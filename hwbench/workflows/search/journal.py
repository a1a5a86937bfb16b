"""The journal of a search in the store: every trial as soon as it is known.

A search that was killed goes on by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hwbench.errors import Argument, SchemaError
from hwbench.search.base import Candidate, Trial

if TYPE_CHECKING:
    from hwbench.store import Store

RECORD = "search_trial"
DECISION = "search_decision"


class Journal:
    """Trials of one search and of its baselines, each of which is a *part*.

    Args:
        store: Where they are kept; None to keep them in memory alone.
        key: Identity of the search.
        fresh: Whether to begin anew where there are earlier trials.
        begun: When the run began, by `time.monotonic`, where reading, training and building a table
            came first; None for now.

    Attributes:
        run: Number of the run; a fresh one counts on.
        resumed: Number of trials that were made by an earlier, killed run.
    """

    def __init__(
        self, store: Store | None, key: str, *, fresh: bool = False, begun: float | None = None
    ) -> None:
        self._store, self.key = store, key
        self._known: dict[tuple[str, int], Trial] = {}
        self._begun = time.monotonic() if begun is None else begun
        self.run = 0
        records = {} if store is None else store.records(RECORD, holding=key)
        earlier = [data for data in records.values() if data.get("search") == key]
        if earlier:
            self.run = max(int(data["run"]) for data in earlier) + int(fresh)
        for data in earlier:
            if data["run"] == self.run:
                trial = Trial.from_dict(data["trial"])
                self._known[data["part"], trial.candidate.number] = trial
                # The clock begins so far in the past that time before the kill counts as well.
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
                " than is proposed now: it was made by another version",
                Argument("fresh", value=True, purpose="begin anew"),
            )
        return known

    def decide_once(self, decide: Callable[[], int]) -> int:
        """A number that depends on how fast things are at the moment.

        It is decided once, and is the same again when the search goes on.
        """
        records = {} if self._store is None else self._store.records(DECISION, holding=self.key)
        for data in records.values():
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
