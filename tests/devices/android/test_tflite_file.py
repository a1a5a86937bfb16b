"""Files of TensorFlow Lite and programs for a phone, honest and hostile."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest

from hwbench.devices.android.tflite_program import read_program
from hwbench.errors import UsageError, WorkloadError
from hwbench.network.tflite import read_workload
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec
from tests.devices.android.tflite_support import model

CONV, DEPTHWISE, DEQUANTIZE, LINEAR, TRANSPOSED = 3, 4, 6, 9, 67
FLOAT, HALF, INT32, INT8 = 0, 1, 2, 9


def read(folder: Path, data: bytes) -> Workload:
    path = folder / "m.tflite"
    path.write_bytes(data)
    return read_workload(path, str(path))


def test_a_convolution_is_counted(tmp_path: Path) -> None:
    found = read(tmp_path, model())
    assert found.inputs == (TensorSpec("image", (1, 16, 16, 3), "float32"),)
    assert (found.batch, found.precision) == (1, "fp32")
    assert found.macs == 16 * 16 * 8 * 3 * 3 * 3
    assert found.params == 8 * 3 * 3 * 3 + 8
    assert found.name.endswith("m.tflite")


@pytest.mark.parametrize(
    ("code", "weights", "read_shape", "written", "macs"),
    [
        (CONV, (6, 1, 1, 4), (2, 5, 5, 4), (2, 5, 5, 6), 2 * 5 * 5 * 6 * 4),
        (CONV, (6, 3, 3, 2), (1, 5, 5, 4), (1, 5, 5, 6), 5 * 5 * 6 * 9 * 2),  # two groups
        (DEPTHWISE, (1, 3, 3, 4), (1, 5, 5, 4), (1, 5, 5, 4), 5 * 5 * 4 * 9),
        (LINEAR, (10, 64), (3, 64), (3, 10), 3 * 10 * 64),
        (TRANSPOSED, (6, 2, 2, 4), (1, 5, 5, 4), (1, 10, 10, 6), 5 * 5 * 4 * 6 * 4),
    ],
)
def test_layers_are_counted_by_their_weights(
    code: int,
    weights: tuple[int, ...],
    read_shape: tuple[int, ...],
    written: tuple[int, ...],
    macs: int,
    tmp_path: Path,
) -> None:
    tensors = [
        ("x", read_shape, FLOAT, 0),
        ("w", weights, FLOAT, 1),
        ("y", written, FLOAT, 0),
        ("shape", (4,), INT32, 2),
    ]
    inputs = (3, 1, 0) if code == TRANSPOSED else (0, 1, -1)
    found = read(tmp_path, model(tensors, [(0, inputs, (2,))], (code,)))
    assert found.macs == macs
    assert found.batch == read_shape[0]


def test_half_precision_weights_are_found_behind_their_conversion(tmp_path: Path) -> None:
    tensors = [
        ("x", (1, 8), FLOAT, 0),
        ("w16", (4, 8), HALF, 1),
        ("w", (4, 8), FLOAT, 0),
        ("y", (1, 4), FLOAT, 0),
    ]
    found = read(
        tmp_path, model(tensors, [(0, (1,), (2,)), (1, (0, 2), (3,))], (DEQUANTIZE, LINEAR))
    )
    assert (found.precision, found.params, found.macs) == ("fp16", 32, 32)


def test_quantised_weights_make_it_int8(tmp_path: Path) -> None:
    tensors = [
        ("x", (1, 8), INT8, 0),
        ("w", (4, 8), INT8, 1),
        ("b", (4,), INT32, 2),
        ("y", (1, 4), INT8, 0),
    ]
    found = read(tmp_path, model(tensors, [(0, (0, 1, 2), (3,))], (LINEAR,)))
    assert (found.precision, found.inputs[0].dtype) == ("int8", "int8")


def test_an_open_dimension_is_one_as_the_runtime_takes_it(tmp_path: Path) -> None:
    assert read(tmp_path, model([("x", (-1, 8), FLOAT, 0), ("w", (1,), FLOAT, 1)], [])).inputs[
        0
    ].shape == (1, 8)


@pytest.mark.parametrize(
    "data", [b"", b"ONNX", b"\x08\x00\x00\x00TFL2" + bytes(40), b"PK\x03\x04" * 20]
)
def test_what_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no TensorFlow Lite model"):
        read(tmp_path, data)


def test_a_model_cut_off_or_scrambled_is_read_or_refused_and_never_hangs(tmp_path: Path) -> None:
    whole, chance = model(), random.Random(5)
    damaged = [whole[:length] for length in range(8, len(whole), 7)]
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(8, len(data) - 4)
            data[at : at + 4] = struct.pack(
                "<I",
                chance.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, len(data), chance.randrange(2**32)]),
            )
        damaged.append(bytes(data))
    refused = 0
    for data in damaged:
        try:
            found = read(tmp_path, data)
        except WorkloadError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert found.macs is None or found.macs >= 0
            assert found.params >= 0
    assert refused > len(damaged) // 3


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*nowhere"):
        read_workload(tmp_path / "nowhere", "nowhere")
    with pytest.raises(UsageError, match=r"no such file: .*nowhere"):
        read_program(tmp_path / "nowhere")
    if os.geteuid() != 0:
        (tmp_path / "closed").touch(mode=0)
        with pytest.raises(UsageError, match="cannot read"):
            read_workload(tmp_path / "closed", "closed")


def program(folder: Path, machine: int = 183, kind: int = 3, magic: bytes = b"\x7fELF") -> Path:
    path = folder / "benchmark_model"
    path.write_bytes(
        magic + b"\x02\x01\x01" + bytes(9) + struct.pack("<HH", kind, machine) + bytes(44)
    )
    return path


def test_a_program_is_for_one_processor(tmp_path: Path) -> None:
    found = read_program(program(tmp_path))
    found.check("aarch64")
    with pytest.raises(
        UsageError, match=r"for aarch64; the device is x86_64: .*--config=android_x86_64"
    ):
        found.check("x86_64")
    read_program(program(tmp_path, 40)).check("armv8l")
    with pytest.raises(
        UsageError, match=r"for ELF machine 8; the device is aarch64: .*--config=android_arm64 "
    ):
        read_program(program(tmp_path, 8)).check("aarch64")


@pytest.mark.parametrize("changes", [{"kind": 1}, {"magic": b"MZ\x90\x00"}, {"magic": b"#!/b"}])
def test_what_is_no_program_is_refused(changes: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no program"):
        read_program(program(tmp_path, **changes))
