"""Which share of a search's time goes to what, where it has a limit.

The table comes first, then the training of an original that comes untrained; what is left then is
shared by the networks that are tried, the baselines, the tuning of the result and its measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwbench.search.method import Method
    from hwbench.workflows.search.plan import Plan

TABLE_SHARE = 0.25
"""Share of the whole time that making and grading a table, or measuring blocks, may take."""
TRAINING_SHARE = 0.5
"""Share of the whole time that training the original may take; it is refused beyond that."""
MEASURING_SHARE = 0.15
"""Of what is left then, the share for measuring the result, again where its budget is corrected."""
TUNING_SHARE = 0.2
"""Of what is left then, the share for tuning the result."""
BASELINES_SHARE = 0.5
"""Of the time for networks that are tried, the share for baselines."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Seconds for each part of a search, once its table is made and its original trained.

    Attributes:
        trials_s: For the search's own networks.
        baselines_s: For networks that it is held against.
        measuring_s: For measuring the result.
        tuning_s: For tuning the result.
    """

    trials_s: float
    baselines_s: float
    measuring_s: float
    tuning_s: float

    @classmethod
    def divide(cls, left_s: float, plan: Plan, method: Method[Any], *, measures: bool) -> Shares:
        """Divide the seconds that are left.

        Args:
            left_s: Those seconds.
            plan: What was asked for.
            method: The search.
            measures: Whether there is a device to measure the result on.
        """
        left_s = max(left_s, 0.0)
        measuring_s = MEASURING_SHARE * left_s if measures else 0.0
        tuning_s = TUNING_SHARE * left_s if _tunes(plan, method) else 0.0
        tried_s = left_s - measuring_s - tuning_s
        baselines_s = BASELINES_SHARE * tried_s if method.has_baselines else 0.0
        return cls(tried_s - baselines_s, baselines_s, measuring_s, tuning_s)

    @property
    def kept_s(self) -> float:
        """Seconds that no network may be tried in."""
        return self.measuring_s + self.tuning_s

    def __str__(self) -> str:
        """For people: `trials 34 s, baselines 34 s, measuring 16 s, tuning 21 s`."""
        named = {
            "trials": self.trials_s,
            "baselines": self.baselines_s,
            "measuring": self.measuring_s,
            "tuning": self.tuning_s,
        }
        return ", ".join(f"{name} {part_s:.0f} s" for name, part_s in named.items() if part_s)


def _tunes(plan: Plan, method: Method[Any]) -> bool:
    """Whether the result is going to be tuned."""
    kind = plan.tune or method.tuning
    return kind == "features" or (kind != "none" and plan.data is not None)
