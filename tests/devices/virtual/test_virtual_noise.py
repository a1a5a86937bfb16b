"""Each kind of noise does what it says.

Bounds are some standard errors wide, and seeds are fixed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from hwbench.devices.virtual.device import (
    Bimodal,
    Drift,
    Fault,
    Noise,
    SessionOffset,
    Spikes,
    Throttling,
    Virtual,
    White,
)
from hwbench.errors import (
    BuildError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    MeasurementError,
)
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec

A, B = (
    Workload(name, name.encode(), (TensorSpec("x", (1,)),), 1, "fp32", 0, 0, 0) for name in "ab"
)
TRUTH_S = {A.sha256: 0.001, B.sha256: 0.002}


def device(*noise: Noise, seed: int = 0, faults: Sequence[Fault] = ()) -> Virtual:
    return Virtual(noise=noise, seed=seed, faults=faults, latencies_s=TRUTH_S)


def samples(opened: Virtual, rounds: int, batch: int = 100) -> NDArray[np.float64]:
    """Factors of rounds of A in one session."""
    prepared = opened.prepare(A, Settings())
    return (
        np.concatenate([opened.run([prepared] * batch).values_s for _ in range(rounds // batch)])
        / 0.001
    )


def test_white() -> None:
    with device(White(0.05)) as opened:
        logs = np.log(samples(opened, 20_000))
    assert abs(np.median(logs)) < 0.05 * 1.25 * 4 / 20_000**0.5
    assert np.std(logs) == pytest.approx(0.05, rel=0.03)
    assert abs(np.corrcoef(logs[1:], logs[:-1])[0, 1]) < 0.03


def test_session_offset_never_averages_out() -> None:
    with device(SessionOffset(0.01)) as opened:
        sessions = np.array([samples(opened, 100) for _ in range(400)])
    assert np.ptp(sessions, axis=1).max() == pytest.approx(0, abs=1e-12)
    assert np.std(np.log(sessions[:, 0])) == pytest.approx(0.01, rel=0.15)
    assert abs(np.mean(np.log(sessions[:, 0]))) < 4 * 0.01 / 20


def test_drift_is_slow_and_shared() -> None:
    with device(Drift(0.05, swing=0.0)) as opened:
        a, b = opened.prepare(A, Settings()), opened.prepare(B, Settings())
        start_s = opened.time_s()
        first = opened.run([a, b]).values_s
        opened.idle(start_s + 60 - opened.time_s())
        later = opened.run([a, b]).values_s
    assert later[0] / first[0] == pytest.approx(1.05, rel=1e-6)
    assert first[1] / first[0] == pytest.approx(2, rel=1e-5)
    assert later[1] / later[0] == pytest.approx(2, rel=1e-5)


def test_drift_swings() -> None:
    with device(Drift(0.0, swing=0.1, period_s=1.0)) as opened:
        values = samples(opened, 2000, batch=10)
    assert (values.min(), values.max()) == pytest.approx((0.9, 1.1), abs=1e-3)
    assert np.abs(np.diff(values)).max() < 0.002


def test_bimodal_neighbours_share_the_mode() -> None:
    with device(Bimodal(0.2, dwell_s=0.05)) as opened:
        a, b = opened.prepare(A, Settings()), opened.prepare(B, Settings())
        pairs = np.concatenate(
            [np.reshape(opened.run([a, b] * 50).values_s, (-1, 2)) for _ in range(200)]
        )
    slow = pairs / [0.001, 0.002] > 1.1
    assert np.unique(np.round(pairs / [0.001, 0.002], 9)).tolist() == [1.0, 1.2]
    assert 0.3 < slow.mean() < 0.7
    assert (slow[:, 0] == slow[:, 1]).mean() > 0.9
    lasting_s = pairs.sum() / np.count_nonzero(np.diff(slow.ravel()))
    assert lasting_s == pytest.approx(0.05, rel=0.25)


def test_spikes_are_rare_and_long() -> None:
    with device(Spikes(0.02, factor=3, tail=1.5)) as opened:
        values = samples(opened, 50_000)
    hit = values > 1 + 1e-9
    assert hit.mean() == pytest.approx(0.02, rel=0.15)
    assert values[hit].min() >= 3
    assert np.median((values[hit] - 1) / 2) == pytest.approx(2 ** (1 / 1.5), rel=0.1), (
        "median of a Pareto law"
    )


def test_throttling_follows_load_and_rest() -> None:
    with device(Throttling(after_s=2, factor=1.5, recovery_s=4)) as opened:
        opened.idle(100)
        prepared = opened.prepare(A, Settings())
        cold = opened.run([prepared] * 1000)
        assert cold.values_s == pytest.approx([0.001] * 1000)
        assert not cold.findings
        assert not opened.conditions().throttled
        values_s = opened.run([prepared] * 1500).values_s
        assert values_s == pytest.approx([0.001] * 1000 + [0.0015] * 500)
        assert opened.conditions().throttled
        assert [finding.code for finding in opened.run([prepared]).findings] == ["throttled"]
        opened.idle(3.9)
        assert opened.conditions().throttled
        assert opened.run([prepared]).values_s == pytest.approx([0.0015])
        opened.idle(4.1)
        assert not opened.conditions().throttled
        assert opened.run([prepared]).values_s == pytest.approx([0.001])


def test_rest_between_rounds_delays_throttling() -> None:
    with device(Throttling(after_s=1, factor=1.5, recovery_s=1)) as opened:
        prepared = opened.prepare(A, Settings())
        for _ in range(20):
            assert opened.run([prepared] * 400).values_s[-1] == pytest.approx(0.001)
            opened.idle(0.4)


def test_seed_decides_everything() -> None:
    kinds = (White(), SessionOffset(), Drift(), Bimodal(), Spikes(0.1))
    opened = device(*kinds, seed=1)
    runs = []
    for _ in range(2):
        with opened:
            runs.append(samples(opened, 300).tolist())
    with device(*kinds, seed=1) as same, device(*kinds, seed=2) as other:
        assert samples(same, 300).tolist() == runs[0] == runs[1]
        assert samples(other, 300).tolist() != runs[0]


def test_time_is_virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it slept"))
    with device(White(), Drift(0.0)) as opened:
        prepared = opened.prepare(B, Settings())
        while opened.time_s() < 3600:
            opened.run([prepared] * 200, loops=100)


def test_refuses_to_open() -> None:
    with pytest.raises(DeviceUnavailableError, match="as asked"), device(faults=[Fault("open")]):
        pass


def test_refuses_to_build_and_stays_usable() -> None:
    with device(faults=[Fault("build")]) as opened:
        with pytest.raises(BuildError, match="as asked"):
            opened.prepare(A, Settings())
        assert opened.usable


@pytest.mark.parametrize(
    ("kind", "error"), [("lost", DeviceLostError), ("timeout", DeviceTimeoutError)]
)
def test_fails_after_some_rounds_and_is_broken_then(kind: str, error: type[Exception]) -> None:
    with device(faults=[Fault(kind, 10)]) as opened:
        prepared = opened.prepare(A, Settings())
        assert len(opened.run([prepared] * 10).values_s) == 10
        with pytest.raises(error):
            opened.run([prepared])
        assert not opened.usable
        with pytest.raises(DeviceUnavailableError, match="failed earlier"):
            opened.run([prepared])
    with device(faults=[Fault(kind, 10)]) as again:
        assert again.usable


@pytest.mark.parametrize(
    ("kind", "match"),
    [("nan", "positive finite"), ("zero", "positive finite"), ("miscount", "4 samples where 5")],
)
def test_impossible_samples_are_caught(kind: str, match: str) -> None:
    with device(faults=[Fault(kind, 5)]) as opened:
        prepared = opened.prepare(A, Settings())
        opened.run([prepared] * 5)
        with pytest.raises(MeasurementError, match=match):
            opened.run([prepared] * 5)


def test_says_that_it_is_throttled() -> None:
    with device(faults=[Fault("throttled", 5)]) as opened:
        prepared = opened.prepare(A, Settings())
        assert not opened.run([prepared] * 5).findings
        assert not opened.conditions().throttled
        assert [finding.code for finding in opened.run([prepared]).findings] == ["throttled"]
        assert opened.conditions().throttled
