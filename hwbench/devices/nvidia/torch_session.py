"""One GPU through torch.

Networks are captured as CUDA graphs, started on one stream and timed with CUDA events.
"""

from __future__ import annotations

import copy
import gc
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from hwbench.devices.shared.inputs import input_values
from hwbench.errors import (
    Argument,
    BuildError,
    DeviceLostError,
    DeviceTimeoutError,
    UnsupportedLayerError,
)
from hwbench.network.workload import Workload

if TYPE_CHECKING:
    import torch
    from torch import Tensor, fx

    from hwbench.network.torch_graph import TorchNet

T = TypeVar("T")
BACKEND = "inductor"
"""Backend of torch.compile."""
EAGER_RUNS = 3
"""Runs before a capture.

In them libraries load, cuDNN tries its algorithms and torch.compile compiles, of which nothing can
be captured.
"""
PATIENCE_S = 120.0
"""Seconds after which a GPU that does not finish counts as hanging."""


def place(index: int) -> torch.device:
    """Return torch's device for a GPU."""
    import torch

    return torch.device("cuda", index)


class TorchGpu:
    """One GPU, with a stream of its own.

    Args:
        index: CUDA's number of it.
    """

    def __init__(self, index: int) -> None:
        import torch

        with gpu_errors(f"GPU {index} cannot be used"):
            self.device = place(index)
            torch.cuda.set_device(self.device)
            self.stream = torch.cuda.Stream(device=self.device)  # type: ignore[no-untyped-call]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Let what runs meanwhile go to our stream, in true fp32 and without gradients."""
        import torch

        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # no TF32 in linear layers
        flags = torch.backends.cudnn.flags(
            enabled=True, benchmark=True, deterministic=False, allow_tf32=False
        )
        try:
            with warnings.catch_warnings(), torch.cuda.stream(self.stream), torch.no_grad(), flags:
                # torch.compile advises TF32, and warns of an empty capture, which is no fault here.
                warnings.simplefilter("ignore")
                yield
        finally:
            torch.set_float32_matmul_precision(before)

    def capture(self, work: Callable[[], T], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
        """Capture what `work` starts on the GPU as a CUDA graph; for use inside `current()`.

        `torch.cuda.graph` does the same, but also collects Python's garbage and empties torch's
        caches, which for every layer anew takes long.

        Args:
            work: What to capture.
            pool: Memory that several graphs share; None for memory of its own.

        Returns:
            (the graph, what `work` returned: tensors that each replay fills anew).
        """
        import torch

        graph = torch.cuda.CUDAGraph()
        self.stream.synchronize()
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            result = work()
        finally:
            graph.capture_end()
        return graph, result

    def event(self) -> torch.cuda.Event:
        """Create a mark in the stream that knows its time."""
        import torch

        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def wait(self, event: torch.cuda.Event) -> None:
        """Spin until the GPU has passed `event`; a sleeping wait would add the time to wake up.

        Raises:
            DeviceTimeoutError: The GPU does not get there within `PATIENCE_S`.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not event.query():  # type: ignore[no-untyped-call]
            if time.monotonic() > deadline:
                raise DeviceTimeoutError(
                    f"{self.device} did not finish within {PATIENCE_S:g} s; see nvidia-smi, and"
                    " open it anew"
                )

    def time_rounds(
        self, order: Sequence[torch.cuda.CUDAGraph], loops: int
    ) -> tuple[list[float], float]:
        """Time rounds on the GPU, each started while the one before it runs.

        So the host's time to start a round is hidden behind the round before. An untimed replay
        comes first, so that this holds for the first round too.

        Args:
            order: The graph of each round.
            loops: Replays in each round.

        Returns:
            (seconds per replay in each round, largest share of a round that the host needed to
            start it).
        """
        import torch

        pairs = [(self.event(), self.event()) for _ in order]
        host_s = []
        with (
            gpu_errors("the GPU failed while it was timed"),
            torch.cuda.stream(self.stream),
            _without_garbage_collection(),
        ):
            order[0].replay()
            for number, (graph, (begin, end)) in enumerate(zip(order, pairs, strict=True)):
                start = time.perf_counter()
                begin.record(self.stream)
                for _ in range(loops):
                    graph.replay()
                end.record(self.stream)
                host_s.append(time.perf_counter() - start)
                if number:
                    self.wait(pairs[number - 1][1])
            self.wait(pairs[-1][1])
            rounds_s = [begin.elapsed_time(end) * 1e-3 for begin, end in pairs]
        largest_share = 0.0
        for start_s, round_s in zip(host_s, rounds_s, strict=True):
            share = start_s / round_s if round_s > 0 else 1.0
            largest_share = max(largest_share, share)
        return [round_s / loops for round_s in rounds_s], largest_share

    def time_requests(self, order: Sequence[torch.cuda.CUDAGraph], loops: int) -> list[float]:
        """Time requests by the host's clock.

        A request finds the GPU idle, starts a replay and waits until it is done.

        Args:
            order: The graph of each round.
            loops: Requests in each round.

        Returns:
            Seconds per request in each round.
        """
        import torch

        done, values_s = self.event(), []
        with (
            gpu_errors("the GPU failed while it was timed"),
            torch.cuda.stream(self.stream),
            _without_garbage_collection(),
        ):
            for graph in order:
                start = time.perf_counter()
                for _ in range(loops):
                    graph.replay()
                    done.record(self.stream)
                    self.wait(done)
                values_s.append((time.perf_counter() - start) / loops)
        return values_s


class TorchSession:
    """A network on the GPU, captured and ready to be replayed.

    Args:
        gpu: The GPU to run on.
        net: The network, of which a copy is made.
        workload: The workload that the network was made from.
        seed: Seed of the random inputs.
        compiled: Whether torch.compile makes kernels of it first.

    Attributes:
        load_s: Seconds that it took to bring weights and inputs to the GPU.
        first_run_s: Seconds of the first inference, before the capture: libraries load, cuDNN tries
            its algorithms, torch.compile compiles.
        peak_memory_bytes: Most bytes of the GPU that torch had allocated for it at once; CUDA's own
            context is not among them.

    Raises:
        BuildError: The network does not fit, or torch cannot run or compile it.
    """

    def __init__(
        self, gpu: TorchGpu, net: TorchNet, workload: Workload, *, seed: int, compiled: bool
    ) -> None:
        import torch

        self.net, self.seed = net, seed
        with gpu_errors("the GPU failed", workload.name), gpu.current():
            torch.cuda.reset_peak_memory_stats(gpu.device)
            before_bytes = torch.cuda.memory_allocated(gpu.device)
            begun_s = time.perf_counter()
            self.module = on_gpu(net.module, gpu.device)
            self.inputs = tuple(
                input_on_gpu(workload, number, seed + number, gpu.device)
                for number in range(len(workload.inputs))
            )
            run: Callable[..., Any] = self.module
            if compiled:
                run = torch.compile(self.module, fullgraph=True, dynamic=False, backend=BACKEND)
            gpu.stream.synchronize()
            loaded_s = time.perf_counter()
            run(*self.inputs)
            gpu.stream.synchronize()
            self.load_s = loaded_s - begun_s
            self.first_run_s = time.perf_counter() - loaded_s
            for _ in range(EAGER_RUNS - 1):
                run(*self.inputs)
            gpu.stream.synchronize()
            self.graph, self.outputs = gpu.capture(lambda: run(*self.inputs))
            self.peak_memory_bytes = torch.cuda.max_memory_allocated(gpu.device) - before_bytes

    def close(self) -> None:
        """Free the graph and its memory."""
        self.graph.reset()
        del self.graph, self.outputs, self.inputs, self.module


def on_gpu(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """Copy a network to the GPU, its 4-dimensional weights in channels_last order."""
    import torch

    copied = copy.deepcopy(module).to(device)
    for buffer in copied.buffers():
        if buffer.dim() == 4:
            buffer.data = buffer.data.to(memory_format=torch.channels_last)
    return copied


def input_on_gpu(workload: Workload, position: int, seed: int, device: torch.device) -> Tensor:
    """Make the values for one input (see `input_values`) on the GPU.

    Images are in channels_last order.

    Raises:
        UnsupportedLayerError: torch has no such element type.
    """
    import numpy as np
    import torch

    spec = workload.inputs[position]
    kind = getattr(torch, spec.dtype, None)
    if not isinstance(kind, torch.dtype):
        raise UnsupportedLayerError(
            f"input {spec.name!r} holds {spec.dtype}, which torch does not have; cast it in the"
            " model"
        )
    drawn = np.array(input_values(workload, position, seed))
    values = torch.from_numpy(drawn).view(kind).to(device)
    if values.dim() == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values


@contextmanager
def gpu_errors(what: str, model: str = "") -> Iterator[None]:
    """Raise failures of torch as errors of hwbench.

    They are errors of the model if one is being prepared and at fault, else of the GPU.

    Args:
        what: What failed, for messages about the GPU.
        model: Name of the model that is being prepared; empty if none is.

    Raises:
        BuildError: `model` needs more memory, or torch refuses it.
        DeviceLostError: CUDA reports an error; its context is lost with it.
    """
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        if model:
            raise BuildError(
                f"{model} does not fit into the GPU's memory: {_first_line(error)}",
                Argument("batch", change="a smaller"),
            ) from error
        raise DeviceLostError(f"{what}: {_first_line(error)}") from error
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        if model and "CUDA error" not in str(error):
            raise BuildError(f"torch cannot run {model}: {_first_line(error)}") from error
        raise DeviceLostError(
            f"{what}: {_first_line(error)}; see nvidia-smi and dmesg, then open it anew"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keep Python from collecting garbage in a round, where that would be in the latency."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
