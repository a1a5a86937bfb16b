"""Whatever is wrong with a plan, a target or a model ends the runner with one clear event and its
own exit code.
"""

from __future__ import annotations

import subprocess
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hwbench.devices.shared.runner.protocol import parse_event
from tests.needs import needs_compiler
from tests.support.runner_support import (
    chain_model,
    conv_model,
    execute,
    identity_model,
    program,
    save_model,
    with_library,
)

pytestmark = needs_compiler
ABCD = f"put 4 {zlib.adler32(b'abcd')}"


def failure(plan: str | bytes, *arguments: str) -> tuple[int, str, str]:
    """Code, command and message of the error event that must be the last one, and the only one."""
    code, events = execute(plan, *arguments)
    kinds = [event["event"] for event in events]
    assert kinds[-1] == "error"
    assert kinds.count("error") == 1
    assert events[-1]["code"] == code
    return code, events[-1]["where"], events[-1]["message"]


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("fly", "fly"),
        ("", ""),
        ("# comment", "#"),
        ("Threads 2", "Threads"),
        ("threads", "threads"),
        ("threads 0", "threads"),
        ("threads -1", "threads"),
        ("threads 2x", "threads"),
        ("threads  2", "threads"),
        ("threads 1025", "threads"),
        ("threads 99999999999999999999999", "threads"),
        ("spin 2", "spin"),
        ("spin yes", "spin"),
        ("seed 1.5", "seed"),
        ("limit 0", "limit"),
        ("cpus ", "cpus"),
        ("cpus 1,0", "cpus"),
        ("cpus 0,0", "cpus"),
        ("cpus 0-", "cpus"),
        ("cpus 0,,1", "cpus"),
        ("cpus 1024", "cpus"),
        ("run 1", "run"),
        ("run 0 m", "run"),
        ("run 1 m", "run"),
        ("unload m", "unload"),
        ("dump m", "dump"),
        ("put 4", "put"),
        ("put -1 1 /tmp/x", "put"),
        ("put 9223372036854775807 1 /tmp/x", "put"),
        ("put 0 1", "put"),
        ("put 0 4294967296 /tmp/x", "put"),
        ("get", "get"),
        ("graph", "graph"),
        ("load m m.onnx", "load"),
        ("quit now", "quit"),
        ('"\\\x01\x1f', '"\\\x01\x1f'),
    ],
)
def test_a_wrong_line_is_an_error_of_the_plan(line: str, where: str) -> None:
    assert failure(f"seed 1\n{line}\nseed 1\n")[:2] == (2, where)


@pytest.mark.parametrize("plan", [b"seed 1\nse", b"se\0ed 1\n", b"\0"])
def test_a_cut_line_is_never_carried_out(plan: bytes) -> None:
    assert failure(plan)[:2] == (2, "plan")


@pytest.mark.parametrize("arguments", [["--bogus"], ["plan"], ["a", "b", "c"]])
def test_a_wrong_argument_is_fatal(arguments: list[str]) -> None:
    assert failure("seed 1\n", *arguments)[0] == 2


def test_a_plan_may_be_a_file(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_text("seed 1\n")
    with plan.open() as file:
        done = subprocess.run([program()], stdin=file, capture_output=True, timeout=60, check=True)
    assert [parse_event(line)["event"] for line in done.stdout.splitlines()] == [
        "hello",
        "set",
        "bye",
    ]


def test_a_file_that_cannot_be_had_or_kept_is_an_error_of_the_target(tmp_path: Path) -> None:
    assert failure("get /nowhere\n")[:2] == (3, "get")
    assert failure(f"get {tmp_path}\n")[:2] == (3, "get")
    assert failure(f"{ABCD} /nowhere/x\nabcd")[:2] == (3, "put")
    assert failure(f"{ABCD} /{5000 * 'x'}\nabcd")[:2] == (3, "put")
    assert failure(f"{ABCD} {tmp_path}\nabcd")[:2] == (3, "put")


def test_half_a_file_never_has_the_name_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    assert failure(f"put 5 1 {path}\nabcd")[:2] == (2, "put")
    assert not path.exists()
    path.write_text("older")
    assert failure(f"put 5 1 {path}\nabcd")[:2] == (2, "put")
    assert path.read_text() == "older"


def test_a_file_that_arrived_damaged_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.write_text("older")
    code, where, message = failure(f"{ABCD} {path}\nabce")
    assert (code, where) == (3, "put")
    assert "damaged" in message
    assert path.read_text() == "older"


def test_quit_ends_before_what_follows() -> None:
    code, events = execute("seed 1\nquit\nnonsense\n")
    assert (code, events[-1]) == (0, {"event": "bye"})


def test_names_are_checked(tmp_path: Path) -> None:
    model = identity_model(tmp_path / "m.onnx", "float32", (1,))
    longest = "Az09_.-" + 57 * "x"
    assert execute(with_library(f"load {longest} {model}", f"run 1 {longest}"))[0] == 0
    for name in (longest + "x", "a/b", "ä", "", "a%n"):
        code, where, message = failure(with_library(f"load {name} {model}"))
        assert (code, where) == (2, "load")
        assert f"'{name}'" in message
    assert "already" in failure(with_library(f"load m {model}", f"load m {model}"))[2]


def test_missing_libraries_and_cpus_are_errors_of_the_target(tmp_path: Path) -> None:
    text = tmp_path / "lib.so"
    text.write_text("not a library")
    libc = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libc.so" in line
    )
    assert failure("lib /nowhere/libonnxruntime.so\n")[:2] == (3, "lib")
    assert failure(f"lib {text}\n")[:2] == (3, "lib")
    assert failure(f"lib {libc}\n") == (
        3,
        "lib",
        f"{libc} is not ONNX Runtime with version 5 of its C API",
    )
    assert failure("cpus 1023\n")[:2] == (3, "cpus")


