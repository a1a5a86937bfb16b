"""This computer's CPU through ONNX Runtime.

The sessions of all workloads of one block live in one process of the native runner, which times
runs in C and does nothing between them; every new session is a new process. With `isolate` each
workload has a process of its own. Without a C compiler ONNX Runtime runs inside this process
instead, and a finding says what Python adds. So do its other providers (`cpu:provider=openvino`).
"""

from __future__ import annotations

from dataclasses import replace

from hwbench.devices.base import Advice, Found, LayerSamples, Prepared
from hwbench.devices.ort.providers import (
    Provider,
    describe_fallback,
    find_provider,
    join_profile,
)
from hwbench.devices.ort.python_engine import PythonEngine
from hwbench.devices.shared import host
from hwbench.devices.shared.address import Option, read_address
from hwbench.devices.shared.ort.device import GRAIN_S, OrtDevice
from hwbench.devices.shared.ort.layers import REST_CAUSE
from hwbench.devices.shared.runner.build import build_runner, ort_library
from hwbench.devices.shared.runner.engine import Engine, NativeEngine
from hwbench.devices.shared.runner.model_files import ModelFiles
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.errors import (
    Argument,
    DeviceError,
    DeviceUnavailableError,
    UsageError,
    WorkloadError,
)
from hwbench.network.graph import all_layers, load
from hwbench.network.ort import onnxruntime
from hwbench.network.workload import LARGE_ONNX, ONNX, Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings
from hwbench.records.scratch import scratch_folder
from hwbench.user_folders import cache_folder

CPU_NAME = "cpu"
"""ONNX Runtime's own kernels, as a provider."""
PYTHON_ADDS = "timed from Python, which adds 1 to 5 us to each latency"
NOT_PINNED = Finding(
    "not_pinned", "this system cannot pin threads to cores; expect wider intervals"
)


OPTIONS = {"provider": Option("NAME", str.lower)}
"""Options of an address."""


class CpuOrt(OrtDevice):
    """The host's CPU; address `cpu` or `cpu:provider=NAME`."""

    name = "cpu"
    formats = frozenset({ONNX, LARGE_ONNX})

    def __init__(self, address: str = "") -> None:
        options = OPTIONS if "=" in address else {}
        _, values = read_address(self.name, address, options, has_place=False)
        super().__init__(address)
        self._provider_name: str = values.get("provider", CPU_NAME)
        self._provider: Provider | None = None
        self._fallbacks: dict[str, Finding] = {}  # by SHA-256 of the model

    @classmethod
    def discover(cls) -> list[Found]:
        """Describe this computer, ready if onnxruntime can be imported."""
        try:
            runtime = f"onnxruntime {onnxruntime().__version__}"
        except DeviceUnavailableError as error:
            return [Found(cls.name, host.cpu_name(), ready=False, hint=str(error))]
        return [Found(cls.name, f"{host.target()}, {runtime}", ready=True)]

    def _open(self) -> None:
        onnxruntime()
        if self._provider_name != CPU_NAME:
            self._provider = find_provider(self._provider_name)
        self._lock_target(host.LOCKED_AS)
        self._cores = host.quiet_first(host.physical_cores(host.affinity()))
        cache = cache_folder()
        self._folder = self._at_close.enter_context(scratch_folder(cache))
        self._models = ModelFiles(self._folder)
        self._throttle_count = host.count_throttles(self._cores)
        self._findings = () if host.CAN_PIN else (NOT_PINNED,)
        if self._provider is not None:
            self._native = False
            text = f"{self._provider.full_name} is {PYTHON_ADDS}"
            self._findings += (Finding("python_calls", text),)
            return
        try:
            build_runner()
            self._native = True
        except DeviceError as error:
            self._native = False
            text = f"{PYTHON_ADDS}: the native runner cannot be built ({error})"
            self._findings += (Finding("python_calls", text),)

    def _info(self) -> DeviceInfo:
        details = {
            "isa": " ".join(host.cpu_flags()),
            "engine": "native runner" if self._native else "Python",
            "kernel": host.kernel(),
            "graph_optimisation": "all",
            "execution": "sequential",
            "memory_arena": "on",
            "spinning": "stopped between runs",
            "virtual_machine": str(host.is_virtual_machine()).lower(),
        }
        runtime = f"onnxruntime {onnxruntime().__version__}"
        if self._provider is not None:
            runtime += f" with {self._provider.full_name}"
        return DeviceInfo(
            address=self.address,
            target=host.target(),
            target_id=host.target_id(),
            runtime=runtime,
            details=tuple(details.items()),
        )

    def measures_memory(self) -> bool:
        """Only the native runner is a process that holds no more than the model."""
        return self._native

    def _conditions(self) -> Conditions:
        """The state of the host, throttled if its count of throttling rose since the last call."""
        count_before = self._throttle_count
        self._throttle_count = host.count_throttles(self._cores)
        throttled = None if count_before is None else count_before != self._throttle_count
        return replace(host.conditions(self._cores), throttled=throttled)

    def _doctor(self, threads: int) -> list[Advice]:
        return host.doctor(self._cores, threads)

    def _engine(self, settings: Settings) -> Engine:
        cores = host.choose_cores(settings.threads, self._cores)
        if self._native:
            program, library = build_runner(), ort_library()  # before a process is started for them
            runner = RunnerProcess.start([str(program)])
            runner.attach()
            runner.library(library)
            pinned = cores if host.CAN_PIN else ()
            return NativeEngine(
                runner,
                self._models.place,
                self._folder,
                cores=pinned,
                threads=len(cores),
                seed=settings.seed,
            )
        if settings.isolate and self._provider is not None:
            raise UsageError(
                f"{self.address} runs all sessions in this process, not isolated",
                Argument("isolate", change="no"),
            )
        if settings.isolate:
            raise DeviceUnavailableError(
                "isolated sessions need a C compiler for the native runner:"
                " apt install gcc, or set CC",
                Argument("isolate", change="no"),
            )
        return PythonEngine(cores, settings.seed, self._folder, self._provider)

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        if self._provider is not None and workload.format == LARGE_ONNX:
            raise WorkloadError(
                f"{workload.name} keeps over 2 GiB of weights, which"
                f" {self._provider.full_name} is not given; measure it on the device cpu"
            )
        prepared = super()._prepare(workload, settings)
        engine, name = prepared.handle.engine, prepared.handle.name
        if not isinstance(engine, PythonEngine) or not engine.falls_back(name):
            return prepared
        if workload.sha256 not in self._fallbacks:
            try:
                self._fallbacks[workload.sha256] = self._find_fallback(prepared)
            except BaseException:
                self._end_engine(engine)
                raise
        return replace(prepared, findings=(*prepared.findings, self._fallbacks[workload.sha256]))

    def _find_fallback(self, prepared: Prepared) -> Finding:
        """Find out how much of a network a provider left to ONNX Runtime's own kernels."""
        if self._provider is None:
            raise DeviceError(f"{self.address} has no provider that could fall back")
        _, runs = self._profile(prepared.handle, prepared.workload, 1)
        network_layers = all_layers(load(prepared.workload.onnx))
        return describe_fallback(self._provider, runs, network_layers)

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        if self._provider is None:
            return super()._profile_layers(prepared, runs)
        reference_s, profile = self._profile(prepared.handle, prepared.workload, runs)
        rows = join_profile(profile, all_layers(load(prepared.workload.onnx)))
        return LayerSamples(
            rows,
            profile.whole_s,
            reference_s,
            node_cost_s=0.0,
            rest_cause=REST_CAUSE,
            grain_s=GRAIN_S,
        )
