"""`hwbench search`: a smaller network within a budget, and how fast it really is."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hwbench.lookup_tables import LookupTable
from hwbench.network.intake import ModelOptions
from hwbench.records.measurement import Settings
from hwbench.store import open_store
from hwbench.workflows.meter import Meter, open_meter
from hwbench.workflows.search.callback import SearchCallback
from hwbench.workflows.search.context import make_context, make_objective
from hwbench.workflows.search.jobs import evaluating
from hwbench.workflows.search.journal import Journal
from hwbench.workflows.search.latency import LatencyFinder, Resources
from hwbench.workflows.search.plan import Plan
from hwbench.workflows.search.result import RECORD, SearchResult, result_record
from hwbench.workflows.search.rounds import SearchRun
from hwbench.workflows.search.subject import read_subject
from hwbench.workflows.search.trials import TrialLoop

if TYPE_CHECKING:
    from torch import nn


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
        UsageError: The budget cannot be reached (the message has the least that can), or no trial
            succeeded.
        HwbenchError: The model cannot be read, or the device cannot run it; the message says what
            to do.
    """
    callback = callback or SearchCallback()
    settings = settings or Settings(seed=plan.seed, layers=False)
    method = plan.make_method()
    begun = time.monotonic()
    with ExitStack() as stack:
        opened = stack.enter_context(open_store(store)) if save else None
        callback.say("reading the network")
        subject = read_subject(model, plan, opened, callback.say, callback.trained, **options)
        if device is None and table is None and method.wants_latency(plan.limit):
            device = "cpu"
        meter = None if device is None else stack.enter_context(open_meter(device))
        resources = Resources(meter, table, opened, store if save else None, settings)
        latencies = LatencyFinder(subject, plan, method, resources, callback.say).find()
        facts = (subject.name, subject.prunable.sha256, latencies.identity, *subject.facts)
        key = plan.key(*facts)
        journal = Journal(opened, key, fresh=fresh, begun=begun)
        context = make_context(subject, plan, latencies)
        left_s = None if plan.budget_s is None else plan.budget_s - journal.elapsed_s
        method.prepare(context, left_s, journal.decide_once)
        objective = make_objective(context, method)
        evaluate = stack.enter_context(evaluating(objective, jobs))
        loop = TrialLoop(journal, plan.budget_s, evaluate, callback.tried)
        run = SearchRun(
            plan,
            method,
            context,
            objective=objective,
            loop=loop,
            resources=resources,
            callback=callback,
        )
        result = run.result(Path(out) if out is not None else None)
        if opened is not None:
            opened.save_record(RECORD, result_record(result, subject, resources))
        return result
