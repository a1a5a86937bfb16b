"""Other processes that use a store.

They are forked off one that has imported everything, so that dozens cost little.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from typing import Any

from hwbench.store import open_store
from hwbench.workflows.sync_store import Syncing, sync_store
from tests.store.records import begun, measurement

PATIENCE_S = 120
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [__name__, "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "psycopg"]
)


def together(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Run `work` in as many processes as there are tuples of arguments, begun at one moment.

    Gives what they return.
    """
    barrier, pipes, processes = _context.Barrier(len(arguments)), [], []
    for given in arguments:
        ours, theirs = _context.Pipe(duplex=False)
        processes.append(
            _context.Process(target=_wait_and_work, args=(barrier, theirs, work, given))
        )
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    try:
        results = [pipe.recv() if pipe.poll(PATIENCE_S) else None for pipe in pipes]
    finally:
        for process in processes:
            process.join(PATIENCE_S)
            process.kill()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    return results


def _wait_and_work(
    barrier: Barrier, answer: Connection, work: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    barrier.wait(PATIENCE_S)
    answer.send(work(*given))


@contextmanager
def running(work: Callable[..., None], *given: Any) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process that runs `work` with one end of a pipe, and the other end.

    It is killed at the end at the latest.
    """
    ours, theirs = _context.Pipe()
    process = _context.Process(target=work, args=(theirs, *given))
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join(PATIENCE_S)


def told(pipe: Connection) -> list[Any]:
    """What a process that was killed had still said."""
    said = []
    try:
        while pipe.poll(PATIENCE_S):
            said.append(pipe.recv())
    except EOFError:
        pass
    return said


def count(address: str) -> int:
    """Open a store and count what is in it."""
    with open_store(address) as store:
        return len(store.list())


def write_much(address: str, name: str, rounds: int) -> None:
    """A measurement, other records, and one id that all others write too."""
    with open_store(address) as store:
        store.begin(begun(measurement(id=name)))
        for number in range(rounds):
            store.append(name, number // 10, [1.0 + number], [number])
            store.save_record("numbers", {"writer": name, "number": number})
            store.save(measurement(id="contested", model=name))
        store.finish(store.get(name))


def append_forever(pipe: Connection, address: str) -> None:
    """Say the number of each round when it is in the store."""
    with open_store(address) as store:
        store.begin(begun(measurement(id="victim")))
        store.append("victim", 0, [0.5], warm_up=True)
        for number in range(10**9):
            store.append("victim", number // 10, [1.0 + number], [number])
            pipe.send(number)


def sync_and_say(pipe: Connection, source: str, target: str) -> None:
    """Say how many records are through; go on when told."""

    def callback(now: Syncing) -> None:
        pipe.send(now.done)
        pipe.recv()

    sync_store(target, source, callback=callback)


def sync(source: str, target: str) -> tuple[int, int]:
    """New and known records."""
    done = sync_store(target, source)
    return done.new.total(), done.known
