"""Loading, naming and counting."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from hwbench.errors import UnsupportedLayerError, WorkloadError
from hwbench.network.graph import count, layers, load, name_nodes, zero_share
from tests.support.onnx_nets import Net, inception, mobilenet, resnet, vgg

GOOD = vgg().SerializeToString()


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 40, b"not onnx", GOOD[:-200], GOOD[: len(GOOD) // 2]]
)
def test_rubbish_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(WorkloadError) as caught:
        load(data)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=12)
)
def test_damaged_models_load_or_are_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for place, byte in changes:
        data[place] = byte
    with suppress(WorkloadError):
        load(bytes(data))


def test_a_weight_of_the_wrong_size_is_named() -> None:
    model = vgg()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "fc1.weight")
    tensor.raw_data = tensor.raw_data[:-4]
    with pytest.raises(WorkloadError, match=r"fc1\.weight.*20x112"):
        load(model.SerializeToString())


def test_a_weight_of_an_unknown_type_is_named() -> None:
    model = vgg()
    model.graph.initializer[0].data_type = 29
    with pytest.raises(
        WorkloadError, match=rf"{model.graph.initializer[0].name}.* unknown type 29"
    ):
        load(model.SerializeToString())


def test_weights_of_four_bits_are_two_in_a_byte() -> None:
    weight = onnx.TensorProto(
        name="w", data_type=onnx.TensorProto.INT4, dims=[64, 64], raw_data=bytes(2048)
    )
    scale = onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [], [0.1])
    network = onnx.helper.make_graph(
        [
            onnx.helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
            onnx.helper.make_node("MatMul", ["x", "d"], ["y"]),
        ],
        "net",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 64])],
        [weight, scale],
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(network, opset_imports=opset, ir_version=10)
    assert count(load(model.SerializeToString())).params == 64 * 64


def test_external_weights_are_refused() -> None:
    model = vgg()
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(WorkloadError, match="another file"):
        load(model.SerializeToString())


def test_contradicting_shapes_are_refused() -> None:
    net = Net(1, 3, 8, 8)
    both = net.conv("x", "one", 4), net.conv("x", "other", 5)
    with pytest.raises(WorkloadError, match="not a valid ONNX model"):
        net.model(net.node("Add", *both))


def test_names_become_unique_and_good_ones_stay() -> None:
    model = vgg()
    for node, name in zip(model.graph.node, ["kept", "", "kept", "", "", "", "", ""], strict=False):
        node.name = name
    named = [node.name for node in name_nodes(model).graph.node]
    assert named[:4] == ["kept", "t1/Relu", "kept_1", "t3/Relu"]
    assert named[6] == "fc1"
    assert all(named)
    assert len(set(named)) == len(named)


def test_dynamic_dimensions_are_named() -> None:
    model = vgg()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:], model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedLayerError, match=r"shape \?x\d+.*fixed"):
        layers(load(model.SerializeToString()))


def test_shapes_computed_in_the_graph_are_known() -> None:
    """As exporters write a view and a padding: arithmetic on shapes that ONNX's own inference gives
    up on.
    """
    net = Net(2, 3, 8, 8)
    x = net.conv("x", "a", 4)
    index, two = (
        net.constant("index", np.array([0], np.int64)),
        net.constant("two", np.array([2], np.int64)),
    )
    zeros = net.node(
        "ConstantOfShape",
        net.constant("six", np.array([6], np.int64)),
        value=numpy_helper.from_array(np.int64([0])),
    )
    pads = net.node("Concat", zeros, net.constant("ends", np.array([1, 3], np.int64)), axis=0)
    x = net.node("Pad", x, net.node("Cast", pads, to=onnx.TensorProto.INT64), name="pad")
    batch = net.node("Gather", net.node("Shape", x), index, axis=0)
    half = net.constant("half", np.array([4], np.int64))
    target = net.node(
        "Concat",
        net.node("Div", batch, two),
        net.node("Mul", two, half),
        net.node("Neg", two),
        axis=0,
    )
    target = net.node("Max", target, net.constant("least", np.array([1, 1, -1], np.int64)))
    model = net.model(net.node("Reshape", x, target, name="view"))
    parts = {layer.name: str(layer.key) for layer in layers(model)}
    assert parts["pad"] == "Pad[2x4x8x8->2x4x9x11]{pads=0.0.0.0.0.0.1.3}@fp32"
    assert parts["view"] == "Reshape[2x4x9x11->1x8x99]{}@fp32"
    assert sorted(parts) == ["a.conv", "pad", "view"]


def test_counts_by_hand() -> None:
    macs = 64 * 6 * 27 + 64 * 7 * 54 + 112 * 20 + 20 * 4
    params = (6 * 27 + 6) + (7 * 54 + 7) + (112 * 20 + 20) + (20 * 4 + 4)
    counted = count(vgg())
    assert (counted.macs, counted.params) == (macs, params)
    assert sum(layer.macs for layer in layers(vgg())) == macs
    assert sum(layer.params for layer in layers(vgg())) == params


def test_batch_norm_counts_as_the_bias_it_folds_into() -> None:
    net, folded = Net(1, 3, 8, 8), Net(1, 3, 8, 8)
    with_bn, with_bias = (
        net.model(net.conv("x", "a", 5)),
        folded.model(folded.conv("x", "a", 5, bn=False)),
    )
    assert count(with_bn) == count(with_bias)


def test_batch_multiplies_macs_and_not_parameters() -> None:
    def linear(batch: int) -> onnx.ModelProto:
        net = Net(batch, 7)
        return net.model(net.linear("x", "fc", 7, 3))

    assert count(linear(4)).macs == 4 * count(linear(1)).macs == 4 * 21
    assert count(linear(4)).params == count(linear(1)).params == 24


def test_a_shared_weight_counts_once() -> None:
    net = Net(1, 7)
    weight = net.random("w", 7, 7)
    model = net.model(net.node("MatMul", net.node("MatMul", "x", weight), weight))
    assert count(model).params == 49
    assert count(model).macs == 98


def test_transposed_convolution_counts_its_input_positions() -> None:
    layer = next(layer for layer in layers(inception()) if layer.name == "up")
    assert layer.macs == 7 * 8 * 8 * 4 * 2 * 2
    assert layer.params == 7 * 4 * 4 + 4


def test_zero_share_is_that_of_the_weights_alone() -> None:
    model = vgg()
    assert zero_share(model) == 0
    total = changed = 0
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight"):
            value = numpy_helper.to_array(tensor).copy()
            value.ravel()[::3] = 0
            changed, total = changed + len(value.ravel()[::3]), total + value.size
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    assert zero_share(model) == pytest.approx(changed / total)


@pytest.mark.parametrize("build", [mobilenet, resnet, vgg, inception])
def test_every_running_node_belongs_to_one_layer(build: object) -> None:
    model = build()  # type: ignore[operator]
    parts = layers(model)
    covered = [name for layer in parts for name in layer.nodes]
    assert sorted(covered) == sorted(node.name for node in model.graph.node)
    known = {"x"}
    for layer in parts:
        assert known.issuperset(layer.inputs)
        assert layer.output not in known
        known.add(layer.output)
    assert model.graph.output[0].name in known


def test_shapes_match_what_the_runtime_computes() -> None:
    from hwbench.network.ort import onnxruntime

    model = inception()
    parts = layers(model)
    for layer in parts:
        if layer.output not in {value.name for value in model.graph.output}:
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(layer.output, onnx.TensorProto.FLOAT, None)
            )
    session = onnxruntime().InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = session.run(
        [layer.output for layer in parts], {"x": np.zeros((1, 3, 8, 8), np.float32)}
    )
    for layer, value in zip(parts, values, strict=True):
        dims = layer.key.output
        assert value.shape[: len(dims)] == dims
        assert value.size == np.prod(dims)
