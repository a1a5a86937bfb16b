"""NVIDIA GPUs through TensorRT 8.6 to 11 and TensorRT-RTX.

TensorRT builds an engine of the ONNX model, and a CUDA graph of it is timed by CUDA events.

TensorRT lives in a process of its own (`trt_child`), which may crash or hang without harm.
Sessions are fresh engines, contexts and buffers in one such process; with `isolate` each has its
own. Nothing is ever built while something is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from statistics import median
from typing import Any, ClassVar, Self

from hwbench.devices.base import Advice, Device, Found, LayerSamples, Prepared, Samples
from hwbench.devices.nvidia import probe
from hwbench.devices.nvidia.gpu_choice import choose_gpu
from hwbench.devices.nvidia.nvml import Nvml
from hwbench.devices.nvidia.trt_build import MODULES
from hwbench.devices.nvidia.trt_layers import (
    REST_CAUSE,
    find_grain_s,
    join_profile,
    layer_findings,
    read_engine_layers,
)
from hwbench.devices.nvidia.trt_onnx import for_tensorrt
from hwbench.devices.nvidia.trt_process import BUILD_S, RUN_S, TrtProcess
from hwbench.devices.shared.address import choice, read_address, whole_number
from hwbench.devices.shared.chains import ChainProfile, node_cost_s, profile_chains
from hwbench.errors import DeviceUnavailableError, HwbenchError, OutputParseError
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings
from hwbench.records.scratch import scratch_folder
from hwbench.user_folders import cache_folder

PROVEN = "checked against NVIDIA's bindings and builder, not yet run on a GPU"
LAUNCH_BOUND = 0.8
"""If submitting takes this share of the latency, the host and not the GPU may set the pace."""
COST_RUNS = 60
"""Runs of each chain from which the profiler's own cost is estimated."""
CLOCKS = {"gpu": "cuda_event, one run ahead", "request": "perf_counter, submit to done"}
OPTIONS = {
    "latency": choice(*CLOCKS),
    "level": whole_number(0, 5),
    "builds": whole_number(0, 32),
}


@dataclass(frozen=True, slots=True)
class TrtAddress:
    """What follows `tensorrt:`: `[INDEX|UUID][,latency=gpu|request][,level=0..5][,builds=N]`.

    Attributes:
        place: CUDA's number of the GPU, or (a part of) its UUID; empty for the first.
        latency: `gpu`, the time on the GPU alone, or `request`, from submitting to an idle GPU
            until it is done.
        level: TensorRT's `builder_optimization_level`; 3 for numbers to report, 1 or 2 for
            screening.
        builds: Engines built afresh for each model, which sessions take in turn, so that the
            variance between builds is in the interval; 0 for one engine, from the cache if it has
            one.
    """

    place: str = ""
    latency: str = "gpu"
    level: int = 3
    builds: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            UsageError: An option is unknown, or has no such value.
        """
        place, options = read_address("tensorrt", text, OPTIONS)
        return cls(place, **options)


@dataclass(eq=False)
class _Handle:
    """One session: its process, the session's name there, and what making it ready took."""

    process: TrtProcess
    name: str
    load_s: float | None = None
    first_run_s: float | None = None


