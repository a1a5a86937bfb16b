"""Which search finds the best network of half the cost, on real pictures, before and after tuning?

python -m runners.studies.search_fashion
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.search.abcpruner.search import AbcPruner
from hwbench.search.amc.search import Amc
from hwbench.search.amc.walk import channel_geometry
from hwbench.search.base import Candidate, Search, Trial
from hwbench.search.baselines import Policy, RandomSearch
from hwbench.search.budget import Budget, paying_widths
from hwbench.search.costs import Cost, macs
from hwbench.search.knapsack.method import KnapsackMethod, KnapsackOptions
from hwbench.search.knapsack.search import Knapsack
from hwbench.store import open_store
from hwbench.workflows.search.context import make_context, make_objective
from hwbench.workflows.search.latency import Latencies
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.subject import read_subject, train_subject
from runners.studies._groups import Row
from runners.studies._journal import append_to_journal, journal_of, read_journal
from runners.studies._optimisers import CmaEs, Tpe
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import markdown, save_study
from runners.studies._searches import interval, points_text
from runners.studies._stepped import STEP as DEVICE_STEP
from runners.studies._stepped import SteppedLatency

if TYPE_CHECKING:
    from torch import nn

    from hwbench.search.base import Outcome
    from hwbench.search.context import SearchContext
    from hwbench.search.data import Data

STUDY = "search_fashion"
JOURNAL = journal_of(STUDY)
"""One row a line, as soon as it is there; a study that was stopped goes on from it."""
DATA, SIZE = "fashion-mnist", "1x3x20x20"
TRAINING, VALIDATION = 6000, 1000
"""Pictures that networks learn from, and that steer the searches; the test set is whole."""
TRAIN_EPOCHS, TUNE_EPOCHS = 15, 4
SHARE, TRIALS, SEEDS = 0.5, 150, (1, 2, 3)
"""The seeds were fixed before anything ran; a seed is that of weights, training, splits, search."""
MACS_STEP = 4
"""Widths are multiples of so many channels where multiply-accumulates are limited."""
FULL = 10
"""The colony's sources, as in its authors' code."""
OURS = "knapsack"


@dataclass(frozen=True)
class Cell:
    """One network within one budget, with one seed."""

    network: str
    budget: str
    seed: int


CELLS = [
    Cell(network, budget, seed)
    for network in ("plain20", "resnet20")
    for budget in ("macs", "latency")
    for seed in SEEDS
]
"""In the order in which they are run."""


def colony(budget: Budget, seed: int) -> Search:
    """ABCPruner's colony, for as many cycles as there are trials for."""
    cycles = math.ceil((TRIALS - FULL) / (2 * FULL))
    return AbcPruner(budget, seed=seed, sources=FULL, cycles=cycles)


Maker = Callable[["SearchContext", Budget, int], Search]
MAKERS: dict[str, Maker] = {
    "uniform": lambda _, budget, __: Policy(budget, "uniform"),
    "shallow": lambda _, budget, __: Policy(budget, "shallow"),
    "deep": lambda _, budget, __: Policy(budget, "deep"),
    "knapsack": lambda _, budget, seed: Knapsack(budget, seed=seed, trials=TRIALS),
    "amc": lambda context, budget, seed: Amc(
        budget, channel_geometry(context.structure), seed=seed, episodes=TRIALS
    ),
    "tpe": lambda _, budget, seed: Tpe(budget, seed=seed, trials=TRIALS),
    "cma-es": lambda _, budget, seed: CmaEs(budget, seed=seed, trials=TRIALS),
    "random": lambda _, budget, seed: RandomSearch(budget, seed=seed, trials=TRIALS),
    "abcpruner": lambda _, budget, seed: colony(budget, seed),
}
ORIGINAL = "original"
NAMES = (ORIGINAL, *MAKERS)


