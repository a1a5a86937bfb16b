"""What a graph computes from fixed shapes is computed once, whatever operators spell it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.network.graph import layers, load
from hwbench.network.intake import load_workload
from hwbench.network.intake.onnx_constants import fold_constants


def same_padding_model() -> onnx.ModelProto:
    """A convolution of stride 2 with TensorFlow's padding, as torch exports it: the pads come from
    the shape of the input, through floats and a Clip.
    """
    constants = {
        "two": np.array([2], np.int64),
        "half": np.float32(2),
        "one": np.float32(1),
        "stride": np.float32(2),
        "least": np.float32(0),
        "none": np.zeros(5, np.int64),
        "zeros": np.zeros(2, np.int64),
        "weight": np.ones((4, 3, 3, 3), np.float32),
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["height"]),
        helper.make_node("Cast", ["height"], ["size"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["size", "half"], ["halved"]),
        helper.make_node("Ceil", ["halved"], ["outputs"]),
        helper.make_node("Sub", ["outputs", "one"], ["steps"]),
        helper.make_node("Mul", ["steps", "stride"], ["reach"]),
        helper.make_node("Add", ["reach", "stride"], ["window"]),
        helper.make_node("Add", ["window", "one"], ["wanted"]),
        helper.make_node("Sub", ["wanted", "size"], ["missing"]),
        helper.make_node("Clip", ["missing", "least"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["behind"], to=TensorProto.INT64),
        helper.make_node("Concat", ["none", "zeros", "behind"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "weight"], ["y"], name="conv", strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "same",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_padding_computed_from_a_shape_is_part_of_its_convolution(tmp_path):
    (layer,) = layers(load(same_padding_model().SerializeToString()))
    assert (layer.op, layer.key.inputs) == ("Conv", ((1, 3, 9, 9),))
    assert layer.key.attr("pads") == "0.0.0.2"
    path = tmp_path / "same.onnx"
    onnx.save(same_padding_model(), path)
    workload = load_workload(path)
    assert [str(part.key) for part in layers(load(workload.onnx))] == [str(layer.key)]


@pytest.mark.parametrize("limit", [2**40, np.iinfo(np.int64).max])
def test_a_range_that_would_be_huge_is_left_to_the_runtime(limit):
    constants = {"start": np.int64(0), "limit": np.int64(limit), "delta": np.int64(1)}
    nodes = [
        helper.make_node("Range", ["start", "limit", "delta"], ["r"]),
        helper.make_node("ReduceSum", ["r"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "range",
        [],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    fold_constants(model)
    assert [node.op_type for node in model.graph.node] == ["Range", "ReduceSum"]
