"""Profiles of several sessions become the layers of a record.

Some layers are too short for the profiler to tell; these are named in a finding.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from hwbench import stats
from hwbench.devices.base import LayerRow, LayerSamples
from hwbench.records.findings import Finding
from hwbench.records.measurement import LayerLatency, LayerProfile


def join_sessions(sessions: Sequence[LayerSamples], latency_s: float) -> LayerProfile:
    """Join the profiles of several sessions.

    A layer takes the geometric mean over sessions of its session medians. Each session's rows are
    taken relative to the unprofiled inferences beside them and then to the latency of the whole
    measurement, because a machine that was slower while it profiled made both slower.

    Args:
        sessions: At least one; all have the same rows.
        latency_s: Latency of the whole measurement, seconds.
    """
    row_logs: dict[str, list[float]] = defaultdict(list)
    whole_logs: list[float] = []
    for session in sessions:
        level = 0.0
        if session.reference_s:
            level = math.log(latency_s / float(np.median(session.reference_s)))
        whole_s = stats.grouped_median(session.whole_s, session.grain_s)
        whole_logs.append(level + math.log(whole_s))
        for row in session.rows:
            row_logs[row.name].append(level + math.log(row_latency(row, session)))
    last = sessions[-1]
    bounds = set(find_bounds(sessions))
    layers = []
    for row in last.rows:
        estimate = stats.estimate_of_sessions(np.array(row_logs[row.name]))
        layers.append(
            LayerLatency(
                row.name,
                row.op,
                row.key,
                row.implementation,
                estimate.estimate,
                row.calls,
                estimate.ci if stats.is_telling(estimate.ci) else None,
                row.name in bounds,
            )
        )
    profiled_s = math.exp(float(np.mean(whole_logs)))
    return LayerProfile(tuple(layers), profiled_s, last.node_cost_s, last.rest_cause)


def row_latency(row: LayerRow, session: LayerSamples) -> float:
    """Median latency of one row in one session, seconds; at least `_lowest_latency`.

    A row of n runtime nodes carries the profiler's own cost n times; it is taken off here and
    nowhere else.
    """
    median_s = stats.grouped_median(row.samples_s, session.grain_s)
    return max(median_s - row.nodes * session.node_cost_s, _lowest_latency(row, session))


def _lowest_latency(row: LayerRow, session: LayerSamples) -> float:
    """The least that is believed of a row: a tenth of it, and a quarter of the clock's grain.

    A latency is never 0. Rows at this bound are too short for the profiler to tell and are named in
    a finding.
    """
    median_s = stats.grouped_median(row.samples_s, session.grain_s)
    return 0.1 * max(median_s, session.grain_s / 4)


def find_bounds(sessions: Sequence[LayerSamples]) -> list[str]:
    """Names of rows that are at their lowest latency in most sessions."""
    counts: Counter[str] = Counter()
    for session in sessions:
        for row in session.rows:
            if row_latency(row, session) <= _lowest_latency(row, session):
                counts[row.name] += 1
    return [name for name, count in counts.items() if 2 * count > len(sessions)]


def find_unresolved_rows(sessions: Sequence[LayerSamples]) -> list[Finding]:
    """Rows that are too short for the profiler, as a finding."""
    names = find_bounds(sessions)
    if not names:
        return []
    examples = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    text = (
        f"{len(names)} layers take less than the profiler itself and are shown at a bound, not a"
        f" latency ({examples})"
    )
    return [Finding("below_resolution", text)]
