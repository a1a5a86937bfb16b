"""A freshly built native runner, raw plans for it, and small ONNX models."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwbench.devices.shared.runner.build import build_runner
from hwbench.devices.shared.runner.process import RunnerProcess, ort_library
from hwbench.devices.shared.runner.protocol import plan_line, tensor_specs
from hwbench.records.tensors import TensorSpec


@cache
def program() -> Path:
    """The runner, built into a cache of its own and never from a user's."""
    folder = tempfile.mkdtemp(prefix="hwbench-test-runner-")
    atexit.register(shutil.rmtree, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        patch.delenv("CC", raising=False)
        return build_runner()


def execute(
    plan: str | bytes, *arguments: str, **environment: str
) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and events of a whole plan given at once."""
    data = plan.encode() if isinstance(plan, str) else plan
    env = os.environ | environment
    done = subprocess.run(
        [program(), *arguments], input=data, capture_output=True, timeout=60, check=False, env=env
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def with_library(*lines: object) -> str:
    """A plan that opens ONNX Runtime first."""
    return "".join(f"{line}\n" for line in (f"lib {ort_library()}", *lines))


def dump_outputs(runner: RunnerProcess, name: str, folder: PurePath) -> tuple[TensorSpec, ...]:
    """Have a runner write output i of a model to `folder/NAME.i.bin`, raw; what the outputs are."""
    return tensor_specs(runner.command(plan_line("dump", name, folder), "dumped")["outputs"])


def save_model(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    weights: list[Any] | None = None,
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights or [])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def conv_model(path: Path, channels: int = 8) -> Path:
    """Two inputs, a convolution between them, two outputs."""
    weight = np.random.default_rng(0).standard_normal((channels, 3, 3, 3)).astype(np.float32)
    return save_model(
        path,
        [
            helper.make_node("Add", ["x", "bias"], ["sum"]),
            helper.make_node("Conv", ["sum", "w"], ["y"]),
            helper.make_node("Relu", ["y"], ["z"]),
        ],
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, [3, 1, 1]),
        ],
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, channels, 14, 14]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 14, 14]),
        ],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.ravel())],
    )


def chain_model(path: Path, width: int, depth: int = 1) -> Path:
    """`depth` square matrix products of `width` columns: its latency grows steeply with `width`."""
    weight = np.full((width, width), 1 / width, np.float32)
    return save_model(
        path,
        [helper.make_node("MatMul", [f"t{i}", "w"], [f"t{i + 1}"]) for i in range(depth)],
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [width, width])],
        [helper.make_tensor_value_info(f"t{depth}", TensorProto.FLOAT, [width, width])],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.ravel())],
    )


def identity_model(path: Path, dtype: str, shape: tuple[int | str, ...]) -> Path:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    return save_model(path, [helper.make_node("Identity", ["x"], ["y"])], value[:1], value[1:])
