"""Model files are read in a process of their own, within limits of memory and time.

Whatever the checks of `archives` let through reaches native readers that were not written for
hostile input, and a small file may ask for endless work: nested functions, chains of large
constants, TorchScript with a loop. So nothing of a file is parsed here. A reader process is started
with the first file and kept for further ones; on Linux it forks a worker per file (`reader_child`),
so that a file costs milliseconds and cannot touch the next one. Elsewhere each file gets a process
of its own. What comes back are the facts of a Workload and the ONNX model.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from hwbench.errors import (
    Argument,
    HwbenchError,
    SchemaError,
    UnsafeModelError,
    UsageError,
    WorkloadError,
    error_from_dict,
)
from hwbench.network.intake import archives, hugging_face, neighbours, onnx_external
from hwbench.network.intake.torch_files import ReadRequest
from hwbench.network.ort import TELEMETRY_OFF
from hwbench.network.weight_files import FileStamp, WeightFiles
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding
from hwbench.records.scratch import remove_abandoned
from hwbench.records.tensors import TensorSpec

BASE_BYTES = 1_600_000_000
"""Memory that reading a small file may take, beside that of the reader itself (up to 0.3 GB)."""
BYTES_PER_BYTE = 12
"""Memory for each byte of the file: copies while it is parsed, inferred, cast and written."""
BYTES_PER_INPUT_BYTE = 256
"""Memory for each byte of the inputs asked for, which activations grow with."""
ONNX_S = 10.0
"""Processor time that reading a small ONNX file may take."""
TORCH_S = 20.0
"""Processor time that reading and exporting a small file of torch may take."""
TRUSTED_S = 600.0
"""The same where the user's own code is run: a pickle that is trusted, or a named architecture."""
LIBRARY_S = 40.0
"""Processor time for a folder of Hugging Face, whose library takes long to load."""
INT8_S = 100.0
"""Processor time for calibration in int8, which runs the network."""
STOP_S = 2.0
"""Time that the reader may take to end by itself, when its input has."""
ONNX_BYTES_PER_S = 5_000_000
"""Rate at which an ONNX file adds to its time, in bytes per second."""
TORCH_BYTES_PER_S = 500_000
"""The same of a file of torch: what has more weights mostly has more layers to export."""
PATIENCE = 5
"""Time by the clock over processor time: other work may keep the reader from its processor."""

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from"
    " hwbench.network.intake import reader_child; reader_child.main()"
)
_LARGE_NEIGHBOUR = 1 << 20
"""Bytes from which a file beside an ONNX model counts towards its size, if the model names it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading one file may take.

    Attributes:
        seconds: Processor time.
        wait_s: Time by the clock.
        memory_bytes: Memory beside that of the reader itself.
    """

    seconds: float
    wait_s: float
    memory_bytes: int


def read_file(request: ReadRequest, precision: str, read_limit: float = 1.0) -> Workload:
    """Read a model file into a workload, in the reader process.

    Args:
        request: How it is to be read; its name is the path of the file.
        precision: The precision asked for, one of `fp32`, `fp16`, `bf16` and `int8`.
        read_limit: Factor on the memory and the time that this may take.

    Raises:
        UsageError: There is no such file, or shapes are missing or do not fit.
        UnsafeModelError: The file would execute code, reaches outside its folder, needs more memory
            or time than allowed, or ended the process that read it.
        SchemaError: The file is damaged or of no known kind.
        WorkloadError: The network cannot be exported, cast or quantised.
    """
    path = Path(request.name)
    is_torch = path.is_dir() or archives.is_torch_file(path)
    limits = _set_limits(path, request, precision, read_limit, is_torch=is_torch)
    answer, artifact = _ask(request, precision, limits, is_torch=is_torch)
    if "workload" not in answer:
        raise _explain_failure(request.name, answer, limits, is_torch=is_torch)
    try:
        return _build_workload(answer["workload"], artifact, path)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # A file that took the worker over could have it say anything.
        raise UnsafeModelError(
            f"{request.name}: its reader gave no facts of a workload; the file is hostile"
        ) from error


def rehearse(path: Path, *, trust_pickle: bool) -> None:
    """Have the reader process load a file of torch, before this process does the same.

    What needs the modules or weights themselves reads them here. A file that is damaged, or asks
    for more memory or time than it may take, is met there first.

    Args:
        path: The path of the file.
        trust_pickle: Whether pickles may run code: then there is nothing to rehearse.

    Raises:
        UsageError: There is no such file.
        UnsafeModelError: The file would execute code, or needs more memory or time than allowed.
        SchemaError: The file is damaged.
    """
    if trust_pickle or not archives.is_torch_file(path):
        return
    request = ReadRequest(str(path))
    limits = _set_limits(path, request, "fp32", 1.0, is_torch=True)
    answer, _ = _ask(request, "fp32", limits, is_torch=True, rehearses=True)
    if answer.get("rehearsed") is not True:
        raise _explain_failure(request.name, answer, limits, is_torch=True, bounded_by_user=False)


