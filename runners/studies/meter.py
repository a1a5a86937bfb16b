"""Does a meter find the fastest of a hundred candidates, and do its intervals hold the truth?

    python -m runners.studies.meter

On the virtual device, whose latencies are given: a hundred candidates that lie 1 % apart are ranked
in 2 s of virtual time each, and candidates at random ratios are read for 2 s each, with every kind
of noise.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

import hwbench
from hwbench.devices.virtual.device import Virtual
from hwbench.network.workload import Workload
from hwbench.stats import Verdict
from hwbench.workflows.candidate_meter import DEFAULT_BUDGET_S, CandidateMeter
from hwbench.workflows.meter import DeviceMeter
from runners.studies._results import markdown, save_study
from runners.studies.virtual_truth import LATENCY_S, NOISES, workload

CANDIDATES = 100
APART = 1.01
"""Each candidate takes so much longer than the one before it."""
RANKINGS = 100
RANKED_WITH = "all"
"""The kind of noise of the rankings: the worst of them."""
TOP = 3
READINGS = 100
RATIOS = (0.5, 1.2)
"""Candidates that are read lie between these ratios to the baseline, evenly by logarithm."""
WITHIN = 0.02
"""An error of a ratio that is small."""


@contextmanager
def open_meter(
    noise: str, seed: int, baseline: Workload, ratios: dict[str, float]
) -> Iterator[CandidateMeter]:
    """A meter on a virtual device that knows the ratio of every candidate, by its SHA-256."""
    truth = {name: LATENCY_S * ratio for name, ratio in ratios.items()}
    latencies_s = {baseline.sha256: LATENCY_S, **truth}
    with (
        Virtual(noise=NOISES[noise], seed=seed, latencies_s=latencies_s) as device,
        hwbench.meter(DeviceMeter(device, "virtual"), baseline=baseline, save=False) as meter,
    ):
        yield meter


def rank(seed: int) -> dict[str, object]:
    """One ranking: the place of the true best, and whether the best was said to be proven."""
    baseline = workload("baseline")
    candidates = [workload(f"candidate {number}") for number in range(CANDIDATES)]
    ratios = {
        candidate.sha256: APART ** (number - CANDIDATES / 2)
        for number, candidate in enumerate(candidates)
    }
    shuffled = random.Random(seed).sample(candidates, CANDIDATES)
    with open_meter(RANKED_WITH, seed, baseline, ratios) as meter:
        ranking = meter.rank(shuffled)
    order = [reading.model for reading in ranking.order]
    best = ranking.best
    if best is None or best.ratio is None or best.ci is None:
        raise ValueError(f"ranking {seed} has no best")
    true_ratio = ratios[next(c.sha256 for c in candidates if c.name == best.model)]
    return {
        "seed": seed,
        "place": order.index(candidates[0].name) + 1,
        "proven": ranking.proven,
        "wrong_proof": ranking.proven and true_ratio > APART**1.5 * ratios[candidates[0].sha256],
        "covered": best.ci[0] <= true_ratio <= best.ci[1],
        "error": best.ratio / true_ratio - 1,
    }


def read(noise: str, seed: int) -> list[dict[str, object]]:
    """Readings of candidates at random ratios by one meter."""
    baseline, generator = workload("baseline"), random.Random(seed)
    low, high = map(math.log, RATIOS)
    candidates = [workload(f"candidate {number}") for number in range(READINGS)]
    ratios = {c.sha256: math.exp(generator.uniform(low, high)) for c in candidates}
    rows: list[dict[str, object]] = []
    with open_meter(noise, seed, baseline, ratios) as meter:
        for candidate in candidates:
            reading = meter(candidate, budget_s=DEFAULT_BUDGET_S)
            truth = ratios[candidate.sha256]
            if reading.ratio is None or reading.ci is None:
                raise ValueError(f"{candidate.name} was not measured")
            is_false = (reading.verdict is Verdict.FASTER and truth >= 1) or (
                reading.verdict is Verdict.SLOWER and truth <= 1
            )
            rows.append(
                {
                    "truth": truth,
                    "ratio": reading.ratio,
                    "low": reading.ci[0],
                    "high": reading.ci[1],
                    "resolved": reading.verdict is not Verdict.UNRESOLVED,
                    "false": is_false,
                }
            )
    return rows


def share(rows: Sequence[dict[str, object]], name: str) -> float:
    """The share of rows in which something holds."""
    return sum(bool(row[name]) for row in rows) / len(rows)


def sum_up(noise: str, rows: Sequence[dict[str, float]]) -> dict[str, object]:
    """Readings with one kind of noise."""
    covered = sum(row["low"] <= row["truth"] <= row["high"] for row in rows) / len(rows)
    close = sum(abs(row["ratio"] / row["truth"] - 1) <= WITHIN for row in rows) / len(rows)
    resolved = [row for row in rows if row["resolved"]]
    return {
        "noise": noise,
        "readings": len(rows),
        "coverage_95": covered,
        "within_2_percent": close,
        "resolved": len(resolved) / len(rows),
        "false_of_verdicts": sum(bool(row["false"]) for row in rows) / max(len(resolved), 1),
    }


def main(count: int = RANKINGS) -> None:
    """Run everything on all cores and write results/meter/; with fewer rankings only print."""
    with ProcessPoolExecutor() as pool:
        readings = dict(zip(NOISES, pool.map(partial(read, seed=1), NOISES), strict=True))
        rankings = list(pool.map(rank, range(count)))
    rows = [sum_up(noise, found) for noise, found in readings.items()]  # type: ignore[arg-type]
    everything = [row for found in readings.values() for row in found]
    rows.append(sum_up("together", everything))  # type: ignore[arg-type]
    on_top = sum(int(str(ranking["place"])) <= TOP for ranking in rankings)
    first = sum(ranking["place"] == 1 for ranking in rankings)
    answer = (
        f"The fastest was among the first {TOP} in {on_top} of {count} rankings, and the first in"
        f" {first}; 95 % intervals held the truth in {float(str(rows[-1]['coverage_95'])):.1%} of"
        f" {len(everything)} readings."
    )
    if count < RANKINGS:
        print(answer, markdown(rows), *rankings, sep="\n")
        return
    save_study(
        "meter",
        question=(
            "Does a meter find the fastest of a hundred candidates that lie 1 % apart, and do the"
            " intervals of its readings of 2 s hold the truth?"
        ),
        answer=answer,
        rows=rows,
        command="python -m runners.studies.meter",
        notes=(
            f"Rankings: {CANDIDATES} candidates, each {APART - 1:.0%} slower than the one before,"
            f" noise '{RANKED_WITH}', {DEFAULT_BUDGET_S:g} s of virtual time for each. The best was"
            f" said to be proven in {share(rankings, 'proven'):.0%} of them, wrongly in"
            f" {share(rankings, 'wrong_proof'):.0%}; measured afresh, the interval of the winner"
            f" held its truth in {share(rankings, 'covered'):.0%}. Readings: {READINGS} candidates"
            f" for each kind of noise, ratios from {RATIOS[0]:g} to {RATIOS[1]:g}, by one meter,"
            f" {DEFAULT_BUDGET_S:g} s each. False verdicts are those on the wrong side of 1."
        ),
        raw={"readings": readings, "rankings": rankings},
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
