"""The LiteRT driver keeps the contract with layers."""

from __future__ import annotations

import pytest

from hwbench.devices import open_device
from hwbench.devices.base import Device, ProfilesLayers
from hwbench.devices.contract import DeviceContract
from hwbench.network.tflite.writing import write_convolutions
from hwbench.network.workload import Workload
from tests.needs import needs_compiler

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install ai-edge-litert")
pytestmark = needs_compiler


class TestLitert(DeviceContract):
    def make_device(self) -> Device:
        return open_device("litert")

    def make_workload(self) -> Workload:
        return write_convolutions("quick", (8, 8), side=16)

    def make_slow_workload(self) -> Workload | None:
        return write_convolutions("slow", (64, 64, 64), side=64)

    def test_it_has_layers(self) -> None:
        assert isinstance(self.make_device(), ProfilesLayers)


class TestBuiltinKernels(TestLitert):
    def make_device(self) -> Device:
        return open_device("litert:kernels=builtin")
