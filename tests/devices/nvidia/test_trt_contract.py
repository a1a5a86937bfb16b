"""The TensorRT driver keeps the driver contract: its own child process on strict fakes of NVIDIA's
bindings, three versions.
"""

from __future__ import annotations

import pytest

from hwbench.devices.base import Device
from hwbench.devices.contract import DeviceContract
from hwbench.devices.nvidia.tensorrt import NvidiaTrt
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from tests.devices.nvidia.trt_nets import convolutions
from tests.devices.nvidia.trt_support import use_fakes


class OfTensorRT(DeviceContract):
    version = ""
    address = ""

    @pytest.fixture(autouse=True)
    def _fakes(self, monkeypatch, tmp_path):
        use_fakes(monkeypatch, self.version)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def make_device(self) -> Device:
        return NvidiaTrt(self.address)

    def make_workload(self) -> Workload:
        return convolutions((16, 16), 16)

    def make_slow_workload(self) -> Workload | None:
        return convolutions((64, 64, 64), 64, "slow")


class TestTensorRT8(OfTensorRT):
    version = "8.6.1"


class TestTensorRT10(OfTensorRT):
    version = "10.16.1.11"
    address = "0,latency=request,builds=3"


class TestIsolatedTensorRT11(OfTensorRT):
    version = "11.4.0.106"
    settings = Settings(isolate=True)
