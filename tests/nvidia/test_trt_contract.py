"""The TensorRT driver keeps the driver contract: its own child process on strict fakes of NVIDIA's bindings, three versions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.devices.base import Device
from hwbench.devices.contract import DeviceContract
from hwbench.devices.nvidia_trt import NvidiaTrt
from hwbench.measurement import Settings
from hwbench.onnx_graph import count, load
from hwbench.workload import TensorSpec, Workload
from tests.nvidia.trt_support import use_fakes


def convolutions(widths: Sequence[int], size: int, name: str = "net", kind: type = np.float32) -> Workload:
    """3x3 convolutions with ReLU and nothing else: every layer of it is one layer of an engine, on paper and on a GPU."""
    random = np.random.default_rng(0)
    nodes, weights, channels = [], [], 3
    for index, width in enumerate(widths):
        values = (random.standard_normal((width, channels, 3, 3)) / channels).astype(kind)
        weights.append(numpy_helper.from_array(values, f"features.{index}.weight"))
        inputs = [f"t{index}", f"features.{index}.weight"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{index}"], f"features.{index}", kernel_shape=[3, 3], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"t{index + 1}"], f"features.{index}.relu"))
        channels = width
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    ends = [
        helper.make_tensor_value_info(tensor, element, [1, width, size, size])
        for tensor, width in (("t0", 3), (f"t{len(widths)}", channels))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    counts = count(load(data))
    precision = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}[element]
    spec = TensorSpec("t0", (1, 3, size, size), np.dtype(kind).name)
    return Workload(name, data, (spec,), 1, precision, counts.macs, counts.params, len(data))


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
