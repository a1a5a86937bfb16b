"""Load without a pause: what is kept of it, when a device slows down, and by how much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.devices.virtual.device import Virtual
from hwbench.devices.virtual.noise import SessionOffset, Throttling, White
from hwbench.errors import SchemaError, UsageError
from hwbench.measuring.comparing import compare_measured
from hwbench.measuring.sessions import measure, measure_interleaved
from hwbench.measuring.sustained import LONGEST_REST_S, find_throttling, judge_load, rest
from hwbench.records.device import Conditions
from hwbench.records.measurement import Measurement, Settings
from hwbench.records.sustained import LoadWindow, SustainedLoad
from tests.support.models import told

BIG, SMALL = told("big"), told("small")
LATENCIES = {BIG.sha256: 20e-3, SMALL.sha256: 16e-3}
SETTINGS = Settings(budget_s=4, layers=False, sustain_s=120)
HOT = (White(), SessionOffset(), Throttling())


def measured(*noise, settings: Settings = SETTINGS) -> tuple[Measurement, ...]:
    with Virtual(latencies_s=LATENCIES, noise=noise) as device:
        return measure_interleaved(device, [BIG, SMALL], settings)


def load(latencies_s, asked_s: float = 120.0) -> SustainedLoad:
    windows = tuple(LoadWindow(float(at), value) for at, value in enumerate(latencies_s))
    return SustainedLoad(asked_s, 0.0, windows)


def test_a_device_that_throttles_is_found_with_its_time_and_factor():
    for record in measured(*HOT):
        sustained = record.sustained
        assert len(sustained.windows) == pytest.approx(120, abs=3)
        assert find_throttling(sustained) == pytest.approx(20, abs=2)
        assert sustained.slowdown.ci[0] < 1.3 < sustained.slowdown.ci[1]
        assert sustained.windows[0].temperature_c < 40
        assert sustained.hottest_c == pytest.approx(80)
        (finding,) = [one for one in record.findings if one.code == "slows_down"]
        assert "1.30 times as long" in finding.text
        assert "80 °C" in finding.text
        # The load was to heat the device: what was measured before it is as good as ever.
        assert "throttled" not in {one.code for one in record.findings}
        assert record.median_s == pytest.approx(LATENCIES[record.model_sha256], rel=0.02)


def test_the_speedup_in_the_end_rests_on_all_sessions():
    comparison = compare_measured(*measured(*HOT))
    low, high = comparison.steady_speedup.ci
    assert low < 1.25 < high
    assert high / low > comparison.speedup_ci[1] / comparison.speedup_ci[0]


def test_a_device_that_does_not_throttle_is_not_said_to():
    for record in measured(White(), SessionOffset()):
        assert find_throttling(record.sustained) is None
        assert record.sustained.hottest_c is None
        assert record.sustained.rest_s == 0
        assert "slows_down" not in {one.code for one in record.findings}


def test_without_being_asked_there_is_no_load():
    first, second = measured(White(), settings=replace(SETTINGS, sustain_s=0))
    assert first.sustained is None
    assert compare_measured(first, second).steady_speedup is None
    assert "sustained" not in first.to_dict()
    assert "sustain_s" not in first.to_dict()["settings"]  # earlier versions read it too


def test_a_record_with_a_load_is_read_back():
    record = measured(*HOT)[0]
    data = record.to_dict()
    assert Measurement.from_dict(data).sustained == record.sustained
    for broken in ([], [{**data["sustained"]["windows"][0], "latency_s": -1.0}]):
        with pytest.raises(SchemaError, match="load"):
            Measurement.from_dict(data | {"sustained": data["sustained"] | {"windows": broken}})


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_an_impossible_time_is_refused(seconds):
    with Virtual(latencies_s=LATENCIES) as device, pytest.raises(UsageError, match="pause"):
        measure(device, BIG, replace(SETTINGS, sustain_s=seconds))


def test_a_load_shorter_than_an_inference_has_a_window():
    with Virtual(latencies_s={BIG.sha256: 5.0}) as device:
        record = measure(device, BIG, replace(SETTINGS, sustain_s=1.0))
    assert len(record.sustained.windows) == 1
    assert judge_load(record.sustained) is None  # one window has no interval


def test_a_device_that_becomes_faster_is_not_called_slow():
    assert judge_load(load([1.1] * 60 + [1.0] * 60)) is None
    assert find_throttling(load([1.1] * 60 + [1.0] * 60)) is None


def state(**known) -> Conditions:
    return Conditions(at_utc="", **known)


@pytest.mark.parametrize(
    ("states", "rested_s"),
    [
        ([state()], 0),  # it tells nothing
        ([state(temperature_c=50.0), state(temperature_c=50.0)], 5),
        ([state(temperature_c=t) for t in (60.0, 55.0, 52.0, 51.8)], 15),
        ([state(throttled=True), state(throttled=True), state(throttled=False)], 10),
        ([state(throttled=True)] * 30, LONGEST_REST_S),
    ],
)
def test_a_device_rests_as_long_as_it_cools_and_no_longer_than_a_minute(states, rested_s):
    waits = []
    left = list(states)
    assert rest(lambda: [left.pop(0)], waits.append) == rested_s
    assert sum(waits) == rested_s
