"""Outputs of networks, from ONNX Runtime on this computer, those of `.tflite` files from LiteRT.

The networks run in a process of their own (`run_child`): what ends it, or lets it run without end,
is the model's fault and ends nothing here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hwbench.errors import WorkloadError
from hwbench.network.ort import TELEMETRY_OFF
from hwbench.network.run_child import read_message, write_message
from hwbench.network.workload import LARGE_ONNX, ONNX, TFLITE, Workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hwbench.network import"
    " run_child; run_child.main(int(sys.argv[2]))"
)
_RUNTIMES = {ONNX: "ONNX Runtime", LARGE_ONNX: "ONNX Runtime", TFLITE: "LiteRT"}
"""What runs a network, by the format of its artifact."""
STOP_S = 2.0
"""Seconds that the process may take to end by itself, when its input has."""


class NetworkRunner:
    """Runs networks for their outputs. Use as a context manager.

    Args:
        folder: An empty folder for the model files.
        threads: Threads of each network.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._folder, self._threads = folder, threads
        self._names: dict[str, str] = {}
        self._loaded = 0
        paths = [entry or str(Path.cwd()) for entry in sys.path]
        self._messages = TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(paths), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=os.environ | TELEMETRY_OFF,
            start_new_session=True,  # Ctrl-C reaches hwbench alone, which then ends this
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not pipe.closed:
                with suppress(OSError):  # it may have ended before it read all
                    pipe.close()
        if kind is not None:
            process.kill()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._messages.close()

    def load(self, workload: Workload, timeout_s: float) -> None:
        """Load a network, if it is not loaded yet.

        Raises:
            WorkloadError: The runtime does not load it, or not in time.
        """
        if workload.sha256 in self._names:
            return
        name = str(self._loaded)
        self._loaded += 1
        path = self._folder / f"{name}.{workload.format}"
        path.write_bytes(workload.artifact)
        request: dict[str, Any] = {"name": name, "model": str(path), "threads": self._threads}
        if workload.weights is not None:
            workload.weights.require_unchanged(workload.name)
            request["weights"] = workload.weights.folder
        self._ask(workload, request, (), timeout_s)
        self._names[workload.sha256] = name

    def run(
        self, workload: Workload, inputs: Sequence[NDArray[Any]], timeout_s: float
    ) -> list[NDArray[Any]]:
        """Run a network once.

        Args:
            workload: The network.
            inputs: The values of its inputs, in order.
            timeout_s: Seconds it may take, loading included where it is not loaded yet.

        Returns:
            Its outputs, in order; those of a type that NumPy does not have as float32.

        Raises:
            WorkloadError: The runtime does not run it, or not in time.
        """
        self.load(workload, timeout_s)
        return self._ask(workload, {"name": self._names[workload.sha256]}, inputs, timeout_s)

    def unload(self, workload: Workload) -> None:
        """Forget a network, if it is loaded.

        Raises:
            WorkloadError: The process that ran it has ended.
        """
        name = self._names.pop(workload.sha256, None)
        if name is not None:
            self._ask(workload, {"name": name, "unload": True}, (), STOP_S)
            (self._folder / f"{name}.{workload.format}").unlink()

    def _ask(
        self,
        workload: Workload,
        request: Mapping[str, Any],
        arrays: Sequence[NDArray[Any]],
        timeout_s: float,
    ) -> list[NDArray[Any]]:
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise WorkloadError("the process that runs networks has no pipes")
        runtime = _RUNTIMES.get(workload.format, "its runtime")
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(timeout_s, end)
        timer.start()
        try:
            write_message(process.stdin, request, arrays)
            answer, outputs = read_message(process.stdout)
        except (EOFError, OSError, ValueError) as error:
            reason = f"did not run within {timeout_s:.3g} s"
            if not is_late.is_set():
                reason = "ended the process that ran it"
            raise WorkloadError(f"{workload.name} {reason} in {runtime}") from error
        finally:
            timer.cancel()
        if "error" in answer:
            raise WorkloadError(f"{workload.name} does not run in {runtime}: {answer['error']}")
        return outputs
