"""When a measurement has enough evidence, and when it waits for a hot device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hwbench import stats
from hwbench.records.measurement import Settings

CONFIRM = 3
"""A narrow interval must have been one this many sessions ago too.

Stopping at the first lucky moment would make the intervals too narrow where the truth is near the
smallest effect: simulated coverage falls to 91 %, with this rule it stays above 93 % for 11 % more
sessions (study `results/virtual_truth/`)."""
GRACE_S = 0.5
"""Seconds beyond the budget that may go to what makes a result much better.

One session has no interval at all, so that a second one is worth a short overrun."""
COOL_DOWN_S, COOL_DOWNS = 5.0, 12
"""Seconds between two looks at a throttled device, and looks before it is measured as it is."""

Evidence = stats.Estimate | Sequence[stats.Ratio]
"""What is known after a session: the one latency, or the ratios to the first workload."""


class StopRule:
    """Decides after each session whether to go on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._narrow: list[bool] = []  # after each session
        self._longest_s = 0.0
        self._differs = False

    def add_session(self, evidence: Evidence, duration_s: float) -> None:
        """Take note of a session: what is known after it, and how long it took."""
        if self._narrow:
            self._longest_s = max(self._longest_s, duration_s)
        # The first session also pays for what is done once, and is no measure of those to come.
        self._narrow.append(self._is_narrow(evidence))
        self._differs = self._tells_differences(evidence)

    @property
    def has_enough(self) -> bool:
        """Whether the evidence itself is a reason to stop."""
        if self._settings.tail:
            return False
        if self._differs and self._settings.stop_at_difference:
            return True
        if len(self._narrow) < max(self._settings.min_sessions, CONFIRM + 1):
            return False
        return self._narrow[-1] and self._narrow[-1 - CONFIRM]

    def stops(self, elapsed_s: float, ahead_s: float | None = None) -> bool:
        """Whether to stop.

        Args:
            elapsed_s: Seconds since the measurement began.
            ahead_s: Seconds that what follows will take; None for those of the longest session.
        """
        sessions = len(self._narrow)
        if sessions == 0:
            return False
        if sessions >= self._settings.max_sessions:
            return True
        if ahead_s is None:
            ahead_s = self._longest_s
        if elapsed_s + ahead_s > self._settings.budget_s:
            return sessions > 1 or ahead_s > GRACE_S
        return sessions > 1 and self.has_enough

    def _tells_differences(self, evidence: Evidence) -> bool:
        """Whether each ratio is known to be a difference.

        The interval that a verdict rests on holds however often one looks, and where it excludes 1
        the one that is shown reaches about half the effect to each side at most. Asking for a
        narrower one would stop where sessions agree by chance, and cost coverage.
        """
        if isinstance(evidence, stats.Estimate):
            return False
        differences = {stats.Verdict.FASTER, stats.Verdict.SLOWER}
        return all(ratio.verdict(self._settings.min_effect) in differences for ratio in evidence)

    def _is_narrow(self, evidence: Evidence) -> bool:
        """Whether the interval is narrow, and for ratios a verdict can be given."""
        target = self._settings.target
        if isinstance(evidence, stats.Estimate):
            return evidence.half_width <= target
        for ratio in evidence:
            if ratio.half_width > target:
                return False
            if ratio.verdict(self._settings.min_effect) is stats.Verdict.UNRESOLVED:
                return False
        return True


class CoolDown:
    """Waits for a device that slows itself down, within limits.

    Args:
        budget_s: Seconds that the measurement may take.
        elapsed_s: Tells how many of them are over.
        idle: Lets seconds pass.
    """

    def __init__(
        self, budget_s: float, elapsed_s: Callable[[], float], idle: Callable[[float], None]
    ) -> None:
        self._budget_s, self._elapsed_s, self._idle = budget_s, elapsed_s, idle
        self._waits = 0

    @property
    def waited_s(self) -> float:
        """Seconds waited so far."""
        return self._waits * COOL_DOWN_S

    def may_wait(self) -> bool:
        """Whether there is time and patience for another wait."""
        return self.fits(0.0)

    def fits(self, ahead_s: float) -> bool:
        """Whether another wait is possible, and `ahead_s` seconds of measuring after it."""
        ready_s = self._elapsed_s() + COOL_DOWN_S + ahead_s
        return self._waits < COOL_DOWNS and ready_s < self._budget_s

    def wait(self, is_hot: Callable[[], bool]) -> None:
        """Wait until the device is no longer hot, or may not be waited for any longer."""
        while self.may_wait():
            self._waits += 1
            self._idle(COOL_DOWN_S)
            if not is_hot():
                return
