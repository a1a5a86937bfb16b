"""NVIDIA GPUs through TensorRT 8.6 to 11 and TensorRT-RTX: ONNX in, engine out, a CUDA graph of it timed by CUDA events.

TensorRT lives in a process of its own (`trt_child`), which may crash or hang without harm.
Sessions are fresh engines, contexts and buffers in one such process; with `isolate` each has its
own. Nothing is ever built while something is timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Self

from hwbench.devices.base import Advice, Device, Found, LayerSamples, Prepared, Samples
from hwbench.devices.nvidia import probe
from hwbench.devices.nvidia.nvml import Nvml
from hwbench.devices.nvidia.trt_build import MODULES
from hwbench.devices.nvidia.trt_layers import (
    REST_CAUSE,
    engine_layers,
    findings,
    grain_s,
    join,
    node_cost_s,
)
from hwbench.devices.nvidia.trt_onnx import for_tensorrt
from hwbench.devices.nvidia.trt_process import BUILD_S, RUN_S, TrtProcess
from hwbench.devices.shared.lock import DeviceLock
from hwbench.devices.shared.ort.graph import chain_workload
from hwbench.errors import DeviceUnavailableError, HwbenchError, OutputParseError, UsageError
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings

PROVEN = "checked against NVIDIA's bindings and builder, not yet run on a GPU"
LAUNCH_BOUND = 0.8
"""Share of the latency that submitting takes from which the host, not the GPU, may set the pace."""
UUID_CHARACTERS = 8
"""Fewest of a UUID that name a GPU; a shorter number is CUDA's index."""
SHORT_CHAIN, LONG_CHAIN, COST_RUNS = 6, 30, 60
CLOCKS = {"gpu": "cuda_event, one run ahead", "request": "perf_counter, submit to done"}


