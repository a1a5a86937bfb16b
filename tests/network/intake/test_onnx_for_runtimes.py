"""ONNX files that ONNX Runtime runs though they break ONNX's rules, or go beyond them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.errors import HwbenchError, SchemaError, UnsafeModelError
from hwbench.network.graph import all_layers, layers, load
from hwbench.network.intake import load_workload
from hwbench.network.ort import onnxruntime

FLOAT = TensorProto.FLOAT
ORT = "com.microsoft"
node = helper.make_node


def value(name, *shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, *shape):
    random = np.random.default_rng(len(shape))
    return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)


def model(nodes, inputs, outputs, weights=(), opset=17, ir=8, **more):
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights, **more)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ORT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


IMAGE, MAPS = value("x", 1, 3, 8, 8), value("y", 1, 4, 6, 6)
CONV = node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[3, 3])
RELU = node("Relu", ["c"], ["y"], "relu")
FILTERS = weight("w", 4, 3, 3, 3)


def unsorted():
    return model([RELU, CONV], [IMAGE], [MAPS], [FILTERS])


def old_format():
    """IR 3 with constants that are no inputs."""
    return model([CONV, RELU], [IMAGE], [MAPS], [FILTERS], opset=9, ir=3)


def old_format_by_its_rules():
    """IR 3, whose rules want constants among the inputs."""
    inputs = [IMAGE, value("w", 4, 3, 3, 3)]
    return model([CONV, RELU], inputs, [MAPS], [FILTERS], opset=9, ir=3)


def old_format_with_constant_node():
    constant = node("Constant", [], ["w"], value=FILTERS)
    return model([constant, CONV, RELU], [IMAGE], [MAPS], opset=9, ir=3)


def outdated_shapes():
    """As left behind by a tool that changed the network and not its shapes."""
    wrong = [value("c", 1, 9, 6, 6)]
    return model([CONV, RELU], [IMAGE], [value("y", 1, 9, 9, 9)], [FILTERS], value_info=wrong)


def foreign_operator_in_the_standard_domain():
    """RMS normalization as ONNX Runtime's exporters write it."""
    nodes = [
        node("SimplifiedLayerNormalization", ["x", "g"], ["n"], "norm", axis=-1, epsilon=1e-5),
        node("MatMul", ["n", "w"], ["y"], "mm"),
    ]
    weights = [weight("g", 16), weight("w", 16, 4)]
    return model(nodes, [value("x", 1, 8, 16)], [value("y", 1, 8, 4)], weights, opset=14)


def optimised_transformer():
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "mm1"),
        node("BiasGelu", ["a", "b1"], ["b"], "gelu", domain=ORT),
        node("FusedMatMul", ["b", "w2"], ["c"], "mm2", domain=ORT, transB=1),
        node("SkipLayerNormalization", ["c", "x", "g"], ["y"], "norm", domain=ORT),
    ]
    weights = [weight("w1", 16, 32), weight("b1", 32), weight("w2", 16, 32), weight("g", 16)]
    return model(nodes, [value("x", 1, 8, 16)], [value("y", 1, 8, 16)], weights, opset=14)


def shapes_from_values():
    nodes = [
        node("NonZero", ["x"], ["found"], "found"),
        node("Cast", ["found"], ["floats"], "cast", to=FLOAT),
        node("MatMul", ["w", "floats"], ["y"], "mm"),
    ]
    return model(nodes, [value("x", 4, 8)], [value("y", 16, "n")], [weight("w", 16, 2)])


def sparse_weights():
    values = numpy_helper.from_array(np.array([2, 3], np.float32), "w")
    indices = numpy_helper.from_array(np.array([[0, 1], [2, 0]], np.int64), "where")
    sparse = helper.make_sparse_tensor(values, indices, [3, 4])
    nodes = [node("MatMul", ["x", "w"], ["y"], "mm")]
    inputs, outputs = [value("x", 2, 3)], [value("y", 2, 4)]
    return model(nodes, inputs, outputs, sparse_initializer=[sparse], ir=10)


