"""`hwbench search`: a smaller network within a budget, and how fast it really is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hwbench.errors import Argument, UsageError
from hwbench.lookup_tables import LookupTable
from hwbench.network.intake import ModelOptions
from hwbench.records.measurement import Settings
from hwbench.search.limit import Limit
from hwbench.store import open_store
from hwbench.workflows.meter import Meter, open_meter
from hwbench.workflows.search import front
from hwbench.workflows.search.callback import SearchCallback
from hwbench.workflows.search.context import make_context, make_objective
from hwbench.workflows.search.front import Front, folder_of
from hwbench.workflows.search.jobs import evaluating
from hwbench.workflows.search.journal import Journal
from hwbench.workflows.search.latency import LatencyFinder, Resources
from hwbench.workflows.search.plan import Plan
from hwbench.workflows.search.result import RECORD, SearchResult, result_record, write_result
from hwbench.workflows.search.rounds import SearchRun
from hwbench.workflows.search.shares import TRAINING_SHARE
from hwbench.workflows.search.subject import read_subject, train_subject
from hwbench.workflows.search.time_budget import TimeBudget
from hwbench.workflows.search.trials import TrialLoop

if TYPE_CHECKING:
    from torch import nn

    from hwbench.search.base import Trial
    from hwbench.search.context import SearchContext, Subject
    from hwbench.search.method import Method
    from hwbench.workflows.search.latency import Latencies

FEWEST_EVALUATIONS = 8
"""Networks that there must be time to evaluate for each result, its tests and tuning included."""


def run_search(
    model: str | Path | nn.Module,
    plan: Plan,
    *,
    device: str | Meter | None = None,
    table: LookupTable | str | None = None,
    settings: Settings | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    jobs: int | None = None,
    store: str | None = None,
    save: bool = True,
    callback: SearchCallback | None = None,
    **options: Unpack[ModelOptions],
) -> SearchResult:
    """Search for a smaller network.

    A killed search goes on where it stopped when the same one is asked for again.

    Args:
        model: `zoo:NAME`, `package.module:factory`, a pickled module, or an nn.Module.
        plan: What to search for.
        device: Address of the device, or another `Meter`: its latencies steer the search, and the
            result is measured on it. `cpu` if neither a device nor a table is given and the plan
            asks for latency.
        table: A lookup table, its name or the beginning of its id, in place of that of the device.
        settings: How to measure.
        out: Folder for the network found, its recipe, the log, and the original if it was trained
            here.
        fresh: Whether to begin anew where an earlier run stopped.
        jobs: Number of processes, of one thread each, that evaluate candidates at once where the
            search proposes several; the result does not depend on it. None to evaluate them in this
            process, with all its threads.
        store: SQLAlchemy URL of the store.
        save: Whether to keep trials and measurements there; without it a killed search begins anew.
        callback: Callbacks on progress.
        options: How the model is read, see `load_workload`.

    Raises:
        UsageError: The budget cannot be reached (the message has the least that can), no trial
            succeeded, or there is too little time.
        HwbenchError: The model cannot be read, or the device cannot run it; the message says what
            to do.
    """
    means = _Means(device, table, settings, fresh, jobs, store, save, callback or SearchCallback())
    folders = None if out is None else [Path(out)]
    (result,) = _run_searches(model, [plan], means, folders, options)
    return result


def run_front(
    model: str | Path | nn.Module,
    plan: Plan,
    limits: Sequence[Limit],
    *,
    device: str | Meter | None = None,
    table: LookupTable | str | None = None,
    settings: Settings | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    jobs: int | None = None,
    store: str | None = None,
    save: bool = True,
    callback: SearchCallback | None = None,
    **options: Unpack[ModelOptions],
) -> Front:
    """Search for a smaller network for each of several budgets, and for what they trade.

    The budgets are searched for one after the other, each as by `run_search`, and share what was
    evaluated: no network is evaluated twice, and the best one within a budget is its result
    whichever search found it. A killed one goes on where it stopped.

    Args:
        model: See `run_search`.
        plan: What to search for; its own budget is not used.
        limits: The budgets, of one kind.
        device: See `run_search`.
        table: See `run_search`.
        settings: How to measure.
        out: Folder for the networks found, each in a folder of its own.
        fresh: Whether to begin anew where an earlier run stopped.
        jobs: See `run_search`.
        store: SQLAlchemy URL of the store.
        save: Whether to keep trials and measurements there.
        callback: Callbacks on progress.
        options: How the model is read, see `load_workload`.

    Raises:
        UsageError: There are no budgets, or of several kinds; and as `run_search`.
        HwbenchError: As `run_search`.
    """
    if not limits or len({limit.kind for limit in limits}) > 1:
        kinds = ", ".join(sorted({limit.kind for limit in limits})) or "no kind"
        raise UsageError(f"budgets of {kinds} were given; expected budgets of one kind")
    means = _Means(device, table, settings, fresh, jobs, store, save, callback or SearchCallback())
    plans = [replace(plan, limit=limit) for limit in dict.fromkeys(limits)]
    folders = None
    if out is not None:
        folders = [Path(out) / folder_of(limit) for limit in dict.fromkeys(limits)]
    results = _run_searches(model, plans, means, folders, options)
    found = Front(tuple(sorted(results, key=lambda result: result.limit)))
    if out is not None and any(result.out is not None for result in results):
        found = found.write(Path(out))
    if save:
        with open_store(store) as opened:
            opened.save_record(front.RECORD, found.to_record())
    return found


@dataclass(frozen=True)
class _Means:
    """The arguments of `run_search` that say by what means it is done."""

    device: str | Meter | None
    table: LookupTable | str | None
    settings: Settings | None
    fresh: bool
    jobs: int | None
    store: str | None
    save: bool
    callback: SearchCallback


@dataclass(frozen=True)
class _Prepared:
    """A network made ready to be searched.

    Attributes:
        method: The search.
        resources: What to measure with.
        subject: The network, trained.
        latencies: What is known of its latencies.
        limits: The budget of each search, in the unit of its cost.
    """

    method: Method[Any]
    resources: Resources
    subject: Subject
    latencies: Latencies
    limits: Sequence[float]


def _run_searches(
    model: str | Path | nn.Module,
    plans: Sequence[Plan],
    means: _Means,
    folders: Sequence[Path] | None,
    options: ModelOptions,
) -> list[SearchResult]:
    """Run searches of one network that differ in their budgets alone, the smallest budget first.

    Args:
        model: The network.
        plans: The searches.
        means: By what means.
        folders: One for each result; None to write nothing.
        options: How the model is read.
    """
    time_budget = TimeBudget(plans[0].budget_s)
    with ExitStack() as stack:
        prepared = _prepare(model, plans, means, options, time_budget=time_budget, stack=stack)
        subject, resources, method = prepared.subject, prepared.resources, prepared.method
        context = make_context(subject, plans[0], prepared.latencies)
        identity = (
            subject.name,
            subject.prunable.sha256,
            prepared.latencies.identity,
            *subject.facts,
        )
        journals = []
        for plan in plans:
            key = plan.key(*identity)
            journal = Journal(resources.store, key, fresh=means.fresh, time_budget=time_budget)
            journals.append(journal)
        method.prepare(context, time_budget.left_s, journals[0].decide_once)
        objective = make_objective(context, method)
        means.callback.say("evaluating the original")
        with time_budget.spend("original"):
            original = objective.original()
        if not any(journal.resumed for journal in journals):
            _check_time(time_budget, len(plans))
        evaluate = stack.enter_context(evaluating(objective, means.jobs))
        common = list(context.findings)
        known: dict[object, Trial] = {}
        for journal in journals:
            known.update((trial.candidate.network, trial) for trial in journal.trials)
        shared: list[Trial] = []
        results: dict[int, SearchResult] = {}
        for index in sorted(range(len(plans)), key=lambda index: prepared.limits[index]):
            # Each search has the network and what was worked out about it in common with the
            # others, and its budget and findings for itself.
            context.limit, context.findings = plans[index].limit, list(common)
            limit_s = None
            if time_budget.left_s is not None:
                share_s = time_budget.left_s / (len(plans) - len(results))
                limit_s = time_budget.elapsed_s + share_s
            loop = TrialLoop(journals[index], limit_s, evaluate, means.callback.tried, known)
            run = SearchRun(
                plans[index],
                method,
                context,
                objective=objective,
                original=original,
                loop=loop,
                resources=resources,
                callback=means.callback,
                time_budget=time_budget,
                shared=tuple(shared),
            )
            result, pruned = run.result()
            shared += loop.trials
            if resources.store is not None:
                resources.store.save_record(RECORD, result_record(result, subject, resources))
            if folders is not None:
                means.callback.say(f"writing {folders[index]}")
                result = write_result(result, pruned, subject, folders[index])
            results[index] = result
    return [results[index] for index in range(len(plans))]


def _prepare(
    model: str | Path | nn.Module,
    plans: Sequence[Plan],
    means: _Means,
    options: ModelOptions,
    *,
    time_budget: TimeBudget,
    stack: ExitStack,
) -> _Prepared:
    """Read a network, find its latencies, check the budgets against them, and only then train it.

    Args:
        model: The network.
        plans: The searches, which differ in their budgets alone.
        means: By what means.
        options: How the model is read.
        time_budget: What time there is.
        stack: Closes store and device.

    Raises:
        UsageError: A budget cannot be reached, or training takes too long.
    """
    plan, say = plans[0], means.callback.say
    method = plan.make_method()
    store = stack.enter_context(open_store(means.store)) if means.save else None
    say("reading the network")
    with time_budget.spend("reading"):
        subject = read_subject(model, plan, **options)
    device = means.device
    if device is None and means.table is None and method.wants_latency(plan.limit):
        device = "cpu"
    meter = None if device is None else stack.enter_context(open_meter(device))
    settings = means.settings or Settings(seed=plan.seed, layers=False)
    url = means.store if means.save else None
    resources = Resources(meter, means.table, store, url, settings)
    finder = LatencyFinder(subject, plan, method, resources, means.callback)

    def train() -> Subject:
        limit_s = None
        if time_budget.limit_s is not None:
            limit_s = TRAINING_SHARE * time_budget.limit_s
        with time_budget.spend("training"):
            return train_subject(
                subject, plan, store, say, limit_s=limit_s, report=means.callback.trained
            )

    if finder.measures_blocks:
        subject = train()
    with time_budget.spend("latencies"):
        latencies = finder.find()
    limits = _check_limits(plans, method, make_context(subject, plan, latencies))
    if not finder.measures_blocks:
        subject = train()
    return _Prepared(method, resources, subject, latencies, limits)


def _check_limits(
    plans: Sequence[Plan], method: Method[Any], context: SearchContext
) -> list[float]:
    """The limits of searches, in the unit of their cost.

    A search that cannot be made is refused before anything is trained or evaluated for it.

    Raises:
        UsageError: A limit cannot be reached; the message has the least that can.
    """
    limits = []
    for plan in plans:
        limit = math.inf
        if plan.limit is not None:
            limit = plan.limit.of(method.original_cost(context))
        method.make_search(context, limit, seed=plan.seed, trials=plan.trials)
        limits.append(limit)
    return limits


def _check_time(time_budget: TimeBudget, searches: int) -> None:
    """Refuse, before the first trial, a search that has no time for a few.

    Args:
        time_budget: The time.
        searches: How many searches share it.

    Raises:
        UsageError: There is too little.
    """
    left_s = time_budget.left_s
    if left_s is None or time_budget.limit_s is None:
        return
    one_s = time_budget.spent_s["original"]
    needed_s = FEWEST_EVALUATIONS * searches * one_s
    if left_s < needed_s:
        raise UsageError(
            f"{time_budget.limit_s:g} s are too few for this search: {time_budget.elapsed_s:.0f} s"
            f" are gone ({time_budget.describe_spent()}), and to evaluate a network takes"
            f" {one_s:.2g} s",
            Argument("budget_s", math.ceil(time_budget.elapsed_s + 2 * needed_s)),
        )
