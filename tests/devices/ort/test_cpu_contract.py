"""The CPU driver keeps the driver contract on real ONNX Runtime, in this process and isolated."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwbench.devices.base import Device
from hwbench.devices.contract import DeviceContract
from hwbench.devices.ort import cpu
from hwbench.devices.ort.cpu import CpuOrt
from hwbench.devices.ort.python_engine import PythonEngine
from hwbench.devices.shared.ort.executed_graph import block_workload, channel_block
from hwbench.devices.shared.runner import model_files
from hwbench.errors import BuildError, DeviceUnavailableError, UsageError
from hwbench.measuring.sessions import measure
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec
from tests.needs import needs_compiler
from tests.support.models import conv_net, conv_workload


def blocked_channels() -> int:
    """Channels in a block of this computer's blocked layout, as ONNX Runtime in this process has
    it.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(PythonEngine([0], 0, Path(folder))) as engine,
    ):
        return channel_block(engine.load("block", block_workload(), graph=True))


def refuse_to_build():
    raise DeviceUnavailableError("no C compiler")


class OfCpu(DeviceContract):
    def make_device(self) -> Device:
        return CpuOrt()

    def make_workload(self) -> Workload:
        return conv_workload((16, 16), size=16)

    def make_slow_workload(self) -> Workload | None:
        return conv_workload((64, 64, 64), size=64, name="slow")


@needs_compiler
class TestCpu(OfCpu):
    pass


class TestCpuWithoutCompiler(OfCpu):
    """The engine in this process, for machines that cannot build the native runner."""

    @pytest.fixture(autouse=True)
    def _no_compiler(self, monkeypatch):
        monkeypatch.setattr(cpu, "build_runner", refuse_to_build)

    def test_says_that_python_is_in_the_numbers(self, device):
        assert "python_calls" in {
            finding.code for finding in device.prepare(self.make_workload(), self.settings).findings
        }
        with pytest.raises(DeviceUnavailableError, match="gcc"):
            device.prepare(self.make_workload(), Settings(isolate=True))

    def test_pinning_is_undone(self, device):
        before = os.sched_getaffinity(0)
        prepared = device.prepare(self.make_workload(), self.settings)
        assert len(os.sched_getaffinity(0)) == 1
        device.release(prepared)
        assert os.sched_getaffinity(0) == before


@needs_compiler
class TestIsolatedCpu(OfCpu):
    settings = Settings(threads=1, isolate=True)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
class TestCpuWithTwoThreads(OfCpu):
    settings = Settings(threads=2)


def list_last_output_twice(workload: Workload) -> Workload:
    """The same network, whose last output is listed twice, as exporters of torch do."""
    model = onnx.load_model_from_string(workload.onnx)
    model.graph.output.append(model.graph.output[-1])
    return replace(workload, artifact=model.SerializeToString())


def test_a_tensor_may_be_listed_as_two_outputs(tmp_path):
    workload = list_last_output_twice(conv_workload((16,), size=16))
    with CpuOrt() as device:
        assert measure(device, workload, Settings(budget_s=1, min_sessions=2)).median_s > 0
    with closing(PythonEngine([0], 0, tmp_path)) as engine:
        engine.load("net", workload, profile=False)
        assert len(engine.run(["net"], 1)) == 1


def test_layers_are_named_after_modules_and_say_how_they_ran():
    with CpuOrt() as device:
        record = measure(device, conv_workload((16, 32), size=32), Settings(budget_s=3))
    names = [layer.name for layer in record.profile.layers if layer.key is not None]
    assert names[:2] == ["features.0.conv", "features.1.conv"]
    assert {"pool", "fc"} <= set(names)
    block = blocked_channels()
    assert record.profile.layers[1].implementation == f"nchwc{block}"
    assert any(layer.implementation == "reorder" for layer in record.profile.layers)
    assert (
        str(record.profile.layers[1].key)
        == "Conv[1x16x32x32->1x32x32x32]{act=Relu,group=1,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32"
    )


def test_odd_widths_leave_the_blocked_layout_and_are_found():
    with CpuOrt() as device:
        record = measure(device, conv_workload((17, 33, 35), size=32), Settings(budget_s=3))
    finding = next(finding for finding in record.findings if finding.code == "unblocked_layers")
    assert f"multiples of {blocked_channels()}" in finding.text
    implementations = {layer.name: layer.implementation for layer in record.profile.layers}
    assert implementations["features.1.conv"] == "nchw"


def test_int8_layers_keep_their_names_and_run_in_integer_kernels(tmp_path):
    (tmp_path / "net.onnx").write_bytes(conv_net((16, 32), size=32))
    workload = load_workload(tmp_path / "net.onnx", precision="int8")
    with CpuOrt() as device:
        record = measure(device, workload, Settings(budget_s=3))
    kernels = {
        layer.name: layer.implementation
        for layer in record.profile.layers
        if layer.op in {"Conv", "Linear"}
    }
    assert kernels == {
        "features.0.conv": "QLinearConv",
        "features.1.conv": "QLinearConv",
        "fc": "QGemm",
    }
    assert "fall_back" not in {finding.code for finding in record.findings}
    assert record.precision == "int8"


def test_profiler_cost_is_measured_and_small():
    with CpuOrt() as device:
        profile = measure(device, conv_workload(), Settings(budget_s=2)).profile
    assert 0 <= profile.node_cost_s < 50e-6


def test_a_second_measurement_at_once_is_refused():
    with CpuOrt(), pytest.raises(DeviceUnavailableError, match=str(os.getpid())):
        CpuOrt().open()


