"""With few images, is dropping blocks better than pruning filters at the same latency?

python -m runners.studies.search_practise
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hwbench.workflows.meter import open_meter
from hwbench.workflows.search.blocks import measure_gains
from hwbench.workflows.search.context import make_objective
from hwbench.workflows.search.jobs import evaluating
from hwbench.workflows.search.journal import Journal
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from hwbench.workflows.search.trials import TrialLoop
from hwbench.workflows.search.tuning import tune_result
from runners.studies._groups import RATIOS, Row
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study
from runners.studies._searches import (
    DEVICE,
    LOWER,
    SETTINGS,
    ahead,
    as_fast,
    column,
    interval,
    once,
    points_text,
    prepare,
    tested,
)
from runners.studies.search_amc import DATA

STUDY = "search_practise"
MODEL, SIZE, SHARE = "zoo:resnet20", "1x3x16x16", 0.73
"""Between what two and what three blocks leave, which filters can be pruned to.

Not to the half that four leave.
"""
IMAGES, SEEDS = (50, 200, 500), 3
SCORING, TUNING = 100, 500
"""Iterations for the score of a block, and for tuning a network (published: 1,000 and 2,000)."""
REPEATS, REPEAT_IMAGES = 20, 50
FILTERS = {"filters": False, "filters, re-fitted": True}


def plan_of(method: str, images: int, seed: int, **options: Any) -> Plan:
    """A search with few images; all networks are tuned alike."""
    return Plan.of(
        method,
        Limit("latency", share=SHARE),
        seed=seed,
        data=DATA,
        images=images,
        tune="features",
        tune_steps=TUNING,
        **options,
    )


def main() -> None:
    """Compare with filters, repeat the choice of blocks, and write results/search_practise/."""
    facts = {"model": MODEL, "size": SIZE, "data": DATA, "share": SHARE, "scoring": SCORING}
    rows: list[Row] = []
    for seed in range(SEEDS):
        for images in IMAGES:
            rows += once(
                STUDY,
                {**facts, "tuning": TUNING, "seed": seed, "images": images},
                partial(compared, images, seed),
            )
    chosen: list[Row] = []
    for repeat in range(REPEATS):
        chosen += once(
            STUDY, {**facts, "repeat": repeat, "images": REPEAT_IMAGES}, partial(repeated, repeat)
        )
        save(rows, chosen)


def compared(images: int, seed: int) -> list[Row]:
    """Blocks dropped, and filters pruned to the latency that was measured of that.

    Tuned and tested alike.
    """
    filters = prepare(MODEL, plan_of("amc", images, seed, lower=LOWER), SIZE)
    plan = plan_of("practise", images, seed, adaptor_steps=SCORING)
    blocks = prepare(MODEL, plan, SIZE, DEVICE)
    best = run_search(MODEL, replace(plan, tune="none"), table=DEVICE, inputs=(SIZE,)).best
    networks = {"PRACTISE": blocks.prune(best.candidate)}
    ratio = column(
        tested(blocks, {name: one.module for name, one in networks.items()}), "PRACTISE", "ratio"
    )[0]
    uniform = as_fast(filters, "uniform", ratio)
    for name, refitted in FILTERS.items():
        method = filters.plan.changed(reconstruct=refitted).make_method()
        networks[name] = method.prune(filters.context, uniform)
    for network in networks.values():
        tune_result(blocks.context, blocks.method, plan, network, say=print)
    modules = {name: network.module for name, network in networks.items()}
    return tested(
        blocks, modules, images=images, seed=seed, dropped=" ".join(best.candidate.dropped)
    )


def repeated(repeat: int) -> list[Row]:
    """The blocks that are dropped from one network, with other images and measured again."""
    plan = plan_of("practise", REPEAT_IMAGES, 0, adaptor_steps=SCORING)
    first = prepare(MODEL, plan, SIZE, DEVICE)
    subject, method = first.context.subject, first.method
    names = [block.name for block in subject.structure.blocks]
    with open_meter(DEVICE) as meter:
        gains = measure_gains(meter, subject.network, names, replace(SETTINGS, seed=repeat))
    context = replace(first.context, seed=repeat, blocks=gains)
    limit_s = SHARE * method.original_cost(context)
    search = method.make_search(context, limit_s, seed=repeat, trials=None)
    with evaluating(make_objective(context, method), None) as evaluate:
        best = search.best(TrialLoop(Journal(None, ""), None, evaluate).run("practise", search))
    if best is None:
        raise RuntimeError(f"no blocks were dropped; {len(names)} could have been")
    shares = {block: gain.share for block, gain in gains.gains.items()}
    distances = {
        trial.candidate.note: trial.outcome.distance
        for trial in search.trials
        if trial.outcome is not None
    }
    return [
        {
            "repeat": repeat,
            "dropped": " ".join(best.candidate.dropped),
            "gains": shares,
            "distances": distances,
        }
    ]


def save(rows: Sequence[Row], chosen: Sequence[Row]) -> None:
    """Write what is there."""
    (blocks, same), *_ = Counter(row["dropped"] for row in chosen).most_common(1) or [("-", 0)]
    said = "; ".join(
        f"{points_text(ahead(rows, 'PRACTISE', name))} against {name}" for name in FILTERS
    )
    slower = ", ".join(
        f"{name} {interval(column(rows, name, 'ratio'))[0]:.3f}" for name in ("PRACTISE", *FILTERS)
    )
    save_study(
        STUDY,
        question=(
            "With 50 to 500 images, is dropping blocks better than pruning filters at the same"
            " measured latency, and are they the same blocks each time?"
        ),
        answer=(
            f"PRACTISE on test images, over {len(column(rows, 'PRACTISE', 'test'))} cases: {said}."
            f" The same blocks ({blocks}) in {same} of {len(chosen)} repeats."
        ),
        rows=rows,
        raw={"repeats": list(chosen)},
        picture=draw(rows),
        command=f"make study NAME={STUDY}",
        notes=(
            f"ResNet-20 trained on printed digits of {SIZE}, with a seed each for weights, training"
            f" and images; {SCORING} iterations for the score of a block, {TUNING} for tuning, by"
            " the features of the original and on the same few images, for all. filters: all"
            " groups cut to one share, by L1 norm, to the latency that was measured of the network"
            " without blocks; re-fitted: layers re-fitted to the images by least squares before"
            f" tuning. Measured, on average: {slower}. {RATIOS} Repeats: one network,"
            f" {REPEAT_IMAGES} images, other images, order and measurement of the blocks each time."
        ),
    )


def draw(rows: Sequence[Row]) -> Any:
    """Accuracy over the number of images."""
    drawn, axes = figure(
        f"ResNet-20, blocks dropped for {SHARE:.0%} of the latency",
        xlabel="images to tune on",
        ylabel="accuracy on test images",
    )
    for place, (colour, name) in enumerate(zip(COLOURS, ("PRACTISE", *FILTERS), strict=False)):
        for row in rows:
            if row["name"] == name:
                axes.plot(
                    [row["images"] * 1.03 ** (place - 1)],
                    [row["test"]],
                    "o",
                    ms=4,
                    color=colour,
                    alpha=0.5,
                )
        counts = sorted({row["images"] for row in rows})
        means = [
            interval(column([r for r in rows if r["images"] == n], name, "test"))[0] for n in counts
        ]
        axes.plot(counts, means, color=colour, lw=1, label=name)
    axes.set_xscale("log")
    axes.set_xticks(IMAGES, [str(count) for count in IMAGES])
    axes.minorticks_off()
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
