"""A true difference of about 2 % on the real CPU: interleaved comparisons against timing one after
the other at equal cost.

    python -m runners.studies.cpu_sensitivity

The candidate is MobileNet-V1 with one layer narrower. A long interleaved run tells the truth; then
20 comparisons of at most 30 s, each followed by one that times both networks one after the other
for the same time and applies the same test.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.measuring.sessions import measure
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from hwbench.stats import Ratio, anytime_half_width, by_session
from runners.studies._comparisons import one
from runners.studies._results import save_study

BASELINE = "zoo:mobilenet_v1"
CANDIDATE = "zoo:mobilenet_v1@32-64-128-128-256-256-512-512-512-512-512-448-1024-1024"
RUNS = 20
SETTINGS = Settings(budget_s=30, layers=False)
TRUTH = replace(
    SETTINGS, budget_s=150, max_sessions=100, min_sessions=100, stop_at_difference=False
)


def one_after_the_other(
    device: CpuOrt, first: Workload, second: Workload, seconds: float, seed: int
) -> dict[str, object]:
    """Time each network for half of `seconds`, then compare session medians with the same two
    gates.
    """
    half = replace(SETTINGS, budget_s=seconds / 2, min_sessions=100, max_sessions=100, seed=seed)
    start = time.monotonic()
    records = [measure(device, workload, half) for workload in (first, second)]
    logs = [
        np.array(
            [np.median(np.log(part)) for part in by_session(r.series.samples_s, r.series.session)]
        )
        for r in records
    ]
    count = min(map(len, logs))
    change = logs[1][:count] - logs[0][:count]
    estimates = [record.series.latency() for record in records]
    ratio = estimates[1].estimate / estimates[0].estimate
    wide = float(np.exp(anytime_half_width(change)))
    verdict = Ratio(ratio, (0.0, float("inf")), (ratio / wide, ratio * wide), count).verdict(
        SETTINGS.min_effect
    )
    return {
        "speedup": round(1 / ratio, 5),
        "verdict": verdict.value,
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> None:
    """Run all and write results/cpu_sensitivity/."""
    baseline, candidate = load_workload(BASELINE), load_workload(CANDIDATE)
    rows: list[dict[str, object]] = []
    with CpuOrt() as device:
        truth = one(device, baseline, candidate, TRUTH, seed=1000)
        for seed in range(RUNS):
            row = one(device, baseline, candidate, SETTINGS, seed)
            other = one_after_the_other(
                device, baseline, candidate, float(str(row["seconds"])), seed
            )
            rows.append({**row, **{f"sequential_{name}": value for name, value in other.items()}})
    raw = {"truth": truth.pop("raw"), "runs": [row.pop("raw") for row in rows]}
    save_study(
        "cpu_sensitivity",
        question=(
            "Is a true difference of about 2 % called on a real CPU, and what would timing one"
            " after the other have said?"
        ),
        rows=rows,
        raw=raw,
        command="make study NAME=cpu_sensitivity",
        notes=f"Candidate: `{CANDIDATE}`.\n\n{summary(truth, rows)}",
    )


def summary(truth: dict[str, object], rows: list[dict[str, object]]) -> str:
    """The two sentences that answer the question."""
    real = float(str(truth["speedup"]))

    def side(prefix: str) -> str:
        called = sum(row[f"{prefix}verdict"] == "FASTER" for row in rows)
        errors = [abs(float(str(row[f"{prefix}speedup"])) / real - 1) for row in rows]
        return (
            f"{called} of {len(rows)} called FASTER, median error {np.median(errors):.2%}, worst"
            f" {max(errors):.2%}"
        )

    known = (
        f"x{real} ({truth['low']} to {truth['high']}) from {truth['sessions']} sessions in"
        f" {truth['seconds']} s"
    )
    return (
        f"Truth: {known}.\n\n**Interleaved: {side('')}. One after the other at equal cost:"
        f" {side('sequential_')}.**"
    )


if __name__ == "__main__":
    main()
