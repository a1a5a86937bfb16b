"""The driver `android` keeps the driver contract on the Python phone and on Google's adbd, on
x86-64 and on real Arm code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from hwbench.devices.android.device import Android
from hwbench.devices.base import Device
from hwbench.devices.contract import DeviceContract
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from tests.devices.android.phone_support import fake_in_a_process, on, rig
from tests.devices.android.pyadbd_phone import needs_namespace
from tests.support.models import conv_workload


class OfAndroid(DeviceContract):
    place: ClassVar[str] = ""

    def make_device(self) -> Device:
        return Android(on(self.place))

    def make_workload(self) -> Workload:
        return conv_workload((16, 16), size=16)

    def make_slow_workload(self) -> Workload | None:
        return conv_workload((64, 64, 64), size=64, name="slow")


@needs_namespace
class TestPythonPhone(OfAndroid):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _phone(cls) -> Iterator[None]:
        with fake_in_a_process() as cls.place:
            yield


class TestGoogleAdbd(OfAndroid):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _phone(cls) -> Iterator[None]:
        with rig("amd64") as phone:
            cls.place = phone.address
            yield


class TestGoogleAdbdIsolated(TestGoogleAdbd):
    settings = Settings(threads=1, isolate=True)


@pytest.mark.qemu
@pytest.mark.slow
class TestArm(OfAndroid):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _phone(cls) -> Iterator[None]:
        with rig("arm64") as phone:
            cls.place = phone.address
            yield

    def make_workload(self) -> Workload:
        return conv_workload((4,), size=4)

    def make_slow_workload(self) -> Workload | None:
        return conv_workload((32, 32), size=16, name="slow")