@dataclass(frozen=True, slots=True)
class Address:
    """What follows `tensorrt:`: `[INDEX|UUID][,latency=gpu|request][,level=0..5][,builds=N]`.

    Attributes:
        place: CUDA's number of the GPU, or (a part of) its UUID; empty for the first.
        latency: `gpu`, the time on the GPU alone, or `request`, from submitting to an idle GPU
            until it is done.
        level: TensorRT's `builder_optimization_level`; 3 for numbers to report, 1 or 2 for
            screening.
        builds: Engines built afresh for each model, which sessions take in turn, so that the
            variance between builds is in the interval; 0 takes one engine, from the cache where it
            is there.
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
        place, *options = (
            text.split(",") if "=" not in text.partition(",")[0] else ["", *text.split(",")]
        )
        known = {
            "latency": tuple(CLOCKS),
            "level": tuple("012345"),
            "builds": tuple(map(str, range(33))),
        }
        given: dict[str, Any] = {}
        for option in options:
            name, _, value = option.partition("=")
            if name not in known or value not in known[name] or name in given:
                offered = "latency=gpu|request; level=0..5; builds=0..32"
                raise UsageError(
                    f"option {option!r} of 'tensorrt:{text}' is unknown or given twice; known:"
                    f" {offered}"
                )
            given[name] = value if name == "latency" else int(value)
        return cls(place, **given)


@dataclass(eq=False)
class _Handle:
    """One session: its process, and its name there."""

    process: TrtProcess
    name: str


class NvidiaTrt(Device):
    """A GPU.

    Address `tensorrt[:INDEX|UUID][,latency=...][,level=...][,builds=...]`, see `Address`.
    """

    name = "tensorrt"
    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "fp16", "int8"})
    child: ClassVar[Sequence[str] | None] = None
    """What to start instead of the child; for tests."""

    def __init__(self, address: str = "") -> None:
        super().__init__(address)
        self._wanted = Address.parse(address)
        self._gpu: probe.Gpu | None = None
        self._lock: DeviceLock | None = None
        self._nvml: Nvml | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._processes: dict[
            TrtProcess, set[str]
        ] = {}  # those that live, and the sessions in each
        self._shared: TrtProcess | None = None
        self._turns: dict[str, int] = {}  # sessions prepared so far, by model
        self._count = 0
        self._cost_s: float | None = None

    @classmethod
    def discover(cls) -> list[Found]:
        """The GPUs that CUDA shows; what is missing, if there is none or no TensorRT."""
        summary = "NVIDIA GPUs through TensorRT"
        seen = probe.probe()
        absent = _missing(seen.cuda)
        if not seen.ok:
            hint = "; ".join(filter(None, (seen.reason, seen.remedy, *absent)))
            return [Found(cls.name, summary, ready=False, hint=f"{hint} ({PROVEN})")]
        hint = (
            f"{'; '.join(absent)} ({PROVEN})"
            if absent
            else f"{PROVEN}; prove it on yours: hwbench selftest --device tensorrt:0"
        )
        return [
            Found(f"{cls.name}:{gpu.index}", f"{gpu.name}, {gpu.uuid}", ready=not absent, hint=hint)
            for gpu in seen.devices
        ]

    def _open(self) -> None:
        seen = probe.probe()
        absent = _missing(seen.cuda)
        if not seen.ok:
            raise DeviceUnavailableError(
                "; ".join(filter(None, (f"{self.address}: {seen.reason}", seen.remedy, *absent)))
            )
        self._gpu = gpu = _choose(seen.devices, self._wanted.place)
        if absent:
            raise DeviceUnavailableError(
                f"{self.address}: {gpu.name} is there, but {'; '.join(absent)}"
            )
        lock = DeviceLock(gpu.uuid)
        lock.acquire()
        self._lock = lock
        self._folder = tempfile.TemporaryDirectory(prefix="hwbench-")
        self._nvml = Nvml(gpu.uuid)
        self._shared = self._start()

    def _start(self) -> TrtProcess:
        import platformdirs

        uuid = self._gpu.uuid if self._gpu else ""
        process = TrtProcess(
            uuid, Path(platformdirs.user_cache_dir("hwbench")) / "tensorrt", self.child
        )
        self._processes[process] = set()
        return process

    def _close(self) -> None:
        for process in self._processes:
            process.close()
        self._processes.clear()
        self._turns.clear()
        self._shared = None
        self._cost_s = None
        if self._nvml is not None:
            self._nvml.close()
            self._nvml = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def _facts(self) -> dict[str, Any]:
        if self._shared is None:
            raise DeviceUnavailableError(
                f"device {self.address} is not open; use it in a with block"
            )
        return self._shared.hello

    def _info(self) -> DeviceInfo:
        facts, wanted = self._facts, self._wanted
        uuid = self._gpu.uuid if self._gpu else ""
        identity = self._nvml.identity() if self._nvml else None
        details = {
            "uuid": uuid,
            "compute_capability": facts["capability"],
            "multiprocessors": facts["multiprocessors"],
            "memory_bytes": facts["memory_bytes"],
            "driver": identity.driver if identity else None,
            "power_limit_w": identity.power_limit_w if identity else None,
            "cuda_driver": facts["cuda_driver"],
            "cuda_runtime": facts["cuda_runtime"],
            "typing": facts["typing"],
            "tf32": "off",
            "transfers": "not timed",
            "latency": CLOCKS[wanted.latency],
            "builds": (
                f"{wanted.builds} fresh ones a model, in turn"
                if wanted.builds
                else "one, kept in a cache"
            ),
        }
        return DeviceInfo(
            address=self.address,
            target=facts["name"],
            target_id=f"{facts['name']}|{uuid}|latency {wanted.latency}",
            runtime=f"{facts['runtime']}, level {wanted.level}",
            details=tuple(
                (name, str(value)) for name, value in details.items() if value is not None
            ),
        )

    def _conditions(self) -> Conditions:
        if self._nvml is None:
            raise DeviceUnavailableError(
                f"device {self.address} is not open; use it in a with block"
            )
        return self._nvml.conditions()

    def doctor(self) -> list[Advice]:
        """What would spoil a measurement on this GPU."""
        return self._guard(self._doctor)

    def _doctor(self) -> list[Advice]:
        told = self._nvml.reason if self._nvml else ""
        found = self._watch()
        return [
            Advice(
                "tensorrt",
                ok=True,
                text=f"{self._facts['runtime']} on {self._facts['name']}: {PROVEN}",
            ),
            Advice(
                "nvml",
                not told,
                told or "NVML tells clocks, heat and other processes",
                "install NVIDIA's driver with its tools" if told else "",
            ),
            *(
                Advice(finding.code, ok=False, text=finding.text, remedy="see: nvidia-smi")
                for finding in found
            ),
        ]

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        process = self._start() if settings.isolate else self._shared
        if process is None:
            raise DeviceUnavailableError(
                f"device {self.address} is not open; use it in a with block"
            )
        try:
            handle, noted = self._load(process, workload, settings.seed)
        except HwbenchError:
            if process is not self._shared:
                self._drop(process)
            raise
        return Prepared(workload, settings, handle, noted)

    def _load(
        self, process: TrtProcess, workload: Workload, seed: int, *, chain: bool = False
    ) -> tuple[_Handle, tuple[Finding, ...]]:
        from hashlib import sha256

        model, noted = for_tensorrt(workload)
        digest = sha256(model).hexdigest()
        self._count += 1
        handle = _Handle(process, f"session{self._count}")
        path = Path(self._folder.name if self._folder else "") / f"{digest}.onnx"
        path.write_bytes(model)
        fresh = self._wanted.builds > 0 and not chain
        recipe = {
            "model_sha256": digest,
            "precision": workload.precision,
            "level": self._wanted.level,
            "fresh": self._turn(digest) if fresh else None,
        }
        try:
            told = process.ask(
                "load", BUILD_S, name=handle.name, model=str(path), seed=seed, recipe=recipe
            )
        finally:
            path.unlink()
        self._processes[process].add(handle.name)
        if told["uncaptured"]:
            text = (
                "the engine does not go into a CUDA graph, so launching is in its latency"
                f" ({told['uncaptured']})"
            )
            noted += (Finding("no_cuda_graph", text),)
        return handle, noted

    def _turn(self, digest: str) -> int:
        """Which of the fresh engines of a model is next."""
        turn = self._turns.get(digest, 0)
        self._turns[digest] = turn + 1
        return turn % self._wanted.builds

    def _release(self, prepared: Prepared) -> None:
        handle: _Handle = prepared.handle
        self._unload(handle)
        if handle.process is not self._shared:
            self._drop(handle.process)

    def _unload(self, handle: _Handle) -> None:
        if handle.name in self._processes.get(handle.process, ()):
            handle.process.ask("unload", RUN_S, name=handle.name)
            self._processes[handle.process].remove(handle.name)

    def _drop(self, process: TrtProcess) -> None:
        if self._processes.pop(process, None) is not None:
            process.close()

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        handles: list[_Handle] = [prepared.handle for prepared in order]
        for handle in handles:
            if handle.name not in self._processes.get(handle.process, ()):
                raise UsageError(
                    f"{self.address} was asked to run a session that was released or is another"
                    " device's"
                )
        values_s: list[float] = []
        submit_s: list[float] = []
        for process, part in groupby(handles, key=lambda handle: handle.process):
            names = [handle.name for handle in part]
            told = process.ask("run", RUN_S, order=names, loops=loops, clock=self._wanted.latency)
            values_s += told["values_s"]
            submit_s += told["submit_s"]
        noted = (*self._watch(), *_pace(values_s, submit_s)) if order else ()
        return Samples(tuple(values_s), CLOCKS[self._wanted.latency], noted)

    def _watch(self) -> tuple[Finding, ...]:
        """What NVML finds to distrust; asked between blocks, never during one."""
        return (
            self._nvml.findings([process.pid for process in self._processes]) if self._nvml else ()
        )

    def profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Per-layer times of `runs` inferences through TensorRT's profiler, in a context of their own."""
        return self._guard(lambda: self._profile_layers(prepared, runs))

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        from hwbench.network.graph import layers, load, name_nodes

        if self._cost_s is None:
            self._cost_s = self._learn_cost(prepared.settings.seed)
        told = _profile(prepared.handle, runs, self._wanted.latency)
        model = name_nodes(load(prepared.workload.onnx))
        engine = engine_layers(told["engine"], [node.name for node in model.graph.node])
        rows = join(engine, layers(model), told["layers"])
        whole_s, beside_s = tuple(told["whole_s"]), tuple(told["beside_s"])
        return LayerSamples(
            rows,
            whole_s,
            beside_s,
            self._cost_s,
            REST_CAUSE,
            grain_s(told["layers"]),
            findings(rows),
        )

    def _learn_cost(self, seed: int) -> float:
        """Seconds that TensorRT's profiler adds to each layer on this GPU, from two chains of convolutions."""
        sums_s, wholes_s, nodes = [], [], []
        for length in (SHORT_CHAIN, LONG_CHAIN):
            if self._shared is None:
                raise DeviceUnavailableError(
                    f"device {self.address} is not open; use it in a with block"
                )
            handle, _ = self._load(self._shared, chain_workload(length), seed, chain=True)
            told = _profile(handle, COST_RUNS, "gpu")
            self._unload(handle)
            sums_s.append(median(sum(seconds for _, seconds in run) for run in told["layers"]))
            wholes_s.append(median(told["beside_s"]))
            nodes.append(len(told["layers"][0]))
        return node_cost_s(sums_s, wholes_s, nodes)


