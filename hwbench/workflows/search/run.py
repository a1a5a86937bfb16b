"""`hwbench search`: a smaller network within a budget, and how fast it really is."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hwbench.errors import UsageError
from hwbench.lookup_tables import LookupTable
from hwbench.measuring.callback import MeasuringCallback
from hwbench.network.intake import ModelOptions
from hwbench.records.comparison import Comparison
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings
from hwbench.search.base import Objective, Outcome, Trial
from hwbench.search.practise.search import Practise
from hwbench.store import open_store
from hwbench.workflows.search.context import Ground
from hwbench.workflows.search.jobs import judging
from hwbench.workflows.search.journal import Log, Loop
from hwbench.workflows.search.latency import Latencies, find_latencies
from hwbench.workflows.search.measure import measure_result
from hwbench.workflows.search.meter import Meter, metered
from hwbench.workflows.search.plan import Plan
from hwbench.workflows.search.subject import Subject, read_subject

if TYPE_CHECKING:
    from torch import nn

    from hwbench.pruning import Pruned

__all__ = ["Plan", "SearchCallback", "SearchResult", "run_search"]

RECORD = "search"
ROUNDS = 3
"""Searches at most, each with a budget corrected by what the result of the one before measured."""
MISSED, AIM = 1.005, 0.985
"""A result that measures more than this times its budget missed it, and the next one is to measure so much of it: measured again
later, on a noisy machine, the same network differs by 1 to 3 % (`results/tables/`)."""
SHORTER = 4
"""A search with a corrected budget takes this part of the first one's trials, but `FEWEST` at least."""
FEWEST = 20
SCORING = 0.5
"""Share of the time left that PRACTISE may take for the scores of all blocks, where it has a limit."""


