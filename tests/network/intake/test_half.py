"""Half precision is put into the ONNX file: what ONNX Runtime computes with it, and what is
refused.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.errors import UsageError, WorkloadError
from hwbench.network.graph import layers, load
from hwbench.network.intake import half, load_workload
from hwbench.network.ort import onnxruntime
from hwbench.records.measurement import Settings
from tests.support.models import conv_net

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(conv_net((16, 32), size=16))
    return path


def run(data: bytes, value: np.ndarray) -> np.ndarray:
    session = onnxruntime().InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: value})[0]


def model_of(
    nodes, weights=(), inputs=(("x", (1, 4)),), outputs=(("y", (1, 4)),)
) -> onnx.ModelProto:
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        *ends,
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("name", ["zoo:mobilenet_v2@0.25", "zoo:resnet18@0.25", "zoo:resnet20"])
def test_fp16_networks_compute_what_fp32_does(name):
    shape = ("1x3x32x32",)
    whole, cast = (
        load_workload(name, inputs=shape, precision=precision) for precision in ("fp32", "fp16")
    )
    value = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    expected, found = run(whole.onnx, value), run(cast.onnx, value.astype(np.float16))
    assert found.dtype == np.float16
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_everything_is_in_half_precision(net, precision):
    plain, cast = load_workload(net), load_workload(net, precision=precision)
    assert cast.precision == precision
    assert cast.inputs[0].dtype == {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert (cast.macs, cast.params) == (plain.macs, plain.params)
    assert 0.45 < cast.file_bytes / plain.file_bytes < 0.6
    assert [finding.code for finding in cast.findings] == ["cast_to_half"]
    model = load(cast.onnx)
    assert {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1} == {
        HALF[precision]
    }
    types = [
        v.type.tensor_type.elem_type
        for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    ]
    assert set(types) <= {HALF[precision], TensorProto.INT64}
    names = [[layer.name for layer in layers(load(w.onnx))] for w in (plain, cast)]
    assert names[0] == names[1]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_file_in_half_precision_is_recognised(net, tmp_path, precision):
    path = tmp_path / "half.onnx"
    path.write_bytes(load_workload(net, precision=precision).onnx)
    for asked in ("fp32", precision):
        workload = load_workload(path, precision=asked)
        assert workload.precision == precision
        assert [finding.code for finding in workload.findings] == ["precision_of_file"]


@pytest.mark.parametrize("precision", ["fp16", "fp64"])
def test_the_cpu_driver_measures_what_its_runtime_loads(precision, tmp_path):
    kind = {"fp16": np.float16, "fp64": np.float64}[precision]
    element_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    inputs, outputs = (
        [helper.make_tensor_value_info(name, element_type, shape)]
        for name, shape in (("x", (2, 8)), ("y", (2, 4)))
    )
    weights = [numpy_helper.from_array(np.ones((8, 4), kind), "w")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    workload = load_workload(tmp_path / "m.onnx")
    assert workload.precision == precision
    with CpuOrt() as device:
        prepared = device.prepare(workload, Settings())
        assert len(device.run([prepared]).values_s) == 1


def test_unknown_precision_names_those_there_are(net):
    with pytest.raises(UsageError, match="fp32, fp16, bf16, int8"):
        load_workload(net, precision="fp8")


def test_weights_beyond_fp16_are_refused_not_made_infinite():
    model = model_of([helper.make_node("Mul", ["x", "w"], ["y"])], [("w", [1e5])])
    with pytest.raises(
        WorkloadError, match=r"'w' holds 1e\+05, fp16 ends at 65504; measure it in bf16"
    ):
        half.halve(model, "net", "fp16")
    model = model_of([helper.make_node("Mul", ["x", "w"], ["y"])], [("w", [1e5])])
    assert (
        half.halve(model, "net", "bf16").graph.output[0].type.tensor_type.elem_type
        == TensorProto.BFLOAT16
    )


def test_bounds_beyond_fp16_mean_no_bound():
    largest = float(np.finfo(np.float32).max)
    model = model_of(
        [helper.make_node("Clip", ["x", "low", "high"], ["y"])], [("low", 0.0), ("high", largest)]
    )
    value = np.array([[-1, 0, 1, 60000]], np.float16)
    found = run(half.halve(model, "net", "fp16").SerializeToString(), value)
    np.testing.assert_array_equal(found, [[0, 0, 1, 60000]])


def test_constants_and_casts_follow():
    nodes = [
        helper.make_node("Constant", [], ["c"], value_float=0.5),
        helper.make_node(
            "Constant", [], ["d"], value=numpy_helper.from_array(np.array([2.0], np.float32))
        ),
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["back"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["back", "c"], ["half"]),
        helper.make_node("Mul", ["half", "d"], ["y"]),
    ]
    found = run(
        half.halve(model_of(nodes), "net", "fp16").SerializeToString(),
        np.array([[1, 2, 3, 4]], np.float16),
    )
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, [[1, 2, 3, 4]])


def test_scales_of_a_resize_stay_fp32():
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    ends = {"inputs": (("x", (1, 1, 2, 2)),), "outputs": (("y", (1, 1, 4, 4)),)}
    model = half.halve(model_of([node], [("scales", [1, 1, 2, 2])], **ends), "net", "fp16")
    assert run(model.SerializeToString(), np.ones((1, 1, 2, 2), np.float16)).shape == (1, 1, 4, 4)


def test_control_flow_is_refused():
    inner = helper.make_graph(
        [], "inner", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))]
    )
    model = model_of([helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)])
    with pytest.raises(WorkloadError, match="control flow"):
        half.halve(model, "net", "fp16")


def test_an_operator_without_half_precision_is_refused():
    model = model_of([helper.make_node("Multinomial", ["x"], ["y"], sample_size=4)])
    with pytest.raises(WorkloadError, match="cannot be cast to bf16"):
        half.halve(model, "net", "bf16")
