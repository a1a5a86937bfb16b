"""Does a history name the commit that made a network slower, and only that one?

    python -m runners.studies.history

Series of measurements as `hwbench profile` takes them, one for each of 30 commits, on the virtual
device with every kind of noise; at a known commit the network becomes 3 % slower. Measurements are
drawn from a pool of each latency, so that many series cost few measurements.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np

from hwbench.devices.virtual.device import Virtual
from hwbench.measuring.change_points import find_steps_of_any
from hwbench.measuring.sessions import measure
from hwbench.workflows.history import DEFAULT_MIN_EFFECT, QUICK
from hwbench.workflows.profile import DEFAULT_SETTINGS
from runners.studies._results import save_study
from runners.studies.virtual_truth import LATENCY_S, NOISES, workload

POOL = 150
"""Measurements of each latency, for each kind of noise."""
COMMITS = 30
EDGE = 5
"""Commits on each side of a step, at least."""
STEP = 1.03
SERIES = 200
STEADY = 1000
"""Series without a step, for false alarms."""
SETTINGS = replace(DEFAULT_SETTINGS, layers=False)


def measure_pool(noise: str, ratio: float) -> list[tuple[float, float]]:
    """Measurements of one network, each from a device and sessions of its own.

    Returns:
        For each the statistics that a history looks at: median and fast quantile, seconds.
    """
    network = workload(f"network {ratio}")
    found = []
    truth = {network.sha256: LATENCY_S * ratio}
    first = 10_000 if ratio > 1 else 0
    for seed in range(first, first + POOL):
        with Virtual(noise=NOISES[noise], seed=seed, latencies_s=truth) as device:
            record = measure(device, network, replace(SETTINGS, seed=seed))
        found.append((record.median_s, float(np.quantile(record.series.samples_s, QUICK))))
    return found


def find(points: Sequence[tuple[float, float]]) -> list[int]:
    """Commits at which the history says that the latency changed."""
    steps = find_steps_of_any(list(zip(*points, strict=True)), DEFAULT_MIN_EFFECT)
    return [step.index for step in steps]


def judge(noise: str) -> dict[str, object]:
    """All series with one kind of noise."""
    before, after = measure_pool(noise, 1.0), measure_pool(noise, STEP)
    generator = random.Random(0)
    named = exact = extra = 0
    for _ in range(SERIES):
        place = generator.randrange(EDGE, COMMITS - EDGE + 1)
        points = generator.sample(before, place) + generator.sample(after, COMMITS - place)
        steps = find(points)
        named += any(abs(step - place) <= 1 for step in steps)
        exact += place in steps
        extra += any(abs(step - place) > 1 for step in steps)
    alarms = sum(bool(find(generator.sample(before, COMMITS))) for _ in range(STEADY))
    return {
        "noise": noise,
        "series": SERIES,
        "found_within_one_commit": named / SERIES,
        "found_exactly": exact / SERIES,
        "another_commit_named": extra / SERIES,
        "false_alarms_of_steady_series": alarms / STEADY,
        "scatter_of_medians": relative_scatter([median_s for median_s, _ in before]),
        "scatter_of_fastest_tenth": relative_scatter([quick_s for _, quick_s in before]),
    }


def relative_scatter(latencies_s: Sequence[float]) -> float:
    """Standard deviation of the logarithms."""
    return float(np.log(latencies_s).std(ddof=1))


def mean(rows: Sequence[dict[str, object]], name: str) -> float:
    """Mean of a column."""
    return sum(float(str(row[name])) for row in rows) / len(rows)


def main() -> None:
    """Run everything on all cores and write results/history/."""
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(judge, NOISES))
    found, alarms = "found_within_one_commit", "false_alarms_of_steady_series"
    save_study(
        "history",
        question=f"Does a history name the commit that made a network {STEP - 1:.0%} slower?",
        answer=(
            f"Within one commit in {mean(rows, found):.1%} of {SERIES * len(rows)} series;"
            f" {mean(rows, alarms):.2%} of {STEADY * len(rows)} series without a step show one."
        ),
        rows=rows,
        command="python -m runners.studies.history",
        notes=(
            f"{COMMITS} commits, one measurement each ({SETTINGS}), the step at least {EDGE}"
            f" commits from either end. Measurements are drawn without replacement from {POOL} of"
            " each latency, each on a device and in sessions of its own."
        ),
    )


if __name__ == "__main__":
    main()
