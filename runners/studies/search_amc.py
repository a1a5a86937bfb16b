"""Does AMC find better networks of half the latency than policies and as many random tries?

python -m runners.studies.search_amc
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwbench.search.baselines import POLICIES
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from runners.studies._groups import RATIOS, Row
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study
from runners.studies._searches import (
    DEVICE,
    ahead,
    as_fast,
    column,
    interval,
    once_per_seed,
    pays,
    points_text,
    prepare,
    pruned,
    tested,
)

STUDY = "search_amc"
MODEL, SIZE, DATA = "zoo:plain20", "1x3x16x16", "runners.studies._glyphs:glyphs"
SHARE, TRIALS, SEEDS = 0.5, 200, range(10, 16)
"""Seeds from 10 on, as the agent's exploration was chosen with lower ones."""
CHANCE = 0.05
"""Largest chance at which an advantage is claimed."""
PUBLISHED = "published agent"
OTHERS = (*POLICIES, "random", PUBLISHED)


def plan_of(seed: int) -> Plan:
    """The search of one seed, also that of the original's weights, its training and its images."""
    return Plan.of(
        "amc",
        Limit("latency", share=SHARE),
        trials=TRIALS,
        seed=seed,
        data=DATA,
        tune="none",
        lower=0.1,
    )


def main() -> None:
    """Search with every seed and write results/search_amc/ after each."""
    facts = {
        "model": MODEL,
        "size": SIZE,
        "data": DATA,
        "share": SHARE,
        "trials": TRIALS,
    }
    once_per_seed(STUDY, SEEDS, facts, one_seed, save)


def one_seed(seed: int) -> list[Row]:
    """One search with its baselines; all networks tested and measured beside their original."""
    plan = plan_of(seed)
    search = prepare(MODEL, plan, SIZE)
    result = run_search(MODEL, plan, table=DEVICE, inputs=(SIZE,))
    other = run_search(
        MODEL, plan.changed(explore="everywhere", baselines=False), table=DEVICE, inputs=(SIZE,)
    )
    found = pruned(
        search, {"amc": result.best, "random": result.baselines["random"], PUBLISHED: other.best}
    )
    ratio = column(tested(search, found), "amc", "ratio")[0]
    alike = {policy: search.prune(as_fast(search, policy, ratio)).module for policy in POLICIES}
    rows = tested(search, found | alike, seed=seed)
    curve = [trial.outcome.quality for trial in result.trials if trial.outcome is not None]
    return [row | {"curve": curve if row["name"] == "amc" else None} for row in rows]


def save(rows: Sequence[Row]) -> None:
    """Write what is there."""
    seeds = len(column(rows, "amc", "test"))
    wins = {other: pays(rows, "amc", other) for other in OTHERS}
    equal = [other for other, (_, chance) in wins.items() if chance > CHANCE]
    said = ", ".join(
        f"{points_text(ahead(rows, 'amc', other))} against {other} (ahead in {won})"
        for other, (won, _) in wins.items()
    )
    ratios = {name: interval(column(rows, name, "ratio"))[0] for name in ("amc", *OTHERS)}
    save_study(
        STUDY,
        question=(
            "At half the latency, are the networks that AMC finds better before tuning than"
            " uniform, shallow and deep policies and the best of as many random ones?"
        ),
        answer=f"AMC's accuracy on test images, before tuning, over {seeds} seeds: {said}."
        + (f" No advantage over {' and '.join(equal)} can be told." if equal else ""),
        rows=[{name: value for name, value in row.items() if name != "curve"} for row in rows],
        raw=[row["curve"] for row in rows if row["name"] == "amc"],
        picture=draw(rows),
        command=f"make study NAME={STUDY}",
        notes=(
            f"Plain-20 trained on printed digits of {SIZE}, another seed for weights, training and"
            f" splits each; {TRIALS} trials; widths by L1 norm, layers re-fitted by least squares,"
            " normalization corrected. AMC, the agent as published and random keep to half the"
            " latency by the same lookup table; the policies are as large as makes them measure"
            " what AMC's network measures. Measured, on average:"
            f" {', '.join(f'{n} {r:.3f}' for n, r in ratios.items())}. validation: accuracy on the"
            " images that steered the search; test: on images it never saw; ± is half the 95 % t"
            " interval over seeds, paired by seed; an advantage is claimed where Wilcoxon's signed"
            f" ranks leave it a chance of at most {CHANCE:.0%}. {RATIOS} raw: AMC's validation"
            " accuracy, trial by trial."
        ),
    )


def draw(rows: Sequence[Row]) -> Any:
    """Accuracy of each policy, seed by seed."""
    drawn, axes = figure(
        f"Plain-20 at {SHARE:.0%} latency, before tuning",
        xlabel="",
        ylabel="accuracy on test images",
    )
    names = ("amc", *OTHERS)
    for place, (colour, name) in enumerate(zip(COLOURS, names, strict=False)):
        values = column(rows, name, "test")
        mean, half = interval(values)
        axes.plot([place] * len(values), values, "o", ms=4, color=colour, alpha=0.5)
        axes.errorbar(
            [place + 0.2],
            [mean],
            yerr=[half if half < 1 else 0],
            fmt="s",
            ms=6,
            capsize=3,
            color=colour,
        )
    axes.set_xticks(range(len(names)), names)
    return drawn


if __name__ == "__main__":
    main()
