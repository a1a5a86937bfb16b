"""The nouns of every search: candidate, outcome, trial, and the two roles, Search and Objective."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from hwbench.errors import Argument, MeasurementError, UsageError
from hwbench.records.codec import from_plain, to_plain


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposed network: the original with other widths, fewer blocks, or weights set to zero.

    Attributes:
        number: Counts the proposals of one search, from 0.
        widths: One per prunable group; None where widths stay.
        dropped: Names of the blocks left out.
        shares: Kept share of the single weights of each layer (fine-grained pruning); None where
            all stay.
        task: `network` to evaluate it as a result, `score` to tell the distance of its features
            alone.
        note: How the search came to it, for people.
    """

    number: int
    widths: tuple[int, ...] | None = None
    dropped: tuple[str, ...] = ()
    shares: tuple[float, ...] | None = None
    task: str = "network"
    note: str = ""

    @property
    def network(self) -> tuple[object, ...]:
        """What is asked about which network: equal for two candidates with the same outcome."""
        return self.task, self.widths, self.dropped, self.shares


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a candidate turned out to be.

    Attributes:
        quality: What the objective measures, in [0, 1], the more the better: accuracy, kept weight;
            None for a score.
        latency_s: Predicted seconds of one inference; None where the search had no source of
            latency.
        macs: Multiply-accumulates.
        params: Weights and biases.
        size_bytes: Bytes of the weights.
        distance: Mean squared distance of its features to those of the original; None where it was
            not asked for.

    Raises:
        MeasurementError: A number is not finite.
    """

    quality: float | None
    latency_s: float | None
    macs: int
    params: int
    size_bytes: int
    distance: float | None = None

    def __post_init__(self) -> None:
        given = (self.quality, self.latency_s, self.distance)
        if not all(value is None or math.isfinite(value) for value in given):
            raise MeasurementError(
                f"quality, latency and distance of a network are {given}; expected finite numbers"
            )


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate with its outcome, or with the error that kept it from having one; never both.

    Raises:
        UsageError: Both were given, or neither.
    """

    candidate: Candidate
    outcome: Outcome | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.outcome is None) == (self.error is None):
            raise UsageError(
                f"trial {self.candidate.number} needs an outcome or an error, and not both"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s form.

        Raises:
            SchemaError: It is damaged.
        """
        return from_plain(cls, data, "trial of a search", Argument("fresh", value=True))


class Objective(Protocol):
    """Whoever evaluates candidates.

    It may raise: the loop around it turns that into a failed trial.
    """

    name: str
    """What `Outcome.quality` is: `accuracy`, `kept L1 weight`."""

    def evaluate(self, candidate: Candidate) -> Outcome:
        """Quality and cost of one candidate.

        The same for the same candidate, whatever was evaluated before.
        """
        ...

    def original(self) -> Outcome:
        """Quality and cost of the unpruned network."""
        ...


class Search(ABC):
    """A seeded state machine.

    Its next proposals depend on its arguments and on the trials it observed, on nothing else. So a
    search that was killed goes on by replay: a new one with the same arguments is given the
    outcomes that are known.

    Subclasses implement `_next` and `_learn`, and say when they are `finished`.

    Attributes:
        name: What it is called in the journal of its trials.
        trials: What was observed, in order.
    """

    name: str = ""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self._open: list[Candidate] = []
        self._proposed = 0

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether there is nothing more to propose."""

    @abstractmethod
    def _next(self) -> list[Candidate]:
        """The next batch, numbered by `_number`; evaluated in any order, even at once."""

    @abstractmethod
    def _learn(self, trials: Sequence[Trial]) -> None:
        """Take in the outcomes of the last batch, in its order."""

    def rank(self, outcome: Outcome) -> float:
        """What the search maximises; the quality, unless it says otherwise."""
        return float("-inf") if outcome.quality is None else outcome.quality

    def propose(self) -> list[Candidate]:
        """The next candidates.

        The same again until they were observed, none once the search is finished.
        """
        if not self._open and not self.finished:
            self._open = self._next()
        return list(self._open)

    def observe(self, trials: Sequence[Trial]) -> None:
        """Take in what became of the candidates proposed last, all of them.

        Raises:
            UsageError: They are not the trials of the candidates that were proposed.
        """
        if [trial.candidate for trial in trials] != self._open or not trials:
            observed = [trial.candidate.number for trial in trials]
            proposed = [candidate.number for candidate in self._open]
            raise UsageError(f"trials {observed} observed where {proposed} were proposed")
        self._open = []
        self.trials += trials
        self._learn(trials)

    def eligible(self, trial: Trial) -> bool:
        """Whether a trial may be the result: it did not fail, and is a network to keep."""
        return trial.outcome is not None

    def best(self, trials: Iterable[Trial] | None = None) -> Trial | None:
        """The trial that ranks highest, the earliest of equals.

        Args:
            trials: To choose from; those observed if none are given.
        """
        eligible = filter(self.eligible, self.trials if trials is None else trials)
        return max(eligible, key=self._rank_of, default=None)

    def _rank_of(self, trial: Trial) -> float:
        return float("-inf") if trial.outcome is None else self.rank(trial.outcome)

    def _number(self) -> int:
        """The number of one more candidate."""
        self._proposed += 1
        return self._proposed - 1
