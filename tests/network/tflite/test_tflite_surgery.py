"""Narrower versions of a `.tflite` file are those that would have been written so at once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from hwbench.errors import UnsupportedLayerError, UsageError, WorkloadError
from hwbench.network.layers import keyed_layers_of
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.tflite import describe
from hwbench.network.tflite.graph import TfliteGraph
from hwbench.network.tflite.single_layer import single_layer_tflite
from hwbench.network.tflite.surgery import PrunableTflite
from hwbench.network.tflite.writing import SAME, NewOperator, NewTensor, write_model
from hwbench.records.layer_key import LayerKey
from tests.support.tflite import depthwise_network, half_network, int8_network

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")

RELU = 1


@dataclass
class Net:
    """Tensors and operators of a file in the making; constants of one seed, whatever their size."""

    tensors: list[NewTensor] = field(default_factory=list)
    operators: list[NewOperator] = field(default_factory=list)

    def tensor(self, name: str, *shape: int) -> int:
        self.tensors.append(NewTensor(name, shape))
        return len(self.tensors) - 1

    def constant(self, name: str, values: np.ndarray, dtype: str = "float32") -> int:
        data = np.ascontiguousarray(values.astype(dtype))
        self.tensors.append(NewTensor(name, data.shape, dtype, data.tobytes()))
        return len(self.tensors) - 1

    def numbers(self, *values: int) -> int:
        return self.constant("numbers", np.array(values), "int32")

    def run(self, kind: str, inputs: tuple[int, ...], output: int, *options: int) -> int:
        self.operators.append(NewOperator(kind, inputs, (output,), options))
        return output

    def bytes(self, inputs: int, outputs: int) -> bytes:
        return write_model(self.tensors, self.operators, (inputs,), (outputs,))


def draw(name: str, *shape: int) -> np.ndarray:
    seed = sum(map(ord, name))
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape)


FULL = (8, 8, 12, 6)
"""Channels of the stem, of the two that meet, of the one that is halved, of the one behind it."""


def branched(stem: int, met: int, halved: int, last: int) -> bytes:
    """A network of all that channels go through, written with the first channels of each layer.

    A stem, its depth-wise convolution, two convolutions whose sum is scaled channel by channel,
    both joined, a convolution whose halves are added (`halved` counts one half), a transposed
    convolution, a flattened map and a linear layer. All that is the same is shared, as converters
    do: biases of zeros and the bounds of slices.
    """
    a, b, d, e = FULL
    net = Net()
    joined = [*range(stem), *range(a, a + met)]
    halves = [*range(halved), *range(d, d + halved)]
    image = net.tensor("image", 1, 8, 8, 3)
    zeros = net.constant("zeros", np.zeros(stem)) if stem == met else -1
    bias_a = zeros if zeros >= 0 else net.constant("bias a", np.zeros(stem))
    bias_b = zeros if zeros >= 0 else net.constant("bias b", np.zeros(met))
    w = net.constant("w stem", draw("stem", a, 3, 3, 3)[:stem])
    x = net.run(
        "CONV_2D", (image, w, bias_a), net.tensor("stem", 1, 8, 8, stem), SAME, 1, 1, RELU, 1, 1
    )
    w = net.constant("w depth", draw("depth", 1, 3, 3, a)[..., :stem])
    deep = net.tensor("depth", 1, 8, 8, stem)
    x = net.run("DEPTHWISE_CONV_2D", (x, w, bias_a), deep, SAME, 1, 1, 1, RELU, 1, 1)
    sums = []
    for name in ("left", "right"):
        w = net.constant(f"w {name}", draw(name, b, 1, 1, a)[:met, ..., :stem])
        made = net.tensor(name, 1, 8, 8, met)
        sums.append(net.run("CONV_2D", (x, w, bias_b), made, SAME, 1, 1, 0, 1, 1))
    y = net.run("ADD", (sums[0], sums[1]), net.tensor("sum", 1, 8, 8, met), 0)
    scale = net.constant("scale", draw("scale", 1, 1, 1, b)[..., :met])
    y = net.run("MUL", (y, scale), net.tensor("scaled", 1, 8, 8, met), 0)
    both = net.tensor("joined", 1, 8, 8, stem + met)
    net.run("CONCATENATION", (x, y), both, 3, 0)
    w = net.constant("w wide", draw("wide", 2 * d, 3, 3, a + b)[halves][..., joined])
    bias = net.constant("b wide", draw("bias", 2 * d)[halves])
    wide = net.tensor("wide", 1, 4, 4, 2 * halved)
    net.run("CONV_2D", (both, w, bias), wide, SAME, 2, 2, RELU, 1, 1)
    size = net.numbers(1, 4, 4, halved)
    first = net.tensor("first", 1, 4, 4, halved)
    net.run("SLICE", (wide, net.numbers(0, 0, 0, 0), size), first)
    second = net.tensor("second", 1, 4, 4, halved)
    ends = net.numbers(1, 4, 4, 2 * halved)
    begins, strides = net.numbers(0, 0, 0, halved), net.numbers(1, 1, 1, 1)
    net.run("STRIDED_SLICE", (wide, begins, ends, strides), second, 0, 0, 0, 0, 0)
    z = net.run("MUL", (first, second), net.tensor("gated", 1, 4, 4, halved), 0)
    w = net.constant("w up", draw("up", e, 2, 2, d)[:last, ..., :halved])
    up = net.tensor("up", 1, 8, 8, last)
    net.run("TRANSPOSE_CONV", (net.numbers(1, 8, 8, last), w, z), up, SAME, 2, 2, 0)
    flat = net.tensor("flat", 1, 64 * last)
    net.run("RESHAPE", (up, net.numbers(1, 64 * last)), flat)
    w = draw("fc", 5, 64, e)[..., :last].reshape(5, -1)
    fc = net.tensor("fc", 1, 5)
    net.run("FULLY_CONNECTED", (flat, net.constant("w fc", w), -1), fc, 0)
    return net.bytes(image, fc)


def run(data: bytes, values: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def facts(data: bytes) -> list[tuple[str, list[tuple[int, ...]], list[tuple[int, ...]]]]:
    graph = TfliteGraph(data, "net")
    rows = []
    for operator in graph.operators:
        read = [graph.tensors[index].shape for index in operator.inputs if index >= 0]
        written = [graph.tensors[index].shape for index in operator.outputs]
        rows.append((operator.kind, read, written))
    return rows


@pytest.mark.parametrize("widths", [(5, 3, 7, 2), (8, 8, 12, 6), (1, 8, 12, 1), (3, 1, 1, 6)])
def test_a_version_is_what_would_have_been_written_with_its_widths(widths):
    whole = PrunableTflite(branched(*FULL), "net.tflite")
    groups = [(group.name, group.width, group.unit) for group in whole.structure.groups]
    assert groups == [("stem", 8, 1), ("left", 8, 1), ("wide", 12, 2), ("up", 6, 1)]
    expected, version = branched(*widths), whole.with_widths(widths)
    assert facts(version) == facts(expected)
    values = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(run(version, values), run(expected, values), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("widths", [(5, 3, 7, 2), (8, 8, 12, 6), (2, 8, 12, 5)])
def test_its_keys_are_those_that_a_profile_of_it_has(widths):
    workload = describe(branched(*FULL), "net.tflite")
    network = PrunableNetwork(workload)
    version = network.version(widths)
    layers = keyed_layers_of(version)
    assert [layer.key for layer in layers] == list(network.keys(widths))
    assert [layer.name for layer in layers] == list(network.structure.names)
    assert version.macs == describe(branched(*widths), "net.tflite").macs
    assert version.format == "tflite"
    assert network.structure.widths_of(network.keys(widths)) == widths


def test_what_is_cut_away_does_not_stay_in_the_file():
    whole = PrunableTflite(branched(*FULL), "net.tflite")
    version, expected = whole.with_widths((1, 1, 1, 1)), branched(1, 1, 1, 1)
    assert len(version) < len(expected) + 1500 < len(branched(*FULL))


def test_weights_kept_in_another_form_are_cut_where_they_are_kept():
    tensors = [
        NewTensor("image", (1, 4, 4, 3)),
        NewTensor("w16", (8, 1, 1, 3), "float16", draw("w", 8, 3).astype(np.float16).tobytes()),
        NewTensor("w", (8, 1, 1, 3)),
        NewTensor("conv", (1, 4, 4, 8)),
        NewTensor("w2", (4, 1, 1, 8), data=draw("w2", 4, 8).astype(np.float32).tobytes()),
        NewTensor("out", (1, 4, 4, 4)),
        NewTensor("b", (8,), data=np.zeros(8, np.float32).tobytes()),
        NewTensor("b2", (4,), data=np.zeros(4, np.float32).tobytes()),
    ]
    options = (SAME, 1, 1, 0, 1, 1)
    operators = [
        NewOperator("DEQUANTIZE", (1,), (2,), version=3),
        NewOperator("CONV_2D", (0, 2, 6), (3,), options),
        NewOperator("CONV_2D", (3, 4, 7), (5,), options),
    ]
    whole = PrunableTflite(write_model(tensors, operators, (0,), (5,)), "half.tflite")
    version = whole.with_widths([5])
    graph = TfliteGraph(version, "half.tflite")
    assert [graph.tensors[index].shape for index in (1, 2, 3, 4)] == [
        (5, 1, 1, 3), (5, 1, 1, 3), (1, 4, 4, 5), (4, 1, 1, 5)
    ]  # fmt: skip
    values = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 3)).astype(np.float32)
    weights = draw("w", 8, 3).astype(np.float16).astype(np.float32)[:5]
    expected = values @ weights.T @ draw("w2", 4, 8).astype(np.float32)[:, :5].T
    np.testing.assert_allclose(run(version, values), expected, rtol=1e-4, atol=1e-6)
    assert PrunableTflite(half_network().artifact, "half.tflite").structure.widths == ()


def test_quantised_channels_keep_their_own_scales():
    """Channels have other scales: a version computes what the whole does without the others."""
    whole = int8_network().artifact
    scales = tuple(0.002 * (place + 1) for place in range(8))
    weights = np.random.default_rng(0).integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)

    def write(kept: int) -> bytes:
        linear = np.random.default_rng(1).integers(-127, 128, (4, 64, 8)).astype(np.int8)
        tensors = [
            NewTensor("image", (1, 8, 8, 3), "int8", scales=(0.02,)),
            NewTensor("w", (kept, 3, 3, 3), "int8", weights[:kept].tobytes(), scales[:kept]),
            NewTensor(
                "b",
                (kept,),
                "int32",
                np.arange(kept, dtype=np.int32).tobytes(),
                tuple(0.02 * scale for scale in scales[:kept]),
            ),
            NewTensor("conv", (1, 8, 8, kept), "int8", scales=(0.02,)),
            NewTensor(
                "w2",
                (4, 64 * kept),
                "int8",
                np.ascontiguousarray(linear[..., :kept]).tobytes(),
                (0.01,),
            ),
            NewTensor("b2", (4,), "int32", np.zeros(4, np.int32).tobytes(), (0.0002,)),
            NewTensor("fc", (1, 4), "int8", scales=(0.5,)),
        ]
        operators = [
            NewOperator("CONV_2D", (0, 1, 2), (3,), (SAME, 1, 1, 0, 1, 1), version=3),
            NewOperator("FULLY_CONNECTED", (3, 4, 5), (6,), (0,), version=4),
        ]
        return write_model(tensors, operators, (0,), (6,))

    version = PrunableTflite(write(8), "int8.tflite").with_widths([3])
    values = np.random.default_rng(2).integers(-127, 128, (1, 8, 8, 3)).astype(np.int8)
    found = run(version, values)
    np.testing.assert_array_equal(found, run(write(3), values))
    assert len(np.unique(found)) > 1
    assert PrunableTflite(whole, "int8.tflite").structure.widths == (8,)


def test_weights_that_two_layers_share_are_cut_alike():
    net = Net()
    image = net.tensor("image", 1, 4, 4, 3)
    w0 = net.constant("w0", draw("w0", 8, 1, 1, 3))
    zeros = net.constant("zeros", np.zeros(8))
    shared = net.constant("shared", draw("shared", 8, 1, 1, 8))
    x = net.run("CONV_2D", (image, w0, zeros), net.tensor("first", 1, 4, 4, 8), SAME, 1, 1, 1, 1, 1)
    for name in ("second", "third"):
        made = net.tensor(name, 1, 4, 4, 8)
        x = net.run("CONV_2D", (x, shared, zeros), made, SAME, 1, 1, 1, 1, 1)
    w3 = net.constant("w3", draw("w3", 4, 1, 1, 8))
    four = net.constant("four", np.zeros(4))
    out = net.run("CONV_2D", (x, w3, four), net.tensor("out", 1, 4, 4, 4), SAME, 1, 1, 0, 1, 1)
    whole = PrunableTflite(net.bytes(image, out), "net.tflite")
    (group,) = whole.structure.groups
    assert group.producers == ("first", "second", "third")
    graph = TfliteGraph(whole.with_widths([5]), "net.tflite")
    assert graph.tensors[shared].shape == (5, 1, 1, 5)


def test_channels_that_cannot_be_followed_stay():
    net = Net()
    image = net.tensor("image", 1, 4, 4, 3)
    w0 = net.constant("w0", draw("w0", 8, 1, 1, 3))
    zeros = net.constant("zeros", np.zeros(8))
    x = net.run("CONV_2D", (image, w0, zeros), net.tensor("first", 1, 4, 4, 8), SAME, 1, 1, 1, 1, 1)
    y = net.run("L2_NORMALIZATION", (x,), net.tensor("normed", 1, 4, 4, 8))
    w1 = net.constant("w1", draw("w1", 4, 1, 1, 8))
    four = net.constant("four", np.zeros(4))
    out = net.run("CONV_2D", (y, w1, four), net.tensor("out", 1, 4, 4, 4), SAME, 1, 1, 0, 1, 1)
    assert PrunableTflite(net.bytes(image, out), "net.tflite").structure.widths == ()


def test_what_cannot_be_cut_is_refused_clearly():
    workload = depthwise_network()
    network = PrunableNetwork(workload)
    with pytest.raises(UsageError, match="expected 1: one per prunable group"):
        network.version([4, 4])
    with pytest.raises(UsageError, match=r"blocks are dropped from networks in ONNX, and net\.tfl"):
        network.without(["block"])
    with pytest.raises(WorkloadError, match="no TensorFlow Lite model"):
        PrunableTflite(b"rubbish rubbish", "net.tflite")
    net = Net()
    image = net.tensor("image", 1, 4)
    net.tensors.append(NewTensor("w", (8, 4), "int4", bytes(16), scales=(0.1,)))
    first = net.tensor("first", 1, 8)
    net.operators.append(NewOperator("FULLY_CONNECTED", (image, 1, -1), (first,), (0,)))
    w2 = net.constant("w2", draw("w2", 3, 8))
    out = net.tensor("out", 1, 3)
    net.operators.append(NewOperator("FULLY_CONNECTED", (first, w2, -1), (out,), (0,)))
    with pytest.raises(
        UnsupportedLayerError, match=r"the constant 'w' of net\.tflite is of type int"
    ):
        PrunableTflite(net.bytes(image, out), "net.tflite")


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_refused_or_cut_but_never_a_bare_error(seed):
    """Whatever a byte is changed to."""
    rng = np.random.default_rng(seed)
    for _ in range(25):
        data = bytearray(depthwise_network().artifact)
        for place in rng.integers(8, len(data), 3):
            data[place] = rng.integers(256)
        try:
            network = PrunableNetwork(describe(bytes(data), "net.tflite"))
            network.version([1] * len(network.structure.widths))
        except (UnsupportedLayerError, UsageError, WorkloadError):
            continue


def test_a_network_of_one_layer_has_its_key():
    for text in (
        "Conv[1x3x16x16->1x5x8x8]{act=Relu,group=1,kernel=3x3,pads=1.1.1.1,strides=2x2}@fp32",
        "Conv[1x5x8x8->1x5x8x8]{act=Clip,group=5,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32",
        "Conv[1x5x8x8->1x7x8x8]{group=1,kernel=1x1,pads=0.0.0.0,strides=1x1}@fp32",
        "Linear[1x5->1x10]{}@fp32",
    ):
        workload = single_layer_tflite(LayerKey.parse(text))
        assert [str(layer.key) for layer in keyed_layers_of(workload)] == [text]
        spec = workload.inputs[0]
        assert np.isfinite(run(workload.artifact, np.ones(spec.shape, np.float32))).all()
    with pytest.raises(UnsupportedLayerError, match="no one-layer tflite file for Softmax"):
        single_layer_tflite(LayerKey.parse("Softmax[1x10->1x10]{}@fp32"))


def test_reading_a_network_does_not_need_litert():
    """Nor its schema, which other widths of `.tflite` files take."""
    code = (
        "import sys; import hwbench.network.prunable;"
        " sys.exit(any(name.startswith(('ai_edge_litert', 'flatbuffers')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
