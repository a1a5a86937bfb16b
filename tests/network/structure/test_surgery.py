"""Graphs of other widths and with fewer blocks: their layers, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from hwbench.errors import UsageError
from hwbench.network.graph import count, layers
from hwbench.network.structure import Structure
from hwbench.network.structure.surgery import PrunableGraph
from tests.support.onnx_nets import Net, inception, mobilenet, resnet, run, tokens, vgg

MODELS = {build.__name__: build() for build in (mobilenet, resnet, vgg, inception, tokens)}
STRUCTURES = {name: Structure.from_model(model) for name, model in MODELS.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_built_graph_has_the_predicted_layers_and_runs(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(MODELS)))
    structure = STRUCTURES[name]
    widths = [data.draw(st.integers(1, width)) for width in structure.widths]
    small = PrunableGraph(MODELS[name]).with_widths(widths)
    assert tuple(layer.key for layer in layers(small)) == structure.keys(widths)
    assert run(small).shape == run(MODELS[name]).shape


def _silenced(
    model: onnx.ModelProto, structure: Structure, widths: Sequence[int]
) -> onnx.ModelProto:
    """The model with the weights that make the channels to be cut set to zero, so that these
    channels are zero throughout.
    """
    silent = onnx.ModelProto()
    silent.CopyFrom(model)
    kept = {
        name: width
        for group, width in zip(structure.groups, widths, strict=True)
        for name in group.producers
    }
    kept |= {
        name: width
        for group, width in zip(structure.groups, widths, strict=True)
        for name in group.followers
    }
    for tensor in silent.graph.initializer:
        layer, _, part = tensor.name.rpartition(".")
        norm = layer.removesuffix(".bn") + ".conv"
        width = kept.get(layer, kept.get(norm))
        if width is not None and part in {"weight", "bias"}:
            value = numpy_helper.to_array(tensor).copy()
            value[width:] = 0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return silent


@pytest.mark.parametrize("name", ["mobilenet", "resnet", "vgg"])
@pytest.mark.parametrize("seed", range(4))
def test_cutting_computes_what_silent_channels_compute(name: str, seed: int) -> None:
    structure = STRUCTURES[name]
    rng = np.random.default_rng(seed)
    widths = [int(rng.integers(1, width + 1)) for width in structure.widths]
    cut, silent = (
        run(PrunableGraph(MODELS[name]).with_widths(widths)),
        run(_silenced(MODELS[name], structure, widths)),
    )
    np.testing.assert_allclose(cut, silent, rtol=1e-3, atol=1e-5)
    assert np.abs(cut - run(MODELS[name])).max() > 1e-4


def test_spans_of_a_concatenation_are_cut_one_by_one() -> None:
    structure, model = STRUCTURES["inception"], MODELS["inception"]
    widths = [2 if group.name == "left.conv" else group.width for group in structure.groups]
    cut = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in PrunableGraph(model).with_widths(widths).graph.initializer
    }
    whole = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(
        cut["mixed.conv.weight"], whole["mixed.conv.weight"][:, [0, 1, 4, 5, 6, 7, 8]]
    )
    np.testing.assert_array_equal(cut["right.conv.weight"], whole["right.conv.weight"])


def test_the_original_is_left_alone_and_full_widths_change_nothing() -> None:
    model = mobilenet()
    before = model.SerializeToString(deterministic=True)
    graph = PrunableGraph(model)
    graph.with_widths([1] * len(graph.structure.widths))
    same = graph.with_widths(graph.structure.widths)
    assert model.SerializeToString(deterministic=True) == before
    np.testing.assert_array_equal(run(same), run(model))


def test_batch_and_nodes_names_survive() -> None:
    model = MODELS["mobilenet"]
    small = PrunableGraph(model).with_widths([3, 4, 5])
    assert [node.name for node in small.graph.node] == [node.name for node in model.graph.node]
    assert run(small).shape == (2, 5)


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(UsageError, match="out of range"):
        PrunableGraph(MODELS["vgg"]).with_widths([99, 1, 1])


def test_blocks_by_rule() -> None:
    assert {
        name: [block.name for block in structure.blocks] for name, structure in STRUCTURES.items()
    } == {
        "mobilenet": ["two"],
        "resnet": ["layer1.0", "layer2.1"],
        "vgg": [],
        "inception": [],
        "tokens": ["residual"],
    }


def test_a_block_holds_its_layers_and_its_activation() -> None:
    block = STRUCTURES["resnet"].blocks[1]
    assert block.layers == ("layer2.1.first.conv", "layer2.1.second.conv")
    assert {"layer2.1/Add", "layer2.1.relu/Relu", "layer2.1.first.act/Relu"} <= set(block.nodes)
    pool = next(node for node in MODELS["resnet"].graph.node if node.name == "pool")
    assert pool.input[0] == block.output


@pytest.mark.parametrize("names", [["layer1.0"], ["layer2.1"], ["layer1.0", "layer2.1"]])
def test_without_blocks_their_layers_alone_are_gone(names: list[str]) -> None:
    model = MODELS["resnet"]
    small = PrunableGraph(model).without_blocks(names)
    gone = {
        layer
        for block in STRUCTURES["resnet"].blocks
        if block.name in names
        for layer in block.layers
    }
    left = [layer for layer in layers(model) if layer.name not in gone]
    assert [(layer.name, layer.key) for layer in layers(small)] == [
        (layer.name, layer.key) for layer in left
    ]
    assert count(small).params == sum(layer.params for layer in left)
    assert not any(name in tensor.name for tensor in small.graph.initializer for name in names)
    assert run(small).shape == run(model).shape
    assert [block.name for block in Structure.from_model(small).blocks] == sorted(
        {"layer1.0", "layer2.1"} - set(names)
    )


def _chain(*, blocks: Sequence[str]) -> onnx.ModelProto:
    net = Net(1, 4, 8, 8)
    x = net.conv("x", "stem", 6, act="Relu")
    for name in ("a", "b", "c"):
        y = net.conv(net.conv(x, f"{name}.one", 6, act="Relu"), f"{name}.two", 6)
        if name in blocks:
            x = net.node(
                "Relu", net.node("Add", x, y, name=f"{name}/Add"), name=f"{name}.relu/Relu"
            )
    return net.model(x)


@pytest.mark.parametrize("dropped", [("b",), ("a", "b"), ("c",), ("a", "b", "c")])
def test_dropping_is_replacing_by_an_identity(dropped: tuple[str, ...]) -> None:
    model = _chain(blocks="abc")
    expected = _chain(blocks=[name for name in "abc" if name not in dropped])
    got = PrunableGraph(model).without_blocks(dropped)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in expected.graph.initializer:
        tensor.CopyFrom(stored[tensor.name])
    np.testing.assert_allclose(run(got), run(expected), rtol=1e-5)
    assert got.graph.output[0].name == model.graph.output[0].name


def test_a_branch_that_is_read_elsewhere_is_no_block() -> None:
    net = Net(1, 4, 8, 8)
    y = net.conv("x", "a.one", 4, act="Relu")
    z = net.conv(y, "a.two", 4)
    total = net.node("Add", net.node("Add", "x", z, name="a/Add"), net.conv(y, "spy", 4))
    structure = Structure.from_model(net.model(net.head(total)))
    assert [block.name for block in structure.blocks] == []


def test_an_unknown_block_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'layer9' .* droppable: layer1\.0, layer2\.1"):
        PrunableGraph(MODELS["resnet"]).without_blocks(["layer1.0", "layer9"])
