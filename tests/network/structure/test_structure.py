"""Groups, slots and keys of structures."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import UsageError
from hwbench.network.graph import layers
from hwbench.network.structure import FIXED, SEVERAL, Structure
from tests.support.onnx_nets import Net, inception, mobilenet, resnet, tokens, vgg

NETS = [mobilenet, resnet, vgg, inception, tokens]


@pytest.mark.parametrize("build", NETS)
def test_original_widths_give_the_original_layers(build: Callable[[], onnx.ModelProto]) -> None:
    structure = Structure.from_model(build())
    assert structure.keys(structure.widths) == tuple(layer.key for layer in layers(build()))


def test_depthwise_convolutions_follow() -> None:
    first, *_ = Structure.from_model(mobilenet()).groups
    assert (first.name, first.width) == ("stem.conv", 8)
    assert (first.producers, first.followers, first.consumers) == (
        ("stem.conv",),
        ("one.dw.conv",),
        ("one.pw.conv",),
    )


def test_residual_additions_tie_their_producers() -> None:
    groups = {group.name: group for group in Structure.from_model(resnet()).groups}
    assert groups["stem.conv"].producers == ("stem.conv", "layer1.0.second.conv")
    stage = groups["layer2.0.down.conv"]
    assert stage.producers == ("layer2.0.down.conv", "layer2.0.second.conv", "layer2.1.second.conv")
    assert stage.consumers == ("layer2.1.first.conv", "fc")
    assert set(groups) == {
        *(f"layer{block}.first.conv" for block in ("1.0", "2.0", "2.1")),
        "stem.conv",
        stage.name,
    }


def test_flattened_positions_multiply() -> None:
    structure = Structure.from_model(vgg())
    assert [group.name for group in structure.groups] == [
        "features.0.conv",
        "features.1.conv",
        "fc1",
    ]
    keys = {
        slot.layer.name: key
        for slot, key in zip(structure.slots, structure.keys((1, 3, 5)), strict=True)
    }
    assert str(keys["fc1"]) == "Linear[1x48->1x5]{act=Relu}@fp32"
    assert str(keys["fc2"]) == "Linear[1x5->1x4]{}@fp32"


def test_concatenation_adds_widths() -> None:
    structure = Structure.from_model(inception())
    names = [group.name for group in structure.groups]
    assert {"left.conv", "right.conv", "mixed.conv", "se.squeeze.conv", "up"} <= set(names)
    assert "se.excite.conv" not in names
    mixed = [slot.layer.name for slot in structure.slots].index("mixed.conv")
    assert structure.in_group[mixed] == SEVERAL
    widths = dict.fromkeys(names, 1) | {"left.conv": 2, "right.conv": 3, "mixed.conv": 4}
    key = structure.keys([widths[name] for name in names])[mixed]
    assert (key.inputs, key.output) == (((1, 5, 8, 8),), (1, 4, 8, 8))


def test_gate_and_gated_map_share_a_group() -> None:
    groups = {group.name: group for group in Structure.from_model(inception()).groups}
    assert groups["mixed.conv"].producers == ("mixed.conv", "se.excite.conv")


def test_inputs_and_outputs_are_fixed() -> None:
    structure = Structure.from_model(mobilenet())
    assert structure.in_group[0] == FIXED
    assert structure.out_group[-1] == FIXED
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "seen", 5, act="Relu")
    assert Structure.from_model(net.model(net.head(x), x)).groups == ()


@pytest.mark.parametrize("kind", ["channel pad", "product", "gather"])
def test_what_cannot_be_followed_is_fixed(kind: str) -> None:
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "first", 6, act="Relu")
    if kind == "channel pad":
        pads = net.constant("pads", np.array([0, 0, 0, 0, 0, 2, 0, 0], np.int64))
        x = net.node("Add", net.node("Pad", x, pads), net.conv("x", "other", 8))
        net.channels[x] = 8
    elif kind == "product":
        x = net.node(
            "MatMul", net.flatten(x, 1, 6, 64), net.constant("w", np.ones((1, 64, 64), np.float32))
        )
        x = net.flatten(net.node("MatMul", x, net.node("Transpose", x, perm=[0, 2, 1])), 1, 6, 6, 1)
        net.channels[x] = 6
    else:
        x = net.node(
            "Gather", x, net.constant("order", np.array([5, 3, 1, 0, 2, 4], np.int64)), axis=1
        )
    structure = Structure.from_model(net.model(net.head(net.conv(x, "last", 4, act="Relu"))))
    assert [group.name for group in structure.groups] == ["last.conv"]


def test_what_is_added_to_something_fixed_is_fixed() -> None:
    net = Net(1, 4, 8, 8)
    free = net.conv("x", "free", 4)
    structure = Structure.from_model(net.model(net.head(net.node("Add", free, "x"))))
    assert structure.groups == ()
    net = Net(1, 4, 8, 8)
    structure = Structure.from_model(
        net.model(net.head(net.node("Add", "x", net.conv("x", "tied", 4))))
    )
    assert structure.groups == ()


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((1, 1), "2 widths given, expected 3"),
        ((1, 0, 1), r"width 0 of group features\.1\.conv is out of range, expected 1 to 7"),
        ((7, 1, 1), r"width 7 of group features\.0\.conv is out of range, expected 1 to 6"),
        ((1.5, 1, 1), r"width 1\.5 .* no whole number"),
    ],
)
def test_impossible_widths(widths: tuple[int, ...], message: str) -> None:
    structure = Structure.from_model(vgg())
    with pytest.raises(UsageError, match=message):
        structure.resolve(widths)
    with pytest.raises(UsageError):
        structure.layer_widths(np.array([[1, 1, 1][: len(widths)], widths]))


def test_numpy_widths_are_fine() -> None:
    structure = Structure.from_model(vgg())
    assert structure.resolve(np.array([2, 3, 4])) == (2, 3, 4)
    assert all(type(width) is int for width in structure.resolve(np.array([2, 3, 4])))


STRUCTURES = [Structure.from_model(build()) for build in NETS]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_array_and_keys_agree(data: st.DataObject) -> None:
    structure = data.draw(st.sampled_from(STRUCTURES))
    rows = [[data.draw(st.integers(1, width)) for width in structure.widths] for _ in range(3)]
    sizes = structure.layer_widths(np.array(rows))
    for row, of_layers in zip(rows, sizes, strict=True):
        for slot, key, (inner, outer) in zip(
            structure.slots, structure.keys(row), of_layers, strict=True
        ):
            assert key.inputs[0][slot.inputs[0].axis] == inner
            assert key.output[slot.output.axis] == outer
            if slot.depthwise:
                assert key.attr("group") == str(inner)
    groups = np.array(rows)[:, structure.in_group]
    single = [
        place
        for place, slot in enumerate(structure.slots)
        if structure.in_group[place] >= 0 and slot.layer.name != "fc1"
    ]
    assert (groups[:, single] == sizes[:, single, 0]).all()


def test_hundred_thousand_structures_take_less_than_a_second() -> None:
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "stem", 32)
    for block in range(13):
        x = net.conv(net.conv(x, f"{block}.dw", 32, group=0), f"{block}.pw", 32, 1)
    structure = Structure.from_model(net.model(net.head(x)))
    widths = np.random.default_rng(0).integers(1, 33, (100_000, len(structure.groups)))
    taken = []
    for _ in range(3):
        start = time.process_time()
        sizes = structure.layer_widths(widths)
        taken.append(time.process_time() - start)
    assert min(taken) < 1
    assert sizes.shape == (100_000, len(structure.slots), 2)
