"""Are readings of two seconds on this computer's CPU what long comparisons say?

    python -m runners.studies.meter_cpu

Fifty versions of MobileNet-V1 with random widths are read by one meter for 2.2 s each, then each is
compared with the same baseline for half a minute. Needs half an hour of a quiet machine.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace

import hwbench
from hwbench.measuring.sessions import measure_interleaved
from hwbench.network.workload import Workload
from hwbench.records.comparison import compare
from runners.studies._results import save_study

DEVICE = "cpu"
MODEL = "zoo:mobilenet_v1"
NETWORKS = 50
LOWER = 0.3
"""Smallest share of a width."""
STEP = 8
READING_S = 2.2
"""Budget of a reading; with all around it, it is to take 2.5 s at most."""
LONG = hwbench.Settings(budget_s=30, layers=False, stop_at_difference=False, target=0.002)
WITHIN = 0.02
SPREAD = 0.01
"""Half of what two sessions of one network differ by: the long comparison has other sessions."""
SEED = 0


def make_versions(network: hwbench.PrunableNetwork, count: int) -> list[Workload]:
    """Versions of random widths, named after their number."""
    generator = random.Random(SEED)
    versions = []
    for number in range(count):
        widths = []
        for full in network.structure.widths:
            share = generator.uniform(LOWER, 1)
            widths.append(min(full, max(STEP, round(full * share / STEP) * STEP)))
        versions.append(replace(network.version(widths), name=f"version {number}"))
    return versions


def main(count: int = NETWORKS) -> None:
    """Measure, and write results/meter_cpu/; with a smaller count only print."""
    baseline = hwbench.load_workload(MODEL)
    versions = make_versions(hwbench.PrunableNetwork(baseline), count)
    with hwbench.meter(DEVICE, baseline=baseline, save=False) as meter:
        readings, took_s = [], []
        for version in versions:
            begun_s = time.monotonic()
            readings.append(meter(version, budget_s=READING_S))
            took_s.append(time.monotonic() - begun_s)
    rows: list[dict[str, object]] = []
    for version, reading, seconds in zip(versions, readings, took_s, strict=True):
        with hwbench.open_device(DEVICE) as device:
            long = compare(*measure_interleaved(device, [baseline, version], LONG))
        if reading.ratio is None or reading.ci is None or long.ratio is None:
            raise ValueError(f"{version.name} was not measured: {reading.error}")
        truth, (low, high) = long.ratio.ratio, reading.ci
        covered = low <= truth <= high
        near = low / (1 + SPREAD) <= truth <= high * (1 + SPREAD)
        rows.append(
            {
                "network": version.name,
                "reading": reading.ratio,
                "low": low,
                "high": high,
                "long": truth,
                "long_low": long.ratio.ci[0],
                "long_high": long.ratio.ci[1],
                "error": reading.ratio / truth - 1,
                "covered": covered,
                "good": abs(reading.ratio / truth - 1) <= WITHIN or near,
                "seconds": round(seconds, 2),
            }
        )
        print(version.name, f"{reading.ratio:.4f} against {truth:.4f}", flush=True)
    good = sum(bool(row["good"]) for row in rows)
    covered_rows = sum(bool(row["covered"]) for row in rows)
    slowest = max(took_s)
    answer = (
        f"{good} of {len(rows)} readings were within {WITHIN:.0%} of the long comparison or held it"
        f" in their interval widened by {SPREAD:.0%}; {covered_rows} intervals held it as they are;"
        f" the slowest took {slowest:.2f} s, all in."
    )
    if count < NETWORKS:
        print(answer)
        return
    save_study(
        "meter_cpu",
        question=f"Are readings of {READING_S:g} s on a CPU what long comparisons say?",
        answer=answer,
        rows=rows,
        command="python -m runners.studies.meter_cpu",
        notes=(
            f"{MODEL}, widths drawn evenly from {LOWER:.0%} to 100 % in steps of {STEP}, seed"
            f" {SEED}; long comparisons: {LONG}."
        ),
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
