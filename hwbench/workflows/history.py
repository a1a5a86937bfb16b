"""`hwbench history`: the stored latencies of a model, where they changed, and what with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hwbench.errors import Call, UsageError
from hwbench.measuring.change_points import Step, find_steps_of_any
from hwbench.records.measurement import Measurement
from hwbench.store import DamagedRecord, open_store

DEFAULT_MIN_EFFECT = 0.01
"""Smallest relative change that matters."""
QUICK = 0.1
"""The quantile of the samples that stands for inferences which nothing disturbed."""


@dataclass(frozen=True, slots=True)
class Change:
    """A lasting change of a latency, and what else changed with it.

    Attributes:
        step: Where in the points, and by how much.
        facts: What else is recorded differently in the points before and after it: name, value
            before, value after. Empty where nothing recorded explains it.
    """

    step: Step
    facts: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Timeline:
    """The measurements of one model on one device, with the same settings, in order of time.

    Attributes:
        points: The measurements.
        changes: Where their latency changed for good.
    """

    points: tuple[Measurement, ...]
    changes: tuple[Change, ...]

    @property
    def segments(self) -> tuple[tuple[Measurement, ...], ...]:
        """The points between changes."""
        edges = [0, *(change.step.index for change in self.changes), len(self.points)]
        return tuple(self.points[start:end] for start, end in pairwise(edges))


@dataclass(frozen=True)
class History:
    """What a store tells of one model.

    Attributes:
        model: Its name.
        min_effect: The smallest relative change that was looked for.
        timelines: One for each device and way of measuring, that with the newest point first.
        damaged: Records that cannot be read and were left out.
    """

    model: str
    min_effect: float
    timelines: tuple[Timeline, ...]
    damaged: tuple[DamagedRecord, ...] = ()

    def __repr__(self) -> str:
        points = sum(len(timeline.points) for timeline in self.timelines)
        return f"<History of {self.model}: {points} points in {len(self.timelines)} timelines>"


def read_history(
    model: str,
    *,
    device: str | None = None,
    min_effect: float = DEFAULT_MIN_EFFECT,
    store: str | None = None,
) -> History:
    """Find out whether a model became slower or faster, from what is stored of it.

    A change is reported where it is sure beside the scatter of the series, in the medians or in the
    fastest tenth of the samples, and at least as large as the smallest effect that matters. What is
    told to have changed with it stands in the records: model, runtime, kernel, governor, commits.

    Args:
        model: The name that it was measured under, or its SHA-256.
        device: The address of a device; None for all.
        min_effect: The smallest relative change that matters.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.

    Raises:
        UsageError: Nothing of it is stored.
    """
    damaged: list[DamagedRecord] = []
    with open_store(store) as opened:
        ids = [summary.id for summary in opened.list(model, device) if summary.complete]
        records = list(opened.read_measurements(reversed(ids), damaged))
        if not records:
            where = "" if device is None else f" on {device}"
            raise UsageError(
                f"no measurement of {model!r}{where} in {opened.url}",
                Call("profile", {"model": model}, purpose="make one"),
            )
    return History(model, min_effect, make_timelines(records, min_effect), tuple(damaged))


def make_timelines(records: Iterable[Measurement], min_effect: float) -> tuple[Timeline, ...]:
    """Timelines of the measurements of one model, that with the newest point first.

    Args:
        records: The measurements, in any order.
        min_effect: The smallest relative change that matters.
    """
    grouped: dict[tuple[object, ...], list[Measurement]] = {}
    for record in sorted(records, key=lambda record: record.started_utc):
        if record.series:
            grouped.setdefault(_way_of_measuring(record), []).append(record)
    timelines = [_make_timeline(points, min_effect) for points in grouped.values()]
    timelines.sort(key=lambda timeline: timeline.points[-1].started_utc, reverse=True)
    return tuple(timelines)


def _way_of_measuring(record: Measurement) -> tuple[object, ...]:
    """What has to agree for latencies to be points of one series."""
    return (
        record.device.target_id,
        record.device.address.partition(":")[0],  # one phone may be reached in several ways
        tuple(spec.shape for spec in record.inputs),
        record.batch,
        record.precision,
        record.settings.threads,
        record.settings.isolate,
        record.clock,
    )


def _make_timeline(points: list[Measurement], min_effect: float) -> Timeline:
    medians_s = [point.median_s for point in points]
    quick_s = [float(np.quantile(point.series.samples_s, QUICK)) for point in points]
    steps = find_steps_of_any((medians_s, quick_s), min_effect)
    changes = tuple(Change(step, _find_causes(points, step.index)) for step in steps)
    return Timeline(tuple(points), changes)


def _find_causes(points: list[Measurement], index: int) -> tuple[tuple[str, str, str], ...]:
    """What is recorded differently on both sides of a change, the likeliest cause first."""
    before, after = _facts_of(points[index - 1]), _facts_of(points[index])
    causes = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, "unknown"), after.get(name, "unknown")
        if old != new:
            causes.append((name, old, new))
    return tuple(causes)


def _facts_of(record: Measurement) -> dict[str, str]:
    """What may explain a latency, as text by name."""
    conditions = record.before
    facts = {
        "model": record.model_sha256[:12],
        "runtime": record.device.runtime,
        "commit": "" if record.source_commit is None else record.source_commit[:12],
        "governor": conditions.governor or "",
        "throttled": "" if conditions.throttled is None else str(conditions.throttled).lower(),
        "hwbench": record.hwbench_version,
        "commit of hwbench": "" if record.commit is None else record.commit[:12],
    }
    facts |= {f"device: {name}": value for name, value in record.device.details}
    facts |= {f"conditions: {name}": value for name, value in conditions.details}
    return {name: value for name, value in facts.items() if value}
