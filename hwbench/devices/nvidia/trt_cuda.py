"""The CUDA runtime calls that timing an engine needs, each checked.

They go through NVIDIA's own `cuda.bindings.runtime`. This runs in the child process only (see
`trt_child`), which sees one GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hwbench.errors import DeviceError, DeviceLostError, DeviceUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Event = Any
Graph = Any


class CaptureError(DeviceError):
    """Work cannot be captured into a CUDA graph."""


class CudaRuntime:
    """One GPU, with one stream on which everything runs.

    Waiting spins (as trtexec 11 does), so that waking up is not in a latency.

    Raises:
        DeviceUnavailableError: There is no driver, or no GPU that this process may use.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise DeviceUnavailableError(
                f"cuda-bindings cannot be imported ({error}); pip install cuda-bindings"
            ) from error
        self._rt = runtime
        self.driver = self._call("cudaDriverGetVersion")
        self.runtime = self._call("cudaRuntimeGetVersion")
        if self.driver == 0:
            raise DeviceUnavailableError(
                "there is no NVIDIA driver (libcuda.so.1 not found); install one"
            )
        status, count = runtime.cudaGetDeviceCount()
        if int(status) or not count:
            raise DeviceUnavailableError(f"CUDA shows no GPU to this process: {self._text(status)}")
        self._call("cudaSetDeviceFlags", runtime.cudaDeviceScheduleSpin)
        self._call("cudaSetDevice", 0)
        self.stream = int(self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking))

    def facts(self) -> dict[str, Any]:
        """Read name and properties of the GPU, and the versions of driver and runtime."""
        properties = self._call("cudaGetDeviceProperties", 0)
        return {
            "name": properties.name.decode(),
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": int(properties.totalGlobalMem),
            "multiprocessors": int(properties.multiProcessorCount),
            "cuda_driver": _describe_version(self.driver),
            "cuda_runtime": _describe_version(self.runtime),
        }

    def allocate(self, size: int) -> int:
        """Allocate `size` zeroed bytes on the GPU, and return their address."""
        address = int(self._call("cudaMalloc", size))
        self._call("cudaMemset", address, 0, size)
        return address

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy an array to the GPU."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpy", address, array.ctypes.data, array.nbytes, kind)

    def settle(self) -> None:
        """Wait until everything on the GPU is done, also copies and fills outside the stream."""
        self._call("cudaDeviceSynchronize")

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cudaFree", address)

    def event(self) -> Event:
        """Create an event that records its time; waiting for it spins."""
        return self._call("cudaEventCreateWithFlags", self._rt.cudaEventDefault)

    def record(self, event: Event) -> None:
        """Let `event` happen when all work enqueued so far is done."""
        self._call("cudaEventRecord", event, self.stream)

    def wait(self, event: Event) -> None:
        """Wait until `event` has happened."""
        self._call("cudaEventSynchronize", event)

    def seconds(self, begin: Event, end: Event) -> float:
        """Compute the seconds between two events that have happened.

        The grain of the clock is about 0.5 us, says the reference of cudaEventElapsedTime.
        """
        return float(self._call("cudaEventElapsedTime", begin, end)) / 1e3

    def drain(self) -> None:
        """Wait until the GPU has nothing left to do on the stream."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Capture what `enqueue` puts on the stream, as a CUDA graph ready for launch.

        A capture that failed must be ended and its error taken, or every later call on the stream
        fails too; the captured graph is only a plan, of which the executable graph is made.

        Raises:
            CaptureError: Some of it cannot be captured; the stream is as before.
        """
        rt = self._rt
        self._call(
            "cudaStreamBeginCapture",
            self.stream,
            rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
        )
        try:
            enqueue()
        except DeviceError as error:
            rt.cudaStreamEndCapture(self.stream)  # its error is this one again
            rt.cudaGetLastError()
            raise CaptureError(str(error)) from error
        status, graph = rt.cudaStreamEndCapture(self.stream)
        if int(status):
            rt.cudaGetLastError()
            raise CaptureError(self._text(status))
        try:
            ready = self._call("cudaGraphInstantiate", graph, 0)
            self._call("cudaGraphUpload", ready, self.stream)
        except DeviceLostError as error:
            rt.cudaGetLastError()
            raise CaptureError(str(error)) from error
        finally:
            rt.cudaGraphDestroy(graph)
        return ready

    def launch(self, graph: Graph) -> None:
        """Enqueue a captured graph."""
        self._call("cudaGraphLaunch", graph, self.stream)

    def discard(self, graph: Graph) -> None:
        """Free a captured graph."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._rt, name)(*arguments)
        if int(status):
            raise DeviceLostError(f"{name}: {self._text(status)}")
        return values[0] if values else None

    def _text(self, status: Any) -> str:
        _, name = self._rt.cudaGetErrorName(status)
        _, text = self._rt.cudaGetErrorString(status)
        return f"{name.decode()} ({text.decode()})"


def _describe_version(number: int) -> str:
    """Write CUDA's number of a version (12040) as people do (12.4)."""
    return f"{number // 1000}.{number % 1000 // 10}"
