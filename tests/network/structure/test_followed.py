"""Channels followed through operators that take them apart and put them together again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hwbench.network.graph import layers
from hwbench.network.graph.view import GraphView
from hwbench.network.structure.channels import Channels
from hwbench.network.structure.surgery import PrunableGraph
from tests.support.onnx_nets import Net, run


def _end(net: Net, x: str) -> onnx.ModelProto:
    return net.model(net.head(net.conv(x, "last", 4, act="Relu")))


def _ints(net: Net, name: str, *values: int) -> str:
    return net.constant(name, np.array(values, np.int64))


def grouped() -> onnx.ModelProto:
    """As ResNeXt: 12 channels in 3 groups of 4, read in groups of 4 again."""
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 12, act="Relu")
    return _end(net, net.conv(x, "second", 6, group=3, act="Relu"))


def transposed_grouped() -> onnx.ModelProto:
    net = Net(1, 3, 4, 4)
    x = net.conv("x", "first", 8, act="Relu")
    parameters = net.random("up.conv.weight", 8, 3, 2, 2), net.random("up.conv.bias", 6)
    x = net.node(
        "ConvTranspose",
        x,
        *parameters,
        name="up.conv",
        kernel_shape=[2, 2],
        strides=[2, 2],
        group=2,
    )
    net.channels[x] = 6
    return _end(net, x)


def halves() -> onnx.ModelProto:
    """As YOLO's C2f: both halves are kept, and one goes on through a convolution."""
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 12, act="Relu")
    x = net.node("Split", x, axis=1, num_outputs=2, outputs=2)
    net.channels[f"{x}_1"] = 6
    y = net.conv(f"{x}_1", "second", 6, act="Relu")
    x = net.node("Concat", x, f"{x}_1", y, axis=1)
    net.channels[x] = 18
    return _end(net, x)


def sliced_halves() -> onnx.ModelProto:
    """The same halves as slices, as torch's exporter writes them."""
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 12, act="Relu")
    axes = _ints(net, "axes", 1)
    y, z = (
        net.node("Slice", x, _ints(net, f"begin{at}", at), _ints(net, f"end{at}", at + 6), axes)
        for at in (0, 6)
    )
    net.channels |= {y: 6, z: 6}
    x = net.node("Concat", y, net.conv(z, "second", 6, act="Relu"), axis=1)
    net.channels[x] = 12
    return _end(net, x)


def uneven_split() -> onnx.ModelProto:
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 9, act="Relu")
    x = net.node("Split", x, _ints(net, "sizes", 3, 6), axis=1, outputs=2)
    net.channels |= {x: 3, f"{x}_1": 6}
    x = net.node("Add", net.conv(x, "second", 6), f"{x}_1")
    net.channels[x] = 6
    return _end(net, x)


def sliced() -> onnx.ModelProto:
    """As GhostNet: the first channels of two layers side by side, cut in the middle of one."""
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 6, act="Relu")
    x = net.node("Concat", x, net.conv(x, "second", 6, act="Relu"), axis=1)
    bounds = _ints(net, "begin", 1), _ints(net, "end", 10), _ints(net, "axes", 1)
    x = net.node("Slice", x, *bounds)
    net.channels[x] = 9
    return _end(net, x)


def shuffled() -> onnx.ModelProto:
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 6, act="Relu")
    x = net.node("Concat", x, net.conv(x, "second", 6, act="Relu"), axis=1)
    x = net.flatten(x, 1, 2, 6, 8, 8)
    x = net.flatten(net.node("Transpose", x, perm=[0, 2, 1, 3, 4]), 1, 12, 8, 8)
    net.channels[x] = 12
    return _end(net, x)


def group_normalized() -> onnx.ModelProto:
    """As torch exports it: each of the 3 groups is a channel of an InstanceNormalization."""
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 12, bn=False)
    x = net.flatten(x, 1, 3, 4 * 64)
    scale, shift = net.constant("one", np.ones(3, np.float32)), net.random("zero", 3)
    x = net.flatten(net.node("InstanceNormalization", x, scale, shift), 1, 12, 8, 8)
    x = net.node("Mul", x, net.random("norm.weight", 12, 1, 1))
    x = net.node("Relu", net.node("Add", x, net.random("norm.bias", 12, 1, 1)))
    net.channels[x] = 12
    return _end(net, x)


