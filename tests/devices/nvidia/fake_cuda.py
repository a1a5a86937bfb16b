"""A GPU on paper behind `cuda.bindings.runtime`: names and arguments as strict as the real module,
work that takes real time.

The stream is one queue. Each piece of work has a duration; it begins when the one before it ends,
but not before it was enqueued, on the host's clock. So launching, waiting, capturing and events
behave as on a GPU.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

LAUNCH_GAP_S = 3e-6
"""Between two pieces of work on the stream."""


class Gpu:
    """State of the device: memory, the one stream, events, graphs.

    And what is refused on request.
    """

    def __init__(self, real: ModuleType) -> None:
        self.real = real
        self.memory: dict[int, int] = {}
        self.streams: set[int] = set()
        self.events: dict[int, float | None] = {}
        self.graphs: dict[int, list[Callable[[], float]]] = {}
        self.capturing: list[Callable[[], float]] | None = None
        self.spoiled = False  # the capture that is going on met something that cannot be captured
        self.busy_until_s = 0.0
        self.handles = 1000
        self.flags: int | None = None
        self.allocations = 0

    def handle(self) -> int:
        self.handles += 1
        return self.handles

    def enqueue(self, work: Callable[[], float]) -> None:
        """Put work on the stream, or into the graph that is being captured."""
        if self.capturing is not None:
            self.capturing.append(work)
            return
        self.busy_until_s = max(self.busy_until_s + LAUNCH_GAP_S, time.perf_counter()) + work()

    def wait_until(self, moment_s: float) -> None:
        while (left := moment_s - time.perf_counter()) > 0:
            if left > 1e-3:
                time.sleep(left / 2)


class Runtime:
    """The functions of `cuda.bindings.runtime` that the driver may use.

    Others raise AttributeError as unknown names do.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def __getattr__(self, name: str) -> Any:
        original = getattr(self._gpu.real, name)  # AttributeError for names the real module lacks
        if not callable(original) or isinstance(original, type) or not name.startswith("cuda"):
            return original
        play = getattr(Functions, name, None)
        if play is None:
            raise AttributeError(f"the fake GPU does not play {name}; add it")

        def call(*arguments: Any) -> Any:
            bound = inspect.signature(original).bind(*arguments)
            self._check(name, original, bound.arguments)
            found = play(self._gpu, *arguments)
            code = found if isinstance(found, int) and name not in VALUES else None
            status = self._gpu.real.cudaError_t(code or 0)
            if name in VALUES:
                return (
                    (status, found)
                    if not isinstance(found, Failure)
                    else (self._gpu.real.cudaError_t(found.code), None)
                )
            return (status,)

        return call

    def _check(self, name: str, original: Any, arguments: dict[str, Any]) -> None:
        """Types that the real function declares: enums by class, sizes and handles as whole
        numbers.
        """
        declared = inspect.signature(original).parameters
        integers = {
            part.split()[-1]
            for part in original.__doc__.splitlines()[0].partition("(")[2].rstrip(")").split(",")
            if "int" in part or "size_t" in part
        }
        for key, value in arguments.items():
            kind = declared[key].annotation
            if isinstance(kind, str) and not isinstance(value, getattr(self._gpu.real, kind)):
                raise TypeError(
                    f"{name}: Argument '{key}' has incorrect type (expected {kind}, got"
                    f" {type(value).__name__})"
                )
            if key in integers and (not isinstance(value, int) or isinstance(value, bool)):
                raise TypeError(f"{name}: an integer is required for {key}, not {value!r}")


class Failure:
    """An error code instead of a value."""

    def __init__(self, code: int) -> None:
        self.code = code


VALUES = {
    "cudaDriverGetVersion",
    "cudaRuntimeGetVersion",
    "cudaGetDeviceCount",
    "cudaGetDeviceProperties",
    "cudaStreamCreateWithFlags",
    "cudaEventCreateWithFlags",
    "cudaEventElapsedTime",
    "cudaMalloc",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
    "cudaGetErrorName",
    "cudaGetErrorString",
}
"""Functions that return (status, value)."""
_INVALID, _NOT_READY, _CAPTURE_INVALID, _ILLEGAL = 1, 600, 901, 700


class _Properties:
    name, major, minor, totalGlobalMem, multiProcessorCount = (
        b"NVIDIA Paper GPU",
        9,
        0,
        80 << 30,
        132,
    )


