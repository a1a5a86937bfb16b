"""torch.cuda without a GPU: strict fakes that compute, and take as long as the processor is busy
with it.

Every fake method has the signature of torch's own, which is checked when this is imported, so a
wrong name or argument of the driver fails as it would on a GPU. A capture records the operators
that run; a replay runs them again into the same tensors. Rules of CUDA that a driver can break
without noticing on a CPU are errors here.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from hwbench.devices.nvidia import cuda as cuda_driver
from hwbench.devices.nvidia import torch_session
from hwbench.devices.nvidia.probe import Gpu, Probe

GPU = Gpu(0, "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f", "Fake H200", 141 << 30, (9, 0))


@dataclass
class State:
    """What the fakes share, and the faults they are told to have."""

    current: Stream | None = None
    capturing: CUDAGraph | None = None
    graphs: int = 0
    """That live."""
    replays: int = 0
    fails_at: int | None = None
    hangs: bool = False
    memory_for_captures: int | None = None
    allocated_bytes: int = 5_000_000
    peak_bytes: int = 9_000_000
    calls: list[str] = field(default_factory=list)


STATE = State()
now = time.thread_time
"""Processor time, so that other programs on this computer are in no latency."""


def same_signature(ours: Any, theirs: Any, skip: int = 1) -> None:
    """Fail unless both take the same arguments, by name, order, kind and default.

    The first `skip` are `self` or `cls`.
    """

    def shape(function: Any) -> list[tuple[str, Any, Any]]:
        found = list(inspect.signature(function).parameters.values())[skip:]
        return [(p.name, p.kind, p.default) for p in found]

    assert shape(ours) == shape(theirs), f"{theirs} takes {inspect.signature(theirs)}"


def strict(real: type) -> Callable[[type], type]:
    """Class decorator: every public method is one of `real`, with its signature.

    So is the constructor.
    """

    def check(fake: type) -> type:
        for name, member in vars(fake).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                same_signature(member, getattr(real, name))
        same_signature(fake.__init__, real.__new__)
        return fake

    return check


@strict(torch.cuda.Stream)
class Stream:
    def __init__(self, device=None, priority=0, **kwargs):
        assert not kwargs
        self.device = device

    def synchronize(self) -> None:
        assert STATE.capturing is None, "operation not permitted when stream is capturing"
        STATE.calls.append("synchronize")


@strict(torch.cuda.Event)
class Event:
    def __init__(self, enable_timing=False, blocking=False, interprocess=False, external=False):
        self.timing, self.at, self.polls = enable_timing, None, 0

    def record(self, stream=None):
        assert isinstance(stream or STATE.current, Stream)
        assert STATE.capturing is None, "an event inside a capture has no time"
        self.at, self.polls = now(), 0

    def query(self):
        self.polls += 1
        return self.at is not None and self.polls > 1 and not STATE.hangs

    def elapsed_time(self, end_event):
        if not (self.timing and end_event.timing):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        if self.at is None or end_event.at is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return (end_event.at - self.at) * 1e3


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, made))
        return made


@strict(torch.cuda.CUDAGraph)
class CUDAGraph:
    def __init__(self, keep_graph=False):
        self._steps: list[tuple[Any, ...]] | None = None
        STATE.graphs += 1

    def capture_begin(self, pool=None, capture_error_mode="global", check_input_liveness=False):
        assert STATE.calls[-1:] == ["synchronize"], "work before a capture must have ended"
        assert isinstance(STATE.current, Stream), (
            "CUDA graphs must be captured on a non-default stream"
        )
        assert capture_error_mode in {"global", "thread_local", "relaxed"}
        assert pool is None or pool == (0, 1)
        assert STATE.capturing is None
        assert torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.is_grad_enabled()
        STATE.capturing = self
        if STATE.memory_for_captures is not None:
            STATE.memory_for_captures -= 1
        self._recorder = _Recorder()
        self._recorder.__enter__()

    def capture_end(self):
        self._recorder.__exit__(None, None, None)
        STATE.capturing = None
        if STATE.memory_for_captures is not None and STATE.memory_for_captures < 0:
            STATE.graphs -= 1
            raise torch.cuda.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 GiB.\nmore lines"
            )
        self._steps = self._recorder.steps

    def replay(self):
        STATE.replays += 1
        if STATE.fails_at is not None and STATE.replays >= STATE.fails_at:
            raise RuntimeError(
                "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"
                " be ..."
            )
        if self._steps is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        assert isinstance(STATE.current, Stream), (
            "a replay on the default stream waits for all others"
        )
        with torch.no_grad():
            for func, args, kwargs, made in self._steps:
                fresh = func(*args, **kwargs)
                for old, new in zip(tree_flatten(made)[0], tree_flatten(fresh)[0], strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def reset(self):
        assert self._steps is not None
        self._steps = None
        STATE.graphs -= 1


@contextmanager
def stream(stream: Stream) -> Iterator[None]:
    """Like torch.cuda.stream."""
    before, STATE.current = STATE.current, stream
    try:
        yield
    finally:
        STATE.current = before


def graph_pool_handle():
    """Like torch.cuda.graph_pool_handle."""
    return (0, 1)


def set_device(device):
    """Like torch.cuda.set_device."""
    assert isinstance(device, torch.device)


def reset_peak_memory_stats(device=None):
    """Like torch.cuda.reset_peak_memory_stats."""
    STATE.peak_bytes = STATE.allocated_bytes


def memory_allocated(device=None):
    """Like torch.cuda.memory_allocated."""
    return STATE.allocated_bytes


def max_memory_allocated(device=None):
    """Like torch.cuda.max_memory_allocated: a session takes a million bytes."""
    return STATE.peak_bytes + 1_000_000


MEMORY = (reset_peak_memory_stats, memory_allocated, max_memory_allocated)
for _function in (stream, graph_pool_handle, set_device, *MEMORY):
    same_signature(_function, getattr(torch.cuda, _function.__name__), skip=0)


def install(monkeypatch: pytest.MonkeyPatch) -> State:
    """Put the fakes in place of torch.cuda, and a GPU in place of none."""
    for fake in (Stream, Event, CUDAGraph, stream, graph_pool_handle, set_device, *MEMORY):
        monkeypatch.setattr(torch.cuda, fake.__name__, fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90", "compute_90"])
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(
        torch_session, "time", SimpleNamespace(perf_counter=now, monotonic=time.monotonic)
    )
    monkeypatch.setattr(torch_session, "place", lambda _: torch.device("cpu"))
    monkeypatch.setattr(cuda_driver, "probe", lambda: Probe(ok=True, devices=(GPU,), cuda=(12, 9)))
    for name, value in vars(State()).items():
        setattr(STATE, name, value)
    return STATE