@needs_compiler
def test_a_bad_candidate_leaves_the_device_usable():
    with CpuOrt() as device:
        good = device.prepare(conv_workload(), Settings())
        with pytest.raises(BuildError):
            device.prepare(replace(conv_workload(), artifact=b"no model"), Settings())
        device.release(good)
        assert device.run([device.prepare(conv_workload(), Settings())]).values_s[0] > 0


def lookup_workload() -> Workload:
    """Looks rows up by its input, and has rows for values of ordinary size alone."""
    make_node = onnx.helper.make_node
    nodes = [
        make_node("Cast", ["x"], ["rows"], to=onnx.TensorProto.INT64),
        make_node("Gather", ["table", "rows"], ["y"]),
    ]
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [8]) for name in "xy"]
    table = onnx.numpy_helper.from_array(np.ones(16, np.float32), "table")
    graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:], [table])
    opset = onnx.helper.make_opsetid("", 18)
    data = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    return Workload("lookup", data, (TensorSpec("x", (8,)),), 1, "fp32", 0, 0, len(data))


@pytest.mark.parametrize("native", [pytest.param(True, marks=pytest.mark.compiler), False])
def test_a_model_that_fails_while_it_runs_leaves_the_device_usable(native, monkeypatch):
    if not native:
        monkeypatch.setattr(cpu, "build_runner", refuse_to_build)
    with CpuOrt() as device:
        failing = device.prepare(lookup_workload(), Settings())
        device.draw_inputs(failing, seed=0, exponent=60)
        with pytest.raises(BuildError):
            device.run([failing])
        device.release(failing)
        assert device.run([device.prepare(conv_workload(), Settings())]).values_s[0] > 0
        record = measure(device, lookup_workload(), Settings(layers=False, budget_s=2))
    (finding,) = (each for each in record.findings if each.code == "latency_depends_on_input")
    assert "does not run on other random inputs" in finding.text


@pytest.mark.parametrize("native", [pytest.param(True, marks=pytest.mark.compiler), False])
def test_errors_name_the_file_of_the_user_and_none_of_ours(native, monkeypatch):
    if not native:
        monkeypatch.setattr(cpu, "build_runner", refuse_to_build)
    bad = replace(conv_workload(), name="models/bad.onnx", artifact=b"\x08\x0a")
    with CpuOrt() as device:
        folder = device._folder
        with pytest.raises(BuildError, match=r"models/bad\.onnx") as refused:
            device.prepare(bad, Settings())
    assert str(folder) not in str(refused.value)
    assert str(folder.parent) not in str(refused.value)


def test_bad_requests_are_refused():
    with pytest.raises(UsageError, match="no address"):
        CpuOrt("1")
    with CpuOrt() as device:
        with pytest.raises(UsageError, match="4096 threads"):
            device.prepare(conv_workload(), Settings(threads=4096))
        with pytest.raises(BuildError):
            device.prepare(replace(conv_workload(), artifact=b"\x08\x0a"), Settings())


@needs_compiler
def test_isolated_runs_report_their_memory():
    with CpuOrt() as device:
        record = measure(device, conv_workload(), Settings(isolate=True, budget_s=3))
    assert record.peak_memory_bytes > 5e6


def test_telemetry_leaves_no_thread_and_no_file(tmp_path):
    """ONNX Runtime's telemetry would start a thread and write a device id and a database under the
    home folder.
    """
    code = (
        "from hwbench.devices.ort.cpu import CpuOrt; from hwbench.records.measurement import"
        " Settings\nfrom hwbench.measuring.sessions import measure; from tests.support.models"
        " import conv_net, conv_workload\nimport os\nwith CpuOrt() as device: measure(device,"
        " conv_workload(), Settings(budget_s=1))\nprint(len(os.listdir('/proc/self/task')))"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "1"
    assert list(home.rglob("*")) == []


@needs_compiler
def test_model_files_do_not_pile_up():
    with CpuOrt() as device:
        for width in range(8, 80, 8):
            device.release(device.prepare(conv_workload((width,)), Settings()))
        assert len(list(device._folder.rglob("*.onnx"))) == model_files.KEPT_MODELS
        folder = device._folder
    assert not folder.exists()


def branching_workload() -> Workload:
    """Does nothing for inputs whose sum is below 0, and a hundred convolutions for others."""
    shape = [1, 8, 32, 32]
    tensor = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    weight = onnx.numpy_helper.from_array(np.full((8, 8, 3, 3), 0.01, np.float32), "w")
    make_node = onnx.helper.make_node
    work = [
        make_node(
            "Conv", [f"c{i}" if i else "x", "w"], [f"c{i + 1}" if i < 99 else "y"], pads=[1] * 4
        )
        for i in range(100)
    ]
    idle = [make_node("Identity", ["x"], ["y"])]
    branches = {
        f"{name}_branch": onnx.helper.make_graph(nodes, name, [], [tensor])
        for name, nodes in (("then", work), ("else", idle))
    }
    nodes = [
        make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        make_node("Greater", ["sum", "zero"], ["positive"]),
        make_node("If", ["positive"], ["y"], **branches),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [tensor],
        [weight, onnx.numpy_helper.from_array(np.float32(0), "zero")],
    )
    opset = onnx.helper.make_opsetid("", 18)
    data = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    return Workload("branches", data, (TensorSpec("x", tuple(shape)),), 1, "fp32", 0, 0, len(data))


@pytest.mark.parametrize("native", [pytest.param(True, marks=pytest.mark.compiler), False])
def test_a_branch_over_the_data_is_found(native, monkeypatch):
    if not native:
        monkeypatch.setattr(cpu, "build_runner", refuse_to_build)
    with CpuOrt() as device:
        record = measure(device, branching_workload(), Settings(layers=False, budget_s=4))
    (finding,) = (each for each in record.findings if each.code == "latency_depends_on_input")
    assert "times as long with" in finding.text