class NvidiaTrt(Device):
    """A GPU.

    Address `tensorrt[:INDEX|UUID][,latency=...][,level=...][,builds=...]`, see `TrtAddress`.
    """

    name = "tensorrt"
    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "fp16", "int8"})
    child: ClassVar[Sequence[str] | None] = None
    """Command to start in place of the child process, for tests."""

    def __init__(self, address: str = "") -> None:
        super().__init__(address)
        self._options = TrtAddress.parse(address)
        self._processes: list[TrtProcess] = []  # the processes that live
        self._turns: dict[str, int] = {}  # sessions prepared so far, by model
        self._count = 0
        self._cost_s: float | None = None

    @classmethod
    def discover(cls) -> list[Found]:
        """List the GPUs that CUDA shows; say what is missing if there is none, or no TensorRT."""
        summary = "NVIDIA GPUs through TensorRT"
        driver = probe.probe()
        missing = _missing_libraries(driver.cuda)
        if not driver.ok:
            hint = "; ".join(filter(None, (driver.reason, driver.remedy, *missing)))
            return [Found(cls.name, summary, ready=False, hint=f"{hint} ({PROVEN})")]
        hint = PROVEN
        if missing:
            hint = f"{'; '.join(missing)} ({PROVEN})"
        return [
            Found(
                f"{cls.name}:{gpu.index}", f"{gpu.name}, {gpu.uuid}", ready=not missing, hint=hint
            )
            for gpu in driver.devices
        ]

    def _open(self) -> None:
        driver = probe.probe()
        missing = _missing_libraries(driver.cuda)
        if not driver.ok:
            parts = (f"{self.address}: {driver.reason}", driver.remedy, *missing)
            raise DeviceUnavailableError("; ".join(filter(None, parts)))
        self._gpu = gpu = choose_gpu(self.name, driver.devices, self._options.place)
        if missing:
            raise DeviceUnavailableError(
                f"{self.address}: {gpu.name} is there, but {'; '.join(missing)}"
            )
        self._lock_target(gpu.uuid)
        self._folder = self._at_close.enter_context(scratch_folder())
        self._nvml = Nvml(gpu.uuid)
        self._at_close.callback(self._nvml.close)
        self._shared = self._start()

    def _start(self) -> TrtProcess:
        cache = cache_folder() / "tensorrt"
        process = TrtProcess(self._gpu.uuid, cache, self.child)
        self._processes.append(process)
        return process

    def _close(self) -> None:
        for process in self._processes:
            process.close()
        self._processes.clear()
        self._turns.clear()
        self._cost_s = None

    def _info(self) -> DeviceInfo:
        facts, options = self._shared.hello, self._options
        uuid, identity = self._gpu.uuid, self._nvml.identity()
        builds = "one, kept in a cache"
        if options.builds:
            builds = f"{options.builds} fresh ones a model, in turn"
        details = {
            "uuid": uuid,
            "compute_capability": facts["capability"],
            "multiprocessors": facts["multiprocessors"],
            "memory_bytes": facts["memory_bytes"],
            "driver": identity.driver,
            "power_limit_w": identity.power_limit_w,
            "cuda_driver": facts["cuda_driver"],
            "cuda_runtime": facts["cuda_runtime"],
            "typing": facts["typing"],
            "tf32": "off",
            "transfers": "not timed",
            "latency": CLOCKS[options.latency],
            "builds": builds,
        }
        return DeviceInfo(
            address=self.address,
            target=facts["name"],
            target_id=f"{facts['name']}|{uuid}|latency {options.latency}",
            runtime=f"{facts['runtime']}, level {options.level}",
            details=tuple(
                (name, str(value)) for name, value in details.items() if value is not None
            ),
        )

    def _conditions(self) -> Conditions:
        return self._nvml.conditions()

    def _doctor(self, threads: int) -> list[Advice]:  # noqa: ARG002
        facts = self._shared.hello
        trouble = self._nvml.reason
        return [
            Advice("tensorrt", ok=True, text=f"{facts['runtime']} on {facts['name']}: {PROVEN}"),
            Advice(
                "nvml",
                not trouble,
                trouble or "NVML shows clocks, heat and other processes",
                "install NVIDIA's driver with its tools" if trouble else "",
            ),
            *(
                Advice(finding.code, ok=False, text=finding.text, remedy="see: nvidia-smi")
                for finding in self._nvml_findings()
            ),
        ]

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        process = self._start() if settings.isolate else self._shared
        try:
            handle, findings = self._load(process, workload, settings.seed)
        except HwbenchError:
            self._end_isolated(process)
            raise
        return Prepared(
            workload,
            settings,
            handle,
            findings,
            load_s=handle.load_s,
            first_run_s=handle.first_run_s,
        )

    def _load(
        self, process: TrtProcess, workload: Workload, seed: int, *, chain: bool = False
    ) -> tuple[_Handle, tuple[Finding, ...]]:
        """Make a session of a workload in a process.

        Args:
            process: The process.
            workload: What to load.
            seed: Seed of the random inputs.
            chain: Whether it is a chain for the profiler's cost, of which one engine is enough.

        Returns:
            (the session, findings about how it was made).
        """
        from hashlib import sha256

        model, findings = for_tensorrt(workload)
        digest = sha256(model).hexdigest()
        self._count += 1
        handle = _Handle(process, f"session{self._count}")
        path = self._folder / f"{digest}.onnx"
        path.write_bytes(model)
        fresh = self._options.builds > 0 and not chain
        recipe = {
            "model_sha256": digest,
            "precision": workload.precision,
            "level": self._options.level,
            "fresh": self._next_build(digest) if fresh else None,
        }
        try:
            loaded = process.ask(
                "load", BUILD_S, name=handle.name, model=str(path), seed=seed, recipe=recipe
            )
        finally:
            path.unlink()
        handle.load_s, handle.first_run_s = float(loaded["load_s"]), float(loaded["first_run_s"])
        if loaded["capture_error"]:
            text = (
                "the engine does not go into a CUDA graph, so launching is in its latency"
                f" ({loaded['capture_error']})"
            )
            findings += (Finding("no_cuda_graph", text),)
        return handle, findings

    def _next_build(self, digest: str) -> int:
        """Choose which of the fresh engines of a model is next."""
        turn = self._turns.get(digest, 0)
        self._turns[digest] = turn + 1
        return turn % self._options.builds

    def _release(self, prepared: Prepared) -> None:
        handle: _Handle = prepared.handle
        _unload(handle)
        self._end_isolated(handle.process)

    def _end_isolated(self, process: TrtProcess) -> None:
        """End the process of an isolated session; the shared one stays."""
        if process is not self._shared:
            self._processes.remove(process)
            process.close()

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        handles: list[_Handle] = [prepared.handle for prepared in order]
        values_s: list[float] = []
        submit_s: list[float] = []
        for process, part in groupby(handles, key=lambda handle: handle.process):
            names = [handle.name for handle in part]
            times = process.ask("run", RUN_S, order=names, loops=loops, clock=self._options.latency)
            values_s += times["values_s"]
            submit_s += times["submit_s"]
        findings: tuple[Finding, ...] = ()
        if order:
            findings = (*self._nvml_findings(), *_launch_findings(values_s, submit_s))
        return Samples(tuple(values_s), CLOCKS[self._options.latency], findings)

    def _nvml_findings(self) -> tuple[Finding, ...]:
        """Find reasons to distrust the GPU's state; between blocks, never during one."""
        return self._nvml.findings([process.pid for process in self._processes])

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Time the layers of `runs` inferences with TensorRT's profiler, in their own context."""
        from hwbench.network.graph import layers, load

        if self._cost_s is None:
            seed = prepared.settings.seed
            short, long = profile_chains(lambda chain: self._profile_chain(chain, seed))
            self._cost_s = node_cost_s(short, long)
        profile = _profile(prepared.handle, runs, self._options.latency)
        model = load(prepared.workload.onnx)
        engine = read_engine_layers(profile["engine"], [node.name for node in model.graph.node])
        rows = join_profile(engine, layers(model), profile["layers"])
        whole_s, reference_s = tuple(profile["whole_s"]), tuple(profile["reference_s"])
        return LayerSamples(
            rows,
            whole_s,
            reference_s,
            self._cost_s,
            REST_CAUSE,
            find_grain_s(profile["layers"]),
            layer_findings(rows),
        )

    def _profile_chain(self, chain: Workload, seed: int) -> ChainProfile:
        handle, _ = self._load(self._shared, chain, seed, chain=True)
        profile = _profile(handle, COST_RUNS, "gpu")
        _unload(handle)
        sums_s = [sum(seconds for _, seconds in run) for run in profile["layers"]]
        return ChainProfile(
            len(profile["layers"][0]), sums_s, profile["whole_s"], profile["reference_s"]
        )


