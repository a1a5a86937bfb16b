"""Numbers of the report that many records share."""

from __future__ import annotations

from dataclasses import replace

from hwbench.report.numbers import interval_row, leave_out_absurd, tell_apart
from tests.store.records import measurement


def row(value: float):
    return interval_row("net", value, (0.9 * value, 1.1 * value), "")


def test_one_absurd_value_leaves_room_for_the_others():
    rows = [row(0.01), row(0.02), row(1e-10), row(0.5)]
    kept, said = leave_out_absurd(rows)
    assert [entry["value"] for entry in kept] == [0.01, 0.02, 0.5]
    assert "1 value more than 1,000 times off" in said
    assert leave_out_absurd(rows[:2]) == (rows[:2], "")
    assert leave_out_absurd([]) == ([], "")


def test_an_interval_that_tells_nothing_has_no_ends():
    assert interval_row("net", 1.0, (0.0, 213258.0), "")["high"] is None


def test_networks_of_one_name_are_told_apart():
    first = replace(measurement(), model="pruned", model_sha256="a" * 64)
    other = replace(first, model_sha256="b" * 64)
    alone = replace(first, model="net")
    assert tell_apart([first, other, first, alone]) == [
        "pruned (aaaaaaaa)",
        "pruned (bbbbbbbb)",
        "pruned (aaaaaaaa)",
        "net",
    ]
