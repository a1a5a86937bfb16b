"""Addresses of drivers: a place, then options."""

from __future__ import annotations

import pytest

from hwbench.devices.shared.address import choice, read_address, whole_number
from hwbench.errors import UsageError

OPTIONS = {"mode": choice("slow", "fast"), "level": whole_number(0, 5), "seed": whole_number(-1)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", {})),
        ("SERIAL", ("SERIAL", {})),
        ("host:5555,mode=fast", ("host:5555", {"mode": "fast"})),
        ("mode=slow,level=5,seed=-1", ("", {"mode": "slow", "level": 5, "seed": -1})),
    ],
)
def test_a_place_and_options(text, expected):
    assert read_address("board", text, OPTIONS) == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "S,speed=9",
            "unknown option 'speed=9' in 'board:S,speed=9'.*known: mode=slow|fast; level",
        ),
        ("S,", "unknown option ''"),
        ("S,T", "unknown option 'T'"),
        ("mode=slow,mode=slow", "unknown option 'mode=slow'.*twice"),
        ("mode=medium", "'mode=medium' .* one of slow, fast"),
        ("mode", "place"),
        ("S,mode", "'mode' .* one of slow, fast"),
        ("level=6", "'level=6' .* whole number from 0 to 5"),
        ("level=x", "'level=x' .* whole number from 0 to 5"),
        ("level=", "'level=' .* whole number"),
        ("seed=-2", "'seed=-2' .* at least -1"),
        ("seed=1e3", "'seed=1e3' .* whole number"),
    ],
)
def test_what_is_no_address_is_refused_with_what_would_be(text, match):
    if match == "place":
        assert read_address("board", text, OPTIONS) == (text, {}), "a place may be called anything"
        return
    with pytest.raises(UsageError, match=match) as refused:
        read_address("board", text, OPTIONS)
    assert len(str(refused.value).splitlines()) == 1
    assert "known: mode=slow|fast; level=0..5; seed=N" in str(refused.value)


def test_a_driver_of_one_target_takes_no_place():
    assert read_address("cpu", "", {}, has_place=False) == ("", {})
    with pytest.raises(UsageError, match="'cpu' takes no address, got 'cpu:1'"):
        read_address("cpu", "1", {}, has_place=False)
    with pytest.raises(UsageError, match="unknown option 'S'"):
        read_address("virtual", "S", OPTIONS, has_place=False)
