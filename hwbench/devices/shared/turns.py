"""Profiled and unprofiled inferences that take turns, so that both see the same machine: its drift then cancels.

A turn is a few inferences of one kind in a row. The first of them finds the data of the other kind
in the caches and is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

TURN = 4
"""Inferences in a row."""


def turn_order(plain: T, profiled: T, runs: int) -> list[T]:
    """What to run, in order, so that at least `runs` inferences of each kind count."""
    turns = -(-runs // (TURN - 1))
    return ([plain] * TURN + [profiled] * TURN) * turns


def counted(results: Sequence[T], runs: int) -> list[T]:
    """The first `runs` results that count, of all results of one kind in the order they were taken."""
    return [result for index, result in enumerate(results) if index % TURN][:runs]


def take_turns(
    plain: Callable[[int], Sequence[T]], profiled: Callable[[int], Sequence[U]], runs: int
) -> tuple[list[T], list[U]]:
    """Run turn by turn where the whole order cannot be handed over at once.

    Args:
        plain: Runs so many unprofiled inferences and gives the result of each.
        profiled: The same with the profiler on.
        runs: Inferences of each kind that are to count.

    Returns:
        (results of `runs` unprofiled inferences, of as many profiled ones).
    """
    plain_results: list[T] = []
    profiled_results: list[U] = []
    while len(counted(profiled_results, runs)) < runs:
        plain_results += plain(TURN)
        profiled_results += profiled(TURN)
    return counted(plain_results, runs), counted(profiled_results, runs)
