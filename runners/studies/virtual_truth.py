"""False verdicts, sensitivity and interval coverage where the truth is known: thousands of
comparisons on the virtual device.

    python -m runners.studies.virtual_truth

Each comparison is what `hwbench compare` does (same code, default settings, 30 s of virtual time)
on a device whose latencies are given and whose noise is one of the kinds below, between-session
offsets included.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from hwbench.devices.virtual.device import Virtual
from hwbench.devices.virtual.noise import (
    Bimodal,
    Drift,
    Noise,
    SessionOffset,
    Spikes,
    Throttling,
    White,
)
from hwbench.measuring.sessions import measure_interleaved
from hwbench.network.workload import Workload
from hwbench.records.comparison import compare
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec
from hwbench.stats import Verdict
from runners.studies._results import save_study

RUNS = 1000
LATENCY_S = 0.01
SETTINGS = Settings(layers=False)
NOISES: dict[str, tuple[Noise, ...]] = {
    "white": (White(0.02),),
    "white + session 0.5 %": (White(0.02), SessionOffset(0.005)),
    "white + session 1 %": (White(0.02), SessionOffset(0.01)),
    "drift": (White(0.01), Drift(), SessionOffset(0.005)),
    "bimodal": (White(0.01), Bimodal(), SessionOffset(0.005)),
    "spikes": (White(0.01), Spikes(), SessionOffset(0.005)),
    "throttling": (White(0.01), Throttling(), SessionOffset(0.005)),
    "all": (White(0.02), Drift(), Bimodal(), Spikes(), SessionOffset(0.005)),
}
SPEEDUPS = (1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 2.0)
FEW_SESSIONS = (2, 3, 4)
"""Comparisons that end after so many sessions, whatever they know."""


def workload(name: str) -> Workload:
    """A workload without layers, whose latency the virtual device is told."""
    data = name.encode()
    return Workload(name, data, (TensorSpec("x", (1,)),), 1, "fp32", 0, 0, len(data))


def one(
    noise: Sequence[Noise], speedup: float, seed: int, settings: Settings
) -> dict[str, float | str]:
    """One comparison of two workloads whose true speed-up is known."""
    before, after = workload("baseline"), workload("candidate")
    truth = {before.sha256: LATENCY_S, after.sha256: LATENCY_S / speedup}
    with Virtual(noise=noise, seed=seed, latencies_s=truth) as device:
        found = compare(*measure_interleaved(device, [before, after], replace(settings, seed=seed)))
        seconds = device.time_s()
    low, high = found.speedup_ci or (0.0, 0.0)
    return {
        "seed": seed,
        "verdict": found.verdict.value,
        "low": low,
        "high": high,
        "speedup": found.speedup or 0.0,
        "seconds": seconds,
        "sessions": found.baseline.series.sessions,
    }


def many(kind: str, speedup: float, only_sessions: int | None) -> dict[str, object]:
    """All runs of one noise kind and one true speed-up, summed up."""
    settings = SETTINGS
    if only_sessions is not None:
        settings = replace(SETTINGS, max_sessions=only_sessions, stop_at_difference=False)
    runs = [one(NOISES[kind], speedup, seed, settings) for seed in range(RUNS)]
    verdicts = {
        verdict.value: sum(run["verdict"] == verdict.value for run in runs) for verdict in Verdict
    }
    covered = sum(run["low"] <= speedup <= run["high"] for run in runs)  # type: ignore[operator]
    wrong = verdicts["SLOWER"] + (verdicts["FASTER"] if speedup == 1 else 0)
    mean_s = sum(float(run["seconds"]) for run in runs) / RUNS
    sessions = sum(float(run["sessions"]) for run in runs) / RUNS
    return {
        "noise": kind,
        "speedup": speedup,
        "sessions": round(sessions, 1),
        "runs": RUNS,
        "wrong_verdicts": wrong / RUNS,
        "called": verdicts["FASTER"] / RUNS,
        "same": verdicts["SAME"] / RUNS,
        "unresolved": verdicts["UNRESOLVED"] / RUNS,
        "coverage_95": covered / RUNS,
        "mean_virtual_s": round(mean_s, 1),
    }


def main() -> None:
    """Run everything on all cores and write results/virtual_truth/."""
    cases: list[tuple[str, float, int | None]] = []
    for kind in NOISES:
        cases += [(kind, speedup, None) for speedup in SPEEDUPS]
        cases += [(kind, 1.1, sessions) for sessions in FEW_SESSIONS]
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(many, *zip(*cases, strict=True)))
    save_study(
        "virtual_truth",
        question=(
            "How often is a verdict false, how often is a true difference called, and do 95 %"
            " intervals hold the truth?"
        ),
        rows=rows,
        command="python -m runners.studies.virtual_truth",
        notes=(
            f"{RUNS} comparisons per row; true latencies {LATENCY_S} s and {LATENCY_S} s /"
            f" speed-up; settings {SETTINGS}."
        ),
    )


if __name__ == "__main__":
    main()
