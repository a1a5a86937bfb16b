"""Phones behind a running adb server: which one is meant, and measuring through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwbench.devices import list_devices
from hwbench.devices.android.device import Android
from hwbench.errors import UsageError
from hwbench.records.measurement import Settings
from tests.devices.android.phone_support import on
from tests.devices.android.pyadbd import PyAdbd
from tests.devices.android.pyadbd_clients import AdbServer
from tests.devices.android.pyadbd_phone import FakePhone, needs_namespace
from tests.support.models import conv_workload


def test_two_phones_and_no_serial_is_an_error_that_lists_both(server: AdbServer) -> None:
    with PyAdbd() as first, PyAdbd() as second:
        for phone in (first, second):
            server.connect(phone.address)
        with pytest.raises(UsageError, match="2 phones are in sight and none is named") as refused:
            Android().open()
        assert all(f"android:{phone.address}" in str(refused.value) for phone in (first, second))
        found = {device.address: device for device in list_devices()}
        assert {f"android:{phone.address}" for phone in (first, second)} <= found.keys()


@needs_namespace
def test_a_phone_is_measured_through_the_server_that_lists_it(
    server: AdbServer, tmp_path: Path
) -> None:
    (tmp_path / "phone").mkdir()
    with FakePhone(tmp_path / "phone") as phone:
        server.connect(phone.address)
        before = phone.changeable()
        with Android(on("").removeprefix(",")) as device:  # the only one
            prepared = device.prepare(conv_workload(), Settings())
            assert device._phone.adb.route == "server"
            assert device._phone.adb.serial == phone.address
            assert len(device.run([prepared] * 3).values_s) == 3
            assert {row.name for row in device.profile_layers(prepared, 3).rows} >= {
                "features.0.conv",
                "fc",
            }
            assert phone.changeable() != before
        assert phone.changeable() == before
        found = {device.address: device for device in list_devices()}[f"android:{phone.address}"]
        assert found.ready
        assert "not yet on a phone in the hand" in found.hint
