"""Is a search guided by latency worth more than one guided by MACs, where both results take the
same time?

python -m runners.studies.search_guidance
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

STUDY = "search_guidance"
SHARE, TRIALS, SEEDS = 0.25, 200, range(10, 15)
"""Share of the MACs; what latency that comes to is the other search's budget."""


def main() -> None:
    """Search with every seed and write results/search_guidance/ after each."""
    facts = {
        "model": MODEL,
        "size": SIZE,
        "data": DATA,
        "share": SHARE,
        "trials": TRIALS,
    }
    once_per_seed(STUDY, SEEDS, facts, one_seed, save)


def one_seed(seed: int) -> list[Row]:
    """A search for fewer MACs, then one for the latency that its result has."""
    by_macs = plan_of(Limit("macs", share=SHARE), seed)
    search = prepare(MODEL, by_macs, SIZE)
    first = run_search(MODEL, by_macs, table=DEVICE, inputs=(SIZE,))
    limit_s = first.best.outcome.latency_s if first.best.outcome is not None else None
    if limit_s is None:
        raise RuntimeError("the search for fewer MACs gave no latency")
    second = run_search(
        MODEL, plan_of(Limit("latency", amount=limit_s), seed), table=DEVICE, inputs=(SIZE,)
    )
    return tested(search, pruned(search, {"MACs": first.best, "latency": second.best}), seed=seed)


def plan_of(limit: Limit, seed: int) -> Plan:
    """AMC within that limit."""
    return Plan.of(
        "amc", limit, trials=TRIALS, seed=seed, data=DATA, tune="none", lower=0.1, baselines=False
    )


def save(rows: Sequence[Row]) -> None:
    """Write what is there."""
    seeds = len(column(rows, "latency", "test"))
    gain, slower = ahead(rows, "latency", "MACs"), ahead(rows, "latency", "MACs", "ratio")
    won, chance = pays(rows, "latency", "MACs")
    save_study(
        STUDY,
        question=(
            "At the same latency, is AMC guided by latency better than AMC guided by MACs, before"
            " tuning?"
        ),
        answer=(
            f"Guided by latency: {points_text(gain)} of accuracy on test images, ahead in {won} of"
            f" {seeds} seeds (chance {chance:.0%} if it made no difference), where the measured"
            f" latency differs by {points_text(slower)} of the original's."
        ),
        rows=rows,
        picture=draw(rows),
        command=f"make study NAME={STUDY}",
        notes=(
            f"Plain-20 on printed digits as in `results/search_amc/`, {TRIALS} trials each. The"
            f" search for {SHARE:.0%} of the MACs comes first; the latency of its result by the"
            " lookup table is the budget of the other. validation: accuracy on the images that"
            " steered the searches; test: on images they never saw; the chance by Wilcoxon's"
            f" signed ranks. {RATIOS}"
        ),
    )


def draw(rows: Sequence[Row]) -> Any:
    """Accuracy over measured latency."""
    drawn, axes = figure(
        "AMC by latency and by MACs, before tuning",
        xlabel="measured latency (ratio to the original)",
        ylabel="accuracy on test images",
    )
    for colour, name in zip(COLOURS, ("latency", "MACs"), strict=False):
        ratios, accuracies = column(rows, name, "ratio"), column(rows, name, "test")
        axes.plot(
            ratios,
            accuracies,
            "o",
            ms=5,
            color=colour,
            label=f"guided by {name}: {interval(accuracies)[0]:.1%}",
        )
    for place in range(len(column(rows, "latency", "ratio"))):
        ends = [
            [column(rows, name, field)[place] for name in ("MACs", "latency")]
            for field in ("ratio", "test")
        ]
        axes.plot(*ends, color="grey", lw=0.6)
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
