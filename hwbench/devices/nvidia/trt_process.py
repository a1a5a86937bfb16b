"""A conversation with the process in which TensorRT lives (`trt_child`): every answer in bounded time, every end explained."""

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
    HwbenchError,
    OutputParseError,
    error_from_dict,
)

CHILD = (sys.executable, "-m", "hwbench.devices.nvidia.trt_child")
START_S = 120.0
"""Loading TensorRT's builder resource takes 10 s from a slow disk.

The first CUDA context some seconds more.
"""
BUILD_S = 1800.0
RUN_S = 300.0
STOP_S = 5.0
_TAIL_BYTES = 2000
_ANSWER_BYTES = 256 << 20


class TrtProcess:
    """The child and its two pipes.

    Any error but that of a model ends it; then every call raises `DeviceLostError`.

    Args:
        uuid: Of the GPU that it may see.
        folder: Where it keeps engines and timings.
        argv: What to start, for tests.

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
            self.hello = self._answer("to start", START_S, b"")
        except (DeviceLostError, DeviceTimeoutError) as error:
            raise DeviceUnavailableError(f"TensorRT does not start: {error}") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, command: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """Let it do something and return what it answers.

        Raises:
            DeviceLostError: It is gone, with how it ended and the end of its log.
            DeviceTimeoutError: It did not answer in time and was ended.
            HwbenchError: What it answered instead.
        """
        if self._ending:
            raise DeviceLostError(
                f"the process of TensorRT has ended ({self._ending}); open the device anew"
            )
        line = json.dumps({"do": command, **arguments}).encode() + b"\n"
        return self._answer(f"to {command}", timeout_s, line)

    def close(self, grace_s: float = STOP_S) -> None:
        """End it, by force after `grace_s`; closing twice is fine."""
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
        self._ending = f"{_how(self._process.returncode)}; its log ends: {tail or 'nothing'}"

    def _answer(self, what: str, timeout_s: float, request: bytes) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        try:
            self._send(request, what, deadline)
            event = _parse(self._line(what, deadline))
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
        failure = _failure(event)
        if isinstance(failure, DeviceError):
            self.close()
        raise failure

    def _send(self, data: bytes, what: str, deadline: float) -> None:
        """Write all of `data`.

        Silently if the child is gone, as its last words can still be read.
        """
        pipe, left = self._process.stdin, memoryview(data)
        while left:
            if (
                pipe is None
                or not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]
            ):
                raise DeviceTimeoutError(f"TensorRT took longer than allowed {what} and was ended")
            try:
                left = left[os.write(pipe.fileno(), left) :]
            except BrokenPipeError:
                return

    def _line(self, what: str, deadline: float) -> bytes:
        """The next line that the child writes."""
        pipe = self._process.stdout
        while b"\n" not in self._received:
            if len(self._received) > _ANSWER_BYTES:
                raise OutputParseError(
                    f"the process of TensorRT answered with more than {_ANSWER_BYTES} bytes"
                )
            if (
                pipe is None
                or not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]
            ):
                raise DeviceTimeoutError(f"TensorRT took longer than allowed {what} and was ended")
            data = os.read(pipe.fileno(), 1 << 20)
            if not data:
                raise DeviceLostError(f"the process of TensorRT ended when it was asked {what}")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return bytes(line)


def _environment(uuid: str) -> dict[str, str]:
    """The child sees one GPU, finds this package, and loads kernels when they are needed."""
    home = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": uuid,
        "PYTHONPATH": path,
        "CUDA_MODULE_LOADING": "LAZY",
    }


def _parse(line: bytes) -> Mapping[str, Any]:
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


def _failure(event: Mapping[str, Any]) -> HwbenchError:
    """The error that the child raised; what is unknown here counts as a failure of the device."""
    return error_from_dict(event, unknown=DeviceLostError)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
