"""Layer keys: text form and order."""

from __future__ import annotations

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import SchemaError
from hwbench.records.layer_key import LayerKey

shapes = st.lists(st.integers(1, 5000), max_size=5).map(tuple)
words = st.text(string.printable + "äé→=,{}[]@+", min_size=1, max_size=12)
keys = st.builds(
    LayerKey,
    op=words,
    inputs=st.lists(shapes, max_size=3).map(tuple),
    output=shapes,
    attrs=st.dictionaries(words, words, max_size=4).map(lambda d: tuple(d.items())),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
)


@given(keys)
def test_parse_is_the_inverse_of_str(key):
    assert LayerKey.parse(str(key)) == key
    assert "\n" not in str(key)


@given(keys, keys)
def test_equal_text_means_equal_key(one, other):
    assert (str(one) == str(other)) == (one == other)


def test_order_of_attributes_does_not_matter():
    assert LayerKey("Conv", (), (1,), (("b", "2"), ("a", "1"))) == LayerKey(
        "Conv", (), (1,), (("a", "1"), ("b", "2"))
    )


@given(
    st.text(max_size=60)
    | keys.map(str).flatmap(lambda text: st.integers(0, len(text)).map(lambda cut: text[:cut]))
)
def test_anything_else_is_refused_in_one_way(text):
    with contextlib.suppress(SchemaError):
        assert LayerKey.parse(text).precision


@pytest.mark.parametrize(
    "text",
    ["", "Conv", "Conv[1x2->3]", "Conv[1x->3]{}@fp32", "Conv[1->2]{a}@fp32", "Conv[a->2]{}@fp32"],
)
def test_examples_that_are_refused(text):
    with pytest.raises(SchemaError):
        LayerKey.parse(text)


@pytest.mark.parametrize(
    ("text", "weights", "macs"),
    [
        ("Conv[1x3x8x8->1x16x4x4]{group=1,kernel=3x3,strides=2x2}@fp32", 432, 432 * 16),
        ("Conv[2x16x8x8->2x32x8x8]{group=4,kernel=3x1}@fp32", 384, 384 * 128),
        ("Conv[1x16x8x8->1x16x8x8]{group=16,kernel=3x3}@int8", 144, 144 * 64),
        ("Conv[1x8x9->1x4x9]{group=1,kernel=5}@fp32", 160, 160 * 9),
        ("ConvTranspose[1x8x4x4->1x6x8x8]{group=2,kernel=2x2}@fp32", 96, 96 * 16),
        ("Linear[3x128->3x10]{}@fp32", 1280, 1280 * 3),
        ("Linear[2x49x64->2x49x32]{}@fp32", 2048, 2048 * 98),
        ("Add[1x8x4x4+1x8x4x4->1x8x4x4]{}@fp32", 0, 0),
        ("Conv[->1x8]{}@fp32", 0, 0),
    ],
)
def test_weights_and_multiply_accumulates_follow_from_the_key(text, weights, macs):
    key = LayerKey.parse(text)
    assert (key.weights, key.macs) == (weights, macs)
