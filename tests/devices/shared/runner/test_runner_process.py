"""The conversation with a runner: every way in which it can go wrong is named, and ends the
process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from hwbench.devices.shared.runner.process import (
    LocalProcess,
    RunnerProcess,
    Transport,
    ort_library,
)
from hwbench.errors import (
    BuildError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    OutputParseError,
    UsageError,
)
from tests.needs import needs_compiler
from tests.support.runner_support import chain_model, conv_model, program

HELLO = json.dumps({"event": "hello", "protocol": 2, "pid": 1, "machine": "m", "kernel": "k"})
SAMPLES = json.dumps({"event": "samples", "clock": "CLOCK_MONOTONIC", "loops": 1, "ns": [5]})


def impostor(script: str, timeout_s: float = 20.0) -> RunnerProcess:
    """A conversation with a Python program that pretends to be a runner: `ask()` reads a line,
    `say(text)` answers.
    """
    prelude = (
        "import os, sys, time\nask = sys.stdin.readline\ndef say(text): print(text, flush=True)\n"
    )
    return RunnerProcess.start([sys.executable, "-c", prelude + script], timeout_s)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def real(library: bool = True) -> RunnerProcess:
    runner = RunnerProcess.start([str(program())])
    if library:
        runner.library(ort_library())
    return runner


@needs_compiler
def test_a_refused_model_is_a_build_error_and_another_runner_works(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with real() as runner:
        with pytest.raises(BuildError, match=r"native runner, 'load': .*bad.onnx"):
            runner.load("bad", bad)
        assert not alive(runner.pid)
        with pytest.raises(DeviceLostError, match="exit status 4"):
            runner.memory()
    with real() as runner:
        assert runner.load("good", conv_model(tmp_path / "good.onnx")).load_s > 0


@needs_compiler
def test_what_the_runner_lacks_or_refuses_is_told_apart(tmp_path: Path) -> None:
    with real(library=False) as runner, pytest.raises(DeviceUnavailableError, match="nowhere"):
        runner.library(Path("/nowhere/libonnxruntime.so"))
    with real(library=False) as runner, pytest.raises(DeviceUnavailableError, match="CPU 1000"):
        runner.configure(cpus=(1000,))
    with real() as runner, pytest.raises(UsageError, match="no model 'm'"):
        runner.run(["m"])
    with real() as runner, pytest.raises(UsageError, match="1 to 64"):
        runner.load("a b", tmp_path)


@needs_compiler
def test_a_killed_runner_is_lost() -> None:
    with real() as runner:
        os.kill(runner.pid, signal.SIGKILL)
        with pytest.raises(DeviceLostError, match="exit status -9"):
            runner.memory()
        with pytest.raises(DeviceLostError, match="start another"):
            runner.memory()


@needs_compiler
def test_a_runner_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    with real() as runner:
        runner.load("m", chain_model(tmp_path / "m.onnx", 256))
        start = time.monotonic()
        with pytest.raises(DeviceTimeoutError, match="time allowed"):
            runner.run(["m"], loops=10**9, timeout_s=0.3)
        assert time.monotonic() - start < 5
        assert not alive(runner.pid)


@needs_compiler
def test_the_runners_own_limit_is_a_timeout() -> None:
    with real() as runner:
        runner.limit(1)
        time.sleep(1.5)
        with pytest.raises(DeviceTimeoutError, match="'limit'"):
            runner.memory()


@needs_compiler
def test_leaving_the_block_ends_the_process_and_closing_twice_is_fine() -> None:
    with real() as runner:
        assert alive(runner.pid)
    assert not alive(runner.pid)
    runner.close()


@needs_compiler
def test_telemetry_is_off_in_the_child_before_it_starts() -> None:
    with real(library=False) as runner:
        environment = Path(f"/proc/{runner.pid}/environ").read_bytes().split(b"\0")
    assert b"ORT_DISABLE_TELEMETRY=1" in environment


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceUnavailableError, match="/nowhere/runner"):
        RunnerProcess.start(["/nowhere/runner"])


def test_the_last_words_of_a_dead_process_are_quoted_in_one_line() -> None:
    with pytest.raises(DeviceLostError, match=r"exit status 7; no such symbol: x y\)$"):
        impostor("sys.stderr.write('no such\\n symbol: x\\n y'); sys.exit(7)")


@pytest.mark.parametrize(
    "greeting",
    [
        "hello",
        "{}",
        SAMPLES,
        HELLO.replace('"protocol": 2', '"protocol": 1'),
        HELLO.replace("1", "NaN"),
        HELLO[:-5],
    ],
)
def test_a_program_that_is_no_runner_is_refused(greeting: str) -> None:
    with pytest.raises(OutputParseError):
        impostor(f"say({greeting!r}); ask()")


@pytest.mark.parametrize(
    "answer",
    [
        SAMPLES.replace("[5]", "[5, 5]"),
        SAMPLES.replace("[5]", "[]"),
        SAMPLES.replace("[5]", "[-5]"),
        SAMPLES.replace("[5]", "[NaN]"),
        SAMPLES.replace("[5]", "[0]"),
        SAMPLES.replace('"loops": 1', '"loops": 2'),
        SAMPLES.replace("MONOTONIC", "REALTIME"),
        SAMPLES[:-3],
        "",
        HELLO,
    ],
)
def test_a_false_answer_ends_the_conversation(answer: str) -> None:
    with impostor(f"say({HELLO!r}); ask(); say({answer!r}); ask()") as runner:
        with pytest.raises(OutputParseError):
            runner.run(["m"])
        with pytest.raises(DeviceLostError):
            runner.run(["m"])


def test_an_answer_that_nobody_asked_for_is_never_taken_for_the_next_one() -> None:
    with impostor(
        f"say({HELLO!r}); ask(); os.write(1, {(SAMPLES + chr(10)) * 2!r}.encode()); ask()"
    ) as runner:
        assert runner.run(["m"]).values_s == (5e-9,)
        with pytest.raises(OutputParseError, match="silence"):
            runner.run(["m"])


def test_a_cut_answer_is_no_answer() -> None:
    script = f"say({HELLO!r}); ask(); sys.stdout.write({SAMPLES!r}); sys.stdout.flush()"
    with impostor(script) as runner, pytest.raises(DeviceLostError, match="before it answered"):
        runner.run(["m"])


FILE = json.dumps({"event": "file", "bytes": 5})


def test_a_file_that_looks_like_events_is_only_a_file() -> None:
    content = b"{\n}\n\0"
    answer = FILE.encode() + b"\n" + content
    script = f"say({HELLO!r}); ask(); os.write(1, {answer!r}); ask(); say({SAMPLES!r}); ask()"
    with impostor(script) as runner:
        assert runner.get(Path("/x")) == content
        assert runner.run(["m"]).values_s == (5e-9,)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (FILE.replace("5", str(1 << 40)), OutputParseError),
        (FILE.replace("5", "-1"), OutputParseError),
        (FILE + "\n123", DeviceLostError),
    ],
)
def test_a_false_or_cut_file_ends_the_conversation(answer: str, error: type[Exception]) -> None:
    with impostor(f"say({HELLO!r}); ask(); say({answer!r})") as runner:
        with pytest.raises(error):
            runner.get(Path("/x"))
        with pytest.raises(DeviceLostError):
            runner.run(["m"])


def test_an_endless_line_is_refused() -> None:
    script = f"say({HELLO!r}); ask()\nwhile True: sys.stdout.write('x' * 65536)"
    with impostor(script) as runner, pytest.raises(OutputParseError, match="bytes"):
        runner.run(["m"])


def test_a_reader_that_takes_nothing_times_out() -> None:
    with impostor(f"say({HELLO!r}); time.sleep(60)") as runner, pytest.raises(DeviceTimeoutError):
        runner.run(["model"] * 100_000, timeout_s=0.3)


def test_any_transport_will_do() -> None:
    class Slow:
        """Gives and takes one byte at a time."""

        def __init__(self) -> None:
            script = (
                f"import sys; print({HELLO!r}, flush=True); sys.stdin.readline();"
                f" print({SAMPLES!r}, flush=True)"
            )
            self._process = LocalProcess([sys.executable, "-c", script])
            self._held = b""

        def send(self, data: bytes, timeout_s: float) -> None:
            for byte in data:
                self._process.send(bytes([byte]), timeout_s)

        def receive(self, timeout_s: float) -> bytes:
            self._held = self._held or self._process.receive(timeout_s)
            first, self._held = self._held[:1], self._held[1:]
            return first

        def close(self, grace_s: float) -> str:
            return self._process.close(grace_s)

    transport: Transport = Slow()
    with RunnerProcess(transport) as runner:
        assert runner.run(["m"]).values_s == (5e-9,)
