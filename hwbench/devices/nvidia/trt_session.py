"""One engine ready to run: its buffers, its CUDA graph, its timing and its layer profile.

This runs in the child process only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from hwbench.devices.nvidia.trt_build import Library
from hwbench.devices.nvidia.trt_cuda import CaptureError, CudaRuntime, Event
from hwbench.devices.shared.inputs import random_input
from hwbench.devices.shared.turns import take_turns
from hwbench.errors import BuildError, DeviceLostError, OutputParseError
from hwbench.records.tensors import TensorSpec

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class Context:
    """An execution context with inputs and outputs of its own.

    Args:
        library: TensorRT.
        cuda: The GPU.
        engine: The deserialised engine, which may serve several contexts.
        seed: Seed of the random inputs.

    Raises:
        BuildError: The engine has dimensions that are not fixed, or inputs that the host must give.
    """

    def __init__(self, library: Library, cuda: CudaRuntime, engine: Any, seed: int) -> None:
        self._library, self._cuda = library, cuda
        self._buffers: list[int] = []
        self.trt = engine.create_execution_context()
        if self.trt is None:
            raise DeviceLostError(
                f"{library.version} makes no execution context: {library.take_messages()}"
            )
        try:
            for index in range(engine.num_io_tensors):
                self._bind(engine, engine.get_tensor_name(index), seed + index)
            cuda.settle()
        except BaseException:
            self.free()
            raise

    def _bind(self, engine: Any, name: str, seed: int) -> None:
        """Give a tensor of the engine memory on the GPU, and random values if it is an input."""
        trt = self._library.trt
        shape = tuple(engine.get_tensor_shape(name))
        kind = engine.get_tensor_dtype(name)
        if min(shape, default=1) < 0 or engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            raise BuildError(
                f"tensor {name!r} of shape {shape} is not fixed when the engine is built; fix every"
                " dimension of the model's inputs"
            )
        address = self._cuda.allocate(max(1, prod(shape)) * max(1, int(kind.itemsize or 8)))
        self._buffers.append(address)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            if kind.name not in _DTYPES:
                raise BuildError(
                    f"an input of type {kind.name} cannot be filled; expected one of"
                    f" {', '.join(_DTYPES)}"
                )
            values = random_input(TensorSpec(name, shape, _DTYPES[kind.name]), seed)
            self._cuda.upload(address, values)
        if not self.trt.set_tensor_address(name, address):
            raise DeviceLostError(
                f"{self._library.version} does not take the address of tensor {name!r}:"
                f" {self._library.take_messages()}"
            )

    def enqueue(self) -> None:
        """Put one inference on the stream."""
        if not self.trt.execute_async_v3(self._cuda.stream):
            raise DeviceLostError(
                f"{self._library.version} does not run the engine: {self._library.take_messages()}"
            )

    def free(self) -> None:
        """Give the buffers back; the context goes with its last reference."""
        while self._buffers:
            self._cuda.free(self._buffers.pop())
        self.trt = None


class TrtSession:
    """An engine with one context that is timed.

    What it launches is a CUDA graph wherever it can be captured.

    Args:
        library: TensorRT.
        cuda: The GPU.
        plan: The serialised engine.
        seed: Seed of the random inputs.

    Attributes:
        load_s: Seconds from the serialised engine to a context with its buffers on the GPU.
        first_run_s: Seconds of the first inference, which loads kernels and allocates.
    """

    def __init__(self, library: Library, cuda: CudaRuntime, plan: bytes, seed: int) -> None:
        self._library, self._cuda, self._seed = library, cuda, seed
        begun_s = time.perf_counter()
        self._engine = library.runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BuildError(
                f"{library.version} cannot load the engine:"
                f" {library.take_messages() or 'it does not say why'}"
            )
        self._context = Context(library, cuda, self._engine, seed)
        self._graph: Any = None
        self.capture_error = ""
        """Why there is no CUDA graph; empty if there is one."""
        # The first run loads kernels and allocates. That must not be captured, so it comes before.
        loaded_s = time.perf_counter()
        self._context.enqueue()
        cuda.drain()
        self.load_s = loaded_s - begun_s
        self.first_run_s = time.perf_counter() - loaded_s
        try:
            self._graph = cuda.capture(self._context.enqueue)
        except CaptureError as error:
            self.capture_error = str(error)

    def launch(self) -> None:
        """Put one inference on the stream."""
        if self._graph is None:
            self._context.enqueue()
        else:
            self._cuda.launch(self._graph)

    def free(self) -> None:
        """Give everything back."""
        self._cuda.drain()
        if self._graph is not None:
            self._cuda.discard(self._graph)
            self._graph = None
        self._context.free()
        self._engine = None

    def describe_layers(self) -> str:
        """Return the engine inspector's JSON."""
        text = None
        inspector = self._engine.create_engine_inspector()
        if inspector:
            json_format = self._library.trt.LayerInformationFormat.JSON
            text = inspector.get_engine_information(json_format)
        if not text:
            raise OutputParseError(
                f"{self._library.version} does not describe the layers of its engine:"
                f" {self._library.take_messages()}"
            )
        return str(text)

    def profile(self, runs: int, clock: Clock) -> dict[str, Any]:
        """Time the layers of `runs` inferences in a context of their own.

        They take turns with unprofiled inferences in the timed context. What a profiler costs must
        not get into the timed context, so the profiled one is another.

        Args:
            runs: Inferences of each kind.
            clock: The clock that times the unprofiled inferences.

        Returns:
            `layers`, per profiled inference its (name, seconds) pairs in order; `whole_s` and
            `reference_s`, the latency in seconds of each profiled and each unprofiled inference.
        """
        context = Context(self._library, self._cuda, self._engine, self._seed)
        profiler = _make_profiler(self._library.trt)
        begin, end = self._cuda.event(), self._cuda.event()

        def run_profiled(count: int) -> list[tuple[float, list[tuple[str, float]]]]:
            results = []
            for _ in range(count):
                profiler.rows = []
                whole_s = self._run_profiled(context, begin, end)
                results.append((whole_s, profiler.rows))
            return results

        try:
            context.trt.profiler = profiler
            context.trt.enqueue_emits_profile = False
            reference_s, profiled = take_turns(
                lambda count: clock([self] * count, 1)[0], run_profiled, runs
            )
        finally:
            context.free()
        return {
            "layers": [rows for _, rows in profiled],
            "whole_s": [whole_s for whole_s, _ in profiled],
            "reference_s": reference_s,
        }

    def _run_profiled(self, context: Context, begin: Event, end: Event) -> float:
        """Run one inference with the profiler on, and return its latency in seconds.

        The profiler reports only when it is asked to, after the inference: so reporting is not in
        its time.
        """
        self._cuda.record(begin)
        context.enqueue()
        self._cuda.record(end)
        self._cuda.wait(end)
        if not context.trt.report_to_profiler():
            raise OutputParseError(
                f"{self._library.version} reports no layer times: {self._library.take_messages()}"
            )
        return self._cuda.seconds(begin, end)


