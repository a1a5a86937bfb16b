"""A burst against ten minutes without a pause: does this CPU slow down?

    python -m runners.studies.sustained

Bursts after a rest, then ten minutes of inferences back to back, then bursts again: what differs
between the bursts before and after is the machine's mood, not the heat. One session runs
throughout, so that memory layout plays no part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.devices.base import Device, Prepared
from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.intake import load_workload
from hwbench.records.measurement import Settings
from runners.studies._groups import Row
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study

NETWORK = "zoo:plain20@0.5"
"""Some 0.3 ms: where others use the core too, most of its inferences are left whole."""
BURSTS, REST_S, BURST_S = 6, 10.0, 2.0
SUSTAINED_S, WINDOW_S = 600.0, 60.0
CHUNK = 64
"""Inferences asked for at a time, whose median is one sample.

The device pauses for some 0.1 ms between two chunks.
"""
WARM_UP = 20
"""First inferences of the session, left out."""


@dataclass
class Stage:
    """Samples of one stage.

    Attributes:
        name: For people.
        begun: When the study began, by the monotonic clock.
        samples_s: Medians of `CHUNK` inferences each, seconds.
        at_s: When each was taken, seconds since `begun`.
        window: The burst or window that each belongs to.
    """

    name: str
    begun: float
    samples_s: list[float] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    window: list[int] = field(default_factory=list)

    @property
    def latency(self) -> stats.Estimate:
        """Geometric mean over bursts or windows of their medians, with its interval."""
        return stats.latency(self.samples_s, self.window)


def main() -> None:
    """Run the three stages and write results/sustained/."""
    begun = time.monotonic()
    with CpuOrt() as device:
        prepared = device.prepare(load_workload(NETWORK), Settings())
        device.run([prepared] * WARM_UP)
        before = bursts(device, prepared, Stage("bursts before", begun))
        long = Stage("sustained", begun)
        fill(device, prepared, long, SUSTAINED_S, lambda past_s: int(past_s // WINDOW_S))
        after = bursts(device, prepared, Stage("bursts after", begun))
        conditions = device.conditions()
        device.release(prepared)
    stages = (before, long, after)
    change, p = stats.drift(long.samples_s, long.window)
    rows = [row_of(stage, before) for stage in stages]
    resolved = resolves(rows)
    save_study(
        "sustained",
        question=(
            "Does a network become slower in ten minutes without a pause than in a burst after a"
            " rest?"
        ),
        answer=(
            f"Sustained over bursts before: {in_words(rows[1])}; bursts after over bursts before,"
            f" where nothing should differ: {in_words(rows[2])}; so a slow-down is"
            f" {'seen' if resolved else 'not resolved'} here. Drift inside the ten minutes:"
            f" {change:+.1%} (p = {p:.2g}); the fastest tenth took"
            f" {rows[1]['p10_ms'] / rows[0]['p10_ms']:.3f} times that of the bursts."
        ),
        rows=rows,
        raw=[raw_of(stage) for stage in stages],
        picture=draw(stages, rows[1]),
        command="make study NAME=sustained",
        notes=(
            f"`{NETWORK}`: {BURSTS} bursts of {BURST_S:g} s after {REST_S:g} s of rest each;"
            f" {SUSTAINED_S / 60:g} minutes in windows of {WINDOW_S:g} s; the bursts again. The"
            " unit of the intervals is the burst or the window; windows follow each other, so they"
            " are not independent, and the intervals are on the narrow side. The machine tells its"
            f" frequency: {tells(conditions.frequency_hz)}; its temperature:"
            f" {tells(conditions.temperature_c)}. It is a virtual machine that others use too, in"
            " the rests as well: it is hardly ever cold. What it shows is not what a phone does,"
            " whose `mode=sustained` hwbench can ask for; the same study there is still to be"
            " done."
        ),
    )


def raw_of(stage: Stage) -> dict[str, object]:
    """Samples with their times and windows."""
    samples_s, at_s = (
        [round(value, 8) for value in stage.samples_s],
        [round(value, 2) for value in stage.at_s],
    )
    return {"stage": stage.name, "samples_s": samples_s, "at_s": at_s, "window": stage.window}


def tells(value: object) -> str:
    """Whether the device says something, in words."""
    return "no" if value is None else "yes"


def bursts(device: Device, prepared: Prepared, stage: Stage) -> Stage:
    """Short runs, each after a rest."""
    for number in range(BURSTS):
        time.sleep(REST_S)
        fill(device, prepared, stage, BURST_S, lambda _, number=number: number)
    return stage


def fill(device: Device, prepared: Prepared, stage: Stage, seconds: float, window: Any) -> None:
    """Run back to back for some seconds.

    `window` gives the number of a window from the seconds since this began.
    """
    start = time.monotonic()
    while (past_s := time.monotonic() - start) < seconds:
        stage.samples_s.append(float(np.median(device.run([prepared] * CHUNK).values_s)))
        stage.at_s.append(start + past_s - stage.begun)
        stage.window.append(window(past_s))


def row_of(stage: Stage, first: Stage) -> Row:
    """One stage against the first one, with a 95 % interval that adds both uncertainties."""
    one, base = stage.latency, first.latency
    ratio = one.estimate / base.estimate
    wide = 1.0 if stage is first else combined(one.half_width, base.half_width)
    return {
        "stage": stage.name,
        "minutes": (stage.at_s[-1] - stage.at_s[0]) / 60,
        "inferences": len(stage.samples_s) * CHUNK,
        "latency_ms": one.estimate * 1e3,
        "ratio": ratio,
        "low": ratio / wide,
        "high": ratio * wide,
        "p10_ms": float(np.quantile(stage.samples_s, 0.1)) * 1e3,
        "p95_ms": float(np.quantile(stage.samples_s, 0.95)) * 1e3,
        "windows": one.sessions,
    }


def combined(one: float, other: float) -> float:
    """Factor by which a ratio may be off either way, from the relative half-widths of both
    latencies, which are independent.
    """
    return float(np.exp(np.hypot(np.log1p(one), np.log1p(other))))


def resolves(rows: Sequence[Row]) -> bool:
    """Whether the sustained stage was slower beyond doubt, and the bursts after it were not slower
    as well.
    """
    _, long, after = rows
    return bool(long["low"] > 1 and after["high"] < long["low"])


def in_words(row: Row) -> str:
    """A ratio with its interval."""
    return f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def draw(stages: Sequence[Stage], row: Row) -> Any:
    """Latency over time: medians of five seconds."""
    drawn, axes = figure(
        f"Ten minutes without a pause take {in_words(row)} times a burst's latency",
        xlabel="minutes",
        ylabel="latency (ms)",
    )
    for colour, stage in zip(COLOURS, stages, strict=False):
        place = np.array(stage.at_s) // 5
        medians = [
            float(np.median(np.array(stage.samples_s)[place == one])) * 1e3
            for one in np.unique(place)
        ]
        axes.plot(np.unique(place) * 5 / 60, medians, "o", ms=3, color=colour, label=stage.name)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
    return drawn


if __name__ == "__main__":
    main()
