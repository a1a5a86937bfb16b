"""What reaches the store while a measurement runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.devices.virtual.device import Fault, Virtual
from hwbench.devices.virtual.noise import Throttling, White
from hwbench.errors import DeviceLostError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.sessions import measure, measure_interleaved
from hwbench.records.measurement import Settings
from hwbench.records.series import Series
from hwbench.store import open_store
from hwbench.workflows.recording import recording
from tests.support.models import told

A, B = told("a"), told("b")
QUICK = Settings(layers=False, budget_s=10)
TRUTH = {A.sha256: 0.01, B.sha256: 0.01}


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "store.db")


def test_a_lost_device_leaves_its_samples_in_the_store(url):
    device = Virtual(noise=(White(),), faults=[Fault("lost", after_rounds=300)], latencies_s=TRUTH)
    with (
        device,
        pytest.raises(DeviceLostError),
        recording(url, save=True, callback=None) as recorder,
    ):
        measure_interleaved(device, [A, B], QUICK, recorder)
    with open_store(url) as store:
        first, second = (store.get(summary.id) for summary in store.list())
    assert not first.complete
    assert len(first.series.samples_s) == len(second.series.samples_s) > 50
    assert (first.clock, first.loops) == ("virtual", 1)


def test_samples_arrive_in_chunks_of_a_tenth_of_a_second(url):
    sizes = []

    class Sizes(MeasuringCallback):
        def sampled(self, record, session, samples_s, blocks, *, warm_up):
            sizes.extend([] if warm_up else [sum(samples_s)])

    with Virtual(noise=(White(),), latencies_s=TRUTH) as device:
        measure(device, A, QUICK, Sizes())
    assert 0.05 < max(sizes) < 0.15


def test_what_is_stored_is_what_is_returned_throttled_sessions_included(url):
    noise = (White(0.005), Throttling(after_s=3.0, factor=1.5, recovery_s=10.0))
    with (
        Virtual(noise=noise, latencies_s=TRUTH) as device,
        recording(url, save=True, callback=None) as recorder,
    ):
        record = measure(
            device, A, replace(QUICK, budget_s=60, target=0.0005, max_sessions=8), recorder
        )
    assert "throttled" in {finding.code for finding in record.findings}
    with open_store(url) as store:
        assert store.get(record.id) == record


def test_a_withdrawn_session_is_warm_up_in_the_store_too(url):
    with Virtual(noise=(White(),), latencies_s=TRUTH) as device:
        record = measure(device, A, QUICK)
    with open_store(url) as store:
        store.begin(replace(record, series=Series(), warm_up=Series()))
        store.append(record.id, 0, [1.0, 2.0], [0, 1])
        store.append(record.id, 1, [3.0], [2])
        store.withdraw(record.id, 1)
        found = store.get(record.id)
    assert (found.series.samples_s, found.warm_up.samples_s, found.warm_up.session) == (
        (1.0, 2.0),
        (3.0,),
        (1,),
    )


def test_nothing_is_stored_unasked(url):
    with (
        Virtual(latencies_s=TRUTH) as device,
        recording(url, save=False, callback=None) as recorder,
    ):
        measure(device, A, QUICK, recorder)
    with open_store(url) as store:
        assert store.list() == ()