def sparse_constant():
    values = numpy_helper.from_array(np.array([2, 3], np.float32))
    indices = numpy_helper.from_array(np.array([1, 8], np.int64))
    sparse = helper.make_sparse_tensor(values, indices, [3, 4])
    nodes = [
        node("Constant", [], ["w"], sparse_value=sparse),
        node("MatMul", ["x", "w"], ["y"], "mm"),
    ]
    return model(nodes, [value("x", 2, 3)], [value("y", 2, 4)])


def empty_input():
    nodes = [node("Concat", ["past", "x"], ["all"], "cat", axis=0), node("Relu", ["all"], ["y"])]
    return model(nodes, [value("past", 0, 3), value("x", 2, 3)], [value("y", 2, 3)])


def outputs_left_out():
    nodes = [node("LSTM", ["x", "w", "r"], ["", "y"], "lstm", hidden_size=4)]
    weights = [weight("w", 1, 16, 3), weight("r", 1, 16, 4)]
    return model(nodes, [value("x", 5, 2, 3)], [value("y", 1, 2, 4)], weights)


def local_functions():
    block = helper.make_function(
        "own", "Block", ["x", "w"], ["y"], [CONV, RELU], [helper.make_opsetid("", 17)]
    )
    nodes = [
        node("Block", ["x", "w"], ["a"], "first", domain="own"),
        node("Block", ["a", "w2"], ["y"], "second", domain="own"),
    ]
    weights = [FILTERS, weight("w2", 5, 4, 3, 3)]
    built = model(nodes, [IMAGE], [value("y", 1, 5, 4, 4)], weights)
    built.functions.append(block)
    built.opset_import.append(helper.make_opsetid("own", 1))
    return built


def output_of_unknown_rank():
    nodes = [node("Reshape", ["x", "shape"], ["r"]), node("Relu", ["r"], ["y"])]
    shape = numpy_helper.from_array(np.array([4, 6], np.int64), "shape")
    built = model(nodes, [value("x", 3, 8)], [value("y")], [shape])
    built.graph.output[0].type.tensor_type.ClearField("shape")
    return built


def sequences():
    nodes = [
        node("SequenceConstruct", ["x", "x"], ["pair"], "pair"),
        node("SequenceAt", ["pair", "one"], ["t"], "at"),
        node("Relu", ["t"], ["y"], "relu"),
    ]
    one = numpy_helper.from_array(np.array(1, np.int64), "one")
    return model(nodes, [value("x", 2, 3)], [value("y", 2, 3)], [one])


KINDS = [
    unsorted,
    old_format,
    old_format_by_its_rules,
    old_format_with_constant_node,
    outdated_shapes,
    foreign_operator_in_the_standard_domain,
    optimised_transformer,
    shapes_from_values,
    sparse_weights,
    sparse_constant,
    empty_input,
    outputs_left_out,
    local_functions,
    output_of_unknown_rank,
    sequences,
]


