"""Profiled and unprofiled inferences that take turns.

Both then see the same machine, and its drift cancels. A turn is a few inferences of one kind in a
row. The first of them finds the data of the other kind in the caches and does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

TURN = 4
"""Inferences in a row."""


def _turn_length(runs: int) -> int:
    """Inferences in a row where `runs` are to count.

    Whoever asks for fewer than a turn measures so slow a network that each inference is dear
    and the caches are nothing beside it: then they take turns one by one, and all of them count.
    """
    return TURN if runs >= TURN - 1 else 1


def count_inferences(runs: int) -> int:
    """Count the inferences that it takes for `runs` of each kind to count."""
    turn = _turn_length(runs)
    return 2 * turn * -(-runs // max(1, turn - 1))


def turn_order(plain: T, profiled: T, runs: int) -> list[T]:
    """List what to run, in order, so that at least `runs` inferences of each kind count."""
    turn = _turn_length(runs)
    turns = count_inferences(runs) // (2 * turn)
    return ([plain] * turn + [profiled] * turn) * turns


def select_counted(results: Sequence[T], runs: int) -> list[T]:
    """Select the first `runs` results that count.

    Args:
        results: All results of one kind in the order they were taken.
        runs: How many are wanted.
    """
    turn = _turn_length(runs)
    if turn == 1:
        return list(results[:runs])
    return [result for index, result in enumerate(results) if index % turn][:runs]


def take_turns(
    plain: Callable[[int], Sequence[T]], profiled: Callable[[int], Sequence[U]], runs: int
) -> tuple[list[T], list[U]]:
    """Run turn by turn where the whole order cannot be handed over at once.

    Args:
        plain: Runs a number of unprofiled inferences and returns the result of each.
        profiled: Does the same with the profiler on.
        runs: Inferences of each kind that are to count.

    Returns:
        (results of `runs` unprofiled inferences, results of as many profiled ones).
    """
    plain_results: list[T] = []
    profiled_results: list[U] = []
    turn = _turn_length(runs)
    while len(select_counted(profiled_results, runs)) < runs:
        plain_results += plain(turn)
        profiled_results += profiled(turn)
    return select_counted(plain_results, runs), select_counted(profiled_results, runs)
