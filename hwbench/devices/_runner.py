"""The native runner on a target: how to build it, and a conversation with one.

The language is `_runner_protocol`'s; `RunnerProcess` is a conversation over any `Transport`, of which `LocalProcess` is the
one for this computer. Nothing here passes through a shell.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from hwbench.devices._runner_protocol import (
    MAX_EVENT_BYTES,
    MAX_ROUNDS,
    PROTOCOL,
    expect,
    one_line,
    parse_event,
    plan_line,
    round_times,
    tensor_specs,
)
from hwbench.errors import (
    DeviceCommandError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    OutputParseError,
    UsageError,
)
from hwbench.ort import TELEMETRY_OFF, onnxruntime
from hwbench.workload import TensorSpec

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O2", "-Wall", "-Wextra")
_COMPILE_TIMEOUT_S = 120.0
_TAIL_BYTES = 2000
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def runner_source() -> Path:
    """The runner's C file: in `runners/native` of a checkout, beside this module in an installed wheel.

    Raises:
        DeviceUnavailableError: It is in neither place.
    """
    here = Path(__file__).resolve().parent
    for source in (here.parents[1] / "runners" / "native" / "hwbench_runner.c", here / "hwbench_runner.c"):
        if source.is_file():
            return source
    raise DeviceUnavailableError(f"the native runner's source is not beside {here}; install hwbench again")


def build_runner(cc: str | None = None) -> Path:
    """Compile the runner, once for each source, compiler and set of flags; later calls find it in the user's cache.

    Args:
        cc: Compiler with its options, as one would type it (`aarch64-linux-gnu-gcc`); `$CC`, else the first of cc, gcc
            and clang, if None.

    Returns:
        The program, for the compiler's target.

    Raises:
        DeviceUnavailableError: No compiler, or the cache cannot be written.
        DeviceCommandError: The compiler refused.
        DeviceTimeoutError: The compiler did not finish.
    """
    import platformdirs

    source = runner_source()
    compiler = _compiler(cc)
    version = _compile([*compiler, "--version"])
    identity = "\0".join([source.read_text(encoding="utf-8"), version, *compiler, *_FLAGS])
    cache = Path(platformdirs.user_cache_dir("hwbench"))
    program = cache / f"runner-{sha256(identity.encode()).hexdigest()[:16]}"
    if program.is_file():
        return program
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            fresh = Path(folder) / "runner"
            _compile([*compiler, *_FLAGS, "-o", str(fresh), str(source), "-ldl"])
            fresh.replace(program)
    except OSError as error:
        raise DeviceUnavailableError(f"cannot keep the native runner in {cache} ({error}); set XDG_CACHE_HOME") from error
    return program


def _compiler(cc: str | None) -> list[str]:
    wanted = cc or os.environ.get("CC")
    candidates = [shlex.split(wanted)] if wanted else [[name] for name in _COMPILERS]
    for argv in candidates:
        if argv and shutil.which(argv[0]):
            return argv
    sought = wanted or ", ".join(_COMPILERS)
    raise DeviceUnavailableError(f"no C compiler found ({sought}); install one (apt install gcc) or set CC")


def _compile(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_COMPILE_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise DeviceUnavailableError(f"cannot start the C compiler {argv[0]} ({error}); set CC to one that works") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceTimeoutError(f"{argv[0]} did not finish within {_COMPILE_TIMEOUT_S:.0f} s; try again") from error
    if done.returncode != 0:
        tail = _tail(done.stderr)
        raise DeviceCommandError(f"{shlex.join(argv[:1])} failed ({done.returncode}): {tail}", argv, done.returncode, tail)
    return done.stdout.decode("utf-8", "replace")


def ort_library() -> Path:
    """The C library inside the installed onnxruntime package, of the same version as the Python module.

    Raises:
        DeviceUnavailableError: onnxruntime is missing, or its package has no such library.
    """
    folder = Path(str(onnxruntime().__file__)).resolve().parent / "capi"
    found = sorted(folder.glob("libonnxruntime.so*"))
    if not found:
        raise DeviceUnavailableError(f"no libonnxruntime.so in {folder}; pip install onnxruntime for Linux")
    return found[0]


def _tail(output: bytes) -> str:
    return one_line(output[-_TAIL_BYTES:].decode("utf-8", "replace"))


class Transport(Protocol):
    """A byte stream to and from one runner, wherever it runs."""

    def send(self, data: bytes, timeout_s: float) -> None:
        """Send all of `data`; silently if the runner is gone, as its last words can still be received.

        Raises:
            DeviceTimeoutError: It was not taken in time.
        """
        ...

    def receive(self, timeout_s: float) -> bytes:
        """The next bytes; none at the end of the stream.

        Raises:
            DeviceTimeoutError: Nothing came in time.
        """
        ...

    def close(self, grace_s: float) -> str:
        """End the runner: by the end of its input, after `grace_s` by force. Closing twice is fine.

        Returns:
            How it ended and the last that it said to people, in one line.
        """
        ...


class LocalProcess:
    """A runner on this computer: pipes for plan and events, a temporary file for what it says to people.

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
            raise DeviceUnavailableError(f"cannot start the native runner {argv[0]} ({error}); build it anew") from error
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
            _wait(self._stdin, select.POLLOUT, deadline, timeout_s)
            try:
                left = left[os.write(self._stdin, left) :]
            except BrokenPipeError:
                return

    def receive(self, timeout_s: float) -> bytes:
        """See `Transport`."""
        _wait(self._stdout, select.POLLIN, time.monotonic() + timeout_s, timeout_s)
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
            self._ending = f"exit status {self.process.returncode}; {_tail(self._stderr.read()) or 'no message'}"
            self._stderr.close()
        return self._ending


