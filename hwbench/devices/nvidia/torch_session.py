"""One GPU through torch: networks captured as CUDA graphs, started on one stream, timed with CUDA events."""

from __future__ import annotations

import copy
import gc
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from hwbench.devices.shared.inputs import random_input
from hwbench.errors import (
    Argument,
    BuildError,
    DeviceLostError,
    DeviceTimeoutError,
    UnsupportedLayerError,
)
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, fx

    from hwbench.devices.nvidia.torch_graph import TorchNet

T = TypeVar("T")
BACKEND = "inductor"
"""Of torch.compile."""
EAGER_RUNS = 3
"""Runs before a capture: libraries load, cuDNN tries its algorithms, torch.compile compiles.

None of that can be captured.
"""
PATIENCE_S = 120.0
"""Seconds the GPU may take to finish what was started before it counts as hanging."""


def place(index: int) -> torch.device:
    """The name of a GPU in torch."""
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
        """What runs meanwhile goes to our stream, in honest fp32, without a thought for gradients."""
        import torch

        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # no TF32 in linear layers
        flags = torch.backends.cudnn.flags(
            enabled=True, benchmark=True, deterministic=False, allow_tf32=False
        )
        try:
            with warnings.catch_warnings(), torch.cuda.stream(self.stream), torch.no_grad(), flags:
                warnings.simplefilter(
                    "ignore"
                )  # torch.compile advises TF32; an empty capture is no fault
                yield
        finally:
            torch.set_float32_matmul_precision(before)

    def capture(self, work: Callable[[], T], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
        """What `work` starts on the GPU as a CUDA graph, and the tensors that each replay fills anew; inside `current()`.

        `torch.cuda.graph` would also collect Python's garbage and empty torch's caches, for every
        layer anew.
        """
        import torch

        graph = torch.cuda.CUDAGraph()
        self.stream.synchronize()
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            made = work()
        finally:
            graph.capture_end()
        return graph, made

    def event(self) -> torch.cuda.Event:
        """A mark in the stream that knows its time."""
        import torch

        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def wait(self, event: torch.cuda.Event) -> None:
        """Spin until the GPU has passed `event`; a sleeping wait would add the time to wake up.

        Raises:
            DeviceTimeoutError: It does not within `PATIENCE_S`.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not event.query():  # type: ignore[no-untyped-call]
            if time.monotonic() > deadline:
                raise DeviceTimeoutError(
                    f"{self.device} did not finish within {PATIENCE_S:g} s; see nvidia-smi, and"
                    " open it anew"
                )

    def timed(self, order: Sequence[torch.cuda.CUDAGraph], loops: int) -> tuple[list[float], float]:
        """Seconds of the GPU per replay in each round, one round being started while the one before runs.

        An untimed replay leads, so that the first round does not wait for the host either.

        Returns:
            (one value per entry of `order`, largest share of a round that the host needed to start
            it).
        """
        import torch

        pairs = [(self.event(), self.event()) for _ in order]
        started_s = []
        with (
            gpu_errors("the GPU failed while it was timed"),
            torch.cuda.stream(self.stream),
            _no_collection(),
        ):
            order[0].replay()
            for number, (graph, (begin, end)) in enumerate(zip(order, pairs, strict=True)):
                start = time.perf_counter()
                begin.record(self.stream)
                for _ in range(loops):
                    graph.replay()
                end.record(self.stream)
                started_s.append(time.perf_counter() - start)
                if number:
                    self.wait(pairs[number - 1][1])
            self.wait(pairs[-1][1])
            rounds_s = [begin.elapsed_time(end) * 1e-3 for begin, end in pairs]
        share = max(
            host / gpu if gpu > 0 else 1.0 for host, gpu in zip(started_s, rounds_s, strict=True)
        )
        return [value / loops for value in rounds_s], share

    def requested(self, order: Sequence[torch.cuda.CUDAGraph], loops: int) -> list[float]:
        """Seconds of the host per request in each round: the GPU idle, start a replay, wait until it is done."""
        import torch

        done, values_s = self.event(), []
        with (
            gpu_errors("the GPU failed while it was timed"),
            torch.cuda.stream(self.stream),
            _no_collection(),
        ):
            for graph in order:
                start = time.perf_counter()
                for _ in range(loops):
                    graph.replay()
                    done.record(self.stream)
                    self.wait(done)
                values_s.append((time.perf_counter() - start) / loops)
        return values_s


class Session:
    """A network on the GPU, captured and ready to be replayed.

    Args:
        gpu: Where.
        net: The network; it is copied.
        workload: What it was made from.
        seed: Of the random inputs.
        compiled: Whether torch.compile makes kernels of it first.

    Raises:
        BuildError: It does not fit, or torch cannot run or compile it.
    """

    def __init__(
        self, gpu: TorchGpu, net: TorchNet, workload: Workload, *, seed: int, compiled: bool
    ) -> None:
        import torch

        self.net, self.seed = net, seed
        with gpu_errors("the GPU failed", workload.name), gpu.current():
            self.module = on_gpu(net.module, gpu.device)
            self.inputs = tuple(
                input_on_gpu(spec, seed + number, gpu.device)
                for number, spec in enumerate(workload.inputs)
            )
            run: Callable[..., Any] = self.module
            if compiled:
                run = torch.compile(self.module, fullgraph=True, dynamic=False, backend=BACKEND)
            for _ in range(EAGER_RUNS):
                run(*self.inputs)
            gpu.stream.synchronize()
            self.graph, self.outputs = gpu.capture(lambda: run(*self.inputs))

    def close(self) -> None:
        """Free the graph and its memory."""
        self.graph.reset()
        del self.graph, self.outputs, self.inputs, self.module


def on_gpu(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """A copy of a network on the GPU, its 4-dimensional weights in channels_last order."""
    import torch

    moved = copy.deepcopy(module).to(device)
    for buffer in moved.buffers():
        if buffer.dim() == 4:
            buffer.data = buffer.data.to(memory_format=torch.channels_last)
    return moved


def input_on_gpu(spec: TensorSpec, seed: int, device: torch.device) -> Tensor:
    """Random values for one input (see `random_input`), on the GPU; images in channels_last order.

    Raises:
        UnsupportedLayerError: torch has no such element type.
    """
    import torch

    kind = getattr(torch, spec.dtype, None)
    if not isinstance(kind, torch.dtype):
        raise UnsupportedLayerError(
            f"input {spec.name!r} holds {spec.dtype}, which torch does not have; cast it in the"
            " model"
        )
    values = torch.from_numpy(random_input(spec, seed)).view(kind).to(device)
    if values.dim() == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values


@contextmanager
def gpu_errors(what: str, model: str = "") -> Iterator[None]:
    """Failures of torch as ours: of the model where one is being prepared and at fault, else of the GPU.

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
def _no_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