def _ask(
    request: ReadRequest, precision: str, limits: Limits, *, is_torch: bool, rehearses: bool = False
) -> tuple[dict[str, Any], bytes]:
    """Have a worker read one file, or rehearse that."""
    current = str(Path.cwd())
    job = {
        "request": asdict(request),
        "precision": precision,
        "torch": is_torch,
        "rehearses": rehearses,
        "limits": asdict(limits),
        "folder": current,
        # A worker runs in a temporary folder, but finds modules where this process does: an empty
        # entry of the path means the current folder.
        "paths": [entry or current for entry in (*sys.path, "")],
    }
    if sys.platform == "linux":
        answer, artifact = _READER.ask(job)
    else:
        answer, artifact = _ask_once(job, limits)
    return answer, artifact


def _build_workload(facts: Mapping[str, Any], artifact: bytes, path: Path) -> Workload:
    """Build a workload from what a worker said of it.

    Args:
        facts: The fields of the workload in plain types.
        artifact: The model.
        path: The file that was read.
    """
    fields = dict(facts)
    fields["inputs"] = tuple(
        TensorSpec(row["name"], tuple(row["shape"]), row["dtype"]) for row in facts["inputs"]
    )
    fields["findings"] = tuple(Finding(**finding) for finding in facts["findings"])
    if facts["weights"] is not None:
        stamps = tuple(FileStamp(**stamp) for stamp in facts["weights"]["files"])
        fields["weights"] = WeightFiles(facts["weights"]["folder"], stamps)
        onnx_external.check_files(fields["weights"], artifact, path)
    return Workload(artifact=artifact, **fields)


def _set_limits(
    path: Path, request: ReadRequest, precision: str, factor: float, *, is_torch: bool
) -> Limits:
    """Set what a file may take: more for larger files, larger inputs, and what runs the network."""
    if not 0 < factor < math.inf:
        raise UsageError(f"read_limit must be a positive factor, not {factor}")
    size = hugging_face.count_bytes(path) if path.is_dir() else path.stat().st_size
    if not is_torch:
        size += _count_neighbour_bytes(path)
    input_bytes = 0
    for spec in request.inputs:
        shape = spec.shape if request.batch is None else (request.batch, *spec.shape[1:])
        input_bytes += 4 * math.prod(shape)
    seconds = ONNX_S
    if is_torch:
        seconds = TRUSTED_S if request.trust_pickle or request.arch else TORCH_S
        if path.is_dir():
            seconds += LIBRARY_S
    if precision == "int8":
        seconds += INT8_S
    seconds += size / (TORCH_BYTES_PER_S if is_torch else ONNX_BYTES_PER_S)
    seconds *= factor
    memory = BASE_BYTES + BYTES_PER_BYTE * size + BYTES_PER_INPUT_BYTE * input_bytes
    # Beyond what a signed number of 64 bits holds nothing is bounded any more.
    return Limits(seconds, PATIENCE * seconds, min(int(memory * factor), 1 << 62))


def _count_neighbour_bytes(path: Path) -> int:
    """Count the bytes of large files beside an ONNX model whose names stand in it: its weights.

    They count as at most the 2 GiB that one model can hold: what exceeds that is not read into it.
    """
    sizes = {}
    try:
        for entry in os.scandir(path.parent):
            target = neighbours.find_neighbour(path.parent, entry.name)
            if target is not None and entry.name != path.name:
                size = target.stat().st_size
                if size >= _LARGE_NEIGHBOUR:
                    sizes[os.fsencode(entry.name)] = size
        if not sizes:
            return 0
        data = path.read_bytes()
    except OSError:
        return 0  # reading the file will say what is wrong
    return min(sum(size for name, size in sizes.items() if name in data), 1 << 31)


