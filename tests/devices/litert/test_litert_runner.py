"""The native runner of LiteRT: the plans and events of ONNX Runtime's, and faults of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench.devices.shared.litert.library import litert_library
from hwbench.devices.shared.litert.profile import read_profile
from hwbench.devices.shared.runner.build import LITERT_RUNNER, build_runner, runner_source
from tests.needs import needs_compiler
from tests.support.tflite import depthwise_network, int8_network

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install ai-edge-litert")
pytestmark = needs_compiler


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.tflite"
    path.write_bytes(depthwise_network().artifact)
    return path


def execute(*lines: str, program: Path | None = None) -> tuple[int, list[dict[str, Any]], bytes]:
    """Run a plan with the library open: exit status, events but the first two, standard error."""
    plan = "".join(f"{line}\n" for line in (f"lib {litert_library()}", *lines))
    argv = [program or build_runner(name=LITERT_RUNNER)]
    done = subprocess.run(argv, input=plan.encode(), capture_output=True, timeout=60, check=False)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events[:2]] == ["hello", "library"]
    return done.returncode, events[2:], done.stderr


def test_it_loads_runs_profiles_and_dumps(model: Path, tmp_path: Path) -> None:
    code, events, _ = execute(
        f"load a {model}",
        f"profile {tmp_path}/p",
        f"load b {model}",
        "profile -",
        "run 3 a a",
        "run 1 b b a",
        f"dump a {tmp_path}",
        f"dump b {tmp_path}",
        "draw a 1 4",
        "run 1 a",
        "unload b",
        "unload a",
        f"load a {model}",
    )
    assert code == 0
    kinds = [event["event"] for event in events]
    assert kinds == [
        "loaded", "set", "loaded", "set", "samples", "samples", "dumped", "dumped",
        "drawn", "samples", "unloaded", "unloaded", "loaded", "bye",
    ]  # fmt: skip
    assert events[0]["inputs"] == [{"name": "image", "type": "float32", "shape": [1, 16, 16, 3]}]
    assert events[6]["outputs"] == [{"name": "probs", "type": "float32", "shape": [1, 10]}]
    outputs = [np.fromfile(tmp_path / f"{name}.0.bin", np.float32) for name in "ab"]
    assert outputs[0].sum() == pytest.approx(1)
    assert np.array_equal(*outputs), "equal seeds give equal inputs, and profiling changes nothing"
    assert (events[10]["profile"], events[11]["profile"]) == (f"{tmp_path}/p-b.json", "")
    rows = read_profile((tmp_path / "p-b.json").read_bytes(), 2)
    assert len(rows) >= 7


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [
        (["kernels fast"], 2, "unknown command"),
        (["graph /tmp/g", "load a {model}"], 2, "LiteRT writes no graph"),
        (["load a {model}", "load a {model}"], 2, "loaded already"),
        (["inputs {model}.short", "load a {model}"], 2, "too short for input 'image'"),
        (["profile /nowhere/p", "load a {model}"], 3, "cannot write /nowhere/p-a.json"),
        (["load a /nowhere.tflite"], 4, "CreateModelFromFile"),
        (["load a {model}.short"], 4, "CreateModelFromFile"),
        (["threads 2", "cpus 0", "load a {model}"], 2, "2 threads need as many CPUs"),
    ],
)
def test_nothing_is_ignored(model: Path, lines: list[str], code: int, message: str) -> None:
    Path(f"{model}.short").write_bytes(b"12345678")
    status, events, _ = execute(*(line.format(model=model) for line in lines))
    assert (status, events[-1]["event"], events[-1]["code"]) == (code, "error", code)
    assert message in events[-1]["message"]


def test_another_library_is_named(tmp_path: Path) -> None:
    program = build_runner(name=LITERT_RUNNER)
    done = subprocess.run(
        [program], input=b"lib libm.so.6\n", capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert b"is not LiteRT of 2.1 or later: it has no LiteRtCreateEnvironment" in done.stdout


def test_both_kinds_of_kernels_compute_the_same(model: Path, tmp_path: Path) -> None:
    model.write_bytes(int8_network().artifact)
    execute(
        f"load a {model}", "kernels builtin", f"load b {model}",
        f"dump a {tmp_path}", f"dump b {tmp_path}",
    )  # fmt: skip
    a, b = (np.fromfile(tmp_path / f"{name}.0.bin", np.int8).astype(int) for name in "ab")
    assert len(a) == 4
    assert np.abs(a - b).max() <= 1


def test_no_memory_error_or_undefined_behaviour(model: Path, tmp_path: Path) -> None:
    program = tmp_path / "runner"
    flags = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        ["cc", *flags, "-o", program, runner_source(LITERT_RUNNER), "-ldl"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    if built.returncode != 0:
        pytest.skip("the C compiler has no sanitizers")
    code, _, errors = execute(
        f"profile {tmp_path}/p",
        f"load a {model}",
        "profile -",
        f"load b {model}",
        "run 2 a b a",
        f"dump a {tmp_path}",
        "draw b 2 0",
        "unload a",
        f"load a {model}",
        "run 1 b a",
        "unload b",
        f"load c {tmp_path}/nowhere",
        program=program,
    )
    assert code == 4
    assert b"Sanitizer" not in errors
    assert b"runtime error" not in errors
