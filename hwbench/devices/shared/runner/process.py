"""A conversation with the native runner, on this computer or wherever a `Transport` reaches.

The module `build` makes the program and `protocol` has its language; their public names are offered
here too. Nothing passes through a shell.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from typing import Any, Protocol, Self

from hwbench.devices.base import Samples
from hwbench.devices.shared.runner.build import build_runner, ort_library, runner_source
from hwbench.devices.shared.runner.protocol import (
    CLOCK,
    MAX_EVENT_BYTES,
    MAX_FILE_BYTES,
    MAX_ROUNDS,
    PROTOCOL,
    expect,
    latencies,
    one_line,
    parse_event,
    plan_line,
    tensor_specs,
)
from hwbench.errors import (
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    OutputParseError,
    OutputTooLargeError,
    UsageError,
)
from hwbench.network.ort import TELEMETRY_OFF
from hwbench.records.tensors import TensorSpec

__all__ = [
    "CLOCK",
    "Loaded",
    "LocalProcess",
    "RunnerProcess",
    "Transport",
    "build_runner",
    "ort_library",
    "runner_source",
]

_TAIL_BYTES = 2000
ANSWER_S = 30.0
"""Seconds within which a runner answers a request that costs it next to nothing."""
SLOWEST_LINK = 1e6
"""Bytes per second that the connection to a runner carries at least."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _read_tail(output: bytes) -> str:
    return one_line(output[-_TAIL_BYTES:].decode("utf-8", "replace"))


class Transport(Protocol):
    """A byte stream to and from one runner, wherever it runs."""

    def send(self, data: bytes, timeout_s: float) -> None:
        """Send all of `data`.

        It is no error here that the runner is gone: its last output can still be received and
        says why.

        Raises:
            DeviceTimeoutError: The runner did not take the data in time.
        """
        ...

    def receive(self, timeout_s: float) -> bytes:
        """Receive the next bytes; none at the end of the stream.

        Raises:
            DeviceTimeoutError: Nothing came in time.
        """
        ...

    def close(self, grace_s: float) -> str:
        """End the runner: by the end of its input, after `grace_s` by force. Closing twice is fine.

        Returns:
            How it ended and the end of what it wrote to standard error, in one line.
        """
        ...


