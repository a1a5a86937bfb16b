"""A conversation with the process in which TensorRT lives (`trt_child`).

Every answer comes in bounded time, and every end of the process is explained.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwbench.errors import (
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    OutputParseError,
    error_from_dict,
)

CHILD = (sys.executable, "-m", "hwbench.devices.nvidia.trt_child")
START_S = 120.0
"""Seconds that the process may take to start.

Loading TensorRT's builder resource takes 10 s from a slow disk, the first CUDA context some more.
"""
BUILD_S = 1800.0
"""Seconds that building an engine may take."""
RUN_S = 300.0
"""Seconds that any other request may take."""
STOP_S = 5.0
"""Seconds that the process may take to end by itself."""
_TAIL_BYTES = 2000
_ANSWER_BYTES = 256 << 20


class TrtProcess:
    """The child process and its two pipes.

    Any error but that of a model ends the process; then every call raises `DeviceLostError`.

    Args:
        uuid: UUID of the GPU that it may see.
        folder: Folder where it keeps engines and timings.
        argv: Command to start in place of the child, for tests.

    Raises:
        DeviceUnavailableError: It does not start, or TensorRT does not start in it.
    """

    def __init__(self, uuid: str, folder: Path, argv: Sequence[str] | None = None) -> None:
        self._ending = ""
        self._received = bytearray()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                [*(argv or CHILD), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                env=_environment(uuid),
            )
        except OSError as error:
            self._log.close()
            raise DeviceUnavailableError(
                f"cannot start a process for TensorRT ({error}); free memory or processes"
            ) from error
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)
        try:
            self.hello = self._request("to start", START_S, b"")
        except (DeviceLostError, DeviceTimeoutError) as error:
            raise DeviceUnavailableError(f"TensorRT does not start: {error}") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, command: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """Let the process execute a command, and return its answer.

        Args:
            command: Name of the command, a method of `trt_child.Server`.
            timeout_s: Seconds it may take.
            arguments: Arguments of the command.

        Raises:
            DeviceLostError: The process is gone; with how it ended and the end of its log.
            DeviceTimeoutError: It did not answer in time and was ended.
            HwbenchError: The error that the command raised in the process.
        """
        if self._ending:
            raise DeviceLostError(
                f"the process of TensorRT has ended ({self._ending}); open the device anew"
            )
        line = json.dumps({"do": command, **arguments}).encode() + b"\n"
        return self._request(f"to {command}", timeout_s, line)

    def close(self, grace_s: float = STOP_S) -> None:
        """End the process, by force after `grace_s` seconds; closing twice is fine."""
        if self._ending:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        tail = " ".join(self._log.read().decode("utf-8", "replace").split())
        self._log.close()
        self._ending = (
            f"{_describe_exit(self._process.returncode)}; its log ends: {tail or 'nothing'}"
        )

    def _request(self, task: str, timeout_s: float, request: bytes) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            task: What is asked for, in messages: "to load".
            timeout_s: Seconds it may take.
            request: The line to send; empty to wait for the answer that the process begins with.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._send(request, task, deadline)
            event = _parse_answer(self._receive_line(task, deadline))
        except DeviceTimeoutError as error:
            self.close(grace_s=0.0)
            raise DeviceTimeoutError(f"{error} ({self._ending})") from error
        except DeviceLostError as error:
            self.close()
            raise DeviceLostError(f"{error} ({self._ending})") from error
        except BaseException:
            self.close(grace_s=0.0)
            raise
        if "ok" in event:
            return dict(event["ok"])
        # An error of a class that is unknown here counts as a failure of the device.
        failure = error_from_dict(event, unknown=DeviceLostError)
        if isinstance(failure, DeviceError):
            self.close()
        raise failure

    def _send(self, data: bytes, task: str, deadline: float) -> None:
        """Write all of `data`.

        It is no error here that the child is gone: its last answer can still be read and says why.
        """
        pipe, left = self._process.stdin, memoryview(data)
        while left:
            remaining_s = max(0.0, deadline - time.monotonic())
            if pipe is None or not select.select([], [pipe], [], remaining_s)[1]:
                raise DeviceTimeoutError(f"TensorRT took longer than allowed {task} and was ended")
            try:
                left = left[os.write(pipe.fileno(), left) :]
            except BrokenPipeError:
                return

    def _receive_line(self, task: str, deadline: float) -> bytes:
        """Read the next line that the child writes."""
        pipe = self._process.stdout
        while b"\n" not in self._received:
            if len(self._received) > _ANSWER_BYTES:
                raise OutputParseError(
                    f"the process of TensorRT answered with more than {_ANSWER_BYTES} bytes"
                )
            remaining_s = max(0.0, deadline - time.monotonic())
            if pipe is None or not select.select([pipe], [], [], remaining_s)[0]:
                raise DeviceTimeoutError(f"TensorRT took longer than allowed {task} and was ended")
            data = os.read(pipe.fileno(), 1 << 20)
            if not data:
                raise DeviceLostError(f"the process of TensorRT ended when it was asked {task}")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return bytes(line)


def _environment(uuid: str) -> dict[str, str]:
    """Make the environment of the child.

    In it the child sees one GPU, finds this package, and loads kernels when they are needed.
    """
    home = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": uuid,
        "PYTHONPATH": path,
        "CUDA_MODULE_LOADING": "LAZY",
    }


def _parse_answer(line: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise OutputParseError(
            f"the process of TensorRT answered {line[:160]!r}, which is no JSON"
        ) from error
    if not isinstance(event, dict) or not (
        isinstance(event.get("ok"), dict) or {"error", "text"} <= event.keys()
    ):
        raise OutputParseError(
            f"the process of TensorRT answered {line[:160]!r}, which is neither a result nor an"
            " error"
        )
    return event


def _describe_exit(code: int) -> str:
    """Describe the exit status of a process, which is negative after a signal."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
