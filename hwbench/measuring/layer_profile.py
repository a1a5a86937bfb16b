"""Profiles of several sessions -> the layers of a record.

And which layers are too short for the profiler to tell.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from hwbench import stats
from hwbench.devices.base import LayerRow, LayerSamples
from hwbench.records.findings import Finding
from hwbench.records.measurement import LayerLatency, LayerProfile


def join_sessions(sessions: Sequence[LayerSamples], latency_s: float) -> LayerProfile:
    """Join the profiles of several sessions: per row the geometric mean over sessions of the session medians.

    A row of n runtime nodes carries the profiler's own cost n times; it is taken off here and
    nowhere else. Each session's rows are taken relative to the unprofiled inferences beside them
    and then to `latency_s`, the latency of the whole measurement: a machine that was slower while
    it profiled made both slower.
    """
    logs: dict[str, list[float]] = {}
    whole: list[float] = []
    for session in sessions:
        level = (
            math.log(latency_s / float(np.median(session.beside_s))) if session.beside_s else 0.0
        )
        whole.append(level + math.log(stats.grouped_median(session.whole_s, session.grain_s)))
        for row in session.rows:
            logs.setdefault(row.name, []).append(level + math.log(row_s(row, session)))
    layers = tuple(
        LayerLatency(
            row.name,
            row.op,
            row.key,
            row.implementation,
            math.exp(float(np.mean(logs[row.name]))),
            row.calls,
        )
        for row in sessions[-1].rows
    )
    return LayerProfile(
        layers, math.exp(float(np.mean(whole))), sessions[-1].node_cost_s, sessions[-1].rest_cause
    )


def row_s(row: LayerRow, session: LayerSamples) -> float:
    """Median latency of one row in one session, the profiler's cost taken off.

    Where nothing is left, `_bound_s`.
    """
    return max(
        stats.grouped_median(row.samples_s, session.grain_s) - row.nodes * session.node_cost_s,
        _bound_s(row, session),
    )


def _bound_s(row: LayerRow, session: LayerSamples) -> float:
    """The least that is believed of a row: a tenth of what was read, and of that a quarter of the clock's grain at least.

    A latency is never 0. Rows at this bound are too short for the profiler to tell and are named in
    a finding.
    """
    return 0.1 * max(stats.grouped_median(row.samples_s, session.grain_s), session.grain_s / 4)


def below_resolution(sessions: Sequence[LayerSamples]) -> list[Finding]:
    """Rows that are at their bound in most sessions, as a finding."""
    counts = Counter(
        row.name
        for session in sessions
        for row in session.rows
        if row_s(row, session) <= _bound_s(row, session)
    )
    names = [name for name, count in counts.items() if 2 * count > len(sessions)]
    if not names:
        return []
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    text = (
        f"{len(names)} layers take less than the profiler itself and are shown at a bound, not a"
        f" latency ({some})"
    )
    return [Finding("below_resolution", text)]