class SearchCallback(MeasuringCallback):
    """Told how far a search is; the default hears nothing."""

    def say(self, doing: str) -> None:
        """A part of the work begins."""

    def tried(self, part: str, trial: Trial, best: Trial | None) -> None:
        """One more trial of a part of the search is known, and the best so far."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        key: Identity of the search in the store.
        model: What was searched.
        plan: What was asked for.
        objective: What `Outcome.quality` is.
        original: The unpruned network.
        best: The network found.
        limit: The budget, in the unit of its cost; infinite without one.
        trials: All trials of the search, corrected budgets included.
        baselines: Best trial of each baseline, by name.
        resumed: Trials taken over from an earlier run of the same search.
        layers: Layers that were kept whole, each with its reason.
        comparison: Original and result, measured interleaved; None where no device was given.
        tuned: How the result was trained in the end, `none` if it was not.
        quality: Of the result after that, on images that neither training nor search saw; None
            without images.
        original_quality: Of the original on the same images.
        out: Where the network was written; None if it was not.
        findings: What to know of all this.
    """

    key: str
    model: str
    plan: Plan
    objective: str
    original: Outcome
    best: Trial
    limit: float
    trials: tuple[Trial, ...]
    baselines: Mapping[str, Trial | None]
    resumed: int
    layers: tuple[tuple[str, str], ...]
    comparison: Comparison | None
    tuned: str
    quality: float | None
    original_quality: float | None
    out: Path | None
    findings: tuple[Finding, ...]


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
        table: A lookup table, its name or the beginning of its id, instead of that of the device.
        settings: How to measure.
        out: Folder for the network found, its recipe, the log, and the original if it was trained
            here.
        fresh: Do not go on from an earlier run.
        jobs: Processes of one thread each that judge candidates at once, where the method proposes
            several; the result does not depend on how many. None to judge them in this process,
            with all its threads.
        store: SQLAlchemy URL of the store.
        save: Whether to keep trials and measurements there; without it a killed search begins anew.
        callback: Called while the work goes on, to show or store how far it is.
        options: How the model is read, see `load_workload`.

    Raises:
        UsageError: The budget cannot be reached (the message has the least that can), or no trial
            succeeded.
        HwbenchError: The model cannot be read, or the device cannot run it; the message says what
            to do.
    """
    callback, settings = (
        callback or SearchCallback(),
        settings or Settings(seed=plan.seed, layers=False),
    )
    begun = time.monotonic()
    with ExitStack() as stack:
        kept = stack.enter_context(open_store(store)) if save else None
        callback.say("reading the network")
        subject = read_subject(model, plan, kept, callback.say, **options)
        given = device or (None if table is not None or not _wants_latency(plan) else "cpu")
        meter = None if given is None else stack.enter_context(metered(given))
        places = Latencies(meter, table, kept, store if save else None, settings)
        ground, source_id = find_latencies(subject, plan, places, callback)
        log = Log(
            kept,
            plan.key(subject.name, subject.prunable.sha256, source_id),
            fresh=fresh,
            begun=begun,
        )
        if plan.method == "practise" and plan.budget_s is not None:
            ground.limit_scoring(log.once, SCORING * (plan.budget_s - log.elapsed_s))
        objective = ground.objective()
        loop = Loop(
            log, plan.budget_s, stack.enter_context(judging(objective, jobs)), callback.tried
        )
        run = _Run(ground, objective, loop, callback, places)
        result = run.result(Path(out) if out is not None else None)
        if kept is not None:
            kept.save_record(RECORD, _summary(result, run))
        return result


def _wants_latency(plan: Plan) -> bool:
    return (
        plan.method == "practise"
        or plan.reward == "latency"
        or (plan.limit is not None and plan.limit.kind == "latency")
    )


class _Run:
    """One search: rounds with corrected budgets, the baselines, and what follows."""

    def __init__(
        self,
        ground: Ground,
        objective: Objective,
        loop: Loop,
        callback: SearchCallback,
        places: Latencies,
    ) -> None:
        self.ground, self.objective, self.loop, self.callback, self.places = (
            ground,
            objective,
            loop,
            callback,
            places,
        )
        self.plan, self.subject = ground.plan, ground.subject
        self.trials: list[Trial] = []

    def result(self, out: Path | None) -> SearchResult:
        """Search, measure, tune, write."""
        limit = (
            self.plan.limit.of(self.ground.original()) if self.plan.limit is not None else math.inf
        )
        best, pruned, comparison = self._rounds(limit)
        beside = self._baselines(limit)
        left_s = (
            None if self.plan.budget_s is None else self.plan.budget_s - self.loop.log.elapsed_s
        )
        how = self.ground.tuned(pruned, self.callback.say, left_s)
        quality, original_quality = self._reported(pruned)
        result = SearchResult(
            key=self.loop.log.key,
            model=self.subject.name,
            plan=self.plan,
            objective=self.objective.name,
            original=self.objective.original(),
            best=best,
            limit=limit,
            trials=tuple(self.trials),
            baselines=beside,
            resumed=self.loop.log.resumed,
            layers=tuple((one.name, one.reason) for one in self.subject.prunable.kept),
            comparison=comparison,
            tuned=how,
            quality=quality,
            original_quality=original_quality,
            out=out,
            findings=tuple(self.ground.findings),
        )
        if out is not None:
            self.callback.say(f"writing {out}")
            write(result, pruned, self.subject, out)
        return result

    def _rounds(self, limit: float) -> tuple[Trial, Pruned, Comparison | None]:
        """Search, and search again with a corrected budget as long as the result misses its own when it is measured."""
        asked = limit
        for number in range(ROUNDS):
            best = self._search(limit, number)
            pruned = self.ground.prune(best.candidate)
            if self.places.meter is None:
                return best, pruned, None
            self.callback.say("measuring the result beside the original")
            comparison = measure_result(self.subject, pruned, self.places, self.callback)
            over = _over(comparison, self.plan, asked)
            if over <= MISSED or number == ROUNDS - 1:
                break
            limit *= AIM / over
        if over > MISSED:
            text = (
                f"the result measures {over - 1:.1%} over its budget, although the budget was"
                f" corrected {ROUNDS - 1} times"
            )
            self.ground.findings.append(Finding("budget_missed", text))
        elif number:
            text = (
                f"the budget was corrected {number} times to {limit / asked:.1%} of what was asked,"
                " as results measured too slow"
            )
            self.ground.findings.append(Finding("budget_corrected", text))
        return best, pruned, comparison

    def _search(self, limit: float, number: int) -> Trial:
        """One search.

        The best of its trials, and of earlier ones that keep to the limit as well.
        """
        plan = self.plan
        trials = plan.trials
        if number:
            trials = max(FEWEST, (plan.trials or len(self.trials)) // SHORTER)
        part = plan.method if not number else f"{plan.method}, corrected {number}"
        search = self.ground.search(limit, seed=plan.seed + number, trials=trials)
        if isinstance(search, Practise) and search.spared and not number:
            text = (
                "never dropped, as the interval of what they save reaches 0:"
                f" {', '.join(search.spared)}"
            )
            self.ground.findings.append(Finding("blocks_spared", text))
        fixed = plan.baselines and plan.method != "practise"
        most = None if plan.method == "practise" else trials
        self.trials += self.loop.run(part, search, share=0.5 if fixed else 1.0, most=most)
        best = search.best(trial for trial in self.trials if self._keeps(trial, limit))
        if best is None:
            failed = [trial for trial in self.trials if trial.error]
            why = (
                f"the last failed with {failed[-1].error}"
                if failed
                else "time was up before there was one; raise --budget"
            )
            raise UsageError(f"none of {len(self.trials)} trials of {part} gave a network: {why}")
        return best

    def _keeps(self, trial: Trial, limit: float) -> bool:
        outcome, kind = trial.outcome, self.plan.limit.kind if self.plan.limit else None
        if outcome is None:
            return False
        costs = {
            "latency": outcome.latency_s,
            "macs": outcome.macs,
            "params": outcome.params,
            "size": outcome.size_bytes,
        }
        cost = costs[kind] if kind is not None else 0
        return cost is not None and cost <= limit * (1 + 1e-6)

    def _baselines(self, limit: float) -> dict[str, Trial | None]:
        found: dict[str, Trial | None] = {}
        untried: list[str] = []
        trials = sum(
            trial.candidate.note not in {"uniform", "shallow", "deep"} for trial in self.trials
        )
        for search in self.ground.baselines(limit, trials=max(trials, 1)):
            self.callback.say(f"baseline {search.name}")
            tried = self.loop.run(search.name, search)
            found[search.name] = search.best(tried)
            untried += [] if tried else [search.name]
        if untried:
            text = (
                f"time was up before {', '.join(untried)} could be tried, so the result stands"
                " beside less than it should"
            )
            self.ground.findings.append(
                Finding("baselines_untried", f"{text}; give a longer --budget")
            )
        return found

    def _reported(self, pruned: Pruned) -> tuple[float | None, float | None]:
        """Accuracy of the result and of the original on images that nothing else has seen."""
        from hwbench.search.training import accuracy

        data = self.subject.data
        if data is None or not data.classes:
            return None, None
        return accuracy(pruned.module, data.test), accuracy(self.subject.prunable.module, data.test)


def _summary(result: SearchResult, run: _Run) -> dict[str, Any]:
    """What the store keeps of a search that came to its end, beside its trials and measurements."""
    measured = result.comparison
    return {
        "search": result.key,
        "model": result.model,
        "plan": asdict(result.plan),
        "best": result.best.to_dict(),
        "quality": result.quality,
        "original_quality": result.original_quality,
        "objective": result.objective,
        "original": asdict(result.original),
        "groups": [(group.name, group.width) for group in run.subject.structure.groups],
        "baselines": {
            name: None if trial is None else trial.to_dict()
            for name, trial in result.baselines.items()
        },
        "findings": [asdict(finding) for finding in result.findings],
        "device": None if run.places.meter is None else run.places.meter.address,
        "table": run.places.table if isinstance(run.places.table, str) else None,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "measurements": [] if measured is None else [measured.baseline.id, measured.candidate.id],
    }


def _over(comparison: Comparison, plan: Plan, asked: float) -> float:
    """Measured latency over the budget."""
    if plan.limit is None or plan.limit.kind != "latency" or comparison.ratio is None:
        return 0.0
    if plan.limit.share is not None:
        return comparison.ratio.ratio / plan.limit.share
    return comparison.candidate.median_s / asked


def write(result: SearchResult, pruned: Pruned, subject: Subject, out: Path) -> None:
    """Write the network found, its recipe and the log; the original too if it was trained here.

    Raises:
        UsageError: The folder cannot be written.
    """
    from hwbench.pruning import save
    from hwbench.pruning.files import write_network

    try:
        save(pruned, out, subject.example)
        if subject.trained:
            write_network(subject.prunable.module, out / "original", subject.example)
        lines = [json.dumps(trial.to_dict()) for trial in result.trials]
        (out / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write the network to {out}: {error.strerror or error}; give another --out"
        ) from error