class Functions:
    """What each function does; errors as CUDA's codes."""

    cudaDriverGetVersion = staticmethod(lambda gpu: 13000)
    cudaRuntimeGetVersion = staticmethod(lambda gpu: 13000)
    cudaGetDeviceCount = staticmethod(lambda gpu: 1)
    cudaGetDeviceProperties = staticmethod(lambda gpu, device: _Properties())
    cudaGetErrorName = staticmethod(lambda gpu, error: gpu.real.cudaGetErrorName(error)[1])
    cudaGetErrorString = staticmethod(lambda gpu, error: gpu.real.cudaGetErrorString(error)[1])
    cudaSetDevice = staticmethod(lambda gpu, device: 0 if device == 0 else 101)
    cudaGetLastError = staticmethod(lambda gpu: 0)
    cudaDeviceSynchronize = staticmethod(lambda gpu: 0)

    @staticmethod
    def cudaSetDeviceFlags(gpu: Gpu, flags: int) -> int:
        gpu.flags = flags
        return 0

    @staticmethod
    def cudaStreamCreateWithFlags(gpu: Gpu, flags: int) -> Any:
        stream = gpu.handle()
        gpu.streams.add(stream)
        return gpu.real.cudaStream_t(stream)

    @staticmethod
    def cudaMalloc(gpu: Gpu, size: int) -> int:
        address = gpu.handle() << 20
        gpu.memory[address] = size
        gpu.allocations += 1
        return address

    @staticmethod
    def cudaFree(gpu: Gpu, address: int) -> int:
        return 0 if gpu.memory.pop(address, None) is not None else _INVALID

    @staticmethod
    def cudaMemset(gpu: Gpu, address: int, value: int, count: int) -> int:
        return 0 if gpu.memory.get(address, -1) >= count else _INVALID

    @staticmethod
    def cudaMemcpy(gpu: Gpu, target: int, source: int, count: int, kind: Any) -> int:
        sound = kind == gpu.real.cudaMemcpyKind.cudaMemcpyHostToDevice and source
        return 0 if sound and gpu.memory.get(target, -1) >= count else _INVALID

    @staticmethod
    def cudaEventCreateWithFlags(gpu: Gpu, flags: int) -> Any:
        event = gpu.handle()
        gpu.events[event] = None
        return gpu.real.cudaEvent_t(event)

    @staticmethod
    def cudaEventRecord(gpu: Gpu, event: Any, stream: int) -> int:
        if int(event) not in gpu.events or stream not in gpu.streams:
            return _INVALID
        gpu.events[int(event)] = max(gpu.busy_until_s, time.perf_counter())
        return 0

    @staticmethod
    def cudaEventSynchronize(gpu: Gpu, event: Any) -> int:
        moment_s = gpu.events.get(int(event))
        if moment_s is None:
            return _INVALID
        gpu.wait_until(moment_s)
        return 0

    @staticmethod
    def cudaEventElapsedTime(gpu: Gpu, start: Any, end: Any) -> Any:
        times_s = [gpu.events.get(int(event)) for event in (start, end)]
        if None in times_s:
            return Failure(_INVALID)
        if times_s[1] > time.perf_counter():
            return Failure(_NOT_READY)
        return (times_s[1] - times_s[0]) * 1e3

    @staticmethod
    def cudaStreamSynchronize(gpu: Gpu, stream: int) -> int:
        if stream not in gpu.streams:
            return _INVALID
        gpu.wait_until(gpu.busy_until_s)
        return 0

    @staticmethod
    def cudaStreamBeginCapture(gpu: Gpu, stream: int, mode: Any) -> int:
        if stream not in gpu.streams or gpu.capturing is not None:
            return _INVALID
        gpu.capturing, gpu.spoiled = [], False
        return 0

    @staticmethod
    def cudaStreamEndCapture(gpu: Gpu, stream: int) -> Any:
        captured, gpu.capturing = gpu.capturing, None
        if captured is None or gpu.spoiled:
            return Failure(_CAPTURE_INVALID)
        graph = gpu.handle()
        gpu.graphs[graph] = captured
        return gpu.real.cudaGraph_t(graph)

    @staticmethod
    def cudaGraphInstantiate(gpu: Gpu, graph: Any, flags: int) -> Any:
        ready = gpu.handle()
        gpu.graphs[ready] = list(gpu.graphs[int(graph)])
        return gpu.real.cudaGraphExec_t(ready)

    @staticmethod
    def cudaGraphUpload(gpu: Gpu, graph: Any, stream: int) -> int:
        return 0 if int(graph) in gpu.graphs and stream in gpu.streams else _INVALID

    @staticmethod
    def cudaGraphLaunch(gpu: Gpu, graph: Any, stream: int) -> int:
        if int(graph) not in gpu.graphs or stream not in gpu.streams:
            return _INVALID
        for work in gpu.graphs[int(graph)]:
            gpu.enqueue(work)
        return 0

    @staticmethod
    def cudaGraphDestroy(gpu: Gpu, graph: Any) -> int:
        return 0 if gpu.graphs.pop(int(graph), None) is not None else _INVALID

    cudaGraphExecDestroy = cudaGraphDestroy
