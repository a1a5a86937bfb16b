"""What TensorRT is given is the network that was asked for: restated int8 computes the same, under
the same names.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.devices.nvidia.trt_cache import FileCache
from hwbench.devices.nvidia.trt_onnx import SYMMETRIC, for_tensorrt
from hwbench.network.graph import layers, load
from hwbench.network.intake import load_workload
from hwbench.network.ort import onnxruntime
from tests.support.models import conv_net, conv_workload


def run(model: bytes, values: np.ndarray) -> np.ndarray:
    options = onnxruntime().SessionOptions()
    options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime().InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: values})[0]


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "net.onnx"
    path.write_bytes(conv_net())
    return load_workload(path, precision="int8")


def quantisers(model: bytes) -> list[onnx.NodeProto]:
    return [
        n
        for n in onnx.load_from_string(model).graph.node
        if n.op_type in {"QuantizeLinear", "DequantizeLinear"}
    ]


def test_int8_is_restated_in_the_form_tensorrt_knows(quantised):
    data, noted = for_tensorrt(quantised)
    assert noted == (SYMMETRIC,)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in quantisers(data):
        zero = tensors[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    dequantised = {node.input[0] for node in quantisers(data) if node.op_type == "DequantizeLinear"}
    assert not any(tensors[name].dtype == np.int32 for name in dequantised if name in tensors), (
        "biases are floats"
    )


def test_restated_int8_computes_the_same(quantised):
    """Within the step of the coarser grid.

    Without the ReLU that saturation stood for it would be far off.
    """
    random = np.random.default_rng(1)
    values = random.uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)
    before, after = run(quantised.onnx, values), run(for_tensorrt(quantised)[0], values)
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()
    model = onnx.load_from_string(for_tensorrt(quantised)[0])
    relus = [node for node in model.graph.node if node.name.endswith("/saturation")]
    assert relus
    for node in relus:
        node.op_type = "Identity"
    assert (
        np.abs(run(model.SerializeToString(), values) - before).max() > 0.1 * np.abs(before).max()
    )


def test_restated_int8_has_the_same_layers(quantised):
    was = layers(load(quantised.onnx))
    now = layers(load(for_tensorrt(quantised)[0]))
    assert [(layer.name, layer.op, layer.macs) for layer in now] == [
        (layer.name, layer.op, layer.macs) for layer in was
    ]
    assert {layer.key.precision for layer in now if layer.macs} == {"int8"}


def test_unsigned_constants_and_a_zero_point_that_is_not_zero_keep_their_values():
    weights = np.arange(0, 256, 32, dtype=np.uint8).reshape(2, 4)
    scale, zero = np.array([0.5, 0.25], np.float32), np.array([128, 0], np.uint8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], "dequantise", axis=0),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xf"], "dq"),
        helper.make_node("Gemm", ["xf", "wf"], ["y"], "fc", transB=1),
    ]
    tensors = {"w": weights, "ws": scale, "wz": zero, "s": np.float32(0.1), "z": np.uint8(100)}
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x", 4), ("y", 2))
    ]
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    workload = replace(conv_workload(), artifact=model.SerializeToString(), precision="int8")
    values = np.array([[-5.0, 0.0, 1.0, 7.0]], np.float32)
    before, after = run(workload.onnx, values), run(for_tensorrt(workload)[0], values)
    assert after == pytest.approx(before, rel=0.05, abs=1.0)


def test_other_precisions_are_left_as_they_are():
    data, noted = for_tensorrt(conv_workload())
    assert noted == ()
    values = np.ones((1, 3, 16, 16), np.float32)
    assert np.array_equal(run(data, values), run(conv_net(), values))
    assert for_tensorrt(conv_workload())[0] == data, (
        "the same bytes each time, as the caches go by them"
    )


def test_nameless_nodes_get_names():
    model = onnx.load_from_string(conv_net())
    for node in model.graph.node:
        node.name = ""
    data, _ = for_tensorrt(replace(conv_workload(), artifact=model.SerializeToString()))
    names = [node.name for node in onnx.load_from_string(data).graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_caches_are_bounded_checked_and_harmless(tmp_path):
    cache = FileCache(tmp_path / "engines", max_bytes=400, max_files=3)
    assert cache.get("a") is None
    for name in "abcd":
        cache.put(name.encode() * 50, name, 1)
    assert [cache.get(name, 1) for name in "abcd"] == [None, b"b" * 50, b"c" * 50, b"d" * 50]
    cache.put(b"x" * 400, "too large")
    assert cache.get("too large") is None
    cache.put(b"x" * 300, "large")
    assert cache.get("large") == b"x" * 300
    assert sum(file.stat().st_size for file in (tmp_path / "engines").iterdir()) <= 400
    (tmp_path / "file").touch()
    FileCache(tmp_path / "file", 400, 3).put(b"x", "a")
    assert FileCache(tmp_path / "file", 400, 3).get("a") is None