def run(data, feeds):
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime().InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_what_the_runtime_runs_is_read_and_computes_the_same(build, tmp_path):
    data = build().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    workload = load_workload(tmp_path / "m.onnx")
    random = np.random.default_rng(1)
    feeds = {spec.name: random.uniform(-1, 1, spec.shape).astype("f") for spec in workload.inputs}
    for found, expected in zip(run(workload.onnx, feeds), run(data, feeds), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert workload.macs is not None
    # What was read once is read again wherever it is measured, without the runtime.
    named = [layer.name for layer in all_layers(load(workload.onnx))]
    assert named
    if build is not sequences:
        assert [layer.name for layer in layers(load(workload.onnx))] == named


def read(build, path):
    path.write_bytes(build().SerializeToString())
    return load_workload(path)


def test_facts_of_what_the_runtime_shapes(tmp_path):
    transformer = read(optimised_transformer, tmp_path / "t.onnx")
    assert transformer.macs == 2 * 8 * 16 * 32
    assert transformer.params == 2 * 16 * 32 + 32 + 16
    found = read(shapes_from_values, tmp_path / "s.onnx")
    assert found.macs == 16 * 2 * 32  # of 32 values, none is zero
    texts = {finding.code: finding.text for finding in found.findings}
    assert "found (NonZero)" in texts["shapes_of_a_run"]
    assert read(local_functions, tmp_path / "f.onnx").macs == 36 * 4 * 27 + 16 * 5 * 36


def test_shapes_of_a_run_are_not_the_runtimes_to_plan_by(tmp_path):
    """Other values give other shapes: the file must run with them all the same."""
    workload = read(shapes_from_values, tmp_path / "s.onnx")
    half_empty = np.zeros((4, 8), np.float32)
    half_empty[:2] = 1
    (found,) = run(workload.onnx, {"x": half_empty})
    assert found.shape == (16, 16)
    graph = onnx.load_model_from_string(workload.onnx).graph
    assert not any(dim.HasField("dim_value") for dim in graph.output[0].type.tensor_type.shape.dim)
    assert "found" not in {value.name for value in graph.value_info}
    keys = [str(layer.key) for layer in layers(load(workload.onnx))]
    assert keys[0] == "NonZero[4x8->2x32]{}@int64"


def test_layers_of_local_functions_and_of_sequences_are_told(tmp_path):
    functions = load(read(local_functions, tmp_path / "f.onnx").onnx)
    assert [layer.op for layer in layers(functions)] == ["Conv", "Conv"]
    found = all_layers(load(read(sequences, tmp_path / "s.onnx").onnx))
    assert [(layer.name, layer.key is None) for layer in found] == [
        ("pair", True),
        ("at", True),
        ("relu", False),
    ]


def test_constants_of_the_old_format_are_not_fed(tmp_path):
    workload = read(old_format_by_its_rules, tmp_path / "m.onnx")
    assert [spec.name for spec in workload.inputs] == ["x"]
    assert [value.name for value in load(workload.onnx).graph.input] == ["x"]


def circle():
    nodes = [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]
    return model(nodes, [value("x", 2)], [value("y", 2)])


def sparse_beyond_its_shape():
    built = sparse_weights()
    indices = np.array([[0, 1], [3, 0]], np.int64)
    built.graph.sparse_initializer[0].indices.CopyFrom(numpy_helper.from_array(indices, "where"))
    return built


def unknown_operator():
    return model([node("Nonsense", ["x"], ["y"])], [value("x", 2)], [value("y", 2)])


@pytest.mark.parametrize("build", [circle, sparse_beyond_its_shape, unknown_operator])
def test_what_nothing_runs_is_refused(build, tmp_path):
    with pytest.raises(SchemaError) as caught:
        read(build, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_a_sparse_bomb_meets_the_limits(tmp_path):
    built = sparse_weights()
    built.graph.sparse_initializer[0].dims[:] = [1 << 20, 1 << 20]
    (tmp_path / "m.onnx").write_bytes(built.SerializeToString())
    with pytest.raises(HwbenchError) as caught:
        load_workload(tmp_path / "m.onnx")
    assert isinstance(caught.value, UnsafeModelError | SchemaError)


def test_the_mark_of_the_runtime_cannot_be_forged(tmp_path):
    """A file that claims its shapes came from the runtime is checked as any other."""
    built = model([CONV, RELU], [IMAGE], [value("y", 7, 7)], [weight("w", 4, 9, 3, 3)])
    built.metadata_props.add(key="hwbench.runtime_shapes", value="onnxruntime")
    (tmp_path / "m.onnx").write_bytes(built.SerializeToString())
    with pytest.raises(HwbenchError):
        load_workload(tmp_path / "m.onnx")


def test_a_file_with_standard_operators_needs_no_runtime(tmp_path, monkeypatch):
    import hwbench.network.intake.onnx_run as asked

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(asked, "_open_session", refuse)
    data = model([CONV, RELU], [IMAGE], [MAPS], [FILTERS]).SerializeToString()
    completed = asked.complete_model(data, lambda _: {})
    assert completed.executions is None
    assert isinstance(completed.model, onnx.ModelProto)
