"""The process in which TensorRT lives.

It may crash, hang or be killed without harm to the process that measures.

It reads one JSON object a line from standard input and answers each with one: `{"ok": ...}`, or
`{"error": CLASS, "text": ...}` with a class of `hwbench.errors`. What TensorRT says goes to
standard error. It ends with its input, and with the first error of the GPU, whose state is then
unknown.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from hwbench.devices.nvidia.trt_build import Builder, EngineRecipe, Library
from hwbench.devices.nvidia.trt_cuda import CudaRuntime
from hwbench.devices.nvidia.trt_session import TrtSession, gpu_clock, request_clock
from hwbench.errors import DeviceError, HwbenchError, error_to_dict

GRACE_S = 2.0
"""Seconds that a command may go on for when nobody waits for its answer any more."""


class Server:
    """What the parent process can ask for: each public method is a command.

    Args:
        folder: Folder of the caches of engines and timings.
    """

    def __init__(self, folder: Path) -> None:
        self._cuda = (
            CudaRuntime()
        )  # comes first: without a driver TensorRT crashes instead of raising
        self._library = Library()
        self._facts = self._cuda.facts()
        self._builder = Builder(self._library, self._facts, folder)
        self._clocks = {"gpu": gpu_clock(self._cuda), "request": request_clock(self._cuda)}
        self._sessions: dict[str, TrtSession] = {}

    def hello(self) -> dict[str, Any]:
        """Describe the versions and the GPU."""
        return {
            "runtime": self._library.version,
            "typing": "strong" if self._library.strong is not None else "weak",
            **self._facts,
        }

    def load(self, name: str, model: str, seed: int, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Build or fetch the engine of an ONNX file, and make a session of it."""
        plan, built = self._builder.provide_plan(Path(model).read_bytes(), EngineRecipe(**recipe))
        session = TrtSession(self._library, self._cuda, plan, seed)
        self._sessions[name] = session
        return {
            "built": built,
            "capture_error": session.capture_error,
            "engine_bytes": len(plan),
            "load_s": session.load_s,
            "first_run_s": session.first_run_s,
        }

    def unload(self, name: str) -> dict[str, Any]:
        """Free a session."""
        self._sessions.pop(name).free()
        return {}

    def run(self, order: list[str], loops: int, clock: str) -> dict[str, Any]:
        """Time one round of `loops` inferences for each name in `order`."""
        values_s, submit_s = self._clocks[clock]([self._sessions[name] for name in order], loops)
        return {"values_s": values_s, "submit_s": submit_s}

    def profile(self, name: str, runs: int, clock: str) -> dict[str, Any]:
        """Time the layers, and describe them."""
        session = self._sessions[name]
        return {**session.profile(runs, self._clocks[clock]), "engine": session.describe_layers()}


def serve(requests: BinaryIO, answers: BinaryIO, folder: Path) -> None:
    """Answer requests until they end."""

    def answer(event: Mapping[str, Any]) -> None:
        answers.write(json.dumps(event).encode() + b"\n")
        answers.flush()

    def attempt(action: Callable[[], dict[str, Any]]) -> bool:
        """Answer with the result of an action, or with its error.

        Returns:
            Whether the process is still usable: it is after an error of the model.
        """
        try:
            answer({"ok": action()})
        except HwbenchError as error:
            answer(error_to_dict(error))
            return not isinstance(error, DeviceError)
        return True

    server: list[Server] = []  # empty until it has started

    def start() -> dict[str, Any]:
        server.append(Server(folder))
        return server[0].hello()

    usable = attempt(start)
    while usable and (line := requests.readline()):
        request = json.loads(line)
        command = getattr(server[0], request.pop("do"))
        usable = attempt(lambda: command(**request))  # noqa: B023 - called at once


def _end_with_requests(requests: BinaryIO) -> None:
    """End the process when its parent is gone, also while it builds an engine, which takes minutes.

    The end of the pipe shows without reading it, which is for the one that serves.
    """
    watch = select.poll()
    watch.register(requests, 0)
    watch.poll()
    time.sleep(GRACE_S)
    os._exit(1)


def main() -> None:
    """Serve on what were standard input and output.

    TensorRT prints to standard output too, which would break the conversation. So the answers get a
    copy of its descriptor, and whatever else is printed goes to standard error.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_requests, args=(requests,), daemon=True).start()
    serve(requests, answers, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
