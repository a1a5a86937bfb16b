"""The time of a search: how much it may take, how much is left, and what it went to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class TimeBudget:
    """Counts the seconds of a search from its beginning, those before it was killed included.

    Args:
        limit_s: Seconds that all of the search may take; None for no limit.
        begun: When it began, by `time.monotonic`; None for now.

    Attributes:
        limit_s: Seconds that all of the search may take; None for no limit.
        spent_s: Seconds of this run, by what they went to, in the order in which that began.
    """

    def __init__(self, limit_s: float | None = None, begun: float | None = None) -> None:
        self.limit_s = limit_s
        self.spent_s: dict[str, float] = {}
        self._begun = time.monotonic() if begun is None else begun

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    @property
    def left_s(self) -> float | None:
        """Seconds that are left; None for no limit."""
        return None if self.limit_s is None else self.limit_s - self.elapsed_s

    def include(self, earlier_s: float) -> None:
        """Count seconds that an earlier run had taken when it was killed."""
        self._begun = min(self._begun, time.monotonic() - earlier_s)

    @contextmanager
    def spend(self, purpose: str) -> Iterator[None]:
        """Note what the time of a block goes to."""
        begun = time.monotonic()
        try:
            yield
        finally:
            spent_s = time.monotonic() - begun
            self.spent_s[purpose] = self.spent_s.get(purpose, 0.0) + spent_s

    def describe_spent(self) -> str:
        """What the time went to, for people: `table 12 s, trials 31 s`."""
        return ", ".join(f"{purpose} {spent_s:.0f} s" for purpose, spent_s in self.spent_s.items())
