"""The CPU measures ONNX models whose weights stay in files: in both engines, layers included."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hwbench.devices.ort import cpu
from hwbench.devices.ort.cpu import CpuOrt
from hwbench.devices.shared.runner.process import RunnerProcess, ort_library
from hwbench.devices.virtual.device import Virtual
from hwbench.errors import DeviceUnavailableError, WorkloadError
from hwbench.measuring.agreement import check_outputs
from hwbench.network.intake import load_workload
from hwbench.network.layers import layers_of
from hwbench.network.ort import onnxruntime
from hwbench.network.run_outputs import NetworkRunner
from hwbench.records.measurement import Settings
from tests.needs import needs_compiler
from tests.support.cli_support import hwb  # noqa: F401 - a fixture
from tests.support.large_models import linear_weights, read_as_too_large, save_apart, save_huge
from tests.support.runner_support import dump_outputs, program

WEIGHTS = linear_weights((32, 48, 16))


@pytest.fixture
def net(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    return save_apart(folder / "net.onnx", WEIGHTS, first_offset=12)


def run_plainly(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@needs_compiler
def test_the_native_runner_computes_what_onnx_runtime_does(net, tmp_path, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    model = tmp_path / "model.large-onnx"
    model.write_bytes(large.onnx_graph)
    x = np.random.default_rng(1).standard_normal((1, 32)).astype(np.float32)
    (tmp_path / "inputs").write_bytes(x.tobytes())
    with RunnerProcess.start([str(program())]) as process:
        process.library(ort_library())
        process.configure(seed=0, threads=1)
        process.load("net", model, inputs=tmp_path / "inputs", weights=Path(large.weights.folder))
        process.run(["net"])
        (spec,) = dump_outputs(process, "net", tmp_path)
        # The folder is that of one model: the next is loaded from its path again.
        process.load("plain", net)
    output = np.fromfile(tmp_path / "net.0.bin", np.float32).reshape(spec.shape)
    np.testing.assert_allclose(output, run_plainly(net, x), rtol=1e-5, atol=1e-6)


def test_outputs_in_python_are_those_of_onnx_runtime(net, tmp_path, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    x = np.random.default_rng(1).standard_normal((1, 32)).astype(np.float32)
    with NetworkRunner(tmp_path) as runner:
        (output,) = runner.run(large, [x], 60)
    np.testing.assert_allclose(output, run_plainly(net, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_compiler), False])
def test_it_is_measured_layers_included(net, monkeypatch, native):
    if not native:

        def refuse():
            raise DeviceUnavailableError("no C compiler")

        monkeypatch.setattr(cpu, "build_runner", refuse)
    large = read_as_too_large(net, monkeypatch)
    with CpuOrt() as device:
        prepared = device.prepare(large, Settings())
        assert len(device.run([prepared] * 2, loops=3).values_s) == 2
        profile = device.profile_layers(prepared, runs=3)
    assert [(row.name, row.op) for row in profile.rows] == [("fc0", "Linear"), ("fc1", "Linear")]
    assert [row.key for row in profile.rows] == [layer.key for layer in layers_of(large)]


def test_a_change_of_the_weights_is_noticed_before_the_next_session(net, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    with CpuOrt() as device:
        device.prepare(large, Settings())
        os.utime(net.parent / "data.bin", ns=(1, 1))
        with pytest.raises(WorkloadError, match="changed since they were read"):
            device.prepare(large, Settings())
        os.truncate(net.parent / "data.bin", 100)
        with pytest.raises(WorkloadError, match="changed since they were read"):
            device.prepare(large, Settings(isolate=device.measures_memory()))


def test_outputs_are_compared_with_those_of_a_model_in_one_piece(net, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    monkeypatch.undo()
    likeness = check_outputs(load_workload(net), large, 0, 30.0)
    assert likeness.findings == ()
    assert likeness.outputs is not None
    assert likeness.outputs.snr_db is None or likeness.outputs.snr_db > 60


def test_other_devices_say_who_measures_it(net, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    with Virtual() as device, pytest.raises(WorkloadError, match="on the device cpu alone"):
        device.prepare(large, Settings())


def test_a_provider_refuses_it(net, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    with CpuOrt() as device:
        device._provider = cpu.Provider("openvino", "OpenVINOExecutionProvider")
        with pytest.raises(WorkloadError, match="measure it on the device cpu"):
            device.prepare(large, Settings())


@pytest.mark.slow
@needs_compiler
def test_a_file_of_over_2_gib_is_profiled_and_compared(hwb, tmp_path):
    save_huge(tmp_path / "huge.onnx")
    (tmp_path / "small").mkdir()
    save_apart(tmp_path / "small" / "small.onnx", linear_weights((4096, 256, 4096)))
    answer = hwb("profile", "huge.onnx", "--budget", "20", "--json", "-")
    assert answer.code == 0
    assert answer.json["macs"] == 4 * 4096 * 36864
    assert answer.json["params"] == 4 * 4096 * 36864 + 2 * (36864 + 4096)
    assert [layer["op"] for layer in answer.json["layers"]] == ["Linear"] * 4
    answer = hwb("compare", "huge.onnx", "small/small.onnx", "--budget", "30", "--json", "-")
    assert answer.json["verdict"] in {"FASTER", "UNRESOLVED"}  # a busy computer is slow
    assert answer.json["baseline"]["file_bytes"] > 2**31
    for words in (
        ("profile", "huge.onnx", "--precision", "fp16"),
        ("store", "tag", "main", "huge.onnx"),
        ("profile", "huge.onnx", "--device", "virtual"),
    ):
        answer = hwb(*words)
        assert answer.code in {2, 4}
        assert "over 2 GiB" in answer.error