def _unload(handle: _Handle) -> None:
    handle.process.ask("unload", RUN_S, name=handle.name)


def _profile(handle: _Handle, runs: int, clock: str) -> dict[str, Any]:
    """Profile `runs` inferences of a session (see `trt_child.Server.profile`)."""
    profile: dict[str, Any] = handle.process.ask(
        "profile", RUN_S, name=handle.name, runs=runs, clock=clock
    )
    complete = [rows for rows in profile["layers"] if rows]
    if len(complete) != runs or len(profile["layers"]) != runs:
        raise OutputParseError(
            f"TensorRT reported the layers of {len(complete)} of {runs} inferences"
        )
    return profile


def _launch_findings(values_s: Sequence[float], submit_s: Sequence[float]) -> tuple[Finding, ...]:
    """Find out whether the host submitted about as slowly as the GPU computed."""
    if not submit_s or median(submit_s) < LAUNCH_BOUND * median(values_s):
        return ()
    text = (
        f"submitting one inference takes the host {median(submit_s) * 1e6:.1f} us, about what the"
        " GPU takes; raise the batch"
    )
    return (Finding("launch_bound", text),)


def _missing_libraries(cuda: tuple[int, int] | None) -> list[str]:
    """List the libraries that are not installed; nothing is imported.

    Args:
        cuda: Newest CUDA version that the driver supports; None if unknown.

    Returns:
        One sentence for each, with the command that installs the version for this driver.
    """
    major = 12 if cuda is not None and cuda < (13, 0) else 13
    missing = []
    if not any(map(_is_installed, MODULES)):
        missing.append(
            f"TensorRT is not installed: pip install tensorrt-cu{major} (or, for RTX GPUs,"
            " tensorrt-rtx)"
        )
    if not _is_installed("cuda.bindings"):
        missing.append(f'cuda-bindings is not installed: pip install "cuda-bindings=={major}.*"')
    return missing


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
