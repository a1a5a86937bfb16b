"""ONNX Runtime inside this process: the engine for computers without a C compiler.

The native runner needs one. Python's part of a call is 1 to 2 us on top of what the native runner
times (study `results/fidelity/`).
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hwbench.devices.ort import providers
from hwbench.devices.ort.providers import Provider
from hwbench.devices.shared import host
from hwbench.devices.shared.inputs import random_input
from hwbench.errors import BuildError, UnsupportedLayerError
from hwbench.network.ort import model_errors, onnxruntime
from hwbench.network.weight_files import ORT_FOLDER
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec


@dataclass(eq=False)
class _Session:
    """A session with its inputs and outputs bound.

    Attributes:
        session: The InferenceSession.
        run: Runs it once.
        binding: What its inputs and outputs are bound with.
        inputs: What it reads.
        buffers: The tensors that are bound, which must live as long as `run` is used.
        first_run_s: Seconds of the first inference.
        load_s: Seconds that it took to create the session.
        falls_back: Whether a provider was to run it, and ONNX Runtime's own kernels run a part.
    """

    session: Any
    run: Callable[[], None]
    binding: Any
    inputs: tuple[TensorSpec, ...]
    buffers: tuple[Any, ...]
    first_run_s: float
    load_s: float = 0.0
    falls_back: bool = False


class PythonEngine:
    """Sessions in this process, their calling thread pinned to the first of `cores`.

    Args:
        cores: Logical cores, one for each thread.
        seed: Seed of the random inputs.
        folder: Folder for temporary files.
        provider: What runs the sessions instead of ONNX Runtime's own kernels.
    """

    clock = "perf_counter"

    def __init__(
        self, cores: Sequence[int], seed: int, folder: Path, provider: Provider | None = None
    ) -> None:
        self._cores = tuple(cores)
        self._seed = seed
        self._folder = folder
        self._provider = provider
        self._affinity = host.affinity()
        self._sessions: dict[str, _Session] = {}
        if host.CAN_PIN:
            # A provider has threads of its own, which begin where this one may run.
            pinned = self._cores[:1] if provider is None else self._cores
            os.sched_setaffinity(0, pinned)

    def load(
        self, name: str, workload: Workload, *, profile: bool = False, graph: bool = False
    ) -> bytes | None:
        """Create a session called `name`, and run it once.

        Returns:
            The ONNX graph that is executed, if asked for; None where a provider compiles parts of
            it, which ONNX cannot say.

        Raises:
            BuildError: ONNX Runtime refuses the model.
            UnsupportedLayerError: It has no kernel for a layer.
        """
        if self._provider is not None:
            begun_s = time.perf_counter()
            session, falls_back = providers.create_session(
                workload.onnx,
                lambda: self._options(profile=profile),
                self._provider,
                len(self._cores),
            )
            load_s = time.perf_counter() - begun_s
            bound = _bind(session, workload, self._seed)
            bound.load_s, bound.falls_back = load_s, falls_back
            self._sessions[name] = bound
            return None
        options = self._options(profile=profile)
        if workload.weights is not None:
            workload.weights.require_unchanged(workload.name)
            options.add_session_config_entry(ORT_FOLDER, workload.weights.folder)
        path, weights = self._folder / "graph.onnx", self._folder / "graph.weights"
        if graph:
            options.optimized_model_filepath = str(path)
            # Weights go into a file of their own, which need not be read back.
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", weights.name
            )
        begun_s = time.perf_counter()
        session = create_session(workload.onnx_graph, options)
        load_s = time.perf_counter() - begun_s
        self._sessions[name] = _bind(session, workload, self._seed)
        self._sessions[name].load_s = load_s
        weights.unlink(missing_ok=True)
        return _read_and_delete(path) if graph else None

    def start_s(self, name: str) -> tuple[float, float]:
        """Seconds that it took to create a session, and seconds of its first inference."""
        session = self._sessions[name]
        return session.load_s, session.first_run_s

    def _options(self, *, profile: bool) -> Any:
        options = session_options(self._cores)
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._folder / "profile")
        return options

    def run(self, order: Sequence[str], loops: int) -> tuple[float, ...]:
        """Time one round of `loops` for each name, in that order, in seconds per inference."""
        runs = [self._sessions[name].run for name in order]
        values_s = []
        now = time.perf_counter_ns
        # A collection of garbage inside a round would be in its latency.
        collecting = gc.isenabled()
        gc.disable()
        try:
            with _explain_failure():
                for run in runs:
                    start = now()
                    for _ in range(loops):
                        run()
                    values_s.append((now() - start) * 1e-9 / loops)
        finally:
            if collecting:
                gc.enable()
        return tuple(values_s)

    def draw_inputs(self, name: str, seed: int, exponent: int) -> None:
        """Give a session other random inputs; see `DrawsInputs`."""
        session = self._sessions[name]
        values = _bind_inputs(session.binding, session.inputs, seed, exponent)
        session.buffers = (values, *session.buffers[1:])

    def falls_back(self, name: str) -> bool:
        """Tell whether ONNX Runtime's own kernels run a part of what a provider was to run."""
        return self._sessions[name].falls_back

    def unload(self, name: str) -> bytes | None:
        """Free a session, and return its profile if it was profiled."""
        session = self._sessions.pop(name).session
        if not session.get_session_options().enable_profiling:
            return None
        return _read_and_delete(Path(session.end_profiling()))

    def memory(self) -> int | None:
        """Return None: the process holds more than the model, so its peak says nothing."""
        return None

    def close(self) -> None:
        """Free all sessions and undo the pinning."""
        self._sessions.clear()
        if host.CAN_PIN:
            os.sched_setaffinity(0, self._affinity)


