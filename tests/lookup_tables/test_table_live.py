from __future__ import annotations

import numpy as np
import pytest

from hwbench.errors import MissingEntryError, UsageError
from hwbench.lookup_tables.live import LiveLatency
from hwbench.lookup_tables.making.networks import Quiet
from hwbench.records.prediction import LatencySource
from tests.support.table_support import LAW, SETTINGS, device, structure, workload

NARROW = tuple(max(4, width // 2) for width in structure().widths)


def test_a_live_device_tells_the_latency_of_pruned_versions():
    keys = structure().keys(NARROW)
    with device() as opened, LiveLatency(opened, workload(), SETTINGS) as live:
        assert isinstance(live, LatencySource)
        prediction = live.predict(keys)
        values_s = live.predict_widths(np.array([NARROW, structure().widths]))
    true_s = LAW.network_s(keys)
    assert prediction.latency_s == pytest.approx(true_s, rel=0.02)
    assert prediction.ci_s[0] < prediction.latency_s < prediction.ci_s[1]
    assert prediction.measured == keys
    assert values_s == pytest.approx(
        [prediction.latency_s, LAW.network_s(structure().keys(structure().widths))], rel=0.02
    )


def test_nothing_is_measured_twice():
    with device() as opened, LiveLatency(opened, workload(), SETTINGS) as live:
        live.predict_widths(np.array([NARROW]))
        before_s = opened.time_s()
        live.predict_widths(np.array([NARROW, NARROW]))
        assert opened.time_s() == before_s


def test_what_a_live_device_cannot_answer_is_refused():
    with device() as opened:
        live = LiveLatency(opened, workload(), SETTINGS)
        with pytest.raises(UsageError, match="with block"):
            live.predict_widths(np.array([NARROW]))
        with live, pytest.raises(MissingEntryError, match="no pruned version of zoo:resnet20"):
            live.predict(structure("zoo:resnet56").keys(structure("zoo:resnet56").widths))
        with live, pytest.raises(UsageError, match="out of range"):
            live.predict_widths(np.array([[1000] * len(NARROW)]))
        with pytest.raises(UsageError, match="at least 2 sessions"):
            LiveLatency(opened, workload(), SETTINGS, sessions=1)


@pytest.mark.parametrize("widths", [structure().widths, NARROW])
def test_layers_tell_the_widths(widths):
    keys = structure().keys(widths)
    assert structure().widths_of(keys) == widths
    assert structure().widths_of(keys[:-1]) is None
    assert structure().widths_of((*keys[:-1], keys[0])) is None


def test_turns_of_a_disturbed_anchor_are_not_quiet():
    quiet = Quiet()
    quiet.add([1.0, 1.01, 1.02] * 20 + [1.3] * 20)
    assert quiet.among([1.3, 1.0, 1.02, 1.05]).tolist() == [1, 2]
    quiet.add([1.3] * 120)  # it stays slow: this is what the device does now
    assert quiet.among([1.3, 1.31]).tolist() == [0, 1]
