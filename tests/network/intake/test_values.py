"""Values of inputs: given, of a range, or indices of the table that they look up."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.devices import open_device
from hwbench.errors import DeviceUnavailableError, HwbenchError, UsageError
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec


@pytest.fixture
def lookup(tmp_path):
    """An ONNX network that looks up the rows of a table of 50 by its first input."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "seq"])
    scale = helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["n", "seq", 1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "seq", 4])
    table = numpy_helper.from_array(np.ones((50, 4), np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Mul", ["rows", "scale"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [ids, scale], [output], [table])
    opset = [helper.make_opsetid("", 18)]
    path = tmp_path / "lookup.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def test_indices_are_drawn_from_the_rows_of_their_table_and_that_is_told(lookup):
    workload = load_workload(lookup, batch=4, dims=["seq=64"])
    assert [finding.code for finding in workload.findings] == ["indices_drawn"]
    assert "from 0 to 49, the rows of table" in workload.findings[0].text
    ids = workload.values["ids"]
    assert ids.shape == (4, 64)
    assert ids.dtype == np.int64
    assert 0 <= ids.min() < 5
    assert 45 <= ids.max() < 50
    assert "scale" not in workload.values


def test_a_range_and_a_file_say_the_values(lookup, tmp_path):
    workload = load_workload(lookup, inputs=["ids=1x64:int64[3,5]", "scale=1x64x1:float32[2,3]"])
    assert set(workload.values["ids"].ravel()) == {3, 4}
    assert 2 <= workload.values["scale"].min() <= workload.values["scale"].max() < 3
    assert workload.findings == ()
    ids, scale = np.array([[7, 8]], np.int32), np.ones((1, 2, 1))
    np.savez(tmp_path / "named.npz", scale=scale, ids=ids)
    np.savez(tmp_path / "ordered.npz", ids, scale)
    for file in ("named.npz", "ordered.npz"):
        workload = load_workload(lookup, values=tmp_path / file)
        assert workload.inputs[0].shape == (1, 2)
        assert workload.values["ids"].tolist() == [[7, 8]]
        assert workload.values["ids"].dtype == np.int64
        assert workload.values["scale"].dtype == np.float32


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"values": {"idx": np.ones((1, 2), int)}}, "has the inputs ids, scale"),
        ({"values": {"ids": np.array(["a"])}}, "expected numbers"),
        ({"values": 3}, "expected the path of an .npz file"),
        ({"values": "no.npz"}, "no such file: 'no.npz'; expected one by numpy.savez"),
        (
            {"values": {"ids": np.ones((1, 3))}, "inputs": ["ids=1x2", "scale=1x2x1"]},
            "have the shape",
        ),
        ({"values": {"ids": np.array([[1.5]]), "scale": np.ones((1, 1, 1))}}, "do not fit"),
        ({"inputs": ["ids=1x2:int64[0.2,0.8]", "scale=1x2x1"]}, "no whole number"),
        ({"dims": ["length=3"], "batch": 1}, "its open dimensions are n, seq"),
        ({"dims": ["seq=3", "seq=4"]}, "asked to be 3 and 4"),
        ({}, "inputs='ids=1x128', or fix it by name: pass dims='seq=128' and batch=1"),
    ],
)
def test_values_and_sizes_that_do_not_fit(lookup, options, says):
    with pytest.raises(UsageError) as caught:
        load_workload(lookup, **options)
    assert says in str(caught.value)


def test_two_dimensions_called_by_a_question_mark_are_two_dimensions(tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["?", "?"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?", "?"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [output])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m.onnx")
    assert load_workload(tmp_path / "m.onnx", inputs=[(2, 3)]).inputs[0].shape == (2, 3)


def scatter():
    """A network that fails for an index beyond 2, so that it shows what it was fed."""
    index = helper.make_tensor_value_info("i", TensorProto.INT64, [2])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    table = numpy_helper.from_array(np.zeros(3, np.float32), "table")
    node = helper.make_node("Gather", ["table", "i"], ["y"], "gather")
    graph = helper.make_graph([node], "g", [index], [output], [table])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def refuse_to_build():
    raise DeviceUnavailableError("there is no compiler")


@pytest.mark.parametrize("engine", ["native", "Python"])
def test_the_cpu_runs_a_network_on_its_values(engine, monkeypatch):
    if engine == "Python":
        monkeypatch.setattr("hwbench.devices.ort.cpu.build_runner", refuse_to_build)
    inputs = (TensorSpec("i", (2,), "int64"),)
    data = scatter()
    good, bad = (
        Workload("w", data, inputs, 1, "fp32", 0, 0, len(data), values={"i": np.array([0, last])})
        for last in (2, 3)
    )
    with open_device("cpu") as device:
        assert dict(device.info().details)["engine"].startswith(engine)
        device.prepare(good, Settings())
        with pytest.raises(HwbenchError, match="out of data bounds"):
            device.prepare(bad, Settings())
