from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.lookup_tables.families import place_of
from hwbench.records.layer_key import LayerKey
from tests.support.table_support import structure


@pytest.mark.parametrize("name", ["zoo:resnet20", "zoo:mobilenet_v2", "zoo:vgg16@0.25"])
@settings(max_examples=10, deadline=None)
@given(share=st.floats(0.1, 1.0))
def test_a_family_and_its_channels_are_the_key(name, share):
    shape = structure(name)
    widths = [max(2, int(share * width)) for width in shape.widths]
    originals = {slot.layer.name: place_of(slot.layer.key).family for slot in shape.slots}
    for slot, key in zip(shape.slots, shape.keys(widths), strict=True):
        place = place_of(key)
        assert place.family == originals[slot.layer.name]
        if key.op != "Reshape" and len(set(key.inputs)) <= 1:
            assert place.family.key(place.cin, place.cout) == key


def key(text: str) -> LayerKey:
    return LayerKey.parse(text)


def test_depthwise_convolutions_are_a_kind_of_their_own():
    dense = place_of(key("Conv[1x16x8x8->1x16x8x8]{group=1,kernel=3x3}@fp32"))
    depthwise = place_of(key("Conv[1x16x8x8->1x16x8x8]{group=16,kernel=3x3}@fp32"))
    grouped = place_of(key("Conv[1x16x8x8->1x16x8x8]{group=4,kernel=3x3}@fp32"))
    assert len({dense.family, depthwise.family, grouped.family}) == 3
    assert (dense.family.kind, depthwise.family.kind) == ("Conv@fp32", "DepthwiseConv@fp32")


@pytest.mark.parametrize(
    "other",
    [
        "Conv[1x16x4x4->1x16x4x4]{group=1,kernel=3x3}@fp32",
        "Conv[2x16x8x8->2x16x8x8]{group=1,kernel=3x3}@fp32",
        "Conv[1x16x8x8->1x16x8x8]{act=Relu,group=1,kernel=3x3}@fp32",
        "Conv[1x16x8x8+1x16x8x8->1x16x8x8]{group=1,kernel=3x3}@fp32",
        "Conv[1x16x8x8->1x16x8x8]{group=1,kernel=3x3}@int8",
    ],
)
def test_all_but_channels_tells_families_apart(other):
    assert (
        place_of(key("Conv[1x16x8x8->1x16x8x8]{group=1,kernel=3x3}@fp32")).family
        != place_of(key(other)).family
    )


def test_channels_are_last_in_sequences_and_linear_layers():
    sequence = place_of(key("LayerNormalization[1x197x768->1x197x768]{}@fp32"))
    linear = place_of(key("Linear[1x7x512->1x7x1000]{}@fp32"))
    scalar = place_of(key("Constant[->scalar]{}@fp32"))
    assert [(p.cin, p.cout) for p in (sequence, linear, scalar)] == [
        (768, 768),
        (512, 1000),
        (1, 1),
    ]


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (
            "Slice[1x32x8x8->1x16x8x8]{axes=1,ends=32,starts=16}@fp32",
            "Slice[1x24x8x8->1x12x8x8]{axes=1,ends=24,starts=12}@fp32",
        ),
        (
            "Split[1x32x8x8->1x16x8x8]{axis=1,split=16.16}@fp32",
            "Split[1x24x8x8->1x12x8x8]{axis=1,split=12.12}@fp32",
        ),
    ],
)
def test_parts_of_channels_are_one_family(wide: str, narrow: str) -> None:
    first, second = place_of(LayerKey.parse(wide)), place_of(LayerKey.parse(narrow))
    assert first.family == second.family
    assert place_of(first.family.key(24, 12)) == second
