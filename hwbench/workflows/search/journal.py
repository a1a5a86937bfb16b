"""The journal of a search in the store: every trial as soon as it is known.

A search that was killed goes on by it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, SchemaError
from hwbench.search.base import Candidate, Trial
from hwbench.workflows.search.time_budget import TimeBudget

if TYPE_CHECKING:
    from hwbench.store import DamagedRecord, Store

logger = logging.getLogger(__name__)

RECORD = "search_trial"
DECISION = "search_decision"


@dataclass(frozen=True, slots=True)
class _KeptTrial:
    """A trial of an earlier run: its part, and seconds of that run until then."""

    search: str
    run: int
    part: str
    elapsed_s: float
    trial: Trial


def _read_earlier(store: Store, key: str) -> list[_KeptTrial]:
    """The trials of a search that earlier runs made, less those that are damaged."""
    damaged: list[DamagedRecord] = []
    kept = store.read_records(RECORD, _read_trial, key, damaged)
    for record in damaged:
        logger.warning("%s; the trial is made again", record)
    return [trial for trial in kept.values() if trial.search == key]


def _read_trial(data: Mapping[str, Any]) -> _KeptTrial:
    elapsed_s = float(data["elapsed_s"])
    if not 0 <= elapsed_s < math.inf:
        raise SchemaError(f"a trial after {elapsed_s:g} seconds")
    trial = Trial.from_dict(data["trial"])
    return _KeptTrial(
        str(data.get("search")), int(data["run"]), str(data["part"]), elapsed_s, trial
    )


def _read_decision(data: Mapping[str, Any]) -> tuple[str, int, str, int]:
    about = str(data.get("about", ""))
    return str(data.get("search")), int(data["run"]), about, int(data["value"])


class Journal:
    """Trials of one search and of its baselines, each of which is a *part*.

    Args:
        store: Where they are kept; None to keep them in memory alone.
        key: Identity of the search.
        fresh: Whether to begin anew where there are earlier trials.
        time_budget: The clock of the run; the seconds before a kill are added to it. None for a
            clock that begins now.

    Attributes:
        run: Number of the run; a fresh one counts on.
        resumed: Number of trials that were made by an earlier, killed run.
    """

    def __init__(
        self,
        store: Store | None,
        key: str,
        *,
        fresh: bool = False,
        time_budget: TimeBudget | None = None,
    ) -> None:
        self._store, self.key = store, key
        self._known: dict[tuple[str, int], Trial] = {}
        self._time = TimeBudget() if time_budget is None else time_budget
        self.run = 0
        earlier = [] if store is None else _read_earlier(store, key)
        if earlier:
            self.run = max(kept.run for kept in earlier) + int(fresh)
        for kept in earlier:
            if kept.run == self.run:
                self._known[kept.part, kept.trial.candidate.number] = kept.trial
                self._time.include(kept.elapsed_s)
        self.resumed = len(self._known)

    @property
    def trials(self) -> list[Trial]:
        """All trials that are known, those of an earlier run included."""
        return list(self._known.values())

    @property
    def identity(self) -> str | None:
        """Identity of this run of the search, by which it goes on; None where nothing is kept."""
        return None if self._store is None else f"{self.key} {self.run}"

    @property
    def elapsed_s(self) -> float:
        """Seconds spent on the search, those before it was killed included."""
        return self._time.elapsed_s

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

    def decide_once(self, decide: Callable[[], int], about: str = "") -> int:
        """A number that depends on how fast things are at the moment.

        It is decided once, and is the same again when the search goes on.

        Args:
            decide: Decides on it.
            about: What it is, where a search decides on several.
        """
        if self._store is not None:
            # A damaged decision is made anew.
            records = self._store.read_records(DECISION, _read_decision, self.key, [])
            for decision in records.values():
                if decision[:3] == (self.key, self.run, about):
                    return decision[3]
        value = decide()
        if self._store is not None:
            data = {"search": self.key, "run": self.run, "about": about, "value": value}
            self._store.save_record(DECISION, data)
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