def _read_and_delete(path: Path) -> bytes:
    data = path.read_bytes()
    path.unlink()
    return data


def session_options(cores: Sequence[int]) -> Any:
    """Make the options of a session: one pinned thread per core, operators in sequence.

    All graph optimisations are on, which is the default of ONNX Runtime.
    """
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = len(cores)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads spin while a run lasts and sleep between runs, so that two sessions do not take each
    # other's cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if len(cores) > 1 and host.CAN_PIN:
        # The calling thread is the first and pinned by us; ONNX Runtime counts processors from 1.
        affinities = ";".join(str(core + 1) for core in cores[1:])
        options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    return options


def create_session(model: bytes, options: Any) -> Any:
    """Create an InferenceSession on the CPU.

    Raises:
        UnsupportedLayerError: ONNX Runtime has no kernel for a layer.
        BuildError: It refuses the model for another reason.
    """
    ort = onnxruntime()
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise UnsupportedLayerError(
            f"ONNX Runtime has no CPU kernel for a layer of the model: {_first_line(error)}"
        ) from error
    except model_errors() as error:
        raise BuildError(f"ONNX Runtime refuses the model: {_first_line(error)}") from error


@contextmanager
def _explain_failure() -> Iterator[None]:
    """Raise what ONNX Runtime says about a model that fails while it runs as an error of ours."""
    try:
        yield
    except model_errors() as error:
        raise BuildError(f"ONNX Runtime cannot run the model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _bind(session: Any, workload: Workload, seed: int) -> _Session:
    """Bind random inputs and fixed output buffers to a session, and run it once.

    With both bound, a run allocates nothing and copies nothing, as in the native runner.
    """
    binding = session.io_binding()
    values = _bind_inputs(binding, workload.inputs, seed, given=workload.values)
    # A tensor that a network lists as two of its outputs is bound once.
    names = list(dict.fromkeys(output.name for output in session.get_outputs()))
    for name in names:
        binding.bind_output(name)
    begun_s = time.perf_counter()
    with _explain_failure():
        session.run_with_iobinding(binding)
    first_run_s = time.perf_counter() - begun_s
    results = binding.get_outputs()
    for name, value in zip(names, results, strict=True):
        binding.bind_ortvalue_output(name, value)  # later runs write into the same buffers
    # The wrapper around this call costs 0.35 us of checks on every run; below it is the same entry
    # point.
    run = partial(session._sess.run_with_iobinding, binding._iobinding, None)  # noqa: SLF001
    return _Session(session, run, binding, workload.inputs, (values, results), first_run_s)


def _bind_inputs(
    binding: Any,
    inputs: Sequence[TensorSpec],
    seed: int,
    exponent: int = 0,
    *,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> list[Any]:
    """Bind given or random inputs, in place of those bound before, and return their tensors."""
    values = []
    for spec in inputs:
        drawn = given.get(spec.name)
        if drawn is None:
            drawn = random_input(spec, seed, exponent)
        values.append(onnxruntime().OrtValue.ortvalue_from_numpy(drawn))
        binding.bind_ortvalue_input(spec.name, values[-1])
    return values