class LocalProcess:
    """A runner on this computer.

    Plans and events pass through pipes; what it writes to standard error goes to a temporary file.

    Args:
        argv: Program and arguments.

    Raises:
        DeviceUnavailableError: It does not start.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._ending: str | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process
        try:
            self.process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                env=os.environ | TELEMETRY_OFF,
            )
        except OSError as error:
            self._stderr.close()
            raise DeviceUnavailableError(
                f"cannot start the native runner {argv[0]} ({error}); build it anew"
            ) from error
        os.set_blocking(self._stdin, False)

    @property
    def _stdin(self) -> int:
        return self.process.stdin.fileno() if self.process.stdin else -1

    @property
    def _stdout(self) -> int:
        return self.process.stdout.fileno() if self.process.stdout else -1

    def send(self, data: bytes, timeout_s: float) -> None:
        """See `Transport`."""
        deadline = time.monotonic() + timeout_s
        left = memoryview(data)
        while left:
            _wait_until_ready(self._stdin, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._stdin, left) :]
            except BrokenPipeError:
                return

    def receive(self, timeout_s: float) -> bytes:
        """See `Transport`."""
        _wait_until_ready(self._stdout, select.POLLIN, time.monotonic() + timeout_s)
        return os.read(self._stdout, 1 << 16)

    def close(self, grace_s: float) -> str:
        """See `Transport`."""
        if self._ending is None:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _TAIL_BYTES))
            self._ending = (
                f"{describe_exit(self.process.returncode)};"
                f" {_read_tail(self._stderr.read()) or 'no message'}"
            )
            self._stderr.close()
        return self._ending


SENDERS = {
    "SIGKILL": "the system, when memory ran out (see dmesg)",
    "SIGILL": "an instruction that this processor does not have",
    "SIGSEGV": "a fault of the runtime or of the model",
    "SIGBUS": "a fault of the runtime, or a file that was cut off while it was read",
    "SIGFPE": "a fault of the runtime or of the model",
    "SIGABRT": "the runtime itself, which gave up",
    "SIGTERM": "a user, or the system as it shuts down",
    "SIGXCPU": "a limit of processor time (ulimit -t)",
}
"""What usually lies behind the signals that end a runner, by name: Windows lacks most of them."""


def describe_exit(code: int) -> str:
    """How a process ended: its status, or the signal and what usually lies behind it.

    Args:
        code: As `subprocess` gives it; below 0 for a signal.
    """
    if code >= 0:
        return f"exit status {code}"
    try:
        sent = signal.Signals(-code)
    except ValueError:
        return f"exit status {code}"
    sender = f" (usual cause: {SENDERS[sent.name]})" if sent.name in SENDERS else ""
    return f"exit status {code} = {sent.name}{sender}"


def _wait_until_ready(descriptor: int, event: int, deadline: float) -> None:
    """Wait until a pipe can be read or written.

    Raises:
        DeviceTimeoutError: The deadline, by the monotonic clock, has passed.
    """
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise DeviceTimeoutError(
            "the native runner did not answer in the time allowed, and was ended; allow it more"
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """Facts of a model that the runner has loaded.

    Attributes:
        name: The name it goes by in `run`.
        load_s: Seconds to create the session.
        first_run_s: Seconds of the first inference, which allocates.
        inputs: Its inputs, filled with fixed random values.
    """

    name: str
    load_s: float
    first_run_s: float
    inputs: tuple[TensorSpec, ...]


class RunnerProcess:
    """A conversation with one runner: one line, one answer.

    Use as a context manager, from one thread.

    Any error ends the runner, since its state is then unknown; from then on every call raises
    DeviceLostError. After a model that ONNX Runtime refuses (BuildError), another runner must be
    started, which is cheap.

    Args:
        transport: The connection to the runner. This object closes it.
        timeout_s: Seconds for its first event.

    Raises:
        OutputParseError: What answers is no runner, or speaks another protocol.
    """

    def __init__(self, transport: Transport, timeout_s: float = 30.0) -> None:
        self._transport = transport
        self._received = bytearray()
        self._ending: str | None = None
        hello = self.command(b"", "hello", timeout_s)
        if hello["protocol"] != PROTOCOL:
            self.close()
            raise OutputParseError(
                f"the runner speaks protocol {hello['protocol']}, hwbench {PROTOCOL}; build it anew"
            )
        self.machine = str(hello["machine"])
        self.kernel = str(hello["kernel"])
        self.pid = int(hello["pid"])

    @classmethod
    def start(cls, argv: Sequence[str], timeout_s: float = 30.0) -> Self:
        """Start a runner on this computer; `argv` may begin with a wrapper (numactl, an emulator).

        Raises:
            DeviceUnavailableError: It does not start.
        """
        return cls(LocalProcess(argv), timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, grace_s: float = 2.0) -> None:
        """End the runner, after `grace_s` by force, and release what it holds.

        Closing twice is fine.
        """
        self._ending = self._transport.close(grace_s)

    def library(self, path: PurePath) -> str:
        """Open ONNX Runtime's C library, before any `load`.

        Args:
            path: The library, as the runner sees it.

        Returns:
            Its version.
        """
        return str(self.command(plan_line("lib", path), "library")["version"])

    def configure(
        self, *, threads: int = 1, cpus: Sequence[int] = (), spin: bool = True, seed: int = 0
    ) -> None:
        """Set how the models that are loaded from now on will run.

        Args:
            threads: Threads of each model, the calling one included.
            cpus: CPUs to pin to. With as many as threads, each thread has one; with more, all
                threads share them; with none, the pinning stays as it is.
            spin: Whether idle threads spin during a run; between runs they always sleep.
            seed: Seed of the random inputs.
        """
        lines = [
            plan_line("threads", threads),
            plan_line("spin", int(spin)),
            plan_line("seed", seed),
        ]
        if cpus:
            lines.append(plan_line("cpus", ",".join(map(str, sorted(set(cpus))))))
        for line in lines:
            self.command(line, "set")

    def attach(self) -> None:
        """Let the runner end with this process, however that ends, also in the middle of a run."""
        self.command(plan_line("attached", 1), "set")

    def limit(self, seconds: int) -> None:
        """Let the runner end itself this many seconds from now, unless the limit is set again."""
        self.command(plan_line("limit", seconds), "set")

    def put(self, data: bytes, path: PurePath) -> None:
        """Write a file where the runner is, whole or not at all.

        Raises:
            DeviceUnavailableError: The runner cannot write it, or other bytes than these arrived.
        """
        line = plan_line("put", len(data), zlib.adler32(data), path)
        self.command(line + data, "set", ANSWER_S + len(data) / SLOWEST_LINK)

    def get(self, path: PurePath) -> bytes:
        """Read a file where the runner is.

        Raises:
            DeviceUnavailableError: The runner cannot read it.
            OutputTooLargeError: It has 64 MiB or more, and was not sent; the runner lives on.
        """
        size = int(self.command(plan_line("get", path), "file")["bytes"])
        if size == MAX_FILE_BYTES:
            raise OutputTooLargeError(
                f"{path.name} has {MAX_FILE_BYTES >> 20} MiB or more, which is not read"
            )
        try:
            if size > MAX_FILE_BYTES:
                raise OutputParseError(
                    f"the native runner announced a file of {size} bytes, above {MAX_FILE_BYTES}"
                )
            self._receive_until(
                lambda: len(self._received) >= size,
                time.monotonic() + ANSWER_S + size / SLOWEST_LINK,
            )
        except BaseException:
            self.close(grace_s=0)
            raise
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def delete(self, path: PurePath) -> None:
        """Remove a file where the runner is, if it is there."""
        self.command(plan_line("delete", path), "set")

    def load(
        self,
        name: str,
        path: PurePath,
        profile: PurePath | None = None,
        graph: PurePath | None = None,
        timeout_s: float = 120.0,
        *,
        inputs: PurePath | None = None,
        weights: PurePath | None = None,
    ) -> Loaded:
        """Create a session for the model file, with inputs and outputs bound, and run it once.

        Args:
            name: What to call it: 1 to 64 letters, digits, `_`, `.` or `-`.
            path: The model file, as the runner sees it.
            profile: Prefix of the profile that ONNX Runtime writes until `unload`; none if None.
            graph: File for the graph that it executes, larger weights left out; none if None.
            timeout_s: Seconds it may take.
            inputs: File with the values of all inputs, one after the other; drawn if None.
            weights: Folder of the files that the model's large weights are in; None if all weights
                are in the model.

        Raises:
            BuildError: ONNX Runtime refuses the model, or it has dynamic dimensions or inputs that
                are not numbers.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a model; use 1 to 64 letters, digits, '_', '.' or '-'"
            )
        self.command(plan_line("profile", profile or "-"), "set")
        self.command(plan_line("graph", graph or "-"), "set")
        if inputs is not None:
            self.command(plan_line("inputs", inputs), "set")
        if weights is not None:
            self.command(plan_line("weights", weights), "set")
        event = self.command(plan_line("load", name, path), "loaded", timeout_s)
        if inputs is not None:
            self.command(plan_line("inputs", "-"), "set")
        if weights is not None:
            self.command(plan_line("weights", "-"), "set")
        return Loaded(
            name, event["load_ns"] / 1e9, event["first_run_ns"] / 1e9, tensor_specs(event["inputs"])
        )

    def run(self, order: Sequence[str], loops: int = 1, timeout_s: float = 120.0) -> Samples:
        """Time one round of `loops` inferences for each name, in that order.

        Returns:
            One sample a round, seconds per inference.
        """
        values_s: list[float] = []
        for first in range(0, len(order), MAX_ROUNDS):
            names = order[first : first + MAX_ROUNDS]
            event = self.command(plan_line("run", loops, *names), "samples", timeout_s)
            try:
                values_s += latencies(event, len(names), loops)
            except OutputParseError:
                self.close(grace_s=0)
                raise
        return Samples(tuple(values_s), CLOCK)

    def draw(self, name: str, seed: int, exponent: int) -> None:
        """Give a model other random inputs.

        Args:
            name: Of the model.
            seed: Of the values.
            exponent: Of the power of two that floats are multiplied by, from -100 to 100.
        """
        self.command(plan_line("draw", name, seed, exponent), "drawn")

    def unload(self, name: str) -> PurePosixPath | None:
        """Free a model.

        Returns:
            Its profile file, where the runner is; None if it was not profiled.
        """
        profile = self.command(plan_line("unload", name), "unloaded")["profile"]
        return PurePosixPath(profile) if profile else None

    def memory(self) -> int:
        """Read the peak resident memory of the runner, in bytes."""
        status = self.get(PurePosixPath("/proc/self/status"))
        peak = re.search(rb"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        if peak is None:
            raise OutputParseError(
                f"/proc/self/status of the native runner has no VmHWM: {status[:160]!r}"
            )
        return int(peak[1]) * 1024

    def command(self, line: bytes, answer: str, timeout_s: float | None = None) -> dict[str, Any]:
        """Send one line of a plan, and return the event that answers it.

        Args:
            line: The line (see `plan_line`); empty to wait for the runner's first event.
            answer: Kind of the event that must answer it.
            timeout_s: Seconds it may take; None for `ANSWER_S`.

        Raises:
            OutputParseError: The answer breaks the protocol.
            DeviceLostError: The runner is gone.
            DeviceTimeoutError: No answer in time, or the runner's own time limit has passed.
            HwbenchError: What the runner objects to, see `expect`.
        """
        if self._ending is not None:
            raise DeviceLostError(
                f"the native runner has ended ({self._ending}); start another one"
            )
        timeout_s = ANSWER_S if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        try:
            # The runner speaks only when it was asked. What has arrived before the line was sent
            # belongs to no request, so it must not be taken for the answer.
            has_unexpected_data = bool(self._received)
            if not has_unexpected_data:
                self._transport.send(line, timeout_s)
            event = parse_event(self._next_line(deadline))
            expect(event, "silence" if has_unexpected_data else answer)
        except DeviceLostError as error:
            self.close()
            raise DeviceLostError(f"{error} ({self._ending})") from error
        except DeviceTimeoutError as error:
            self.close(grace_s=0.0)
            request = line.split(maxsplit=1)[0].decode() if line else "start"
            raise DeviceTimeoutError(f"{error} (asked to {request})") from error
        except BaseException:
            self.close()
            raise
        return event

    def _next_line(self, deadline: float) -> bytes:
        self._receive_until(
            lambda: b"\n" in self._received or len(self._received) > MAX_EVENT_BYTES, deadline
        )
        line, end, self._received = self._received.partition(b"\n")
        if not end:
            raise OutputParseError(
                f"the native runner printed a line of more than {MAX_EVENT_BYTES} bytes"
            )
        return bytes(line)

    def _receive_until(self, is_complete: Callable[[], bool], deadline: float) -> None:
        while not is_complete():
            data = self._transport.receive(max(0.0, deadline - time.monotonic()))
            if not data:
                raise DeviceLostError("the native runner ended before it answered")
            self._received += data
