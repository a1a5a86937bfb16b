"""Candidates evaluated by several processes: outcomes as by one, nothing lost where one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from subprocess import PIPE, Popen

import pytest

from hwbench.errors import UsageError
from hwbench.search.base import Candidate, Outcome
from hwbench.workflows.search.jobs import evaluate_candidate, evaluating
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from tests.support.paths import ROOT
from tests.support.search_support import Width
from tests.support.tiny_net import example, table, tiny

KILLED = """
import time
from hwbench.search.base import Candidate
from hwbench.workflows.search.jobs import evaluating
from tests.support.search_support import Width
with evaluating(Width(), 1) as evaluate:
    print(len(list(evaluate(iter([Candidate(0)])))), flush=True)
    time.sleep(600)
"""


class Deadly(Width):
    """Ends its process at one candidate."""

    def evaluate(self, candidate: Candidate) -> Outcome:
        if candidate.number == 5:
            os._exit(1)
        return super().evaluate(candidate)


class Foreign(Width):
    """Cannot be pickled."""

    def __reduce__(self):
        raise TypeError("no way to pickle me")


class Missing(Width):
    """Cannot be made again elsewhere."""

    def __reduce__(self):
        return missing, ()


class Endless(Width):
    """Never has a result."""

    def evaluate(self, candidate: Candidate) -> Outcome:
        time.sleep(600)
        return super().evaluate(candidate)


def missing() -> None:
    raise ImportError("not here")


def numbered(count: int) -> list[Candidate]:
    return [Candidate(number, (4 + number, 8)) for number in range(count)]


def test_trials_come_in_order_as_those_of_one_process_and_none_is_begun_too_early():
    objective, candidates, taken = Width(fails=frozenset({3})), numbered(12), []

    def taking():
        for candidate in candidates:
            taken.append(candidate)
            yield candidate

    with evaluating(objective, 2) as evaluate:
        first = next(evaluate(taking()))
        found = list(evaluate(iter(candidates)))
    assert found == [evaluate_candidate(objective, candidate) for candidate in candidates]
    assert found[0] == first
    assert taken == candidates[:4]


def test_a_process_that_dies_costs_its_trials_alone():
    with evaluating(Deadly(), 1) as evaluate:
        found = list(evaluate(iter(numbered(12))))
    assert [trial.candidate.number for trial in found] == list(range(12))
    failed = [trial.candidate.number for trial in found if trial.error]
    assert 5 in failed
    assert len(failed) <= 3
    assert "search with fewer jobs" in found[5].error


@pytest.mark.parametrize(
    ("objective", "said"),
    [(Foreign(), "no way to pickle me"), (Missing(), "cannot be started .not here")],
)
def test_networks_that_cannot_travel_are_refused_before_the_search(objective, said):
    with pytest.raises(UsageError, match=said), evaluating(objective, 1):
        pass


def test_processes_end_with_a_search_that_is_killed():
    root = ROOT
    with Popen(
        [sys.executable, "-c", KILLED],
        stdout=PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout.readline() == b"1\n"
        process.kill()
        process.communicate(timeout=60)  # the pipe ends when nobody holds it any more


def evaluate_three(objective: Width, within_s: float) -> None:
    with evaluating(objective, 1) as evaluate:
        signal.setitimer(signal.ITIMER_REAL, within_s)
        list(evaluate(iter(numbered(3))))


def test_an_interrupted_search_does_not_wait_for_candidates():
    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            evaluate_three(Endless(), within_s=0.5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not multiprocessing.active_children()


class EndlessToLoad:
    """What takes forever to be unpickled, as libraries of a process that begins may seem to."""

    name = "width"

    def __reduce__(self):
        return time.sleep, (600,)


def test_an_interrupted_search_does_not_wait_for_processes_that_begin():
    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt), evaluating(EndlessToLoad(), 1):
            pass
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_to_the_group_costs_no_trial(number):
    """The search hears it too, and lets go of its processes."""
    with evaluating(Width(), 1) as evaluate:
        trials = evaluate(iter(numbered(3)))
        next(trials)
        (process,) = multiprocessing.active_children()
        os.kill(process.pid, number)
        assert not next(trials).error
    process.join(60)
    assert not process.is_alive()


@pytest.mark.slow
def test_a_search_finds_the_same_with_any_number_of_jobs():
    asked = Plan.of(
        "abcpruner",
        Limit("latency", share=0.7),
        sources=3,
        cycles=1,
        trial_epochs=0.5,
        data="digits",
        accept_untrained=True,
        images=40,
        tune="none",
    )
    results = [
        run_search(tiny(), asked, table=table(), example_inputs=example(), save=False, jobs=jobs)
        for jobs in (None, 2)
    ]
    first, second = ((one.trials, one.best, one.baselines, one.quality) for one in results)
    assert first == second
