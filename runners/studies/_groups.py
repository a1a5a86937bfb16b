"""Several networks measured interleaved, each against the first of them, as rows of a study."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hwbench.devices.base import Device
from hwbench.measuring.sessions import measure_interleaved
from hwbench.network.workload import Workload
from hwbench.records.comparison import Comparison, compare
from hwbench.records.measurement import Settings
from runners.studies._results import count_macs

Row = dict[str, Any]
RATIOS = (
    "Ratios are to the first network of a group, measured interleaved, with 95 % intervals over"
    " sessions; macs and params too. The verdict rests on a stricter interval, 99.6 % however often"
    " one looks; UNRESOLVED claims nothing. latency_ms is that of a machine that others use as"
    " well: large networks wait for them, and only the ratios count."
)
SMALL_MACS = 15e6
"""A network up to this takes at most some 0.5 ms on a core with AVX-512: well below the time slice
of a busy machine.
"""
SHORT_ROUND_S, LONG_ROUND_S = 1e-4, 15e-3


def measured(
    device: Device, workloads: Mapping[str, Workload], settings: Settings
) -> dict[str, Comparison]:
    """Measure all interleaved; each by name against the first, which stands against itself."""
    fair = replace(settings, min_round_s=round_s(workloads.values()), stop_at_difference=False)
    records = measure_interleaved(device, list(workloads.values()), fair)
    return {
        name: compare(records[0], record) for name, record in zip(workloads, records, strict=True)
    }


def round_s(workloads: Collection[Workload]) -> float:
    """How long a round should be at least, so that other programs on the machine delay large and
    small networks alike.

    The system takes the core away every few milliseconds. Rounds far shorter than that are mostly
    left whole, and the median does not notice; rounds far longer all stretch by one factor. In
    between, a large network would be delayed and a small one not.
    """
    return (
        SHORT_ROUND_S
        if max(count_macs(workload) for workload in workloads) <= SMALL_MACS
        else LONG_ROUND_S
    )


def rows_of(found: Mapping[str, Comparison], **common: object) -> list[Row]:
    """One row per network: latency, and its ratio to the first one's with a 95 % interval.

    Raises:
        RuntimeError: The records do not compare, which those of one group always do.
    """
    rows = []
    for name, comparison in found.items():
        if comparison.ratio is None:
            raise RuntimeError(f"{name} is not comparable: {comparison.findings[0].text}")
        first, record, ratio = comparison.baseline, comparison.candidate, comparison.ratio
        rows.append(
            {
                **common,
                "name": name,
                "macs": count_macs(record) / count_macs(first),
                "params": record.params / first.params,
                "latency_ms": record.median_s * 1e3,
                "ratio": ratio.ratio,
                "low": ratio.ci[0],
                "high": ratio.ci[1],
                "verdict": "baseline" if record is first else comparison.verdict.value,
                "sessions": ratio.sessions,
            }
        )
    return rows


def raw_of(found: Mapping[str, Comparison]) -> dict[str, object]:
    """Samples of every network to the nanosecond, and the session of each, which they share.

    They pair by their places.
    """
    first = next(iter(found.values())).baseline
    samples = {
        name: [round(sample, 9) for sample in comparison.candidate.series.samples_s]
        for name, comparison in found.items()
    }
    return {"session": list(first.series.session), "samples_s": samples}


def said(row: Mapping[str, Any]) -> str:
    """A ratio for a sentence, `0.931 (0.925 to 0.937)`.

    Where no difference could be told either way it says so.
    """
    digits = 3 if row["high"] < 2 else 2
    value, low, high = (f"{row[name]:.{digits}f}" for name in ("ratio", "low", "high"))
    return f"{value} ({low} to {high}{', unresolved' if row['verdict'] == 'UNRESOLVED' else ''})"


def by_name(rows: Sequence[Row]) -> dict[str, Row]:
    """Rows by the names of their networks."""
    return {row["name"]: row for row in rows}