def resized() -> onnx.ModelProto:
    """As FPN: one map is brought to the size of another, sizes given with the channels."""
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 6, act="Relu")
    y = net.conv(x, "second", 5, stride=2, act="Relu")
    y = net.node("Resize", y, "", "", _ints(net, "sizes", 1, 5, 8, 8), mode="nearest")
    x = net.node("Concat", x, y, axis=1)
    net.channels[x] = 11
    return _end(net, x)


def upsampled_by_channels() -> onnx.ModelProto:
    net = Net(1, 3, 4, 4)
    x = net.conv("x", "first", 12, act="Relu")
    x = net.node("DepthToSpace", x, blocksize=2, mode="CRD")
    net.channels[x] = 3
    x = net.conv(x, "second", 8, act="Relu")
    x = net.node("DepthToSpace", x, blocksize=2, mode="DCR")
    net.channels[x] = 2
    return _end(net, x)


def attention() -> onnx.ModelProto:
    """Two heads of 4 channels; queries, keys and values are made by one layer."""
    net = Net(1, 3, 4, 4)
    x = net.flatten(net.conv("x", "first", 6, bn=False), 1, 6, 16)
    x = net.node("Transpose", x, perm=[0, 2, 1])
    y = net.flatten(
        net.node("MatMul", x, net.random("qkv.weight", 6, 24), name="qkv"), 1, 16, 3, 2, 4
    )
    y = net.node("Transpose", y, perm=[2, 0, 3, 1, 4])
    y = net.node("Split", y, axis=0, num_outputs=3, outputs=3)
    q, k, v = (
        net.node("Squeeze", part, _ints(net, f"zero{part}", 0)) for part in (y, f"{y}_1", f"{y}_2")
    )
    scores = net.node("Softmax", net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2])))
    y = net.node("Transpose", net.node("MatMul", scores, v), perm=[0, 2, 1, 3])
    y = net.flatten(y, 1, 16, 8)
    x = net.node("Add", x, net.node("MatMul", y, net.random("out.weight", 8, 6), name="out"))
    x = net.node("Gather", x, net.constant("first token", np.array(0, np.int64)), axis=1)
    return net.model(net.linear(x, "fc", 6, 5))


def used_twice() -> onnx.ModelProto:
    """One convolution used twice, as heads of detectors are."""
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 6, act="Relu")
    weight = net.random("head.conv.weight", 6, 6, 3, 3)
    for turn in ("", "_1"):
        name = f"head.conv{turn}"
        x = net.node("Conv", x, weight, name=name, kernel_shape=[3, 3], pads=[1] * 4)
        x = net.node("Relu", x, name=f"{name}.act")
    net.channels[x] = 6
    return _end(net, x)


def channel_attention() -> onnx.ModelProto:
    """As ECA: a convolution along the channels makes the factors of each."""
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 8, act="Relu")
    y = net.flatten(net.node("GlobalAveragePool", x), 1, 1, 8)
    weight = net.random("along.weight", 1, 1, 3)
    y = net.node("Conv", y, weight, name="along", kernel_shape=[3], pads=[1, 1])
    x = net.node("Mul", x, net.flatten(net.node("Sigmoid", y), 1, 8, 1, 1))
    net.channels[x] = 8
    return _end(net, x)


def class_token() -> onnx.ModelProto:
    """As vision transformers: a constant beside the patches, another one added to all."""
    net = Net(1, 3, 4, 4)
    x = net.flatten(net.conv("x", "first", 6, bn=False), 1, 6, 16)
    x = net.node("Transpose", x, perm=[0, 2, 1])
    shape = _ints(net, "shape", 1, 2, 6)
    x = net.node("Concat", net.node("Expand", net.random("token", 1, 1, 6), shape), x, axis=1)
    x = net.node("Add", x, net.random("places", 1, 18, 6))
    x = net.node("Gather", x, net.constant("first token", np.array(0, np.int64)), axis=1)
    return net.model(net.linear(x, "fc", 6, 5))


def looked_up() -> onnx.ModelProto:
    """As networks of texts: rows of a table, and rows of another one at positions that are known."""
    net = Net(1, 3, 4, 4)
    ids = net.flatten(net.node("ArgMax", "x", axis=1, keepdims=0), 1, 16)
    x = net.node("Gather", net.random("table.weight", 7, 6), ids, name="table")
    places = net.random("places.weight", 20, 6)
    x = net.node("Add", x, net.node("Gather", places, _ints(net, "known", *range(16))))
    x = net.node("MatMul", x, net.random("fc.weight", 6, 5), name="fc")
    return net.model(x)


