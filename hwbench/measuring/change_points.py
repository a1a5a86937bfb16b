"""Where a series of latencies changed for good: steps that are sure, and large enough to matter.

Latencies of one model over weeks scatter from day to day by more than their own intervals say, so
what a step is measured against is the scatter of the series itself. The place that splits the
series best by Student's t is a step if its p value, multiplied by the number of places that were
tried (Bonferroni), is small, *and* if the means differ by the smallest effect that matters; then
both parts are looked at in the same way (binary segmentation: Vostrikova, Detecting disorder in
multidimensional random processes, 1981). In the end every step is put where it fits best between
its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwbench import stats

FALSE_ALARM = 0.005
"""Probability that a series without a step shows one, for each part that is looked at."""
SHORTEST = 2
"""Points on each side of a step: a single one may be an accident."""
LEAST_SCATTER = 1e-4
"""Relative deviation below which points are taken to agree: no device repeats itself better."""


@dataclass(frozen=True, slots=True)
class Step:
    """A lasting change of a latency.

    Attributes:
        index: The first point after it.
        ratio: Latency after it over that before it, up to the neighbouring steps; above 1 is
            slower.
        ci: 95 % interval of `ratio`, from the scatter of the points.
    """

    index: int
    ratio: float
    ci: tuple[float, float]


def find_steps(latencies_s: Sequence[float], min_effect: float) -> tuple[Step, ...]:
    """Find the steps of a series.

    Args:
        latencies_s: One latency for each point, seconds, in order of time.
        min_effect: Smallest relative change that matters.
    """
    logs = np.log(np.asarray(latencies_s, dtype=np.float64))
    ends = _segment(logs, 0, len(logs), math.log1p(min_effect))
    edges = _refine(logs, [0, *ends, len(logs)])
    steps = []
    for start, edge, end in zip(edges, edges[1:], edges[2:], strict=False):
        difference, half = _compare(logs[start:edge], logs[edge:end])
        low, high = math.exp(difference - half), math.exp(difference + half)
        steps.append(Step(edge, math.exp(difference), (low, high)))
    return tuple(steps)


def find_steps_of_any(statistics: Sequence[Sequence[float]], min_effect: float) -> tuple[Step, ...]:
    """Find the steps that any of several statistics of the same points shows.

    What disturbs one statistic may leave another alone: switching between two clock rates moves a
    median by the time that was spent in each, and not the fastest inferences. The statistic that
    scatters least from point to point speaks first; the others add steps that it does not show.

    Args:
        statistics: Latencies of the points in order of time, seconds, once for each statistic.
        min_effect: Smallest relative change that matters.
    """
    steps: list[Step] = []
    for latencies_s in sorted(statistics, key=_scatter_between_neighbours):
        known = list(steps)
        steps += [
            step
            for step in find_steps(latencies_s, min_effect)
            if all(abs(step.index - other.index) > SHORTEST for other in known)
        ]
    return tuple(sorted(steps, key=lambda step: step.index))


def _scatter_between_neighbours(latencies_s: Sequence[float]) -> float:
    """Median difference of successive points by logarithm, which a few steps do not change."""
    differences = np.abs(np.diff(np.log(np.asarray(latencies_s, dtype=np.float64))))
    return float(np.median(differences)) if len(differences) else 0.0


def _segment(logs: NDArray[np.float64], start: int, end: int, effect: float) -> list[int]:
    """First points of the parts that logs[start:end] falls into, but for the first part."""
    edge = _best_edge(logs, start, end)
    if edge is None:
        return []
    before, after = logs[start:edge], logs[edge:end]
    places = end - start - 2 * SHORTEST + 1
    difference = abs(float(after.mean() - before.mean()))
    t = difference / _standard_error(before, after)
    degrees = end - start - 2
    p_value = 2 * stats.t_upper_p(t, degrees) * places
    if p_value > FALSE_ALARM or difference < effect:
        return []
    first = _segment(logs, start, edge, effect)
    return [*first, edge, *_segment(logs, edge, end, effect)]


def _refine(logs: NDArray[np.float64], edges: list[int]) -> list[int]:
    """Put every step where it splits best what lies between its neighbours."""
    for place in range(1, len(edges) - 1):
        edges[place] = _best_edge(logs, edges[place - 1], edges[place + 1]) or edges[place]
    return edges


def _best_edge(logs: NDArray[np.float64], start: int, end: int) -> int | None:
    """First point of the second part where logs[start:end] is split best; None if too short."""
    candidates = range(start + SHORTEST, end - SHORTEST + 1)
    if end - start <= 2 * SHORTEST - 1:
        return None
    return max(candidates, key=lambda edge: _gain(logs[start:edge], logs[edge:end]))


def _gain(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """How much a split reduces the sum of squares."""
    weight = len(before) * len(after) / (len(before) + len(after))
    return float(weight * (after.mean() - before.mean()) ** 2)


def _standard_error(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Of the difference of the means, their scatter taken together."""
    degrees = max(len(before) + len(after) - 2, 1)
    squares = float(((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum())
    scatter = max(math.sqrt(squares / degrees), LEAST_SCATTER)
    return scatter * math.sqrt(1 / len(before) + 1 / len(after))


def _compare(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float]:
    """Difference of the means, and the half-width of its 95 % interval."""
    degrees = max(len(before) + len(after) - 2, 1)
    half = stats.t_quantile(degrees) * _standard_error(before, after)
    return float(after.mean() - before.mean()), half
