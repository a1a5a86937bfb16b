"""What does AMC's published network take on a Pixel 1, and what does a reward cost?

python -m runners.studies.search_pixel1
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hwbench.lookup_tables.exchange.foreign_table import table_of
from hwbench.lookup_tables.exchange.shipped import PIXEL1, PIXEL1_TARGET, pixel1, pixel1_networks
from hwbench.lookup_tables.structure_latency import StructureLatency
from hwbench.network.intake import load_workload
from hwbench.network.prunable import PrunableNetwork
from hwbench.search.base import Candidate, Outcome
from hwbench.search.baselines import RandomSearch
from hwbench.search.budget import Budget, channel_choices
from hwbench.search.costs import Latency
from hwbench.search.objective import Prices
from runners.studies._groups import Row
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study

STUDY = "search_pixel1"
WANTED = "0.5flops"
"""AMC's network of half the multiply-accumulates, in the names of the logs."""
STEP, CALLS, REPEATS = 8, 500, 20


def main() -> None:
    """Predict the logged networks, time rewards, write results/search_pixel1/."""
    rows, networks = [], pixel1_networks()
    for name, network in zip(PIXEL1.values(), networks, strict=True):
        if network.whole_s is None:
            raise RuntimeError(f"no end-to-end latency in the logs of {name}")
        rest = table_of(
            [other for other in networks if other is not network], "pixel1"
        ).extrapolating()
        known_s, unseen_s = (table.predict(network.keys).latency_s for table in (pixel1(), rest))
        row = {"network": name, "logged_ms": network.whole_s * 1e3, "predicted_ms": known_s * 1e3}
        rows.append(
            row
            | {
                "error": known_s / network.whole_s - 1,
                "error when left out": unseen_s / network.whole_s - 1,
            }
        )
    costs_us = reward_us()
    save(rows, costs_us)


def reward_us() -> list[float]:
    """Microseconds of one reward, beyond whatever the accuracy costs.

    They are for the prediction, all other costs, and the reward itself.
    """
    from hwbench.search.amc.search import REWARD_FUNCTIONS

    model = next(iter(PIXEL1))
    structure = PrunableNetwork(load_workload(model)).structure
    source = StructureLatency(pixel1().extrapolating(), structure, STEP)
    cost = Latency(source)
    limit_s = 0.5 * float(cost.of(np.array([structure.widths]))[0])
    budget, prices = (
        Budget(cost, limit_s, channel_choices(structure.widths, STEP)),
        Prices(structure, source),
    )
    candidates = RandomSearch(budget, trials=CALLS).propose()
    return [_mean_us(candidates, prices, REWARD_FUNCTIONS["latency"]) for _ in range(REPEATS)]


def _mean_us(candidates: Sequence[Candidate], prices: Prices, reward: Any) -> float:
    begun = time.perf_counter()
    outcomes: list[Outcome] = [prices.outcome(candidate, 0.5) for candidate in candidates]
    for outcome in outcomes:
        reward(outcome)
    return (time.perf_counter() - begun) / len(candidates) * 1e6


def save(rows: Sequence[Row], costs_us: Sequence[float]) -> None:
    """Write the answer."""
    amc = next(row for row in rows if row["network"] == WANTED)
    middle = float(np.median(costs_us))
    save_study(
        STUDY,
        question=(
            f"AMC's published network of half the MACs was logged on a {PIXEL1_TARGET}: what does"
            " the shipped table say of it, with its logs and without them? And what does one"
            " reward cost a search, beyond evaluating accuracy?"
        ),
        answer=(
            f"{amc['error']:+.1%} with its logs, {amc['error when left out']:+.1%} without. A"
            f" reward takes {middle:.0f} us (slowest of {len(costs_us)} times {max(costs_us):.0f})."
        ),
        rows=rows,
        raw={"reward_us": list(costs_us)},
        picture=draw(rows),
        command=f"make study NAME={STUDY}",
        notes=(
            "logged: median of three logs, whole inferences. error: of the table made of all three"
            " networks, then of one made of the other two (see `results/pixel1/` for its layers)."
            f" Reward: mean of {CALLS} structures of MobileNet-V1, latency, multiply-accumulates,"
            " parameters, size and R_latency; without store and checkpoint. raw: microseconds."
        ),
    )


def draw(rows: Sequence[Row]) -> Any:
    """Errors of the three networks."""
    drawn, axes = figure(
        f"{PIXEL1_TARGET}: predicted against logged", xlabel="", ylabel="error of the prediction, %"
    )
    for place, (colour, field) in enumerate(
        zip(COLOURS, ("error", "error when left out"), strict=False)
    ):
        axes.bar(
            [x + 0.4 * place for x in range(len(rows))],
            [100 * row[field] for row in rows],
            0.38,
            color=colour,
            label=field,
        )
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xticks([x + 0.2 for x in range(len(rows))], [row["network"] for row in rows])
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
