"""The runner's language: what is written can be read back, and no malformed event ever becomes a
sample.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.devices.shared.runner.protocol import (
    expect,
    latencies,
    parse_event,
    plan_line,
    tensor_specs,
)
from hwbench.errors import (
    BuildError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    HwbenchError,
    OutputParseError,
    UsageError,
)
from hwbench.records.tensors import TensorSpec

SAMPLES = {"event": "samples", "clock": "CLOCK_MONOTONIC", "loops": 2, "ns": [10, 30]}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
)


def line(**changes: Any) -> bytes:
    return json.dumps(SAMPLES | changes).encode()


def test_a_sound_event_becomes_seconds_per_inference() -> None:
    assert latencies(parse_event(line()), rounds=2, loops=2) == (5e-9, 15e-9)


@given(st.lists(st.integers(1, 2**63 - 1), min_size=1), st.integers(1, 10**9))
def test_every_sound_event_is_read(ns: list[int], loops: int) -> None:
    values = latencies(parse_event(line(ns=ns, loops=loops)), len(ns), loops)
    assert values == pytest.approx([number / loops / 1e9 for number in ns])
    assert all(0 < value < float("inf") for value in values)


@pytest.mark.parametrize(
    "bad", [0, -1, 1.0, 1.5, True, None, "1", [1], 2**63, float("nan"), float("inf"), float("-inf")]
)
def test_a_time_that_is_not_a_positive_whole_number_is_refused(bad: object) -> None:
    with pytest.raises(OutputParseError):
        parse_event(line(ns=[10, bad]))


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_another_number_of_samples_is_refused(rounds: int) -> None:
    with pytest.raises(OutputParseError, match="2 samples"):
        latencies(parse_event(line()), rounds, loops=2)


def test_other_loops_or_another_clock_are_refused() -> None:
    with pytest.raises(OutputParseError, match="2 loops"):
        latencies(parse_event(line()), 2, loops=3)
    with pytest.raises(OutputParseError, match="wall"):
        latencies(parse_event(line(clock="wall")), 2, loops=2)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"event":"samples"}',
        b'{"event":["samples"]}',
        b'{"event":"bye","x":1}',
        b'{"event":"set","name":"a","name":"b"}',
        b'{"event":"file","bytes":' + b"9" * 5000 + b"}",
        b'{"event":"samples","clock":"CLOCK_MONOTONIC","loops":1,"ns":[1',
        b"[" * 100_000,
        b'{"event":"set","name":"a"}{"event":"bye"}',
    ],
)
def test_malformed_lines_are_refused(text: bytes) -> None:
    with pytest.raises(OutputParseError):
        parse_event(text)


@given(st.binary())
def test_bytes_never_become_a_sample(data: bytes) -> None:
    with pytest.raises(OutputParseError):
        parse_event(data)


@given(st.sampled_from(sorted(SAMPLES)), ANYTHING)
def test_a_changed_field_is_refused_or_sound(field: str, value: Any) -> None:
    try:
        values = latencies(parse_event(line(**{field: value})), rounds=2, loops=2)
    except OutputParseError:
        return
    assert len(values) == 2
    assert all(0 < number < float("inf") for number in values)


@given(st.data())
def test_a_cut_or_damaged_line_never_gives_another_number_of_samples(data: st.DataObject) -> None:
    whole = line()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(OutputParseError):
        parse_event(whole[:cut])
    damaged = whole[:cut] + bytes([data.draw(st.integers(0, 255))]) + whole[cut + 1 :]
    try:
        event = parse_event(damaged)
        expect(event, "samples")
        values = latencies(event, 2, 2)
    except HwbenchError:
        return
    assert len(values) == 2
    assert min(values) > 0


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (2, UsageError),
        (3, DeviceUnavailableError),
        (4, BuildError),
        (5, DeviceTimeoutError),
        (77, DeviceLostError),
    ],
)
def test_error_events_are_told_apart_in_one_line(code: int, kind: type[HwbenchError]) -> None:
    event = parse_event(
        json.dumps(
            {"event": "error", "code": code, "where": "load", "message": "no\nsuch\tfile"}
        ).encode()
    )
    with pytest.raises(kind, match=r"'load': no such file$") as caught:
        expect(event, "loaded")
    assert type(caught.value) is kind


def test_an_answer_to_another_line_is_refused() -> None:
    with pytest.raises(OutputParseError, match="'samples' where 'loaded'"):
        expect(parse_event(line()), "loaded")


def test_tensors_keep_name_shape_and_type() -> None:
    tensors = [
        {"name": "x y", "type": "float32", "shape": [1, 0, 3]},
        {"name": "s", "type": "int64", "shape": []},
    ]
    event = parse_event(json.dumps({"event": "dumped", "name": "a", "outputs": tensors}).encode())
    assert tensor_specs(event["outputs"]) == (
        TensorSpec("x y", (1, 0, 3), "float32"),
        TensorSpec("s", (), "int64"),
    )


@pytest.mark.parametrize("shape", [[-1], [1.0], "11", [None], [True], [2**63]])
def test_a_shape_that_is_none_is_refused(shape: object) -> None:
    tensor = {"name": "x", "type": "float32", "shape": shape}
    with pytest.raises(OutputParseError):
        parse_event(json.dumps({"event": "dumped", "name": "a", "outputs": [tensor]}).encode())


def test_only_the_last_word_of_a_plan_line_may_have_spaces() -> None:
    assert plan_line("load", "a", "/my models/ä b.onnx") == "load a /my models/ä b.onnx\n".encode()
    for words in (
        ("load", "a b", "/x"),
        ("load", "", "/x"),
        ("lib", ""),
        ("lib", "a\nquit"),
        ("lib", "a\0b"),
    ):
        with pytest.raises(UsageError):
            plan_line(*words)


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_plan_line_is_one_line_that_splits_into_its_words(words: list[str]) -> None:
    try:
        text = plan_line(*words)
    except UsageError:
        return
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    assert text[:-1].decode().split(" ", len(words) - 1) == words
