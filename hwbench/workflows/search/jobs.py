"""Who judges the candidates of a search: this process, one after the other, or several processes at once."""

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
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hwbench.errors import UsageError
from hwbench.search.base import Candidate, Objective, Trial

Judge = Callable[[Iterator[Candidate]], Iterator[Trial]]
"""Trials of candidates, in their order; takes a candidate only when it is about to be judged."""

AHEAD = 2
"""Candidates handed out per process, so that none waits for the slowest."""
_DIED = "the process that judged it died, perhaps for want of memory; search with fewer --jobs"


@contextmanager
def judging(objective: Objective, jobs: int | None) -> Iterator[Judge]:
    """Someone to judge candidates.

    Processes judge with one thread each, so that no accuracy depends on how many there are: sums of
    floating-point numbers are rounded in another order by another number of threads. They are
    started anew, not forked: torch cannot train in a fork of a process that has trained.

    Args:
        objective: Evaluates candidates.
        jobs: Processes; None for this one, with all its threads.

    Raises:
        UsageError: The network cannot be handed to other processes, or they cannot be started.
    """
    if jobs is None:
        yield partial(map, partial(tried, objective))
        return
    pool = _Pool(objective, jobs)
    try:
        yield pool.judge
    finally:
        pool.close()


def tried(objective: Objective, candidate: Candidate) -> Trial:
    """One trial; whatever goes wrong in it is its error."""
    try:
        return Trial(candidate, objective.evaluate(candidate))
    except Exception as error:  # noqa: BLE001 - one failed trial must not end the search
        return Trial(
            candidate, error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        )


class _Pool:
    """Processes that judge; those that died are replaced."""

    def __init__(self, objective: Objective, jobs: int) -> None:
        self._jobs = jobs
        try:
            self._payload = _packed(objective)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"the network cannot be handed to other processes ({error}); search without --jobs"
            ) from error
        self._processes = self._started()
        try:
            self._processes.submit(_ready).result()
        except (BrokenProcessPool, ImportError, AttributeError) as error:
            self.close()
            raise UsageError(
                f"processes that judge networks cannot be started ({error}); search without --jobs,"
                " or from a script that does nothing when it is imported (if __name__ =="
                ' "__main__")'
            ) from error

    def judge(self, candidates: Iterator[Candidate]) -> Iterator[Trial]:
        waiting: deque[tuple[Candidate, Future[Trial]]] = deque()
        for candidate in candidates:
            waiting.append((candidate, self._submitted(candidate)))
            if len(waiting) >= AHEAD * self._jobs:
                yield _answer(*waiting.popleft())
        while waiting:
            yield _answer(*waiting.popleft())

    def close(self) -> None:
        self._processes.shutdown(wait=True, cancel_futures=True)

    def _submitted(self, candidate: Candidate) -> Future[Trial]:
        try:
            return self._processes.submit(_judged, candidate)
        except BrokenProcessPool:
            self.close()
            self._processes = self._started()
            return self._processes.submit(_judged, candidate)

    def _started(self) -> ProcessPoolExecutor:
        fresh = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            self._jobs, mp_context=fresh, initializer=_begin, initargs=(self._payload,)
        )


def _answer(candidate: Candidate, future: Future[Trial]) -> Trial:
    try:
        return future.result()
    except BrokenProcessPool:
        return Trial(candidate, error=_DIED)


class _Pickler(pickle.Pickler):
    """Also takes read-only mappings, which tables hold."""

    dispatch_table = copyreg.dispatch_table | {
        MappingProxyType: lambda mapping: (_read_only, (dict(mapping),))
    }


def _read_only(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)


def _packed(objective: Objective) -> bytes:
    written = io.BytesIO()
    _Pickler(written).dump(objective)
    return written.getvalue()


_payload: list[bytes] = []
"""What a judging process was given to judge by."""


def _begin(payload: bytes) -> None:
    """Make ready to judge.

    An interrupt is for the process that searches; and when that is killed, its judges end too.
    """
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    sys.path.append(str(Path.cwd()))  # where `--evaluate` and datasets are searched last
    _payload.append(payload)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@cache
def _objective() -> Objective:
    found: Objective = pickle.loads(_payload[0])  # noqa: S301 - made by the process that started this one
    return found


def _ready() -> str:
    return _objective().name


def _judged(candidate: Candidate) -> Trial:
    return tried(_objective(), candidate)
