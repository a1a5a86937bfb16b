"""Evaluating the candidates of a search: in this process, or in several processes at once."""

from __future__ import annotations

import copyreg
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

from hwbench.errors import Argument, UsageError
from hwbench.search.base import Candidate, Objective, Trial

Evaluate = Callable[[Iterator[Candidate]], Iterator[Trial]]
"""Trials of candidates, in their order; takes a candidate only when it is about to be evaluated."""

LONGEST_ERROR = 500
"""Characters of the message of a failed trial that are kept."""
AHEAD = 2
"""Candidates handed out per process, so that none waits for the slowest."""
LINGER_S = 1.0
"""Seconds from SIGTERM to the end of a process that evaluates."""
_DIED = "the process that evaluated it died, perhaps for want of memory; search with fewer jobs"


@contextmanager
def evaluating(objective: Objective, jobs: int | None) -> Iterator[Evaluate]:
    """A function that evaluates candidates, and the processes it needs for as long as it is used.

    Each process evaluates with one thread, so that no accuracy depends on how many processes there
    are: sums of floating-point numbers are rounded in another order by another number of threads.
    They are started anew, not forked: torch cannot train in a fork of a process that has trained.

    Args:
        objective: Evaluates candidates.
        jobs: Processes; None for this one, with all its threads.

    Raises:
        UsageError: The network cannot be handed to other processes, or they cannot be started.
    """
    if jobs is None:
        yield partial(map, partial(evaluate_candidate, objective))
        return
    pool = _Pool(objective, jobs)
    try:
        pool.check()
        yield pool.evaluate
    except BaseException:
        pool.end_processes()  # nobody waits for what they are at, which may take minutes
        raise
    finally:
        pool.close()


def evaluate_candidate(objective: Objective, candidate: Candidate) -> Trial:
    """One trial; whatever goes wrong in it is its error."""
    try:
        return Trial(candidate, objective.evaluate(candidate))
    except Exception as error:  # noqa: BLE001 - one failed trial must not end the search
        message = " ".join(str(error).split())[:LONGEST_ERROR]
        return Trial(candidate, error=f"{type(error).__name__}: {message}")


class _Pool:
    """Processes that evaluate; those that died are replaced."""

    def __init__(self, objective: Objective, jobs: int) -> None:
        self._jobs = jobs
        try:
            self._payload = _pickle_objective(objective)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"the network cannot be handed to other processes ({error})",
                Argument("jobs", change="no"),
            ) from error
        self._processes = self._start_processes()

    def check(self) -> None:
        """See that the processes can be started and can evaluate, which takes seconds.

        Raises:
            UsageError: They cannot.
        """
        try:
            self._processes.submit(_name_objective).result()
        except (BrokenProcessPool, ImportError, AttributeError) as error:
            raise UsageError(
                f"processes that evaluate networks cannot be started ({error}); a script that"
                ' searches must do nothing when it is imported (if __name__ == "__main__")',
                Argument("jobs", change="no"),
            ) from error

    def evaluate(self, candidates: Iterator[Candidate]) -> Iterator[Trial]:
        """Trials of candidates, in their order."""
        waiting: deque[tuple[Candidate, Future[Trial]]] = deque()
        for candidate in candidates:
            waiting.append((candidate, self._submit(candidate)))
            if len(waiting) >= AHEAD * self._jobs:
                yield _wait_for(*waiting.popleft())
        while waiting:
            yield _wait_for(*waiting.popleft())

    def end_processes(self) -> None:
        """End the processes in the middle of what they are at."""
        self._lifeline.close()
        # One that still loads libraries does not look at that yet, and Python would wait for it.
        started = self._processes._processes  # noqa: SLF001 - kill_workers came with Python 3.14
        for process in list((started or {}).values()):
            process.kill()

    def close(self) -> None:
        """Wait until the processes have ended."""
        self._processes.shutdown(wait=True, cancel_futures=True)
        self._lifeline.close()

    def _submit(self, candidate: Candidate) -> Future[Trial]:
        try:
            return self._processes.submit(_evaluate_here, candidate)
        except BrokenProcessPool:
            self.close()
            self._processes = self._start_processes()
            return self._processes.submit(_evaluate_here, candidate)

    def _start_processes(self) -> ProcessPoolExecutor:
        fresh = multiprocessing.get_context("spawn")
        # Nothing is ever written to it: a process ends when the other end is closed.
        theirs, self._lifeline = fresh.Pipe(duplex=False)
        return ProcessPoolExecutor(
            self._jobs,
            mp_context=fresh,
            initializer=_begin_process,
            initargs=(self._payload, theirs),
        )


def _wait_for(candidate: Candidate, future: Future[Trial]) -> Trial:
    try:
        return future.result()
    except BrokenProcessPool:
        return Trial(candidate, error=_DIED)


class _Pickler(pickle.Pickler):
    """Also takes read-only mappings, which tables hold."""

    dispatch_table = copyreg.dispatch_table | {
        MappingProxyType: lambda mapping: (_make_read_only, (dict(mapping),))
    }


def _make_read_only(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)


def _pickle_objective(objective: Objective) -> bytes:
    written = io.BytesIO()
    _Pickler(written).dump(objective)
    return written.getvalue()


_payload: list[bytes] = []
"""The pickled objective, in a process that evaluates."""


def _begin_process(payload: bytes, lifeline: Connection) -> None:
    """Make a process ready to evaluate.

    Signals that end a command reach all its processes where a terminal or an init system sends
    them. They are for the process that searches, which must not take the end of this one for a
    candidate that cannot be evaluated. This one ends when that lets go of the lifeline, or is gone.
    """
    threading.Thread(target=_exit_with, args=(lifeline,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_soon)  # it is also how a broken pool ends the others

    import torch

    torch.set_num_threads(1)
    sys.path.append(str(Path.cwd()))  # where functions and datasets are searched last
    _payload.append(payload)


def _exit_soon(_number: int, _frame: FrameType | None) -> None:
    threading.Timer(LINGER_S, os._exit, (1,)).start()


def _exit_with(lifeline: Connection) -> None:
    wait([lifeline])
    os._exit(1)


@cache
def _load_objective() -> Objective:
    # The process that started this one made the pickle.
    objective: Objective = pickle.loads(_payload[0])  # noqa: S301
    return objective


def _name_objective() -> str:
    """Load the objective, which shows whether this process can evaluate at all."""
    return _load_objective().name


def _evaluate_here(candidate: Candidate) -> Trial:
    return evaluate_candidate(_load_objective(), candidate)
