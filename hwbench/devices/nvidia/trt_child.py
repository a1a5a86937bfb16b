"""The process in which TensorRT lives: it may crash, hang or be killed without harm to the one that measures.

It reads one JSON object a line from standard input and answers each with one: `{"ok": ...}`, or
`{"error": CLASS, "text": ...}` with a class of `hwbench.errors`. What TensorRT says goes to
standard error. It ends with its input, and with the first error of the GPU, whose state is then
unknown.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from hwbench.devices.nvidia.trt_build import Builder, Library, Recipe
from hwbench.devices.nvidia.trt_cuda import Cuda
from hwbench.devices.nvidia.trt_session import Session, gpu_clock, request_clock
from hwbench.errors import DeviceError, HwbenchError, error_to_dict


class Server:
    """What the parent can ask for; each public method is a command."""

    def __init__(self, folder: Path) -> None:
        self._cuda = Cuda()  # asked first: without a driver TensorRT crashes instead of raising
        self._library = Library()
        self._facts = self._cuda.facts()
        self._builder = Builder(self._library, self._facts, folder)
        self._clocks = {"gpu": gpu_clock(self._cuda), "request": request_clock(self._cuda)}
        self._sessions: dict[str, Session] = {}

    def hello(self) -> dict[str, Any]:
        """Versions and the GPU."""
        return {
            "runtime": self._library.version,
            "typing": "strong" if self._library.strong is not None else "weak",
            **self._facts,
        }

    def load(self, name: str, model: str, seed: int, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Build or fetch the engine of an ONNX file and make a session of it."""
        plan, built = self._builder.plan(Path(model).read_bytes(), Recipe(**recipe))
        self._sessions[name] = session = Session(self._library, self._cuda, plan, seed)
        return {"built": built, "uncaptured": session.uncaptured, "engine_bytes": len(plan)}

    def unload(self, name: str) -> dict[str, Any]:
        """Free a session."""
        self._sessions.pop(name).free()
        return {}

    def run(self, order: list[str], loops: int, clock: str) -> dict[str, Any]:
        """Time rounds."""
        values_s, submit_s = self._clocks[clock]([self._sessions[name] for name in order], loops)
        return {"values_s": values_s, "submit_s": submit_s}

    def profile(self, name: str, runs: int, clock: str) -> dict[str, Any]:
        """Layer times, and what the layers are."""
        session = self._sessions[name]
        return {**session.profile(runs, self._clocks[clock]), "engine": session.layers()}


def serve(requests: BinaryIO, answers: BinaryIO, folder: Path) -> None:
    """Answer requests until they end."""

    def answer(event: Mapping[str, Any]) -> None:
        answers.write(json.dumps(event).encode() + b"\n")
        answers.flush()

    def attempt(action: Callable[[], dict[str, Any]]) -> bool:
        """Whether to go on; an error of the model leaves the process usable."""
        try:
            answer({"ok": action()})
        except HwbenchError as error:
            answer(error_to_dict(error))
            return not isinstance(error, DeviceError)
        return True

    server: list[Server] = []

    def start() -> dict[str, Any]:
        server.append(Server(folder))
        return server[0].hello()

    usable = attempt(start)
    while usable and (line := requests.readline()):
        request = json.loads(line)
        command = getattr(server[0], request.pop("do"))
        usable = attempt(lambda: command(**request))  # noqa: B023 - called at once


def main() -> None:
    """Serve on what were standard input and output.

    Anything else that prints goes to standard error.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(requests, answers, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
