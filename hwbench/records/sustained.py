"""A network under load without a pause: how fast at first, and how fast in the end.

The load is divided into windows. Those of the beginning are the burst, those of the end the steady
state. Windows that follow each other are alike, so the steady ones are joined to a few batches,
whose means are nearly independent (the method of batch means: Law, Simulation modeling and
analysis, chapter 9).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwbench import stats

BURST_SHARE, STEADY_SHARE = 0.05, 0.25
"""Shares of the load, from its beginning and from its end."""
BATCHES = 6
"""Batches that an interval rests on."""


@dataclass(frozen=True, slots=True)
class LoadWindow:
    """A part of a load.

    Attributes:
        at_s: Seconds from the beginning of the load to that of the window.
        latency_s: Median latency of its rounds, seconds.
        temperature_c: At its end; None where the device does not tell.
        throttled: Whether the device said so at its end; None where it does not tell.
    """

    at_s: float
    latency_s: float
    temperature_c: float | None = None
    throttled: bool | None = None


@dataclass(frozen=True, slots=True)
class SustainedLoad:
    """What became of a network's latency under load.

    Attributes:
        asked_s: Seconds that the load was to last.
        rest_s: Seconds that the device was given to cool before.
        windows: The load, in order. Networks that are measured together take turns in each, so that
            they meet the same heat.
    """

    asked_s: float
    rest_s: float
    windows: tuple[LoadWindow, ...]

    @property
    def burst(self) -> stats.Estimate:
        """Latency of the beginning, seconds."""
        return stats.estimate_of_sessions(_batch(self._burst_logs()))

    @property
    def steady(self) -> stats.Estimate:
        """Latency of the end, seconds."""
        return stats.estimate_of_sessions(_batch(self._steady_logs()))

    @property
    def slowdown(self) -> stats.Estimate:
        """Latency of the end over that of the beginning; above 1 is slower."""
        first, last = _batch(self._burst_logs()), _batch(self._steady_logs())
        centre = float(last.mean() - first.mean())
        half = math.hypot(stats.t_half_width(first), stats.t_half_width(last))
        ends = math.exp(centre - half), stats.exp_or_infinity(centre + half)
        return stats.Estimate(math.exp(centre), ends, min(len(first), len(last)))

    @property
    def hottest_c(self) -> float | None:
        """Highest temperature; None where the device does not tell."""
        told = [w.temperature_c for w in self.windows if w.temperature_c is not None]
        return max(told, default=None)

    def gain_change(self, baseline: SustainedLoad) -> tuple[float, float]:
        """How the logarithm of its speed-up over a baseline changes from beginning to end.

        Both took turns in one session, so that what the memory layout of a session does is in both
        ends, and drops out of the change.

        Returns:
            The change, and the half-width of its 95 % interval.
        """
        first = _batch(baseline._burst_logs() - self._burst_logs())
        last = _batch(baseline._steady_logs() - self._steady_logs())
        half = math.hypot(stats.t_half_width(first), stats.t_half_width(last))
        return float(last.mean() - first.mean()), half

    def _burst_logs(self) -> NDArray[np.float64]:
        return _logs(self.windows[: self._count(BURST_SHARE)])

    def _steady_logs(self) -> NDArray[np.float64]:
        return _logs(self.windows[-self._count(STEADY_SHARE) :])

    def _count(self, share: float) -> int:
        return max(1, round(share * len(self.windows)))


def _logs(windows: Sequence[LoadWindow]) -> NDArray[np.float64]:
    return np.log([window.latency_s for window in windows])


def _batch(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of at most `BATCHES` batches of values that follow each other."""
    parts = np.array_split(values, min(BATCHES, len(values)))
    return np.array([part.mean() for part in parts])
