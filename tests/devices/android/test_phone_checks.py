"""Ten checks of a phone: each passes on a good one, and each fails alone, with its remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hwbench.devices.android import phone_facts as facts
from hwbench.devices.android.phone_checks import check_phone, parse_settings
from tests.devices.android.test_phone_facts import PIXEL, printed, state

WHO = facts.parse_identity(printed(PIXEL))
BIG = WHO.clusters["big"]
GOOD = replace(
    state(),
    load_1m=0.5,
    online=dict.fromkeys(range(8), True),
    battery=state().battery | {"status": "5", "level": "95"},
)


def failed(
    who: facts.PhoneIdentity = WHO, switched: dict[str, str] | None = None, **changes: Any
) -> list[str]:
    found = check_phone(
        who, BIG, replace(GOOD, **changes), switched or {"low_power": "0", "airplane_mode_on": "1"}
    )
    assert len(found) == len({item.code for item in found}) == 10
    assert all(bool(item.remedy) is not item.ok for item in found)
    return [item.code for item in found if not item.ok]


def test_nothing_is_wrong_with_a_cool_charged_idle_phone() -> None:
    assert failed() == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"thermal_status": 2}, "thermal_status"),
        ({"zones_c": {"BIG 0": 75.0}}, "temperature"),
        ({"battery": GOOD.battery | {"temperature": "420"}}, "temperature"),
        ({"battery": GOOD.battery | {"level": "12"}}, "battery"),
        ({"battery": GOOD.battery | {"status": "2", "level": "50"}}, "charging"),
        ({"switched": {"low_power": "1"}}, "power_save"),
        ({"caps_hz": {7: 1.4e9}}, "frequency"),
        ({"governors": {6: "powersave"}}, "frequency"),
        ({"online": GOOD.online | {7: False}}, "cores"),
        ({"wakefulness": "Dozing"}, "screen"),
        ({"load_1m": 9.0}, "background"),
        ({"who": replace(WHO, free_bytes=10_000_000)}, "space"),
    ],
)
def test_each_thing_that_spoils_a_measurement_is_found_alone(
    changes: dict[str, Any], code: str
) -> None:
    assert failed(**changes) == [code]


def test_a_board_that_tells_little_is_not_blamed_for_it() -> None:
    nothing = facts.parse_state(b"\x1eload\n\x1epower\n")
    assert [
        item.code
        for item in check_phone(replace(WHO, highest_hz={}, free_bytes=None), BIG, nothing, {})
        if not item.ok
    ] == []


def test_switches_that_android_does_not_have_read_as_nothing() -> None:
    assert parse_settings(b"low_power=1\nairplane_mode_on=null\nrubbish") == {
        "low_power": "1",
        "airplane_mode_on": "null",
    }