Clock = Callable[[Sequence[TrtSession], int], tuple[list[float], list[float]]]
"""Times one round for each session, each of so many inferences.

It returns (seconds per inference of each round, seconds that the host needed to submit one). The
second is empty where the clock does not tell the two apart.
"""


def gpu_clock(cuda: CudaRuntime) -> Clock:
    """Make a clock for the latency on the GPU.

    Events stand around each round, and a round is enqueued while the one before it runs. So the
    time to launch is not in it, as in trtexec; before the first round one inference runs ahead.
    """
    # Two pairs are enough: a pair is used again two rounds later, and is read before that.
    events = [(cuda.event(), cuda.event()) for _ in range(2)]

    def time_rounds(order: Sequence[TrtSession], loops: int) -> tuple[list[float], list[float]]:
        values_s: list[float] = []
        submit_s: list[float] = []
        if order:
            order[0].launch()
        for index, session in enumerate(order):
            begin, end = events[index % 2]
            started = time.perf_counter()
            cuda.record(begin)
            for _ in range(loops):
                session.launch()
            cuda.record(end)
            submit_s.append((time.perf_counter() - started) / loops)
            if index:
                values_s.append(_measure_elapsed(cuda, events[(index - 1) % 2]) / loops)
        if order:
            values_s.append(_measure_elapsed(cuda, events[(len(order) - 1) % 2]) / loops)
        return values_s, submit_s

    return time_rounds


def request_clock(cuda: CudaRuntime) -> Clock:
    """Make a clock for the latency that a caller sees.

    It is the host's time from submitting to an idle GPU until the GPU is done, without transfers.
    """

    def time_rounds(order: Sequence[TrtSession], loops: int) -> tuple[list[float], list[float]]:
        values_s: list[float] = []
        cuda.drain()
        for session in order:
            started = time.perf_counter()
            for _ in range(loops):
                session.launch()
                cuda.drain()
            values_s.append((time.perf_counter() - started) / loops)
        return values_s, []

    return time_rounds


def _measure_elapsed(cuda: CudaRuntime, pair: tuple[Event, Event]) -> float:
    """Wait for the second event of a pair, and return the seconds between the two."""
    cuda.wait(pair[1])
    return cuda.seconds(*pair)


def _make_profiler(trt: Any) -> Any:
    """Make a profiler that keeps what TensorRT reports, as (name, seconds) in `rows`."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # pybind11 requires it
            self.rows: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.rows.append((layer_name, ms / 1e3))

    return Profiler()
