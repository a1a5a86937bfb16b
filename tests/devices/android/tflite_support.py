"""Small `.tflite` files, and the stand-in for `benchmark_model` as a program for the rigs'
processors.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import flatbuffers
import pytest

SOURCE = Path(__file__).with_name("fake_benchmark_model.c")
SLEEP_S = 2e-3
"""What one inference of the stand-in sleeps, at least."""
COMPILERS = {"x86_64": "gcc", "aarch64": "aarch64-linux-gnu-gcc"}
Tensor = tuple[str, tuple[int, ...], int, int]
"""Name, shape, `TensorType`, number of its buffer."""


@cache
def stand_in(form: int, machine: str = "x86_64") -> Path:
    """The stand-in as of 2019 or 2024.

    Without libraries, so that any phone with that processor runs it.
    """
    compiler = shutil.which(COMPILERS[machine])
    if compiler is None:
        pytest.skip(f"no {COMPILERS[machine]}, to compile a stand-in for benchmark_model")
    program = Path(tempfile.mkdtemp(prefix="hwbench-test-tflite-")) / f"benchmark_model_{form}"
    sleep = f"-DSLEEP_US={round(SLEEP_S * 1e6)}"
    argv = [
        compiler,
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-static",
        f"-DFORM={form}",
        sleep,
        "-o",
        program,
        SOURCE,
        "-lm",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if "cannot find -lc" in done.stderr:
        pytest.skip(f"no static C library for {machine} (libc6-dev)")
    assert done.returncode == 0, done.stderr
    return program


def model(
    tensors: Sequence[Tensor] | None = None,
    operators: Sequence[tuple[int, Sequence[int], Sequence[int]]] | None = None,
    codes: Sequence[int] = (3, 25),
    inputs: Sequence[int] = (0,),
) -> bytes:
    """A model: by default one convolution of 3x3 from 3 to 8 channels on 1x16x16x3, and a softmax.

    Args:
        tensors: Of the graph; buffer 0 is empty, every other holds something.
        operators: Index of the code, inputs, outputs.
        codes: Of `BuiltinOperator`.
        inputs: Of the graph.
    """
    tensors = tensors or [
        ("image", (1, 16, 16, 3), 0, 0),
        ("conv/weights", (8, 3, 3, 3), 0, 1),
        ("conv/bias", (8,), 0, 2),
        ("conv/Relu6", (1, 16, 16, 8), 0, 0),
        ("probs", (1, 16, 16, 8), 0, 0),
    ]
    operators = [(0, (0, 1, 2), (3,)), (1, (3,), (4,))] if operators is None else operators
    build = flatbuffers.Builder(1024)
    filled = [
        _table(build, 1, {0: _bytes(build, b"data")})
        for _ in range(max(tensor[3] for tensor in tensors))
    ]
    buffers = _offsets(build, [_table(build, 1, {}), *filled])
    made = [_tensor(build, *tensor) for tensor in tensors]
    ran = [_operator(build, *operator) for operator in operators]
    graph = _table(
        build,
        5,
        {
            0: _offsets(build, made),
            1: _ints(build, inputs),
            2: _ints(build, (0,)),
            3: _offsets(build, ran),
        },
    )
    table = _offsets(build, [_code(build, code) for code in codes])
    root = _table(build, 5, {1: table, 2: _offsets(build, [graph]), 4: buffers})
    build.Finish(root, file_identifier=b"TFL3")
    return bytes(build.Output())


def _table(build: flatbuffers.Builder, fields: int, offsets: dict[int, int]) -> int:
    build.StartObject(fields)
    for slot, offset in offsets.items():
        build.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return build.EndObject()


def _tensor(
    build: flatbuffers.Builder, name: str, shape: Sequence[int], kind: int, buffer: int
) -> int:
    text, sizes = build.CreateString(name), _ints(build, shape)
    build.StartObject(4)
    build.PrependUOffsetTRelativeSlot(0, sizes, 0)
    build.PrependInt8Slot(1, kind, 0)
    build.PrependUint32Slot(2, buffer, 0)
    build.PrependUOffsetTRelativeSlot(3, text, 0)
    return build.EndObject()


def _operator(
    build: flatbuffers.Builder, code: int, inputs: Sequence[int], outputs: Sequence[int]
) -> int:
    read, written = _ints(build, inputs), _ints(build, outputs)
    build.StartObject(3)
    build.PrependUint32Slot(0, code, 0)
    build.PrependUOffsetTRelativeSlot(1, read, 0)
    build.PrependUOffsetTRelativeSlot(2, written, 0)
    return build.EndObject()


def _code(build: flatbuffers.Builder, code: int) -> int:
    build.StartObject(4)
    build.PrependInt8Slot(0, min(code, 127), 0)
    build.PrependInt32Slot(3, code, 0)
    return build.EndObject()


def _bytes(build: flatbuffers.Builder, data: bytes) -> int:
    return build.CreateByteVector(data)


def _ints(build: flatbuffers.Builder, values: Sequence[int]) -> int:
    build.StartVector(4, len(values), 4)
    for value in reversed(values):
        build.PrependInt32(value)
    return build.EndVector()


def _offsets(build: flatbuffers.Builder, values: Sequence[int]) -> int:
    build.StartVector(4, len(values), 4)
    for value in reversed(values):
        build.PrependUOffsetTRelative(value)
    return build.EndVector()
