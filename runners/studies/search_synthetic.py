"""How far from the best network do searches end, where the best one is known?

Networks that exist as numbers only: 15 groups in a chain, latencies in steps of 16 channels, losses
that interact between neighbours (`_synthetic`). All searches are given half of the latency, the
same grid, the same number of trials and no training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwbench.search.abcpruner.search import AbcPruner
from hwbench.search.amc.search import Amc
from hwbench.search.base import Outcome, Search, Trial
from hwbench.search.baselines import RandomSearch, uniform
from hwbench.search.budget import Budget
from hwbench.search.costs import Floats
from hwbench.search.knapsack.search import Knapsack
from runners.studies._results import save_study
from runners.studies._synthetic import GROUPS, SyntheticNetwork

INSTANCES = range(10)
TRIALS = (150,)
SHARE = 0.5
SOURCES = 10


def geometry() -> Floats:
    """What AMC's agent is told of each decision; here no more than its place."""
    return np.tile(np.linspace(0, 1, GROUPS)[:, None], (1, 6))


MAKERS: dict[str, Callable[[Budget, int, int], Search]] = {
    "knapsack": lambda budget, seed, trials: Knapsack(budget, seed=seed, trials=trials),
    "amc": lambda budget, seed, trials: Amc(budget, geometry(), seed=seed, episodes=trials),
    "abcpruner": lambda budget, seed, trials: AbcPruner(
        budget, seed=seed, sources=SOURCES, cycles=max(1, (trials - SOURCES) // (2 * SOURCES + 1))
    ),
    "random": lambda budget, seed, trials: RandomSearch(budget, seed=seed, trials=trials),
}


def drive(search: Search, problem: SyntheticNetwork, budget: Budget) -> float:
    """The best quality that a search finds within the budget."""
    best = 0.0
    while not search.finished:
        trials = []
        for candidate in search.propose():
            if candidate.widths is None:
                continue
            quality = problem.quality(candidate.widths)
            trials.append(Trial(candidate, Outcome(quality, None, 1, 1, 1)))
            if budget.fits(candidate.widths):
                best = max(best, quality)
        search.observe(trials)
    return best


def main() -> None:
    """Run the study and save it."""
    gaps: dict[tuple[str, int], list[float]] = {}
    for seed in INSTANCES:
        problem = SyntheticNetwork(seed)
        budget = problem.budget(SHARE)
        best = problem.best_quality(budget)
        gaps.setdefault(("uniform", 1), []).append(100 * (best - problem.quality(uniform(budget))))
        for name, make in MAKERS.items():
            for trials in TRIALS:
                gap = 100 * (best - drive(make(budget, seed, trials), problem, budget))
                gaps.setdefault((name, trials), []).append(gap)
        print(f"instance {seed} of {len(INSTANCES)}", flush=True)
    rows = [
        {
            "search": name,
            "trials": trials,
            "points below the best, mean": f"{np.mean(values):.2f}",
            "least": f"{min(values):.2f}",
            "most": f"{max(values):.2f}",
        }
        for (name, trials), values in gaps.items()
    ]
    mean = {key: float(np.mean(values)) for key, values in gaps.items()}
    save_study(
        "search_synthetic",
        question=__doc__ or "",
        rows=rows,
        command="make study NAME=search_synthetic",
        answer=(
            f"Mean of {len(INSTANCES)} instances, after 150 trials: knapsack"
            f" {mean['knapsack', 150]:.2f} percentage points below the best network, random"
            f" search filled to the budget {mean['random', 150]:.1f}, AMC {mean['amc', 150]:.1f},"
            f" ABCPruner {mean['abcpruner', 150]:.1f}; uniform pruning {mean['uniform', 1]:.1f}."
        ),
        raw=[
            {"search": name, "trials": trials, "gaps": values}
            for (name, trials), values in gaps.items()
        ],
    )


if __name__ == "__main__":
    main()
