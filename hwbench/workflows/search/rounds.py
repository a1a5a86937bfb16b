"""One search from its first round to its result: corrected budgets, baselines, and what follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, UsageError
from hwbench.search.base import Candidate, Objective, Outcome, Trial
from hwbench.search.baselines import POLICIES
from hwbench.workflows.search.result import SearchResult, measure_result
from hwbench.workflows.search.shares import BASELINES_SHARE, Shares
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
    from hwbench.workflows.search.time_budget import TimeBudget
    from hwbench.workflows.search.trials import TrialLoop

ROUNDS = 4
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
MEASURED_AT_ONCE = 0.5
"""Of the time that is left for measuring, the share that one measurement may take."""
TOLERATED = 0.03
"""Difference of measured and predicted latency of which nothing is said, however sure the table."""
LIMIT_SLACK = 1e-6
"""Relative room for rounding when the cost of an outcome is held against its limit."""


@dataclass(frozen=True)
class Found:
    """A network that a search found.

    Attributes:
        trial: Its trial.
        pruned: The network itself.
        comparison: Original and network, measured interleaved; None where nothing is measured.
        excess: Its measured latency over its budget; 0 where that is not known.
    """

    trial: Trial
    pruned: Pruned
    comparison: Comparison | None = None
    excess: float = 0.0

    @property
    def keeps_budget(self) -> bool:
        """Whether it keeps to its budget as far as that was measured."""
        return self.excess <= MISSED


class SearchRun:
    """One search: rounds with corrected budgets, the baselines, tuning, and the result.

    Args:
        plan: What was asked for.
        method: The search.
        context: The network.
        objective: Evaluates candidates.
        original: What that says of the unpruned network.
        loop: Drives searches.
        resources: What to measure with.
        callback: Callbacks on progress.
        time_budget: What time there is.
        shared: Trials of the same network for other budgets, which may be the result as well.
    """

    def __init__(
        self,
        plan: Plan,
        method: Method[Any],
        context: SearchContext,
        *,
        objective: Objective,
        original: Outcome,
        loop: TrialLoop,
        resources: Resources,
        callback: SearchCallback,
        time_budget: TimeBudget,
        shared: Sequence[Trial] = (),
    ) -> None:
        self._plan, self._method, self._context = plan, method, context
        self._objective, self._original, self._loop = objective, original, loop
        self._resources, self._callback, self._time = resources, callback, time_budget
        self._shared = shared
        self._trials: list[Trial] = []
        self._stopped = ""
        self._shares: Shares | None = None
        if loop.left_s is not None:
            self._shares = Shares.divide(
                loop.left_s, plan, method, measures=resources.meter is not None
            )
            budget = "" if plan.limit is None else f" for {plan.limit} of {plan.limit.kind}"
            callback.planned(f"{loop.left_s:.0f} s are left{budget}: {self._shares}")
        self._measuring_s = None if self._shares is None else self._shares.measuring_s

    def result(self) -> tuple[SearchResult, Pruned]:
        """Search, measure and tune.

        Returns:
            The result, not written yet, and the network.
        """
        plan, subject = self._plan, self._context.subject
        limit = math.inf
        if plan.limit is not None:
            limit = plan.limit.of(self._method.original_cost(self._context))
        found = self._run_rounds(limit)
        baselines = self._run_baselines(limit)
        better = self._better_baseline(found.trial, baselines)
        if better is not None:
            found = self._choose_baseline(better, found, limit) or found
        self._note_wrong_prediction(found)
        if not found.keeps_budget:
            text = (
                f"the result measures {found.excess - 1:.1%} over its budget: {self._stopped}; ask"
                " for less"
            )
            self._context.add_finding("budget_missed", text)
        # A search that is given more time may tune for longer.
        within = f"tuning within {plan.budget_s} s"
        with self._time.spend("tuning"):
            tuned = tune_result(
                self._context,
                self._method,
                plan,
                found.pruned,
                say=self._callback.say,
                report=self._callback.trained,
                left_s=self._loop.left_s,
                decide_once=partial(self._loop.journal.decide_once, about=within),
                key=self._loop.journal.identity,
            )
        quality, original_quality = self._test_accuracies(found.pruned, tuned.reported)
        result = SearchResult(
            key=self._loop.journal.key,
            model=subject.name,
            plan=plan,
            objective=self._objective.name,
            original=self._original,
            best=found.trial,
            limit=limit,
            trials=tuple(self._trials),
            baselines=baselines,
            resumed=self._loop.journal.resumed,
            layers=tuple((layer.name, layer.reason) for layer in subject.prunable.kept),
            comparison=found.comparison,
            tuned=tuned.how,
            quality=quality,
            untuned_quality=tuned.before,
            original_quality=original_quality,
            out=None,
            findings=tuple(self._context.findings),
            intervals_s=self._intervals_s(found.trial, baselines),
            spent_s=dict(self._time.spent_s),
        )
        return result, found.pruned

    def _run_rounds(self, limit: float) -> Found:
        """Search, and search again with a corrected budget as long as the result misses its own.

        A prediction that is wrong by some percent is mostly wrong by as much for similar networks,
        so the limit is scaled by what the last result measured.

        Args:
            limit: The budget as it was asked for, in the unit of its cost.
        """
        found = self._measure(self._search(limit, 0), limit)
        best, corrected, corrections, stopped = found, limit, 0, ""
        while not found.keeps_budget:
            if corrections == ROUNDS - 1:
                stopped = f"the search corrected it {_times(corrections)}, which was not enough"
                break
            if self._is_time_up():
                stopped = "time was up before it could be corrected"
                break
            corrected *= AIM / found.excess
            corrections += 1
            try:
                trial = self._search(corrected, corrections)
            except UsageError as error:
                stopped = f"a corrected one cannot be kept ({error.message})"
                break
            found = self._measure(trial, limit)
            if found.excess < best.excess:
                best = found
        self._stopped = stopped
        if corrections and not stopped:
            text = (
                f"the budget was corrected {_times(corrections)}, to {corrected / limit:.1%} of"
                " what was asked, as results measured too slow"
            )
            self._context.add_finding("budget_corrected", text)
        return best

    def _measure(self, trial: Trial, limit: float) -> Found:
        """The network of a trial, measured where there is a device.

        Args:
            trial: The trial.
            limit: The budget as it was asked for, in the unit of its cost.
        """
        pruned = self._method.prune(self._context, trial.candidate)
        if self._resources.meter is None:
            return Found(trial, pruned)
        self._callback.say("measuring the result beside the original", timed=True)
        left_s = None
        if self._measuring_s is not None:
            left_s = MEASURED_AT_ONCE * self._measuring_s
        begun_s = self._time.elapsed_s
        with self._time.spend("measuring"):
            comparison = measure_result(
                self._context.subject, pruned, self._resources, self._callback, left_s=left_s
            )
        if self._measuring_s is not None:
            self._measuring_s = max(self._measuring_s - (self._time.elapsed_s - begun_s), 0.0)
        excess = measured_excess(comparison, self._plan, limit)
        return Found(trial, pruned, comparison, excess)

    def _is_time_up(self) -> bool:
        """Whether no time is left to try more networks."""
        if self._loop.left_s is None or self._shares is None:
            return False
        return self._loop.left_s <= self._shares.tuning_s

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
        with self._time.spend("trials"):
            self._trials += self._loop.run(
                part,
                search,
                share=1 - BASELINES_SHARE if method.has_baselines else 1.0,
                keep_s=self._kept_s(),
                most=trials if method.takes_trials else None,
            )
        tried = [*self._trials, *self._shared]
        best = search.best(trial for trial in tried if self._keeps(trial, limit))
        if best is None:
            reason = "time was up before there was one"
            if self._time.spent_s:
                reason += f", as it went to {self._time.describe_spent()}"
            remedies = [Argument("budget_s", change="a longer")]
            failed = [trial for trial in self._trials if trial.error]
            if failed:
                reason = f"the last failed with {failed[-1].error}"
                remedies = []
            raise UsageError(
                f"none of {len(self._trials)} trials of {part} gave a network: {reason}",
                *remedies,
            )
        if best not in self._trials:
            text = (
                "the best network within this budget was found by the search for a smaller one or"
                " by one of its baselines"
            )
            self._context.add_finding("found_for_smaller_budget", text)
        return best

    def _kept_s(self) -> float:
        """Seconds that are kept for measuring and tuning the result."""
        return 0.0 if self._shares is None else self._shares.kept_s

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
            with self._time.spend("baselines"):
                found = self._loop.run(search.name, search, keep_s=self._kept_s())
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

    def _choose_baseline(self, better: Trial, own: Found, limit: float) -> Found | None:
        """The network of a baseline, measured where there is a device; None if it is too slow.

        Args:
            better: The trial of the baseline.
            own: What the search itself found, which it would replace.
            limit: The budget as it was asked for, in the unit of its cost.
        """
        text = (
            f"the baseline {better.candidate.note} did better than the search:"
            f" {self._objective.name} {_quality_text(better)} against {_quality_text(own.trial)}"
        )
        found = self._measure(better, limit)
        if not found.keeps_budget:
            text += f"; it measures {found.excess - 1:.1%} over the budget, so it is not the result"
            self._context.add_finding("baseline_better", text)
            return None
        self._context.add_finding("baseline_better", f"{text}; its network is the result")
        return found

    def _intervals_s(
        self, best: Trial, baselines: Mapping[str, Trial | None]
    ) -> dict[str, tuple[float, float]]:
        """95 % intervals of the predicted latencies of what is shown, by name."""
        shown: dict[str, Candidate | None] = {
            "original": Candidate(0),
            self._plan.method: best.candidate,
        }
        for name, trial in baselines.items():
            shown[name] = None if trial is None else trial.candidate
        intervals_s = {}
        for name, candidate in shown.items():
            ends = None if candidate is None else self._context.prices.interval_s(candidate)
            if ends is not None:
                intervals_s[name] = ends
        return intervals_s

    def _note_wrong_prediction(self, found: Found) -> None:
        """Say where the measured latency is not what was predicted, as a share of the original.

        Both are latencies of the same moment, so what a busy machine adds to them cancels out.
        """
        outcome, comparison = found.trial.outcome, found.comparison
        if comparison is None or comparison.ratio is None or outcome is None:
            return
        ends = self._context.prices.interval_s(found.trial.candidate)
        if ends is None or outcome.latency_s is None or not self._original.latency_s:
            return
        ratio, predicted = comparison.ratio.ratio, outcome.latency_s / self._original.latency_s
        reach = max(ends[1] / outcome.latency_s, outcome.latency_s / ends[0]) - 1
        off = ratio / predicted - 1
        if abs(off) <= max(reach, TOLERATED):
            return
        text = (
            f"the result measures {ratio:.1%} of the original's latency where {predicted:.1%} was"
            f" predicted (95 % interval {(1 - reach) * predicted:.1%} to"
            f" {(1 + reach) * predicted:.1%}); the table is wrong about it, or was made on a busy"
            " machine: build it anew"
        )
        self._context.add_finding("prediction_off", text)

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


def _times(number: int) -> str:
    """How often, for people."""
    return "once" if number == 1 else f"{number} times"


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
