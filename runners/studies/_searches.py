"""What studies of searches share: rows that outlive a kill, searches made ready, fair tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.intake import load_workload
from hwbench.records.measurement import Settings
from hwbench.search.baselines import Policy
from hwbench.search.method import Method, WidthMethod
from hwbench.stats import t_half_width
from hwbench.store import open_store
from hwbench.workflows.build_table import build_table
from hwbench.workflows.meter import DeviceMeter
from hwbench.workflows.search.callback import SearchCallback
from hwbench.workflows.search.context import make_context
from hwbench.workflows.search.latency import LatencyFinder, Resources
from hwbench.workflows.search.subject import read_subject, train_subject
from runners.studies._groups import Row, measured, rows_of

if TYPE_CHECKING:
    from torch import nn

    from hwbench.pruning import Pruned
    from hwbench.search.base import Candidate, Trial
    from hwbench.search.context import SearchContext
    from hwbench.workflows.search.plan import Plan

DEVICE = "cpu"
RECORD = "study_rows"
TABLE, STEP, LOWER = Settings(budget_s=240), 4, 0.1
"""How tables are built: searches choose from multiples of so many channels, down to this share."""
EQUAL = 0.02
"""How near the measured latencies of networks that are compared come to each other."""
TRIES = 3
"""Networks that are tried for it."""
SETTINGS = Settings(budget_s=10, layers=False)
"""How networks of one group are measured, interleaved."""


def once(study: str, facts: Mapping[str, Any], make: Callable[[], list[Row]]) -> list[Row]:
    """Rows of a study, from the store where an earlier run left them.

    So the same command goes on where a killed one stopped.
    """
    key = json.dumps([study, facts], sort_keys=True)
    with open_store() as store:
        for kept in store.records(RECORD).values():
            if kept["key"] == key:
                return list(kept["rows"])
        rows = make()
        store.save_record(RECORD, {"key": key, "rows": rows})
    return rows


def once_per_seed(
    study: str,
    seeds: Iterable[int],
    facts: Mapping[str, Any],
    make: Callable[[int], list[Row]],
    save: Callable[[Sequence[Row]], None],
) -> None:
    """Make the rows of a study seed by seed, and save all that there are after each.

    Args:
        study: Name of the study.
        seeds: The seeds.
        facts: What the rows depend on beside the seed.
        make: Makes the rows of a seed.
        save: Writes the results.
    """
    rows: list[Row] = []
    for seed in seeds:
        rows += once(study, {"seed": seed, **facts}, partial(make, seed))
        save(rows)


def build(model: str, size: str) -> None:
    """Build the lookup table of this CPU for a network, once; searches find it in the store."""

    def made() -> list[Row]:
        table = build_table(
            model,
            device=DEVICE,
            widths=STEP,
            lower=LOWER,
            settings=TABLE,
            validation=0,
            inputs=(size,),
        ).table
        return [{"networks": sum(source.networks for source in table.provenance.sources)}]

    once("table", {"model": model, "size": size}, made)


@dataclass(frozen=True)
class Prepared:
    """A search made ready: its method, and the trained original with its latencies."""

    plan: Plan
    method: Method[Any]
    context: SearchContext

    def prune(self, candidate: Candidate) -> Pruned:
        """The network of a candidate, as the search evaluates it."""
        return self.method.prune(self.context, candidate)


def prepare(model: str, plan: Plan, size: str, table: str | None = None) -> Prepared:
    """Make a search ready, with the lookup table of this CPU or what its blocks save."""
    build(model, size)
    method = plan.make_method()
    with open_store() as store, CpuOrt() as device:
        subject = read_subject(model, plan, inputs=(size,))
        subject = train_subject(subject, plan, store, print)
        resources = Resources(DeviceMeter(device, DEVICE), table, store, None, SETTINGS)
        latencies = LatencyFinder(subject, plan, method, resources, SearchCallback()).find()
    return Prepared(plan, method, make_context(subject, plan, latencies))


def pruned(search: Prepared, trials: Mapping[str, Trial | None]) -> dict[str, nn.Module]:
    """The networks of these trials, as they were evaluated."""
    return {
        name: search.prune(trial.candidate).module
        for name, trial in trials.items()
        if trial is not None
    }


def tested(search: Prepared, modules: Mapping[str, nn.Module], **common: object) -> list[Row]:
    """The original and these networks measured interleaved, with their accuracies: one row each."""
    from hwbench.search.training import accuracy

    subject = search.context.subject
    if subject.data is None:
        raise RuntimeError(f"{subject.name} was read without images")
    every = {"original": subject.prunable.module, **modules}
    workloads = {
        name: load_workload(module, example_inputs=subject.example)
        for name, module in every.items()
    }
    with CpuOrt() as device:
        rows = rows_of(measured(device, workloads, SETTINGS), **common)
    for row in rows:
        row["validation"] = accuracy(every[row["name"]], subject.data.validation)
        row["test"] = accuracy(every[row["name"]], subject.data.test)
    return rows


def as_fast(search: Prepared, policy: str, ratio: float) -> Candidate:
    """The network of a hand-made policy that measures that ratio, the nearest of a few tries."""
    method = search.method
    if not isinstance(method, WidthMethod):
        raise TypeError(f"{method.name} does not search widths")
    tried, wanted = [], ratio
    for _ in range(TRIES):
        limit = wanted * method.original_cost(search.context)
        candidate = Policy(method.budget(search.context, limit), policy).propose()[0]
        is_ratio = column(
            tested(search, {policy: search.prune(candidate).module}), policy, "ratio"
        )[0]
        tried.append((abs(is_ratio / ratio - 1), candidate))
        if tried[-1][0] <= EQUAL:
            break
        wanted *= ratio / is_ratio
    return min(tried, key=lambda one: one[0])[1]


def column(rows: Iterable[Row], name: str, field: str) -> list[float]:
    """One field of all rows of a name, in order."""
    return [float(row[field]) for row in rows if row["name"] == name]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % t interval."""
    found = np.array(values, np.float64)
    return float(found.mean()), t_half_width(found)


def ahead(rows: Sequence[Row], one: str, other: str, field: str = "test") -> tuple[float, float]:
    """By how much one name is ahead of another in a field, paired over the seeds.

    Returns:
        The mean, and the half-width of its 95 % t interval.
    """
    pairs = zip(column(rows, one, field), column(rows, other, field), strict=True)
    return interval([a - b for a, b in pairs])


def pays(rows: Sequence[Row], one: str, other: str, field: str = "test") -> tuple[int, float]:
    """In how many seeds one name is ahead of another, and the chance of as much if it is no better.

    The chance is that of Wilcoxon's signed ranks.

    Other than a t interval, this bears that a policy now and then ruins a network.
    """
    from scipy.stats import wilcoxon

    gains = np.array(column(rows, one, field)) - np.array(column(rows, other, field))
    return int((gains > 0).sum()), float(wilcoxon(gains, alternative="greater").pvalue)


def points_text(found: tuple[float, float]) -> str:
    """A difference of accuracies for a sentence: `+3.1 ± 0.8 points`."""
    return f"{100 * found[0]:+.1f} ± {100 * found[1]:.1f} points"
