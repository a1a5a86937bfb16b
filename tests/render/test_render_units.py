"""Numbers and names as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hwbench.records.layer_key import LayerKey
from hwbench.render.units import (
    bar,
    count,
    interval,
    interval_s,
    layer,
    minute,
    moment,
    percent,
    plural,
    printable,
    seconds,
    shape,
    shorten,
    shorten_apart,
    size,
    sparkline,
    times,
)
from tests.support.render_support import patiently

SCALES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def parsed(text: str) -> float:
    number, unit = text.split()
    return float(number) * SCALES[unit]


@given(st.floats(min_value=1e-9, max_value=900.0))
@patiently
def test_seconds_are_right_to_four_digits(value_s):
    text = seconds(value_s)
    assert parsed(text) == pytest.approx(value_s, rel=5.1e-4)
    assert len(text.split()[0].replace(".", "").lstrip("0")) <= 4
    assert 0.9995 <= float(text.split()[0]) < 1000
    assert seconds(-value_s) == f"-{text}"


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0.011354, "11.35 ms"),
        (0.9999999, "1.000 s"),
        (0.00099996, "1.000 ms"),
        (99.996e-6, "100.0 us"),
        (3.2e-10, "0.320 ns"),
        (1234.5, "1234 s"),
        (None, "-"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_seconds(value_s, text):
    assert seconds(value_s) == text


def test_signs():
    assert seconds(1.5e-3, sign=True) == "+1.500 ms"
    assert seconds(-1.5e-3, sign=True) == "-1.500 ms"


def test_intervals_share_unit_and_decimals_with_their_value():
    assert interval_s((0.01111, 0.01159), 0.01135) == "11.11 to 11.59"
    assert interval_s((0.000998, 0.001002), 0.001) == "0.998 to 1.002"
    assert interval_s((0.0, math.inf), 0.001) == "unknown"
    assert interval((1.491, 1.549), 1.52) == "1.49 to 1.55"
    assert interval((0.9981, 1.0052), 1.002) == "0.998 to 1.005"
    assert interval((0.0, math.inf), 1.0) == "unknown"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (568_740_352, "568.7 M"),
        (4_231_976, "4.23 M"),
        (999_960, "1.00 M"),
        (950, "950"),
        (0, "0"),
        (1.82e9, "1.82 G"),
    ],
)
def test_counts(value, text):
    assert count(value) == text


def test_small_things():
    assert size(999) == "999 B"
    assert size(16_941_756) == "16.94 MB"
    assert percent(0.12345) == "12.3 %"
    assert percent(None) == times(None) == "-"
    assert percent(math.nan) == times(math.inf) == "unknown"
    assert (times(1.5234), times(1.0021), times(0.325)) == ("1.52x", "1.002x", "0.33x")
    assert (plural(1, "session"), plural(1400, "session")) == ("1 session", "1,400 sessions")
    assert moment("2026-03-01T09:15:02+00:00") == "2026-03-01 09:15:02 UTC"
    assert minute("2026-03-01T09:15:02+00:00") == "2026-03-01 09:15"
    assert moment("yesterday") == "yesterday"
    assert (shape((1, 3, 8, 8)), shape(())) == ("1x3x8x8", "scalar")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (
            "Conv[1x3x224x224->1x32x112x112]{act=Relu,group=1,kernel=3x3,strides=2x2}@fp32",
            "Conv 3x3/2 at 112x112, 3 to 32, Relu",
        ),
        (
            "Conv[1x32x56x56->1x32x56x56]{group=32,kernel=3x3,strides=1x1}@fp32",
            "Depthwise 3x3 at 56x56, 32",
        ),
        (
            "Conv[1x32x56x56->1x32x56x56]{group=4,kernel=3x3,strides=1x1}@fp32",
            "Conv 3x3 at 56x56, 32 to 32",
        ),
        (
            "Conv[1x0x56x56->1x0x56x56]{group=each,kernel=3x3,strides=1x1}@fp32",
            "Depthwise 3x3 at 56x56",
        ),
        (
            "Conv[1x0x7x7->1x0x7x7]{act=Relu,add=1,group=1,kernel=1x1,strides=1x1}@fp32",
            "Conv 1x1 at 7x7, Relu, Add",
        ),
        ("Linear[1x1024->1x1000]{}@fp32", "Linear, 1024 to 1000"),
        ("GlobalAveragePool[1x512x7x7->1x512x1x1]{}@fp32", "GlobalAveragePool at 1x1, 512"),
        ("Shape[->4]{}@fp32", "Shape"),
        ("Softmax[8->8]{axis=0}@fp32", "Softmax"),
    ],
)
def test_layers_in_short(key, text):
    assert layer(LayerKey.parse(key)) == text


@given(st.floats(allow_nan=False), st.integers(1, 40))
@patiently
def test_a_bar_is_never_too_long(share, width):
    assert len(bar(share, width)) <= width


def test_bars_grow():
    assert [bar(share, 4) for share in (-1, 0, 0.125, 0.5, 1, 2)] == [
        "",
        "",
        "▌",
        "██",
        "████",
        "████",
    ]


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=50))
@patiently
def test_a_sparkline_fits_any_sample(values):
    low, line, high = sparkline(values)
    assert min(values) <= low <= high <= max(values)
    assert len(line) in {1, 24}


def test_a_sparkline_of_errors_may_lie_on_both_sides_of_zero():
    low, line, high = sparkline([-0.02, -0.02, 0.0, 0.01], 8)
    assert (low, high) == (-0.02, 0.01)
    assert line[0] == "█"
    assert sparkline([-0.5, -0.5])[1] == "█"


def test_a_sparkline_is_highest_where_most_samples_are():
    _, line, _ = sparkline([1.0] * 10 + [1.1] * 80 + [2.0] * 10)
    assert line.count("█") == 1
    assert line.index("█") < 5


@given(st.text(max_size=60), st.integers(1, 40))
@patiently
def test_shortening_keeps_both_ends(text, width):
    short = shorten(text, width)
    assert cell_len(short) <= width
    if short == text:
        assert cell_len(text) <= width
    else:
        head, tail = short.split("…", 1) if "…" not in text else ("", "")
        assert text.startswith(head)
        assert text.endswith(tail)


def test_a_short_name_uses_the_width_it_has():
    assert shorten("features.0.conv", 9) == "feat…conv"
    assert shorten("编码器编码器", 7) == "编…码器"


@given(st.lists(st.text(max_size=40), max_size=8), st.integers(1, 30))
def test_texts_that_are_shortened_together_fit_and_are_all_there(texts, width):
    short = shorten_apart(texts, width)
    assert set(short) == set(texts)
    assert all(cell_len(each) <= width for each in short.values())


def test_long_names_that_begin_and_end_alike_stay_apart():
    blocks = [f"body::then_branch/encoder.{number}.reparam_conv" for number in range(12)]
    layers = [f"bert.encoder.layer.{number}.attention.self/Softmax" for number in range(12)]
    short = shorten_apart([*blocks, *layers, "head"], 24)
    assert len(set(short.values())) == 25
    assert short["head"] == "head"
    assert short[blocks[3]] == "…3.reparam_conv"
    assert short[layers[3]] == "…3.attention…elf/Softmax"


@given(st.text(max_size=40))
@patiently
def test_printable_text_is_one_line_without_control_characters(text):
    assert printable(text).isprintable()
    assert printable("plain text, 1.5x → ok") == "plain text, 1.5x → ok"