def _profile(handle: _Handle, runs: int, clock: str) -> dict[str, Any]:
    told = handle.process.ask("profile", RUN_S, name=handle.name, runs=runs, clock=clock)
    if len(told["layers"]) != runs or not all(told["layers"]):
        raise OutputParseError(
            f"TensorRT reported the layers of {sum(map(bool, told['layers']))} of {runs} inferences"
        )
    return told


def _pace(values_s: Sequence[float], submit_s: Sequence[float]) -> tuple[Finding, ...]:
    """Whether the host submitted slower than the GPU computed."""
    if not submit_s or median(submit_s) < LAUNCH_BOUND * median(values_s):
        return ()
    text = (
        f"submitting one inference takes the host {median(submit_s) * 1e6:.1f} us, about what the"
        " GPU takes; raise the batch"
    )
    return (Finding("launch_bound", text),)


def _missing(cuda: tuple[int, int] | None) -> list[str]:
    """Libraries that are not installed, each with the command that installs the one for this driver; nothing is imported.

    Args:
        cuda: Newest CUDA version that the driver serves; None if unknown.
    """
    major = 12 if cuda is not None and cuda < (13, 0) else 13
    absent = []
    if not any(map(_is_there, MODULES)):
        absent.append(
            f"TensorRT is not installed: pip install tensorrt-cu{major} (or, for RTX GPUs,"
            " tensorrt-rtx)"
        )
    if not _is_there("cuda.bindings"):
        absent.append(f'cuda-bindings is not installed: pip install "cuda-bindings=={major}.*"')
    return absent


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _choose(gpus: Sequence[probe.Gpu], place: str) -> probe.Gpu:
    """The GPU that an address names: by number, by (the first 8 or more characters of) its UUID, or the first.

    Raises:
        UsageError: There is none of them, or several.
    """
    if not place and gpus:
        return gpus[0]
    wanted = place.lower().removeprefix("gpu-")
    by_number = place.isdecimal() and len(place) < UUID_CHARACTERS
    fitting = [
        gpu
        for gpu in gpus
        if (
            place == str(gpu.index)
            if by_number
            else gpu.uuid.lower().removeprefix("gpu-").startswith(wanted)
        )
    ]
    if len(fitting) != 1 or (not by_number and len(wanted) < UUID_CHARACTERS):
        there = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
        raise UsageError(f"'tensorrt:{place}' names {len(fitting)} GPUs; there are: {there}")
    return fitting[0]
