"""Does ABCPruner's colony find better structures than as many random ones, at the same latency?

python -m runners.studies.search_abcpruner
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from runners.studies._groups import RATIOS, Row
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study
from runners.studies._searches import (
    DEVICE,
    ahead,
    column,
    interval,
    once_per_seed,
    pays,
    points_text,
    prepare,
    pruned,
    tested,
)
from runners.studies.search_amc import DATA, MODEL, SIZE

STUDY = "search_abcpruner"
SHARE, SEEDS, EPOCHS = 0.5, range(10, 14), 0.6
SOURCES, CYCLES, PATIENCE = 10, 10, 5
"""Of the authors' code."""


def main() -> None:
    """Search with every seed and write results/search_abcpruner/ after each."""
    facts = {
        "model": MODEL,
        "size": SIZE,
        "data": DATA,
        "share": SHARE,
        "colony": [SOURCES, CYCLES, PATIENCE],
        "epochs": EPOCHS,
    }
    once_per_seed(STUDY, SEEDS, facts, one_seed, save)


def one_seed(seed: int) -> list[Row]:
    """One search and as many random structures.

    The best of both, trained and evaluated as the search did, tested and measured.
    """
    plan = Plan.of(
        "abcpruner",
        Limit("latency", share=SHARE),
        seed=seed,
        data=DATA,
        tune="none",
        trial_epochs=EPOCHS,
        sources=SOURCES,
        cycles=CYCLES,
        patience=PATIENCE,
    )
    search = prepare(MODEL, plan, SIZE)
    result = run_search(MODEL, plan, table=DEVICE, inputs=(SIZE,))
    rows = tested(search, pruned(search, {"abcpruner": result.best, **result.baselines}), seed=seed)
    fitness = [trial.outcome.quality for trial in result.trials if trial.outcome is not None]
    return [row | {"fitness": fitness if row["name"] == "abcpruner" else None} for row in rows]


def save(rows: Sequence[Row]) -> None:
    """Write what is there."""
    seeds = len(column(rows, "abcpruner", "test"))
    steered, unseen = (
        points_text(ahead(rows, "abcpruner", "random", field)) for field in ("validation", "test")
    )
    won, chance = pays(rows, "abcpruner", "random")
    curves = [row["fitness"] for row in rows if row["name"] == "abcpruner"]
    save_study(
        STUDY,
        question=(
            "Does the colony find better structures than as many random ones of the same space, at"
            " half the latency?"
        ),
        answer=(
            f"Against random structures, over {seeds} seeds: {steered} of accuracy on the images"
            f" that steer the search, {unseen} on test images, ahead in {won} of them (chance"
            f" {chance:.0%} if it were no better)."
        ),
        rows=[{name: value for name, value in row.items() if name != "fitness"} for row in rows],
        raw=curves,
        picture=draw(curves, rows),
        command=f"make study NAME={STUDY}",
        notes=(
            f"Plain-20 on printed digits of {SIZE}; {SOURCES} sources, {CYCLES} cycles, limit"
            f" {PATIENCE}; random filters inherited, each structure trained for {EPOCHS} epochs,"
            f" also those of the baselines, which choose from the same codes. {RATIOS} raw:"
            " accuracy of the colony's structures, trial by trial. ± is half the 95 % t interval"
            " over seeds, paired by seed; the chance by Wilcoxon's signed ranks."
        ),
    )


def draw(curves: Sequence[Sequence[float]], rows: Sequence[Row]) -> Any:
    """The best so far of every colony, beside what random search came to."""
    drawn, axes = figure(
        "ABCPruner at half the latency",
        xlabel="trials",
        ylabel="best accuracy on validation images",
    )
    for curve in curves:
        axes.plot(np.maximum.accumulate(curve), color=COLOURS[0], lw=0.8, alpha=0.7)
    for colour, name in zip(COLOURS[1:], ("random", "uniform"), strict=False):
        axes.axhline(
            interval(column(rows, name, "validation"))[0],
            color=colour,
            ls="--",
            label=f"{name}, mean",
        )
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
