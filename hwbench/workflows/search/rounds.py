"""One search from its first round to its result: corrected budgets, baselines, and what follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, UsageError
from hwbench.search.base import Objective, Trial
from hwbench.search.baselines import POLICIES
from hwbench.workflows.search.result import SearchResult, measure_result, write_result
from hwbench.workflows.search.tuning import tune_result

if TYPE_CHECKING:
    from hwbench.pruning import Pruned
    from hwbench.records.comparison import Comparison
    from hwbench.search.context import SearchContext
    from hwbench.search.data import Images
    from hwbench.search.method import Method, Reward
    from hwbench.workflows.search.callback import SearchCallback
    from hwbench.workflows.search.latency import Resources
    from hwbench.workflows.search.plan import Plan
    from hwbench.workflows.search.trials import TrialLoop

ROUNDS = 3
"""Searches at most, each with a budget corrected by what the result of the one before measured."""
MISSED = 1.005
"""A result that measures more than this times its budget missed it."""
AIM = 0.985
"""What the next result is to measure, as a share of the budget.

Measured again later, on a noisy machine, the same network differs by 1 to 3 % (`results/tables/`).
"""
SHORTER = 4
"""A search with a corrected budget takes this part of the first one's trials."""
FEWEST = 20
"""But it takes so many trials at least."""
OWN_SHARE = 0.5
"""Share of the time left that the search itself may take where baselines follow."""
LIMIT_SLACK = 1e-6
"""Relative room for rounding when the cost of an outcome is held against its limit."""