@dataclass(frozen=True)
class Ground:
    """What all searches of a cell share: the trained original, the budget, what was evaluated."""

    cell: Cell

    @cached_property
    def context(self) -> SearchContext:
        """The original, trained on few pictures; the store keeps it."""
        plan = Plan.of(
            OURS,
            Limit("macs", share=SHARE),
            data=DATA,
            seed=self.cell.seed,
            train_epochs=TRAIN_EPOCHS,
            tune="none",
        )
        subject = read_subject(f"zoo:{self.cell.network}", plan, inputs=(SIZE,))
        data = subject.data
        if data is None:
            raise RuntimeError(f"{subject.name} was read without images")
        few = replace(
            data,
            train=data.train.few(TRAINING, self.cell.seed),
            validation=data.validation.few(VALIDATION, self.cell.seed),
        )
        with open_store() as store:
            subject = train_subject(replace(subject, data=few), plan, store, print)
        step = MACS_STEP if self.cell.budget == "macs" else DEVICE_STEP
        return make_context(subject, plan, Latencies(None, None, step, "invented"))

    @cached_property
    def budget(self) -> Budget:
        """Half of the cost, and the widths that all searches choose from."""
        structure = self.context.structure
        cost: Cost = macs(structure)
        grids = _method().grids(self.context)
        if self.cell.budget == "latency":
            cost = SteppedLatency(structure)
            steps = [DEVICE_STEP] * len(structure.groups)
            grids = [paying_widths(cost, grid, steps) for grid in grids]
        original = float(cost.of(np.array([structure.widths]))[0])
        return Budget(cost, SHARE * original, *grids, original=original)

    @cached_property
    def outcomes(self) -> dict[tuple[int, ...], Outcome]:
        """Outcomes of the networks that any search of the cell proposed."""
        return {}

    @cached_property
    def tuned_accuracies(self) -> dict[tuple[int, ...], float]:
        """Accuracies on test pictures after tuning."""
        return {}

    def evaluate(self, candidate: Candidate) -> Outcome:
        """The outcome of a candidate, the same whichever search proposed it."""
        widths = candidate.widths or ()
        if widths not in self.outcomes:
            objective = make_objective(self.context, _method())
            self.outcomes[widths] = objective.evaluate(candidate)
        return self.outcomes[widths]

    def test(self, module: nn.Module) -> float:
        """Accuracy on the test pictures."""
        from hwbench.search.training import accuracy

        return accuracy(module, _data_of(self.context).test)

    def tune(self, candidate: Candidate) -> float:
        """Accuracy on the test pictures after tuning by labels."""
        from hwbench.search.training import Schedule, cross_entropy, tune
        from hwbench.search.tuning import renormalize

        widths = candidate.widths or ()
        if widths not in self.tuned_accuracies:
            module = _method().prune(self.context, candidate).module
            train = _data_of(self.context).train
            schedule = Schedule(0, seed=self.cell.seed).lasting(TUNE_EPOCHS, len(train))
            tune(module, train, cross_entropy, schedule)
            renormalize(module, train.few(VALIDATION, self.cell.seed))
            self.tuned_accuracies[widths] = self.test(module)
        return self.tuned_accuracies[widths]

    def run_search(self, name: str) -> Row:
        """One search to its end, and its network tested and tuned."""
        search = MAKERS[name](self.context, self.budget, self.cell.seed)
        trials: list[Trial] = []
        while not search.finished and len(trials) < TRIALS:
            found = [Trial(one, self.evaluate(one)) for one in search.propose()]
            search.observe(found)
            trials += found
        trials = trials[:TRIALS]
        best = search.best(trials)
        if best is None or best.outcome is None:
            raise RuntimeError(f"{name} found nothing in {self.cell}")
        widths = best.candidate.widths or ()
        return {
            "trials": len(trials),
            "networks": len({trial.candidate.widths for trial in trials}),
            "used": float(self.budget.cost.of(np.array([widths]))[0]) / self.budget.limit,
            "validation": best.outcome.quality,
            "test": self.test(_method().prune(self.context, best.candidate).module),
            "tuned": self.tune(best.candidate),
            "widths": widths,
            "curve": [trial.outcome.quality for trial in trials if trial.outcome is not None],
        }

    def run_original(self) -> Row:
        """The original itself."""
        module = self.context.module
        row: Row = {"trials": 0, "networks": 1, "used": 1 / SHARE}
        row["validation"] = self.context.accuracy(module)
        row["test"] = self.test(module)
        return row | {"tuned": None, "widths": self.context.structure.widths, "curve": []}


