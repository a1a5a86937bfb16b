"""Inferences that take turns: exact counts, and the first of each turn is left out."""

from __future__ import annotations

import pytest

from hwbench.devices.shared.turns import (
    TURN,
    count_inferences,
    select_counted,
    take_turns,
    turn_order,
)


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 20])
def test_an_order_has_enough_that_count(runs):
    order = turn_order("plain", "profiled", runs)
    turn = TURN if runs >= TURN - 1 else 1
    assert order[: 2 * turn] == ["plain"] * turn + ["profiled"] * turn
    assert len(order) == count_inferences(runs)
    for kind in ("plain", "profiled"):
        assert len(select_counted(range(order.count(kind)), runs)) == runs


def test_the_first_of_each_turn_is_not_counted():
    assert select_counted(range(2 * TURN), 5) == [1, 2, 3, 5, 6]


def test_fewer_than_a_turn_alternate_and_all_count():
    assert turn_order("plain", "profiled", 2) == ["plain", "profiled"] * 2
    assert select_counted([1, 2], 2) == [1, 2]


@pytest.mark.parametrize("runs", [3, 7])
def test_turns_are_taken_one_after_the_other(runs):
    taken = []

    def run(kind):
        def take(count):
            taken.append(kind)
            return [f"{kind}{len(taken)}.{index}" for index in range(count)]

        return take

    plain, profiled = take_turns(run("a"), run("b"), runs)
    assert len(plain) == len(profiled) == runs
    assert taken == ["a", "b"] * (len(taken) // 2)
    assert plain[0] == "a1.1"
    assert profiled[0] == "b2.1"
