"""A phone whose connection misbehaves: right numbers or a typed error, in bounded time, and the
phone is left as it was.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hwbench.devices.android.device import Android
from hwbench.devices.shared.runner import engine, process
from hwbench.errors import DeviceError, DeviceUnavailableError, MeasurementError
from hwbench.records.measurement import Settings
from tests.devices.android.phone_support import fake, on
from tests.devices.android.pyadbd_faults import Fault, Faults
from tests.devices.android.pyadbd_phone import FakePhone, needs_namespace
from tests.devices.android.pyadbd_support import soon
from tests.support.models import conv_workload

pytestmark = needs_namespace
WHEN = [
    ("cut", 40),
    ("truncate", 75),
    ("corrupt", 20),
    ("wrong_id", 40),
    ("delay", 60),
    ("reboot", 75),
    ("refuse", 20),
    ("drop", 50),
]
"""Which packet of the phone they happen to; a use without faults takes some hundred."""


@pytest.fixture(scope="module")
def phone() -> Iterator[FakePhone]:
    with fake() as running:
        with Android(on(running.address)):
            pass  # the bundle is there
        yield running


def answers(phone: FakePhone) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", phone.adbd.port), timeout=1):
        return True
    return False


def use(phone: FakePhone) -> list[float]:
    """A little of everything; the latencies."""
    values_s: list[float] = []
    with Android(on(phone.address)) as device:
        device.conditions()
        for width in (8, 16):
            prepared = device.prepare(conv_workload((width,)), Settings())
            values_s += device.run([prepared] * 5).values_s
            assert {row.name for row in device.profile_layers(prepared, 3).rows} >= {
                "features.0.conv",
                "fc",
            }
            device.release(prepared)
    return values_s


@pytest.mark.parametrize(("kind", "at"), WHEN)
def test_a_fault_is_an_error_or_nothing_and_leaves_nothing_behind(
    phone: FakePhone, monkeypatch: pytest.MonkeyPatch, kind: str, at: int
) -> None:
    monkeypatch.setattr(engine, "PATIENCE_S", 5.0)
    monkeypatch.setattr(process, "ANSWER_S", 5.0)
    before = phone.changeable()
    phone.adbd.faults = Faults([Fault(kind, at, seconds=0.3)], seed=at)
    start = time.monotonic()
    try:
        values_s = use(phone)
    except (DeviceError, MeasurementError) as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert len(values_s) == 10
        assert 0 < min(values_s) <= max(values_s) < 1
    assert time.monotonic() - start < 150, "a step of a session may take two minutes"
    phone.adbd.faults = Faults()
    assert soon(lambda: answers(phone))
    assert len(use(phone)) == 10
    assert phone.changeable() == before
    assert soon(lambda: phone.adbd.running() == [])
    assert not (Path(phone.home) / "hwbench/run").exists()


def test_a_model_that_arrives_damaged_is_refused_and_sent_again(phone: FakePhone) -> None:
    workload = conv_workload((24, 8))
    phone.adbd.faults = Faults([Fault("corrupt_put", 1)])
    with (
        Android(on(phone.address)) as device,
        pytest.raises(DeviceUnavailableError, match="damaged; send it again"),
    ):
        device.prepare(workload, Settings())
    assert [fault.kind for fault in phone.adbd.faults.happened] == ["corrupt_put"]
    model = Path(phone.home) / f"hwbench/models/{workload.sha256}.onnx"
    assert not model.exists()
    with Android(on(phone.address)) as device:
        assert device.run([device.prepare(workload, Settings())]).values_s[0] > 0
    assert model.read_bytes() == workload.onnx