def main() -> None:
    """Go on from the journal, and write results/search_fashion/ after each row."""
    import torch

    torch.set_num_threads(1)
    rows = read_journal(JOURNAL)
    done = {(Cell(row["network"], row["budget"], row["seed"]), row["method"]) for row in rows}
    for cell in CELLS:
        ground = Ground(cell)
        for name in NAMES:
            if (cell, name) in done:
                continue
            found = ground.run_original() if name == ORIGINAL else ground.run_search(name)
            row = {
                "network": cell.network,
                "budget": cell.budget,
                "seed": cell.seed,
                "method": name,
                **found,
            }
            append_to_journal(JOURNAL, row)
            rows.append(row)
            short = {key: value for key, value in row.items() if key not in {"curve", "widths"}}
            print(json.dumps(short), flush=True)
            save(rows)


def save(rows: Sequence[Row]) -> None:
    """Write what is there, and say what is missing."""
    lines = [
        f"after tuning {points_text(found)} against {other}"
        for other in MAKERS
        if other != OURS and (found := ahead(rows, other, "tuned")) is not None
    ]
    cells = len({_cell_of(row) for row in rows if row["method"] == OURS})
    answer = "Too few runs for an answer."
    if lines:
        answer = (
            f"Knapsack's accuracy on test pictures, mean of {cells} runs (network, budget and"
            f" seed): {'; '.join(lines)}."
        )
    save_study(
        STUDY,
        question=(
            "At half the cost, which search finds the best network on real pictures, before and"
            " after tuning?"
        ),
        answer=answer,
        rows=summarise(rows),
        raw=rows,
        picture=draw(rows),
        command=f"make study NAME={STUDY}",
        notes=describe(rows),
    )


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One row for each method in each network and budget: the mean over the seeds."""
    summary: list[Row] = []
    for network, budget in dict.fromkeys((row["network"], row["budget"]) for row in rows):
        for name in NAMES:
            mine = [
                row
                for row in rows
                if (row["network"], row["budget"], row["method"]) == (network, budget, name)
            ]
            if mine:
                summary.append(
                    {
                        "network": network,
                        "half of": budget,
                        "method": name,
                        "seeds": len(mine),
                        "trials": mine[0]["trials"],
                        "validation": _percent(row["validation"] for row in mine),
                        "test": _percent(row["test"] for row in mine),
                        "after tuning": _percent(row["tuned"] for row in mine),
                    }
                )
    return summary


def ahead(
    rows: Sequence[Row], other: str, field: str, within: tuple[str, str] | None = None
) -> tuple[float, float] | None:
    """By how much knapsack is ahead of another method, paired by run.

    Args:
        rows: All rows.
        other: The method.
        field: `validation`, `test` or `tuned`.
        within: Network and budget; None for all of them.

    Returns:
        Mean and half of its 95 % t interval; None where fewer than two runs have both.
    """
    values: dict[tuple[Cell, str], float] = {}
    for row in rows:
        if within is None or within == (row["network"], row["budget"]):
            values[_cell_of(row), row["method"]] = row[field]
    gains = []
    for (cell, name), value in values.items():
        if name == OURS and (cell, other) in values:
            gains.append(value - values[cell, other])
    return interval(gains) if len(gains) > 1 else None


def describe(rows: Sequence[Row]) -> str:
    """How it was done, the paired differences, what each seed gave, and what is missing."""
    paired: list[Row] = []
    places: list[tuple[str, str] | None] = [None]
    places += list(dict.fromkeys((row["network"], row["budget"]) for row in rows))
    for within in places:
        for other in MAKERS:
            found = {field: ahead(rows, other, field, within) for field in ("test", "tuned")}
            if other == OURS or None in found.values():
                continue
            paired.append(
                {
                    "in": "all" if within is None else f"{within[0]}, {within[1]}",
                    "knapsack against": other,
                    **{
                        {"test": "test", "tuned": "after tuning"}[field]: points_text(gain)
                        for field, gain in found.items()
                        if gain is not None
                    },
                }
            )
    each = [
        {
            "network": row["network"],
            "half of": row["budget"],
            "seed": row["seed"],
            "method": row["method"],
            "of the budget": f"{row['used']:.3f}",
            "validation": _percent([row["validation"]]),
            "test": _percent([row["test"]]),
            "after tuning": _percent([row["tuned"]]),
        }
        for row in rows
    ]
    parts = [describe_setting()]
    if paired:
        parts += [
            "Knapsack against the others, paired by run; with half of the 95 % t interval:",
            markdown(paired),
        ]
    parts += ["Every run:", markdown(each)]
    missing = find_missing(rows)
    if missing:
        parts.append(f"Missing, as the hours did not allow: {'; '.join(missing)}.")
    return "\n\n".join(parts)


def describe_setting() -> str:
    """How networks were trained, searched and tuned."""
    return (
        f"Fashion-MNIST, its pictures scaled from 28x28 to 20x20: {TRAINING} to learn from,"
        f" {VALIDATION} others that steer the searches (validation), all 10,000 of the test set"
        f" (test). Plain-20 and ResNet-20 of CIFAR's widths, trained for {TRAIN_EPOCHS} epochs;"
        f" every seed has weights, training pictures and searches of its own, and the seeds"
        f" {', '.join(map(str, SEEDS))} were fixed before anything ran. All searches choose from"
        f" the same widths, within the same budget, and are told the same: the accuracy of the"
        f" pruned network on the validation pictures, its channels kept by L1 norm, layers"
        f" re-fitted by least squares, without training. So ABCPruner's structures are not trained"
        f" either, and it may keep whole widths: it is its colony that is compared. Each has"
        f" {TRIALS} trials; a network proposed twice counts twice. TPE (Optuna) and CMA-ES (cma)"
        f" with their defaults begin at uniform pruning, as AMC and knapsack do, and what they wish"
        f" for is shrunk and filled up to the budget. Each search delivers the best of its own"
        f" trials. After tuning: {TUNE_EPOCHS} epochs by labels on the same pictures. Half of the"
        f" multiply-accumulates (macs), on multiples of {MACS_STEP} channels; half of the latency"
        f" of an invented device that computes channels by {DEVICE_STEP}"
        f" (`runners/studies/_stepped.py`): nothing was measured."
    )


def find_missing(rows: Sequence[Row]) -> list[str]:
    """The runs that were planned and are not there, for people."""
    done = {(_cell_of(row), row["method"]) for row in rows}
    missing = []
    for cell in CELLS:
        names = [name for name in NAMES if (cell, name) not in done]
        if names:
            methods = "all methods" if len(names) == len(NAMES) else ", ".join(names)
            missing.append(
                f"{cell.network} within half of the {cell.budget}, seed {cell.seed}: {methods}"
            )
    return missing


def draw(rows: Sequence[Row]) -> Any:
    """Accuracy after tuning, less that of uniform pruning in the same run."""
    drawn, axes = figure(
        "Half the cost on Fashion-MNIST, after tuning",
        xlabel="",
        ylabel="points above uniform pruning, on test pictures",
    )
    uniform = {_cell_of(row): row["tuned"] for row in rows if row["method"] == "uniform"}
    names = [name for name in MAKERS if name != "uniform"]
    kinds = list(dict.fromkeys((cell.network, cell.budget) for cell in CELLS))
    for index, (network, budget) in enumerate(kinds):
        label = f"{network}, {budget}"
        axes.plot([], [], "o", ms=4, color=COLOURS[index], label=label)
        for row in rows:
            cell = _cell_of(row)
            is_mine = (row["network"], row["budget"]) == (network, budget)
            if is_mine and row["method"] in names and cell in uniform:
                gain = 100 * (row["tuned"] - uniform[cell])
                place = names.index(row["method"]) + 0.1 * index - 0.15
                axes.plot([place], [gain], "o", ms=4, color=COLOURS[index])
    axes.axhline(0, color="black", lw=1)
    axes.set_xticks(range(len(names)), names)
    axes.legend(fontsize=8)
    return drawn


def _cell_of(row: Row) -> Cell:
    return Cell(row["network"], row["budget"], row["seed"])


def _method() -> KnapsackMethod:
    """What prunes the networks of all searches alike."""
    return KnapsackMethod(OURS, KnapsackOptions())


def _data_of(context: SearchContext) -> Data:
    data = context.data
    if data is None:
        raise RuntimeError("the network was read without images")
    return data


def _percent(values: Iterable[float | None]) -> str:
    """The mean of shares, in percent; a dash where there are none."""
    known = [value for value in values if value is not None]
    return f"{100 * sum(known) / len(known):.2f}" if known else "-"


if __name__ == "__main__":
    main()
