"""What becomes one layer, and what does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from hwbench.network.graph import Layer, count, layers, load
from hwbench.network.ort import onnxruntime
from tests.support.onnx_nets import Net, resnet, run, tokens


def _of(net: Net, *outputs: str) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers(net.model(*outputs))}


def test_convolution_takes_normalization_addition_and_activation() -> None:
    net = Net(1, 4, 8, 8)
    y = net.conv("x", "a", 4)
    parts = _of(net, net.node("Relu", net.node("Add", "x", y, name="add"), name="act"))
    (layer,) = parts.values()
    assert layer.nodes == ("a.conv", "a.bn", "add", "act")
    assert layer.inputs == ("x", "x")
    assert (
        str(layer.key)
        == "Conv[1x4x8x8+1x4x8x8->1x4x8x8]{act=Relu,add=1,group=1,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32"
    )


def test_first_operand_takes_the_addition_and_the_layer_runs_last() -> None:
    net = Net(1, 4, 8, 8)
    main, down = net.conv("x", "main", 6), net.conv("x", "down", 6, 1)
    parts = _of(net, net.node("Add", main, down, name="add"))
    assert list(parts) == ["down.conv", "main.conv"]
    assert parts["main.conv"].inputs == ("x", parts["down.conv"].output)


@pytest.mark.parametrize("observed", ["reader", "output"])
def test_an_observed_tensor_is_not_fused_away(observed: str) -> None:
    net = Net(1, 4, 8, 8)
    y = net.conv("x", "a", 4, bn=False)
    act = net.node("Relu", y, name="act")
    outputs = [act, y] if observed == "output" else [act, net.node("Tanh", y, name="other")]
    parts = _of(net, *outputs)
    assert parts["a.conv"].nodes == ("a.conv",)
    assert parts["act"].key.op == "Relu"


def test_only_one_addition_and_one_activation() -> None:
    net = Net(1, 4, 8, 8)
    y = net.node("Add", net.conv("x", "a", 4), "x", name="add")
    y = net.node("Add", y, "x", name="again")
    y = net.node("Relu", net.node("Relu", y, name="act"), name="twice")
    assert list(_of(net, y)) == ["a.conv", "again", "act", "twice"]


def test_an_addition_that_broadcasts_is_no_residual() -> None:
    net = Net(1, 4, 8, 8)
    pooled = net.node("GlobalAveragePool", "x", name="pool")
    parts = _of(net, net.node("Add", net.conv("x", "a", 4), pooled, name="add"))
    assert str(parts["add"].key) == "Add[1x4x8x8+1x4x1x1->1x4x8x8]{}@fp32"


@pytest.mark.parametrize(
    ("gate", "attributes", "act"),
    [("Sigmoid", {}, "Silu"), ("HardSigmoid", {"alpha": 1 / 6}, "HardSwish")],
)
def test_gated_activations(gate: str, attributes: dict[str, float], act: str) -> None:
    net = Net(1, 4, 8, 8)
    y = net.conv("x", "a", 4)
    (layer,) = _of(
        net, net.node("Mul", net.node(gate, y, name="gate", **attributes), y, name="mul")
    ).values()
    assert layer.key.attr("act") == act
    assert layer.nodes == ("a.conv", "a.bn", "gate", "mul")


def test_a_gate_on_something_else_is_no_gated_activation() -> None:
    net = Net(1, 4, 8, 8)
    y = net.conv("x", "a", 4)
    parts = _of(
        net, net.node("Mul", net.node("HardSigmoid", y, name="gate", alpha=0.2), y, name="mul")
    )
    assert list(parts) == ["a.conv", "gate", "mul"]
    other = Net(1, 4, 8, 8)
    y = other.conv("x", "a", 4)
    parts = _of(other, other.node("Mul", other.node("Sigmoid", y, name="gate"), "x", name="mul"))
    assert parts["a.conv"].key.attr("act") == "Sigmoid"
    assert parts["mul"].key.op == "Mul"


def test_constants_scale_and_shift_a_layer() -> None:
    net = Net(2, 5, 7)
    y = net.node("MatMul", "x", net.random("w", 7, 3), name="fc")
    y = net.node(
        "Mul",
        net.node("Add", net.random("b", 3), y, name="bias"),
        net.constant("s", np.float32(2)),
        name="scale",
    )
    (layer,) = _of(net, y).values()
    assert str(layer.key) == "Linear[2x5x7->2x5x3]{}@fp32"
    assert layer.nodes == ("fc", "bias", "scale")
    assert layer.params == 24


def test_a_constant_per_position_is_a_layer_of_its_own() -> None:
    net = Net(1, 4, 8, 8)
    parts = _of(net, net.node("Add", net.conv("x", "a", 4), net.random("table", 8, 8), name="add"))
    assert str(parts["add"].key) == "Add[1x4x8x8->1x4x8x8]{with=n.n}@fp32"


@pytest.mark.parametrize(("value", "fused"), [(0.0, True), (1.0, False)])
def test_a_pad_of_zeros_goes_into_the_convolution(value: float, fused: bool) -> None:
    net = Net(1, 4, 8, 8)
    pads, fill = (
        net.constant("pads", np.array([0, 0, 0, 0, 0, 0, 1, 2], np.int64)),
        net.constant("fill", np.float32(value)),
    )
    padded = net.node("Pad", "x", pads, fill, name="pad")
    net.channels[padded] = 4
    parts = _of(net, net.conv(padded, "a", 4))
    assert ("pad" in parts) != fused
    assert parts["a.conv"].key.attr("pads") == ("1.1.2.3" if fused else "1.1.1.1")
    assert parts["a.conv"].key.inputs == ((1, 4, 8, 8) if fused else (1, 4, 9, 10),)


def test_identities_and_folded_nodes_are_no_layers() -> None:
    net = Net(1, 4, 8, 8)
    y = net.node("Dropout", net.node("Identity", net.conv("x", "a", 4, bn=False)))
    shape = net.node(
        "Concat", net.node("Shape", y), net.constant("one", np.array([1], np.int64)), axis=0
    )
    y = net.node("Reshape", net.node("Relu", y, name="act"), shape, name="reshape")
    model = net.model(y)
    parts = {layer.name: layer for layer in layers(model)}
    assert list(parts) == ["a.conv", "reshape"]
    assert parts["a.conv"].nodes == ("a.conv", "act")
    assert str(parts["reshape"].key) == "Reshape[1x4x8x8->1x4x8x8x1]{}@fp32"


def test_a_tensor_captured_by_a_subgraph_stays() -> None:
    net = Net(1, 4, 8, 8)
    y = net.conv("x", "a", 4, bn=False)
    value = onnx.helper.make_tensor_value_info
    branch = [
        onnx.helper.make_graph(
            [onnx.helper.make_node(op, [y], [op])],
            op,
            [],
            [value(op, onnx.TensorProto.FLOAT, [1, 4, 8, 8])],
        )
        for op in ("Tanh", "Exp")
    ]
    flag = net.constant("flag", np.array(True))
    total = net.node("Cast", net.node("ReduceSum", "x", keepdims=0), to=onnx.TensorProto.BOOL)
    assert flag
    chosen = net.node("If", total, name="if", then_branch=branch[0], else_branch=branch[1])
    parts = _of(net, net.node("Relu", y, name="act"), chosen)
    assert parts["a.conv"].nodes == ("a.conv",)
    assert parts["if"].key.op == "If"


def test_tokens_fuse_as_linear_layers() -> None:
    parts = {layer.name: layer for layer in layers(tokens())}
    assert str(parts["up"].key) == "Linear[1x4x4x6->1x4x4x10]{act=Relu}@fp32"
    assert str(parts["down"].key) == "Linear[1x4x4x10+1x4x4x6->1x4x4x6]{add=1}@fp32"
    assert str(parts["norm"].key).startswith("LayerNormalization[1x4x4x6->1x4x4x6]")


@pytest.fixture(scope="module", params=[False, True], ids=["per-tensor", "per-channel"])
def quantised(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> onnx.ModelProto:
    onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Random(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [
                {"x": np.random.default_rng(seed).random((1, 3, 16, 16), np.float32)}
                for seed in range(3)
            ]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    folder = tmp_path_factory.mktemp("quantised")
    options = onnxruntime().SessionOptions()
    options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    onnxruntime().InferenceSession(
        resnet().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    quantize_static(
        folder / "folded.onnx",
        folder / "q.onnx",
        Random(),
        quant_format=QuantFormat.QDQ,
        per_channel=request.param,
    )
    return load((folder / "q.onnx").read_bytes())


def test_quantised_layers(quantised: onnx.ModelProto) -> None:
    parts = layers(quantised)
    assert [part.key.op for part in parts if part.key.precision != "int8"] == ["DequantizeLinear"]
    assert parts[0].key.op == "QuantizeLinear"
    covered = [name for part in parts for name in part.nodes]
    assert sorted(covered) == sorted(node.name for node in quantised.graph.node)
    convolutions = {part.name: part for part in parts if part.key.op == "Conv"}
    plain = {part.name: part for part in layers(resnet()) if part.key.op == "Conv"}
    assert convolutions.keys() == plain.keys()
    for name, part in convolutions.items():
        assert (part.key.inputs[0], part.key.output) == (
            plain[name].key.inputs[0],
            plain[name].key.output,
        )
        assert part.macs == plain[name].macs
        assert part.params == plain[name].params
    assert count(quantised) == count(resnet())
    assert np.isfinite(run(quantised)).all()