EXACT: dict[Callable[[], onnx.ModelProto], dict[str, tuple[int, int]]] = {
    grouped: {"first.conv": (4, 3), "second.conv": (2, 3), "last.conv": (4, 1)},
    transposed_grouped: {"first.conv": (4, 2), "up.conv": (3, 2), "last.conv": (4, 1)},
    halves: {"first.conv": (6, 2), "second.conv": (6, 1), "last.conv": (4, 1)},
    sliced_halves: {"first.conv": (6, 2), "second.conv": (6, 1), "last.conv": (4, 1)},
    uneven_split: {"first.conv": (3, 1), "first.conv[3]": (6, 1), "last.conv": (4, 1)},
    sliced: {
        "first.conv": (1, 1),
        "first.conv[1]": (5, 1),
        "second.conv": (4, 1),
        "second.conv[4]": (2, 1),
        "last.conv": (4, 1),
    },
    shuffled: {"first.conv": (6, 1), "last.conv": (4, 1)},
    resized: {"first.conv": (6, 1), "second.conv": (5, 1), "last.conv": (4, 1)},
    upsampled_by_channels: {"first.conv": (3, 4), "second.conv": (2, 4), "last.conv": (4, 1)},
    attention: {"first.conv": (6, 1), "qkv": (4, 6)},
    used_twice: {"first.conv": (6, 1), "last.conv": (4, 1)},
}
"""By network, width and unit of each group."""
STATISTICS = {
    group_normalized: {"first.conv": (4, 3), "last.conv": (4, 1)},
    channel_attention: {"first.conv": (8, 1), "last.conv": (4, 1)},
    class_token: {"first.conv": (6, 1)},
    looked_up: {"table": (6, 1)},
}
"""Networks that see which channels are left, or that add constants to them."""


@pytest.mark.parametrize(("build", "groups"), [*EXACT.items(), *STATISTICS.items()])
def test_groups(build: Callable[[], onnx.ModelProto], groups: dict[str, tuple[int, int]]) -> None:
    found = PrunableGraph(build()).structure.groups
    assert {group.name: (group.width, group.unit) for group in found} == groups


def _some_widths(graph: PrunableGraph, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(rng.integers(1, width + 1)) for width in graph.structure.widths]


@pytest.mark.parametrize("build", [*EXACT, *STATISTICS])
@pytest.mark.parametrize("seed", range(3))
def test_cut_graphs_have_the_predicted_layers_and_run(
    build: Callable[[], onnx.ModelProto], seed: int
) -> None:
    graph = PrunableGraph(build())
    widths = _some_widths(graph, seed)
    small = graph.with_widths(widths)
    assert tuple(layer.key for layer in layers(small)) == graph.structure.keys(widths)
    assert run(small).shape == run(graph.model).shape


def _silenced(model: onnx.ModelProto, widths: list[int]) -> onnx.ModelProto:
    """The model whose layers make zeros of the channels to be cut."""
    silent = onnx.ModelProto()
    silent.CopyFrom(model)
    view = GraphView(model)
    channels = Channels(view)
    rows: dict[str, np.ndarray] = {}
    for index, layout in channels.made.items():
        kept = channels.kept_entries(layout, widths)
        gone = np.setdiff1d(np.arange(layout.size), kept)
        stem = view.nodes[index].input[1].removesuffix(".weight")
        for part in ("weight", "bias"):
            rows[f"{stem}.{part}"] = gone
        rows[f"{stem.removesuffix('conv')}bn.bias"] = gone
        rows[f"{stem.removesuffix('conv')}bn.mean"] = gone
    for tensor in silent.graph.initializer:
        if tensor.name in rows:
            value = numpy_helper.to_array(tensor).copy()
            columns = tensor.name in {"qkv.weight", "out.weight"}
            if tensor.name == "up.conv.weight":  # transposed, of two groups of three
                value[:, rows[tensor.name][rows[tensor.name] < 3]] = 0
            else:
                value[(..., rows[tensor.name]) if columns else rows[tensor.name]] = 0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return silent


@pytest.mark.parametrize("build", EXACT)
@pytest.mark.parametrize("seed", range(3))
def test_cutting_computes_what_silent_channels_compute(
    build: Callable[[], onnx.ModelProto], seed: int
) -> None:
    graph = PrunableGraph(build())
    widths = _some_widths(graph, seed)
    cut, silent = run(graph.with_widths(widths)), run(_silenced(graph.model, widths))
    np.testing.assert_allclose(cut, silent, rtol=1e-3, atol=1e-5)
