"""Telling formats apart, refusing what is none, and damage of every kind: one-line errors or sound
records, nothing else.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from dataclasses import fields, is_dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.errors import HwbenchError, OutputParseError, SchemaError, UnsafeModelError, UsageError
from hwbench.lookup_tables.exchange import foreign_files
from hwbench.lookup_tables.exchange.foreign_files import ProfiledRuns
from hwbench.records import untrusted
from tests.support.paths import DATA

pytestmark = pytest.mark.slow

SAMPLES = {path.name: path.read_bytes() for path in sorted(DATA.iterdir())}
EXPECTED = {
    "litert_2026.txt": "TfliteLog",
    "ofa.yaml": "OfaTable",
    "ort_profile.json": "ProfiledRuns",
    "tflite_2024.txt": "TfliteLog",
    "tflite_profile.csv": "TfliteLog",
    "tflite_wasm_2023.txt": "TfliteLog",
    "tflite_xnnpack_2026.csv": "TfliteLog",
    "trt_layers.json": "TrtLayers",
    "trt_layers_names.json": "TrtLayers",
    "trt_profile.json": "TrtProfile",
    "trt_resnet18.json": "TrtProfile",
    "trt_times.json": "TrtTimes",
    "trtexec_log.txt": "TrtLog",
}


@pytest.mark.parametrize(("name", "record"), EXPECTED.items())
def test_the_format_is_told_by_content_and_not_by_name(name, record, tmp_path):
    path = tmp_path / "file.dat"
    path.write_bytes(SAMPLES[name])
    assert type(foreign_files.read(path)).__name__ == record


@pytest.mark.parametrize("name", ["tflite_2024.txt", "trt_profile.json"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_files_redirected_by_powershell_are_read(name, encoding, tmp_path):
    path = tmp_path / name
    path.write_bytes(SAMPLES[name].decode().replace("\n", "\r\n").encode(encoding))
    assert type(foreign_files.read(path)).__name__ == EXPECTED[name]


def test_profile_of_onnx_runtime_names_operators():
    profile = foreign_files.read(DATA / "ort_profile.json")
    assert isinstance(profile, ProfiledRuns)
    assert profile.whole_s == pytest.approx((420e-6, 419e-6, 418e-6))
    assert profile.nodes_s["logits"] == pytest.approx((55e-6, 56e-6, 57e-6))
    assert profile.ops["relu0_nchwc"] == "Conv"


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"Conv": 1.0}),
        pickle.dumps({"Conv": 1.0}, protocol=0),
        pickle.dumps([1.0], protocol=0),
        b"cos\nsystem\n(S'true'\ntR.",
        archive(),
    ],
)
def test_pickles_are_refused_with_the_safe_way(data, tmp_path):
    path = tmp_path / "table.pkl"
    path.write_bytes(data)
    with pytest.raises(UnsafeModelError, match="JSON or YAML"):
        foreign_files.read(path)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", UsageError, "0 bytes"),
        (b"\xff\xd8\xff\xe0 a picture", OutputParseError, "no text"),
        (b"a\0b", OutputParseError, "zero bytes"),
        (b"hello", SchemaError, "no known format"),
        (b"{}", SchemaError, "no known form"),
        (b"[1, 2", OutputParseError, "damaged JSON"),
        (b"[" * 100_000, OutputParseError, "damaged JSON"),
        (b'[{"count": NaN}]', OutputParseError, "NaN is no number"),
        (b'[{"count": ' + b"9" * 5000 + b"}]", OutputParseError, "damaged JSON"),
        (b'[{"computeMs": ' + b"9" * 400 + b"}]", OutputParseError, "expected a time"),
        (b'[{"cat": "Node"}]', OutputParseError, "not a profile"),
    ],
)
def test_what_is_no_record_is_refused(data, error, message, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        foreign_files.read(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_missing_and_oversized_files_and_folders_are_refused(tmp_path, monkeypatch):
    for path in (tmp_path / "none", tmp_path, "nul\0byte"):
        with pytest.raises(UsageError):
            foreign_files.read(path)
    monkeypatch.setattr(untrusted, "MAX_BYTES", 4)
    (tmp_path / "large").write_bytes(b"12345")
    with pytest.raises(UsageError, match="5 bytes"):
        foreign_files.read(tmp_path / "large")


PATTERNS = [
    "Inference timings in us: Init: ",
    "[a] ",
    "[",
    "\n",
    " ",
    "\t",
    "a",
    "a = ",
    "count=1 curr=1 ",
    "=1",
    "a-input:1",
    "&&&& ",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "start", ["x ", "Run Order =\n", "GPU Compute Time: min = ", "Conv-input:1-output:2: "]
)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_repetition_ends_in_time_proportional_to_its_length(start, pattern):
    """Where a search began anew at every repetition and ran to the end each time, this would take
    hours.
    """
    with pytest.raises(HwbenchError):
        foreign_files.parse(start + pattern * (400_000 // len(pattern)), "file")


def durations(record: object):
    """Every number of seconds in a record, however deep."""
    if is_dataclass(record):
        for field in fields(record):
            value = getattr(record, field.name)
            yield from numbers(value) if field.name.endswith("_s") else durations(value)
    elif isinstance(record, tuple):
        for item in record:
            yield from durations(item)


def numbers(value: object):
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for item in value:
            yield from numbers(item)
    elif value is not None:
        yield value


def read_or_refuse(text: str) -> None:
    try:
        record = foreign_files.parse(text, "file")
    except HwbenchError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
    else:
        assert all(
            isinstance(value, float) and 0 <= value < math.inf for value in durations(record)
        )


TOKENS = [
    "0",
    "-1",
    "nan",
    "1e999",
    "NaN",
    "null",
    "[",
    "]",
    "{",
    "}",
    '"',
    "\t",
    "\n",
    ",",
    "=",
    "%",
    "!!python/x ",
    "&a *a",
    "\x1f",
]


@pytest.mark.parametrize("name", SAMPLES)
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_damaged_samples_give_one_line_errors_or_sound_records(name, data):
    text = SAMPLES[name].decode()
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = begin + data.draw(st.integers(0, 60) | st.integers(0, len(text)))
        text = text[:begin] + data.draw(st.sampled_from(TOKENS) | st.text(max_size=5)) + text[end:]
    read_or_refuse(text)


@given(st.text(max_size=200))
def test_any_text_is_refused_or_read(text):
    read_or_refuse(text)


NAMES = [
    "count",
    "name",
    "timeMs",
    "averageMs",
    "medianMs",
    "computeMs",
    "latencyMs",
    "Layers",
    "Name",
    "Metadata",
    "cat",
    "ts",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=14,
)


@given(json_values)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_json_is_refused_or_read(value):
    read_or_refuse(json.dumps(value))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '[{"b": {"a": 1, "c": 2, "a": 1}}]',
        '{"a": 1e999}',
        "[NaN]",
        "[-Infinity]",
    ],
)
def test_json_that_two_readers_would_read_differently_is_refused(text):
    with pytest.raises(OutputParseError, match="damaged JSON"):
        untrusted.parse_json(text, "the file")


@pytest.mark.parametrize("value", [1e-320, 1e-22, "1e-30", 1e10, 10**400, -1e-320])
def test_times_that_no_device_takes_are_refused(value):
    with pytest.raises(OutputParseError):
        untrusted.parse_seconds(value, 1e3, "a time")
    with pytest.raises(OutputParseError):
        untrusted.parse_seconds_or_zero(value, 1e3, "a time")
