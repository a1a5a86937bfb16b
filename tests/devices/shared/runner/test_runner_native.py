"""The native runner against the real ONNX Runtime: right numbers, right order, and nothing left
behind.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest

from hwbench.devices.contract import shows_its_order
from hwbench.devices.shared.runner.process import RunnerProcess, ort_library
from hwbench.devices.shared.runner.protocol import MAX_FILE_BYTES
from hwbench.errors import OutputTooLargeError
from hwbench.network.ort import onnxruntime
from hwbench.records.tensors import TensorSpec
from tests.devices.android.pyadbd_support import soon
from tests.needs import needs_compiler
from tests.support.models import conv_net
from tests.support.runner_support import (
    chain_model,
    conv_model,
    dump_outputs,
    execute,
    identity_model,
    program,
    save_model,
    with_library,
)

pytestmark = needs_compiler


def runner() -> RunnerProcess:
    process = RunnerProcess.start([str(program())])
    process.library(ort_library())
    return process


def random_input(spec: TensorSpec, seed: int, index: int) -> np.ndarray[Any, Any]:
    """The values that README.md promises."""
    state, upper = (seed << 32) + index, []
    for _ in range(int(np.prod(spec.shape))):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        upper.append(state)
    bits = np.array(upper, np.uint64)
    values: dict[str, Any] = {
        "float16": np.where(bits >> 63, -1, 1) * (0.5 + ((bits >> 53) % 1024) / 2048),
        "float32": (bits >> 40) / 2**23 - 1,
        "float64": (bits >> 40) / 2**23 - 1,
        "int8": bits >> 57,
        "uint8": bits >> 57,
    }
    return np.asarray(values.get(spec.dtype, bits >> 63)).astype(spec.dtype).reshape(spec.shape)


@pytest.mark.parametrize(("seed", "threads"), [(0, 1), (7, 2)])
def test_outputs_equal_those_of_python(tmp_path: Path, seed: int, threads: int) -> None:
    model = conv_model(tmp_path / "a model with spaces.onnx")
    with runner() as process:
        process.configure(seed=seed, threads=threads)
        loaded = process.load("conv", model)
        process.run(["conv"], loops=3)
        outputs = dump_outputs(process, "conv", tmp_path)
    feeds = {spec.name: random_input(spec, seed, index) for index, spec in enumerate(loaded.inputs)}
    session = onnxruntime().InferenceSession(str(model), providers=["CPUExecutionProvider"])
    expected = session.run([spec.name for spec in outputs], feeds)
    assert [spec.name for spec in outputs] == ["z", "y"]
    for index, (spec, values) in enumerate(zip(outputs, expected, strict=True)):
        raw = np.fromfile(tmp_path / f"conv.{index}.bin", spec.dtype).reshape(spec.shape)
        np.testing.assert_allclose(raw, values, rtol=1e-5, atol=1e-5)
    assert np.ptp(expected[0]) > 1


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "float16",
        "float64",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "bool",
    ],
)
def test_inputs_of_every_type_are_as_documented(tmp_path: Path, dtype: str) -> None:
    model = identity_model(tmp_path / "m.onnx", dtype, (3, 200))
    with runner() as process:
        process.configure(seed=3)
        loaded = process.load("m", model)
        dump_outputs(process, "m", tmp_path)
    assert loaded.inputs == (TensorSpec("x", (3, 200), dtype),)
    values = np.fromfile(tmp_path / "m.0.bin", dtype)
    np.testing.assert_array_equal(values, random_input(loaded.inputs[0], 3, 0).ravel())
    if values.dtype.kind == "f":
        assert values.min() < -0.9
        assert 0.9 < values.max() < 1
        assert abs(values[values != 0]).min() >= np.finfo(dtype).smallest_normal
    else:
        assert values.min() == 0
        assert values.max() == (127 if dtype in {"int8", "uint8"} else 1)


def test_bfloat16_is_as_documented(tmp_path: Path) -> None:
    model = identity_model(tmp_path / "m.onnx", "bfloat16", (3, 200))
    with runner() as process:
        process.configure(seed=3)
        loaded = process.load("m", model)
        dump_outputs(process, "m", tmp_path)
    assert loaded.inputs == (TensorSpec("x", (3, 200), "bfloat16"),)
    words = np.fromfile(tmp_path / "m.0.bin", np.uint16)
    values = (words.astype(np.uint32) << 16).view(np.float32)
    assert 0.5 <= abs(values).min() < 0.51
    assert 0.99 < abs(values).max() < 1
    assert set(np.sign(values)) == {-1, 1}


def test_a_scalar_and_an_empty_tensor_are_inputs_too(tmp_path: Path) -> None:
    with runner() as process:
        assert (
            process.load("s", identity_model(tmp_path / "s.onnx", "float32", ())).inputs[0].shape
            == ()
        )
        assert process.load("e", identity_model(tmp_path / "e.onnx", "float32", (2, 0))).inputs[
            0
        ].shape == (2, 0)
        assert len(process.run(["s", "e", "s"]).values_s) == 3


def test_samples_come_in_the_order_asked_for(tmp_path: Path) -> None:
    small, large = chain_model(tmp_path / "s.onnx", 8), chain_model(tmp_path / "l.onnx", 384)
    values_s: dict[bool, list[float]] = {False: [], True: []}
    with runner() as process:
        process.load("s", small)
        process.load("l", large)

        def run(is_large: Sequence[bool]) -> Sequence[float]:
            samples = process.run(["l" if wanted else "s" for wanted in is_large], loops=2)
            assert samples.clock == "CLOCK_MONOTONIC"
            for wanted, value_s in zip(is_large, samples.values_s, strict=True):
                values_s[wanted].append(value_s)
            return samples.values_s

        assert shows_its_order(run)
    assert min(values_s[True]) > 20 * min(values_s[False])


def test_a_round_lasts_as_long_as_its_loops(tmp_path: Path) -> None:
    with runner() as process:
        process.load("m", chain_model(tmp_path / "m.onnx", 128))
        process.run(["m"] * 5)
        one = min(process.run(["m"] * 20, loops=1).values_s)
        many = min(process.run(["m"] * 20, loops=20).values_s)
    assert many == pytest.approx(one, rel=0.5)


def test_thousands_of_rounds_come_in_one_event(tmp_path: Path) -> None:
    with runner() as process:
        process.load("m", identity_model(tmp_path / "m.onnx", "float32", (1,)))
        assert len(process.run(["m"] * 100_000).values_s) == 100_000
        assert len(process.run(["m"] * 100_001).values_s) == 100_001


def test_unloading_frees_the_name_and_tells_the_profile(tmp_path: Path) -> None:
    model = conv_model(tmp_path / "m.onnx")
    with runner() as process:
        process.load("m", model, profile=tmp_path / "a profile")
        process.run(["m"] * 3)
        profile = process.unload("m")
        process.load("m", model)
        assert process.unload("m") is None
    assert profile is not None
    assert profile.name.startswith("a profile")
    assert Path(profile).read_text().count("model_run") == 4


def test_files_travel_through_the_conversation(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(1_000_003)
    with RunnerProcess.start([str(program())]) as process:
        for content in (data, b"", b"\n"):
            process.put(content, tmp_path / "a file")
            assert (tmp_path / "a file").read_bytes() == content
            assert process.get(tmp_path / "a file") == content
        process.delete(tmp_path / "a file")
        process.delete(tmp_path / "a file")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_too_large_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES)
    with RunnerProcess.start([str(program())]) as process:
        for _ in range(2):
            with pytest.raises(OutputTooLargeError, match="64 MiB"):
                process.get(large)
        with large.open("wb") as file:
            file.truncate(MAX_FILE_BYTES - 1)
        assert len(process.get(large)) == MAX_FILE_BYTES - 1


def test_inputs_can_be_drawn_anew(tmp_path: Path) -> None:
    """The network doubles its input, so that the output tells what was drawn."""
    shape = [1, 8]
    save_model(
        tmp_path / "m.onnx",
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
    )

    def output(process: RunnerProcess) -> np.ndarray[Any, Any]:
        process.run(["m"])
        dump_outputs(process, "m", tmp_path)
        return np.frombuffer((tmp_path / "m.0.bin").read_bytes(), np.float32)

    with runner() as process:
        process.load("m", tmp_path / "m.onnx")
        first = output(process)
        process.draw("m", 7, 0)
        second = output(process)
        assert not np.isin(second, first).any()
        process.draw("m", 7, 8)
        assert (output(process) == 256 * second).all()
        process.draw("m", 7, -20)
        assert (output(process) == second / 2**20).all()
        process.draw("m", 0, 0)
        assert (output(process) == first).all()


def test_the_graph_is_the_one_that_is_executed(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(conv_net())
    wanted = tmp_path / "graph.onnx"
    with runner() as process:
        process.load("m", tmp_path / "m.onnx", profile=tmp_path / "profile", graph=wanted)
        executed = {
            node.name for node in onnx.load_model_from_string(process.get(wanted)).graph.node
        }
        process.run(["m"])
        profile = process.unload("m")
        assert profile is not None
        events = json.loads(process.get(profile))
        wanted.unlink()
        process.load("m", tmp_path / "m.onnx")
    assert {
        event["name"].removesuffix("_kernel_time") for event in events if event["cat"] == "Node"
    } == executed
    assert not wanted.exists(), "a setting holds for one load"


def test_loading_and_unloading_does_not_pile_up_memory(tmp_path: Path) -> None:
    model = chain_model(tmp_path / "m.onnx", 512)
    with runner() as process:
        peaks = []
        for _ in range(40):
            process.load("m", model)
            process.unload("m")
            peaks.append(process.memory())
    assert peaks[-1] - peaks[5] < 20 * 512 * 512 * 4


def test_memory_is_that_of_the_runner_alone() -> None:
    ballast = np.ones(40_000_000, np.float64)
    with RunnerProcess.start([str(program())]) as process:
        assert 100_000 < process.memory() < ballast.nbytes / 4


def allowed_cpus(pid: int) -> list[str]:
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name))
    return [
        re.search(r"Cpus_allowed_list:\s*(\S+)", (task / "status").read_text())[1] for task in tasks
    ]  # type: ignore[index]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_each_thread_has_its_own_cpu_or_shares_the_cluster(tmp_path: Path) -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    model = conv_model(tmp_path / "m.onnx")
    with runner() as process:
        process.configure(threads=2, cpus=(second, first))
        process.load("m", model)
        # A thread of the runtime goes to its CPU when it first runs, which may be after the answer.
        until_s = time.monotonic() + 20
        while (seen := allowed_cpus(process.pid)) != [str(first), str(second)]:
            assert time.monotonic() < until_s, seen
            time.sleep(0.01)
        process.configure(threads=1, cpus=(second,))
        process.load("one", model)
        assert allowed_cpus(process.pid)[0] == str(second)
        process.configure(threads=1, cpus=(first, second))
        process.load("any", model)
        assert allowed_cpus(process.pid)[0] in {f"{first},{second}", f"{first}-{second}"}


def test_no_telemetry_thread_and_no_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    model = conv_model(tmp_path / "m.onnx")
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "HOME",
            "XDG_CACHE_HOME",
            "XDG_DATA_HOME",
            "XDG_STATE_HOME",
            "XDG_CONFIG_HOME",
        ):
            patch.setenv(name, str(home))
        patch.chdir(home)
        with runner() as process:
            process.load("m", model)
            process.run(["m"] * 10)
            assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 1
        assert execute(with_library(f"load m {model}"), ORT_DISABLE_TELEMETRY="0")[0] == 0
    assert list(home.rglob("*")) == []


LONG_RUN = """
import sys
from hwbench.devices.shared.runner.process import RunnerProcess, ort_library
process = RunnerProcess.start([sys.argv[1]])
process.attach()
process.library(ort_library())
process.load("a", sys.argv[2])
print(process.pid, flush=True)
process.run(["a"], 1_000_000_000, 600.0)
"""


def test_an_attached_runner_ends_with_its_owner_in_the_middle_of_a_run(tmp_path: Path) -> None:
    model = conv_model(tmp_path / "m.onnx")
    owner = subprocess.Popen(
        [sys.executable, "-c", LONG_RUN, str(program()), str(model)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    started = psutil.Process(int(owner.stdout.readline()))
    busy = started.cpu_times().user + 0.3
    assert soon(lambda: started.cpu_times().user > busy)
    owner.kill()
    owner.communicate()
    assert not psutil.wait_procs([started], timeout=5)[1]