def _explain_failure(
    name: str,
    answer: Mapping[str, Any],
    limits: Limits,
    *,
    is_torch: bool,
    bounded_by_user: bool = True,
) -> HwbenchError:
    """Make the error for a file that gave no workload.

    Args:
        name: The name of the model.
        answer: What the reader said: an error, or what ended the worker.
        limits: What the worker was allowed.
        is_torch: Whether torch was to read the file.
        bounded_by_user: Whether the limits can be raised.
    """
    if "error" in answer:
        return error_from_dict(answer, unknown=WorkloadError)
    who = "torch" if is_torch else "hwbench"
    remedies: tuple[Argument, ...] = ()
    if bounded_by_user:
        remedies = (Argument("read_limit", change="a larger", purpose="if you trust its author"),)
    ended_by, detail = answer.get("ended_by"), answer.get("detail")
    if ended_by == "time":
        return UnsafeModelError(
            f"{name}: {who} did not finish reading and exporting it within {limits.seconds:.3g} s"
            " of processor time",
            *remedies,
        )
    if ended_by == "memory":
        return UnsafeModelError(
            f"{name}: {who} needs more than {limits.memory_bytes / 1e9:.3g} GB of memory to read"
            " or to run it",
            *remedies,
        )
    if ended_by == "signal":
        return UnsafeModelError(
            f"{name}: reading it ended the process with signal {detail}; the file is damaged or"
            " hostile"
        )
    return SchemaError(f"{name}: {who} cannot read it ({detail}); save the model anew")


class _Reader:
    """The reader process of this process; started with the first request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes] | None = None

    def ask(self, job: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Have one file read.

        Returns:
            The facts, and the model if there is one.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self.stop()
                self._start()
            process = self._process
            if process is None or process.stdin is None or process.stdout is None:
                raise WorkloadError("the reader of model files has no pipes")
            try:
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
                # Whatever measures or describes a model needs onnx here too. It is imported while
                # the reader starts, so that the two do not wait for each other.
                import onnx  # noqa: F401

                return _receive(process.stdout)
            except (EOFError, OSError, ValueError) as error:
                detail = self._read_messages()
                self.stop()
                raise WorkloadError(f"the reader of model files ended: {detail}") from error
            except BaseException:
                # The user interrupted: the worker must not run on.
                self.stop()
                raise

    def _start(self) -> None:
        paths = [entry or str(Path.cwd()) for entry in sys.path]
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=os.environ | TELEMETRY_OFF,
            start_new_session=True,  # Ctrl-C reaches hwbench alone, which then ends the reader
        )

    def _read_messages(self) -> str:
        if self._messages is None:
            return "no message"
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").split("\n")
        return [" ".join(line.split())[:300] for line in ["no message", *lines] if line.strip()][-1]

    def stop(self) -> None:
        """End the reader process: it ends when its standard input does."""
        process, self._process = self._process, None
        if self._messages is not None:
            self._messages.close()
            self._messages = None
        if process is None or process.stdin is None or process.stdout is None:
            return
        with suppress(OSError):  # it may have ended before it read all
            process.stdin.close()
        process.stdout.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            # It may be loading libraries, and looks for the end of its input only after that.
            process.kill()
            process.wait()
            remove_abandoned(Path(tempfile.gettempdir()))

    def forget(self) -> None:
        """In a fork of this process: leave the reader to the parent."""
        self._lock = threading.Lock()
        process, self._process, self._messages = self._process, None, None
        if process is not None:
            # The parent's death shows as the end of the pipe, so that no copy may stay open; what a
            # thread of the parent was about to write goes nowhere from here. And the process is not
            # this one's child to wait for.
            nowhere = os.open(os.devnull, os.O_RDWR)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    os.dup2(nowhere, pipe.fileno(), inheritable=False)
            os.close(nowhere)
            process.returncode = 0


_READER = _Reader()
atexit.register(_READER.stop)
if sys.platform == "linux":
    os.register_at_fork(after_in_child=_READER.forget)


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Receive one answer: a line of JSON, then as many bytes of a model as it says."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the reader ended before it answered")
    answer: dict[str, Any] = json.loads(line)
    size = answer["artifact_bytes"]
    artifact = stream.read(size)
    if len(artifact) != size:
        raise EOFError("the reader ended while it answered")
    return answer, artifact


def _ask_once(job: Mapping[str, Any], limits: Limits) -> tuple[dict[str, Any], bytes]:
    """Have one file read by a process of its own, where processes cannot be forked."""
    import io

    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, json.dumps(job["paths"])],
            input=json.dumps(job).encode() + b"\n",
            env=os.environ | TELEMETRY_OFF,
            capture_output=True,
            timeout=limits.wait_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"ended_by": "time", "detail": ""}, b""
    if done.returncode < 0:
        return {"ended_by": "signal", "detail": -done.returncode}, b""
    try:
        return _receive(io.BytesIO(done.stdout))
    except (EOFError, ValueError):
        lines = done.stderr.decode(errors="replace").split("\n")
        last = [line.strip() for line in ["no message", *lines] if line.strip()][-1]
        return {"ended_by": "exit", "detail": last[:300]}, b""