def test_too_few_cpus_for_the_threads_is_an_error(tmp_path: Path) -> None:
    model = identity_model(tmp_path / "m.onnx", "float32", (1,))
    assert "2 threads" in failure(with_library("threads 2", "cpus 0", f"load m {model}"))[2]


def test_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    model = identity_model(tmp_path / "m.onnx", "float32", (1,))
    for folder in ("/nowhere", "/" + 5000 * "x"):
        assert failure(with_library(f"load m {model}", f"dump m {folder}"))[:2] == (3, "dump")


def dynamic(path: Path) -> Path:
    return identity_model(path, "float32", ("N", 3))


def strings(path: Path) -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in ("x", "y")]
    return save_model(path, [helper.make_node("Identity", ["x"], ["y"])], value[:1], value[1:])


def sequence(path: Path) -> Path:
    outputs = [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])]
    model = save_model(path, [helper.make_node("SequenceConstruct", ["x"], ["s"])], inputs, outputs)
    assert model.exists()
    return model


def out_of_range(path: Path) -> Path:
    """Runs out of its table: an error of the first inference, not of loading."""
    return save_model(
        path,
        [
            helper.make_node("Add", ["i", "far"], ["j"]),
            helper.make_node("Gather", ["t", "j"], ["y"]),
        ],
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("t", 1, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("far", TensorProto.INT64, [1], [99])],
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (dynamic, "dynamic"),
        (strings, "element type 8"),
        (sequence, ""),
        (out_of_range, "RunWithBinding"),
    ],
)
def test_models_that_cannot_be_timed_are_refused(tmp_path: Path, make: Any, message: str) -> None:
    code, where, text = failure(
        with_library(f"load m {make(tmp_path / 'm.onnx')}", "dump m /tmp", "run 1 m")
    )
    assert code == 4
    assert where in {"load", "dump"}
    assert message in text


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=200), cut=st.integers(0, 10_000))
def test_damaged_model_bytes_are_refused_or_load(tmp_path: Path, data: bytes, cut: int) -> None:
    model = conv_model(tmp_path / "m.onnx")
    whole = model.read_bytes()
    model.write_bytes(whole[: cut % len(whole)] + data)
    code, events = execute(with_library(f"load m {model}"))
    assert code == (4 if events[-1]["event"] == "error" else 0)


def test_missing_and_empty_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("empty.onnx", "none.onnx", "."):
        assert failure(with_library(f"load m {tmp_path / name}"))[:2] == (4, "load")


def test_the_limit_ends_an_idle_runner() -> None:
    start = time.monotonic()
    with subprocess.Popen([program()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"limit 1\n")
        process.stdin.flush()
        events = [parse_event(line) for line in process.stdout]
        assert process.wait() == 5
    assert (events[-1]["event"], events[-1]["code"], events[-1]["where"]) == ("error", 5, "limit")
    assert 0.9 < time.monotonic() - start < 5


def test_the_limit_ends_a_round_in_progress(tmp_path: Path) -> None:
    model = chain_model(tmp_path / "m.onnx", 256)
    assert failure(with_library(f"load m {model}", "limit 1", "run 1000000000 m"))[:2] == (
        5,
        "limit",
    )


def test_the_limit_ends_a_runner_whose_reader_has_stalled() -> None:
    plan = b"limit 1\n" + 10_000 * b"seed 1\n"
    with subprocess.Popen([program()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(plan)
            process.stdin.close()
        except BrokenPipeError:
            pass
        assert process.wait(timeout=10) == 5


def test_a_runner_that_nobody_reads_ends() -> None:
    with subprocess.Popen([program()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"seed 1\n")
        process.stdin.flush()
        assert process.wait(timeout=10) == 1


def test_what_a_library_prints_does_not_land_among_the_events(tmp_path: Path) -> None:
    source, library = tmp_path / "noisy.c", tmp_path / "noisy.so"
    source.write_text(
        '#include <stdio.h>\n__attribute__((constructor)) void f(void) { puts("noise");'
        " fflush(stdout); }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    done = subprocess.run(
        [program()], input=f"lib {library}\n".encode(), capture_output=True, timeout=30, check=False
    )
    assert [parse_event(line)["event"] for line in done.stdout.splitlines()] == ["hello", "error"]
    assert b"noise" in done.stderr
