"""Recordings come back as they were taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.devices.replay import Replay
from hwbench.errors import DeviceLostError, UsageError, WorkloadError
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.measurement import Measurement, Settings
from hwbench.records.tensors import TensorSpec

A, B = (
    Workload(name, name.encode(), (TensorSpec("x", (1,)),), 1, "fp32", 0, 0, 0) for name in "ab"
)


def recording(workload: Workload, scale: float = 1.0) -> Measurement:
    """Two sessions, each of one warm-up round and two timed ones."""
    return Measurement(
        id=workload.name, group_id="g", model=workload.name, model_sha256=workload.sha256, inputs=workload.inputs, batch=1,
        precision="fp32", macs=0, params=0, file_bytes=0, peak_memory_bytes=None,
        device=DeviceInfo("cpu", "CPU", "cpu-1", "runtime 1"), settings=Settings(), clock="perf_counter", loops=1,
        samples_s=tuple(scale * value for value in (1.0, 2.0, 3.0, 4.0)), session=(0, 0, 1, 1), block=(0, 1, 2, 3),
        warmup_s=(9 * scale, 8 * scale), warmup_session=(0, 1), before=Conditions("2024-01-01T00:00:00+00:00"),
        after=Conditions("2024-01-01T00:00:09+00:00"), findings=(), profile=None, started_utc="2024-01-01T00:00:00+00:00",
        hwbench_version="0.1.0", commit=None,
    )  # fmt: skip


def test_sessions_come_back_in_order() -> None:
    with Replay(recording(A), recording(B, 10)) as device:
        assert device.info() == recording(A).device
        assert device.conditions() == recording(A).before
        a, b = device.prepare(A, Settings()), device.prepare(B, Settings())
        played = device.run([a, b, b, a, a], loops=2)
        assert played.values_s == (9, 90, 10, 1, 2)
        assert played.clock == "perf_counter"
        assert device.time_s() == 2 * sum(played.values_s)
        device.release(a)
        assert device.run([device.prepare(A, Settings()), b]).values_s == (8, 20)
    with device:
        assert device.run([device.prepare(A, Settings())]).values_s == (9,)


def test_nothing_is_made_up() -> None:
    with Replay(recording(A)) as device:
        prepared = device.prepare(A, Settings())
        device.run([prepared] * 3)
        with pytest.raises(DeviceLostError, match="recording of this session is over"):
            device.run([prepared])
        assert not device.usable
    with Replay(recording(A)) as device:
        device.prepare(A, Settings())
        device.prepare(A, Settings())
        with pytest.raises(DeviceLostError, match="no further session"):
            device.prepare(A, Settings())


def test_what_cannot_be_replayed_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to replay"):
        Replay()
    with pytest.raises(UsageError, match="same model"):
        Replay(recording(A), replace(recording(A), id="other"))
    with Replay(recording(A)) as device:
        with pytest.raises(WorkloadError, match="none of the recordings"):
            device.prepare(B, Settings())
        assert device.usable
