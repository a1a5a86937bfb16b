"""Two networks that take different inputs are told so, with the inputs that both may take."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.errors import IncomparableError
from hwbench.workflows.compare import load_pair


def write(path, names, size=4):
    """A network that adds its inputs, and a constant to them."""
    make_value = helper.make_tensor_value_info
    values = [make_value(name, TensorProto.FLOAT, [1, size]) for name in names]
    constant = numpy_helper.from_array(np.ones(size, np.float32), "c")
    graph = helper.make_graph(
        [helper.make_node("Sum", [*names, "c"], ["out"])],
        "g",
        values,
        [make_value("out", TensorProto.FLOAT, [1, size])],
        [constant],
    )
    opset = helper.make_opsetid("", 18)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    )
    return path


def refuse(first, second):
    with pytest.raises(IncomparableError) as refused:
        load_pair(first, second, None, None, seed=0)
    return refused.value.remedies


def test_inputs_that_only_one_network_has_asked_for_are_offered_to_the_other(tmp_path):
    full = write(tmp_path / "a.onnx", ["ids", "mask"])
    short = write(tmp_path / "b.onnx", ["ids"])
    for pair in ((full, short), (short, full)):
        (remedy,) = refuse(*pair)
        assert remedy.name == "inputs"
        assert remedy.value == ("ids=1x4:float32", "mask=1x4:float32")
        assert str(short) in remedy.purpose


def test_inputs_of_other_sizes_or_names_are_not(tmp_path):
    first = write(tmp_path / "a.onnx", ["x", "y"])
    for names, size in ((["x", "y"], 5), (["z"], 4)):
        remedies = refuse(first, write(tmp_path / "b.onnx", names, size))
        assert [remedy.value for remedy in remedies] == [None, None]