class SearchRun:
    """One search: rounds with corrected budgets, the baselines, tuning, and the result.

    Args:
        plan: What was asked for.
        method: The search.
        context: The network.
        objective: Evaluates candidates.
        loop: Drives searches.
        resources: What to measure with.
        callback: Callbacks on progress.
    """

    def __init__(
        self,
        plan: Plan,
        method: Method[Any],
        context: SearchContext,
        *,
        objective: Objective,
        loop: TrialLoop,
        resources: Resources,
        callback: SearchCallback,
    ) -> None:
        self._plan, self._method, self._context = plan, method, context
        self._objective, self._loop = objective, loop
        self._resources, self._callback = resources, callback
        self._trials: list[Trial] = []

    def result(self, out: Path | None) -> SearchResult:
        """Search, measure, tune and write.

        Args:
            out: Folder for the network found; None to write nothing.
        """
        plan, subject = self._plan, self._context.subject
        limit = math.inf
        if plan.limit is not None:
            limit = plan.limit.of(self._method.original_cost(self._context))
        best, pruned, comparison = self._run_rounds(limit)
        baselines = self._run_baselines(limit)
        better = self._better_baseline(best, baselines)
        if better is not None:
            accepted = self._measure_baseline(better, best, limit)
            if accepted is not None:
                best = better
                pruned, comparison = accepted
        journal = self._loop.journal
        tuned = tune_result(
            self._context,
            self._method,
            plan,
            pruned,
            say=self._callback.say,
            report=self._callback.trained,
            left_s=self._loop.left_s,
            key=journal.identity,
        )
        quality, original_quality = self._test_accuracies(pruned, tuned.reported)
        result = SearchResult(
            key=self._loop.journal.key,
            model=subject.name,
            plan=plan,
            objective=self._objective.name,
            original=self._objective.original(),
            best=best,
            limit=limit,
            trials=tuple(self._trials),
            baselines=baselines,
            resumed=self._loop.journal.resumed,
            layers=tuple((layer.name, layer.reason) for layer in subject.prunable.kept),
            comparison=comparison,
            tuned=tuned.how,
            quality=quality,
            untuned_quality=tuned.before,
            original_quality=original_quality,
            out=out,
            findings=tuple(self._context.findings),
        )
        if out is not None:
            self._callback.say(f"writing {out}")
            write_result(result, pruned, subject, out)
        return result

    def _run_rounds(self, limit: float) -> tuple[Trial, Pruned, Comparison | None]:
        """Search, and search again with a corrected budget as long as the result misses its own.

        A prediction that is wrong by some percent is mostly wrong by as much for similar networks,
        so the limit is scaled by what the last result measured.

        Args:
            limit: The budget as it was asked for, in the unit of its cost.
        """
        corrected = limit
        for number in range(ROUNDS):
            best = self._search(corrected, number)
            pruned = self._method.prune(self._context, best.candidate)
            if self._resources.meter is None:
                return best, pruned, None
            self._callback.say("measuring the result beside the original")
            comparison = measure_result(
                self._context.subject,
                pruned,
                self._resources,
                self._callback,
                left_s=self._loop.left_s,
            )
            excess = measured_excess(comparison, self._plan, limit)
            if excess <= MISSED or number == ROUNDS - 1:
                break
            if self._loop.left_s is not None and self._loop.left_s <= 0:
                break
            corrected *= AIM / excess
        if excess > MISSED:
            text = (
                f"the result measures {excess - 1:.1%} over its budget, although the budget was"
                f" corrected {number} times"
            )
            self._context.add_finding("budget_missed", text)
        elif number:
            text = (
                f"the budget was corrected {number} times to {corrected / limit:.1%} of what was"
                " asked, as results measured too slow"
            )
            self._context.add_finding("budget_corrected", text)
        return best, pruned, comparison

    def _search(self, limit: float, number: int) -> Trial:
        """Run one search.

        Args:
            limit: The most a network may cost.
            number: How many searches came before it.

        Returns:
            The best of its trials, and of earlier ones that keep to the limit as well.

        Raises:
            UsageError: No trial gave a network.
        """
        plan, method = self._plan, self._method
        trials = plan.trials
        part = method.name
        if number:
            trials = max(FEWEST, (plan.trials or len(self._trials)) // SHORTER)
            part = f"{method.name}, corrected {number}"
        search = method.make_search(self._context, limit, seed=plan.seed + number, trials=trials)
        if not number:
            self._context.findings += method.search_findings(search)
        self._trials += self._loop.run(
            part,
            search,
            share=OWN_SHARE if method.has_baselines else 1.0,
            most=trials if method.takes_trials else None,
        )
        best = search.best(trial for trial in self._trials if self._keeps(trial, limit))
        if best is None:
            reason = "time was up before there was one"
            remedies = [Argument("budget_s", change="a longer")]
            failed = [trial for trial in self._trials if trial.error]
            if failed:
                reason = f"the last failed with {failed[-1].error}"
                remedies = []
            raise UsageError(
                f"none of {len(self._trials)} trials of {part} gave a network: {reason}",
                *remedies,
            )
        return best

    def _keeps(self, trial: Trial, limit: float) -> bool:
        """Whether a trial gave a network that keeps to a limit."""
        outcome = trial.outcome
        if outcome is None:
            return False
        if self._plan.limit is None:
            return True
        costs = {
            "latency": outcome.latency_s,
            "macs": outcome.macs,
            "params": outcome.params,
            "size": outcome.size_bytes,
        }
        cost = costs[self._plan.limit.kind]
        return cost is not None and cost <= limit * (1 + LIMIT_SLACK)

    def _run_baselines(self, limit: float) -> dict[str, Trial | None]:
        """Best trial of each baseline, by name; None where none succeeded."""
        best: dict[str, Trial | None] = {}
        untried: list[str] = []
        # Random search is to try as many networks as the search did; resumed policies are not its.
        trials = sum(trial.candidate.note not in POLICIES for trial in self._trials)
        baselines = self._method.baselines(self._context, limit, trials=max(trials, 1))
        for search in baselines:
            self._callback.say(f"baseline {search.name}")
            found = self._loop.run(search.name, search)
            best[search.name] = search.best(found)
            if not found:
                untried.append(search.name)
        if untried:
            text = (
                f"time was up before {', '.join(untried)} could be tried, so the result stands"
                " beside less than it should; allow the search more time"
            )
            self._context.add_finding("baselines_untried", text)
        return best

    def _better_baseline(self, best: Trial, baselines: Mapping[str, Trial | None]) -> Trial | None:
        """The best network of a baseline, where it is ahead of the search's own."""
        _, reward = self._method.reward()
        better, ahead = None, _reward_of(best, reward)
        for trial in baselines.values():
            if trial is not None and _reward_of(trial, reward) > ahead:
                better, ahead = trial, _reward_of(trial, reward)
        return better

    def _measure_baseline(
        self, better: Trial, best: Trial, limit: float
    ) -> tuple[Pruned, Comparison | None] | None:
        """The network of a baseline, measured where there is a device; None if it is too slow.

        Args:
            better: The trial of the baseline.
            best: The search's own best, which it would replace.
            limit: The budget as it was asked for, in the unit of its cost.
        """
        name = better.candidate.note
        text = (
            f"the baseline {name} did better than the search: {self._objective.name}"
            f" {_quality_text(better)} against {_quality_text(best)}"
        )
        pruned = self._method.prune(self._context, better.candidate)
        comparison, excess = None, 0.0
        if self._resources.meter is not None:
            self._callback.say(f"measuring the network of the baseline {name}, which did better")
            comparison = measure_result(
                self._context.subject, pruned, self._resources, self._callback
            )
            excess = measured_excess(comparison, self._plan, limit)
        if excess > MISSED:
            text += f"; it measures {excess - 1:.1%} over the budget, so it is not the result"
            self._context.add_finding("baseline_better", text)
            return None
        self._context.add_finding("baseline_better", f"{text}; its network is the result")
        return pruned, comparison

    def _test_accuracies(
        self, pruned: Pruned, images: Images | None
    ) -> tuple[float | None, float | None]:
        """Accuracy of the result and of the original on images that nothing else has seen."""
        from hwbench.search.training import accuracy

        if images is None:
            return None, None
        return accuracy(pruned.module, images), accuracy(self._context.module, images)


def _reward_of(trial: Trial, reward: Reward) -> float:
    """What a trial is worth; nothing where it failed or has no quality."""
    value = None if trial.outcome is None else reward(trial.outcome)
    return -math.inf if value is None else value


def _quality_text(trial: Trial) -> str:
    """The quality of a trial's network, for people."""
    quality = None if trial.outcome is None else trial.outcome.quality
    return "unknown" if quality is None else f"{quality:.1%}"


def measured_excess(comparison: Comparison, plan: Plan, limit_s: float) -> float:
    """Measured latency of a result over its budget; 0 where the budget is of something else.

    Args:
        comparison: Original and result.
        plan: What was asked for.
        limit_s: The budget in seconds, of the predicted latency of the original.
    """
    if plan.limit is None or plan.limit.kind != "latency" or comparison.ratio is None:
        return 0.0
    if plan.limit.share is not None:
        return comparison.ratio.ratio / plan.limit.share
    return comparison.candidate.median_s / limit_s