def _wait(descriptor: int, event: int, deadline: float, timeout_s: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise DeviceTimeoutError(f"the native runner did not answer within {timeout_s:g} s; allow it more time")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the runner tells of a model it has loaded.

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
    """A conversation with one runner: one line, one answer. A context manager; `start` it first; for one thread.

    Any error ends the runner, as its state is then unknown; from then on every call raises DeviceLostError. A model that
    ONNX Runtime refuses (BuildError) costs no more than starting another one.

    Args:
        argv: Program and arguments; it may begin with a wrapper (numactl, ./ld-linux-aarch64.so.1).
        transport: What starts `argv`, and where.
    """

    def __init__(self, argv: Sequence[str], transport: Callable[[Sequence[str]], Transport] = LocalProcess) -> None:
        self._argv = tuple(argv)
        self._start = transport
        self._transport: Transport | None = None
        self._received = b""
        self._ending = "it was not started"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self, grace_s: float = 2.0) -> None:
        """End the runner, after `grace_s` by force, and release what it holds; closing twice is fine."""
        if self._transport is not None:
            self._ending = self._transport.close(grace_s)
            self._transport = None

    def start(
        self,
        *,
        library: Path,
        threads: int = 1,
        cpus: Sequence[int] = (),
        spin: bool = True,
        seed: int = 0,
        limit_s: int | None = None,
        timeout_s: float = 30.0,
    ) -> str:
        """Start the runner, open ONNX Runtime and make the settings of all models.

        Args:
            library: ONNX Runtime's C library, as the runner sees it.
            threads: Threads of each model, the calling one included.
            cpus: As many CPUs as threads: one each. More: shared by all. None: not pinned.
            spin: Whether idle threads spin during a run; between runs they always sleep.
            seed: Of the random inputs.
            limit_s: The runner ends itself after this many seconds.
            timeout_s: Seconds for each step.

        Returns:
            ONNX Runtime's version.

        Raises:
            DeviceUnavailableError: The program, the library or a CPU is not to be had.
            OutputParseError: It is no runner, or of another protocol.
        """
        if self._transport is not None:
            raise UsageError("the native runner is already started")
        self._transport, self._received = self._start(self._argv), b""
        hello = self.command(b"", "hello", timeout_s)
        if hello["protocol"] != PROTOCOL:
            self.close()
            raise OutputParseError(f"the runner speaks protocol {hello['protocol']}, hwbench {PROTOCOL}; build it anew")
        if limit_s is not None:
            self.command(plan_line("limit", limit_s), "set", timeout_s)
        for name, value in (("threads", threads), ("spin", int(spin)), ("seed", seed)):
            self.command(plan_line(name, value), "set", timeout_s)
        if cpus:
            self.command(plan_line("cpus", ",".join(map(str, sorted(set(cpus))))), "set", timeout_s)
        return str(self.command(plan_line("lib", library), "library", timeout_s)["version"])

    def load(self, name: str, path: Path, profile: Path | None = None, timeout_s: float = 120.0) -> Loaded:
        """Create a session for the model file, with inputs and outputs bound, and run it once.

        Args:
            name: What to call it: 1 to 64 letters, digits, `_`, `.` or `-`.
            path: The model file, as the runner sees it.
            profile: Prefix of the profile that ONNX Runtime writes until `unload`; none if None.
            timeout_s: Seconds it may take.

        Raises:
            BuildError: ONNX Runtime refuses the model, or it has dynamic dimensions or inputs that are not numbers.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a model; use 1 to 64 letters, digits, '_', '.' or '-'")
        self.command(plan_line("profile", profile or "-"), "set")
        event = self.command(plan_line("load", name, path), "loaded", timeout_s)
        return Loaded(name, event["load_ns"] / 1e9, event["first_run_ns"] / 1e9, tensor_specs(event["inputs"]))

    def run(self, loops: int, order: Sequence[str], timeout_s: float = 120.0) -> tuple[float, ...]:
        """Time one round of `loops` inferences for each name, in that order.

        Returns:
            Seconds of each round: divide by `loops` for one inference.
        """
        times_s: list[float] = []
        for first in range(0, len(order), MAX_ROUNDS):
            names = order[first : first + MAX_ROUNDS]
            event = self.command(plan_line("run", loops, *names), "samples", timeout_s)
            try:
                times_s += round_times(event, len(names), loops)
            except OutputParseError:
                self.close(grace_s=0)
                raise
        return tuple(times_s)

    def dump(self, name: str, folder: Path) -> tuple[TensorSpec, ...]:
        """Write output i of a model to `folder/NAME.i.bin`, raw, and return what they are."""
        return tensor_specs(self.command(plan_line("dump", name, folder), "dumped")["outputs"])

    def unload(self, name: str) -> Path | None:
        """Free a model. Returns its profile file, if it was profiled."""
        profile = self.command(plan_line("unload", name), "unloaded")["profile"]
        return Path(profile) if profile else None

    def memory(self) -> int:
        """Peak resident memory of the runner in bytes."""
        return int(self.command(plan_line("memory"), "memory")["peak_rss_bytes"])

    def command(self, line: bytes, answer: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Send one line of a plan (see `plan_line`) and return the event of kind `answer` that answers it.

        Raises:
            OutputParseError: The answer breaks the protocol.
            DeviceLostError: The runner is gone.
            DeviceTimeoutError: No answer in time, or the runner's own time limit has passed.
            HwbenchError: What the runner objects to, see `expect`.
        """
        if self._transport is None:
            raise DeviceLostError(f"there is no native runner ({self._ending}); start another one")
        deadline = time.monotonic() + timeout_s
        try:
            self._transport.send(line, timeout_s)
            event = parse_event(self._next_line(self._transport, deadline))
            expect(event, answer)
        except DeviceLostError as error:
            self.close()
            raise DeviceLostError(f"{error} ({self._ending})") from error
        except BaseException as error:
            self.close(grace_s=0.0 if isinstance(error, DeviceTimeoutError) else 2.0)
            raise
        return event

    def _next_line(self, transport: Transport, deadline: float) -> bytes:
        while b"\n" not in self._received:
            if len(self._received) > MAX_EVENT_BYTES:
                raise OutputParseError(f"the native runner printed a line of more than {MAX_EVENT_BYTES} bytes")
            data = transport.receive(max(0.0, deadline - time.monotonic()))
            if not data:
                raise DeviceLostError("the native runner ended before it answered")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line
