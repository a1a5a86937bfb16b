"""Networks in ONNX become `.tflite` files where litert-torch is installed, and are checked."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwbench.devices import open_device
from hwbench.errors import WorkloadError
from hwbench.network.intake import to_tflite
from hwbench.network.intake.to_tflite import channels_last, convert_to_tflite, find_ratio_db
from hwbench.network.layers import layers_of
from hwbench.network.tflite.writing import NewOperator, NewTensor, write_model
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec
from hwbench.workflows.meter import in_format
from tests.support.models import conv_workload

WEIGHTS = np.random.default_rng(0).uniform(-1, 1, (3, 4)).astype(np.float32)
pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")


def linear_workload() -> Workload:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(WEIGHTS.T), "w")],
    )
    data = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return Workload("net.onnx", data, (TensorSpec("x", (1, 4)),), 1, "fp32", 12, 12, len(data))


def linear_tflite(weights: np.ndarray) -> bytes:
    tensors = [
        NewTensor("x", (1, 4)),
        NewTensor("w", (3, 4), data=weights.tobytes()),
        NewTensor("fc", (1, 3)),
    ]
    operator = NewOperator("FULLY_CONNECTED", (0, 1, -1), (2,), (0,))
    return write_model(tensors, [operator], (0,), (2,))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(to_tflite, "version", lambda _: "0.10.0")


def test_what_was_converted_is_checked_told_and_kept(monkeypatch):
    calls = []

    def run_converter(workload: Workload) -> bytes:
        calls.append(workload.name)
        return linear_tflite(WEIGHTS)

    monkeypatch.setattr(to_tflite, "_run_converter", run_converter)
    for _ in range(2):
        converted = convert_to_tflite(linear_workload())
        assert (converted.format, converted.name) == ("tflite", "net.onnx")
        (finding,) = converted.findings
        assert finding.code == "converted"
        assert "litert-torch 0.10.0" in finding.text
    assert calls == ["net.onnx"]


def test_a_conversion_that_computes_something_else_is_refused(monkeypatch):
    wrong = linear_tflite(WEIGHTS + np.float32(0.1))
    monkeypatch.setattr(to_tflite, "_run_converter", lambda _: wrong)
    with pytest.raises(WorkloadError, match=r"made something else of net\.onnx: its"):
        convert_to_tflite(linear_workload())


def test_what_cannot_be_converted_says_what_to_do(monkeypatch):
    with pytest.raises(WorkloadError, match="only fp32 is converted"):
        convert_to_tflite(replace(linear_workload(), precision="int8"))
    monkeypatch.setattr(to_tflite, "_CHILD", "raise SystemExit('no lowering for aten.strange')")
    with pytest.raises(WorkloadError, match=r"cannot convert net\.onnx: no lowering for aten"):
        convert_to_tflite(linear_workload())
    monkeypatch.setattr(to_tflite, "_CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(to_tflite, "CONVERT_S", 0.2)
    with pytest.raises(WorkloadError, match=r"did not convert net\.onnx within"):
        convert_to_tflite(linear_workload())

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(to_tflite, "version", missing)
    with pytest.raises(WorkloadError, match=r"needs litert-torch \(2 GB\).*; try: .*litert-torch"):
        convert_to_tflite(linear_workload())


def test_only_devices_that_run_no_onnx_get_another_format(monkeypatch):
    monkeypatch.setattr(to_tflite, "_run_converter", lambda _: linear_tflite(WEIGHTS))
    workload, settings = linear_workload(), Settings()
    assert in_format(workload, open_device("virtual"), settings) is workload
    converted = in_format(workload, open_device("litert"), settings)
    assert converted.format == "tflite"
    assert in_format(converted, open_device("virtual"), settings) is converted


def test_the_ratio_is_that_of_the_worst_output():
    ones = np.ones((2, 3), np.float32)
    assert find_ratio_db([ones], [ones]) == math.inf
    assert find_ratio_db([ones, ones], [ones, ones * 1.1]) == pytest.approx(20, abs=0.01)
    assert find_ratio_db([ones], [ones.T]) == -math.inf
    assert find_ratio_db([ones], [ones * np.nan]) == -math.inf
    assert find_ratio_db([ones * 0], [ones]) == -math.inf


def test_images_are_brought_to_channels_last():
    image = np.arange(24).reshape(1, 2, 3, 4)
    assert channels_last(image).shape == (1, 3, 4, 2)
    assert channels_last(image)[0, 1, 2, 1] == image[0, 1, 1, 2]
    assert channels_last(image[0]).shape == (2, 3, 4)


@pytest.mark.torch
def test_steps_have_numbers_and_compute_the_same():
    import torch

    from hwbench.network.intake.tflite_child import number_steps
    from hwbench.network.torch_graph import to_torch

    workload = conv_workload((4, 6), size=8)
    net = to_torch(workload.onnx)
    image = torch.rand(workload.inputs[0].shape)
    before = net.module(image)
    names = number_steps(net)
    assert {layer.name for layer in net.layers} <= set(names)
    assert all(torch.equal(a, b) for a, b in zip(before, net.module(image), strict=True))


@pytest.mark.torch
def test_tensors_are_named_after_the_nodes_of_their_kind(tmp_path):
    from hwbench.network.intake.tflite_child import rename_tensors
    from hwbench.network.tflite import describe

    tensors = [
        NewTensor("args_0", (1, 4)),
        NewTensor("w", (3, 4), data=WEIGHTS.tobytes()),
        NewTensor("a.Step_n2;;a.Step_n1;;a.Step_n10;3", (1, 3)),
        NewTensor("a.Step_n1;1", (1, 3)),
    ]
    operators = [
        NewOperator("FULLY_CONNECTED", (0, 1, -1), (2,), (0,)),
        NewOperator("ADD", (2, 2), (3,), (0,)),
    ]
    path = tmp_path / "net.tflite"
    path.write_bytes(write_model(tensors, operators, (0,), (3,)))
    steps = [(f"step{number}", "Relu") for number in range(11)]
    steps[1], steps[10] = ("block/add", "Add"), ("block.fc", "Gemm")
    rename_tensors(path, steps, ["image"])
    names = [layer.name for layer in layers_of(describe(path.read_bytes(), "net"))]
    assert names == ["block.fc", "block/add"]


@pytest.mark.slow
def test_litert_torch_converts_a_network(monkeypatch):
    pytest.importorskip("litert_torch", reason="needs litert-torch")
    workload = conv_workload((4, 6), size=8)
    converted = convert_to_tflite(workload)
    assert converted.macs == workload.macs
    originals = {layer.name for layer in layers_of(workload)}
    assert originals & {layer.name for layer in layers_of(converted)}
