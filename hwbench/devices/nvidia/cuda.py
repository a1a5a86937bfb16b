"""NVIDIA GPUs through PyTorch alone: each network as a CUDA graph, eager kernels or torch.compile's.

It needs a driver and a CUDA build of torch, nothing else, and is the comparison that TensorRT has
to win. What runs is the workload's ONNX graph, node for node (`torch_graph`), batch normalization
folded as everywhere in hwbench; images and weights lie in channels_last order, cuDNN picks its
algorithms by trying them, fp32 is fp32 (TF32 off). Threads are not used.

Sessions are captures in this process: cuDNN's choice of algorithms is made once per process and
shape, so it is not among what varies between sessions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hwbench.devices.base import Advice, Device, Found, LayerSamples, Prepared, Samples
from hwbench.devices.nvidia.gpu_choice import choose_gpu
from hwbench.devices.nvidia.nvml import POWER_CAP, SLOWDOWN, Nvml
from hwbench.devices.nvidia.probe import Gpu, Probe, probe
from hwbench.devices.shared.address import choice, read_address
from hwbench.errors import Argument, DeviceUnavailableError, OutputParseError, UsageError
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings

if TYPE_CHECKING:
    from hwbench.devices.nvidia.torch_graph import TorchNet

OPTIONS = {"mode": choice("eager", "compile"), "latency": choice("gpu", "request")}
CLOCKS = {
    "gpu": "cuda_event, one round ahead",
    "request": "perf_counter, from start to end of each inference",
}
WHEELS = ((13, 0), (12, 8), (12, 6), (11, 8))
"""CUDA versions that torch's own index has had wheels for (https://pytorch.org/get-started/locally/), newest first."""
KEPT_NETS = 4
"""Networks whose torch form is kept.

A table build prepares hundreds, a comparison the same two again and again.
"""
HOT_C = 85.0
HOST_SHARE = 0.9
"""Share of a round that starting it may take on the host before the GPU is likely to have waited for the host."""
POWER_CAPPED = Finding(
    "power_capped",
    "the GPU lowered its clock to stay within its power limit; nvidia-smi -q -d POWER shows it",
)
LAUNCH_BOUND = Finding(
    "launch_bound",
    "starting the network took the host about as long as the GPU needed for it: the latency may be"
    " the host's; a larger batch shows the GPU's",
)


@dataclass(frozen=True, slots=True)
class Address:
    """What follows `cuda:`: `[INDEX|UUID][,mode=eager|compile][,latency=gpu|request]`.

    Attributes:
        place: CUDA's number of the GPU, or the beginning of its UUID; empty for the first.
        mode: `eager`, torch's own kernels, or `compile`, those of torch.compile.
        latency: `gpu`, what the GPU takes under load, or `request`, what one inference takes from
            start to end.
    """

    place: str = ""
    mode: str = "eager"
    latency: str = "gpu"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            UsageError: An option is unknown, or has no such value.
        """
        place, options = read_address("cuda", text, OPTIONS)
        return cls(place, **options)


class Cuda(Device):
    """One GPU.

    Addresses `cuda`, `cuda:0`, `cuda:GPU-5f2c...`, and options: `cuda:0,mode=compile`.
    """

    name = "cuda"
    precisions: ClassVar[frozenset[str]] = frozenset({"fp32", "fp16", "bf16"})

    def __init__(self, address: str = "") -> None:
        super().__init__(address)
        self._asked = Address.parse(address)
        self._nets: dict[str, TorchNet] = {}  # by SHA-256 of the model
        self._gap_s: float | None = None
        self._slowed: bool | None = None

    @classmethod
    def discover(cls) -> list[Found]:
        """The GPUs, or what is missing."""
        seen = probe()
        if not seen.ok:
            return [
                Found(
                    cls.name,
                    "NVIDIA GPUs through PyTorch",
                    ready=False,
                    hint=_join_remedy(seen.reason, seen.remedy),
                )
            ]
        texts = [(gpu, torch_trouble(seen, gpu)) for gpu in seen.devices]
        return [
            Found(
                f"{cls.name}:{gpu.index}",
                f"{_describe(gpu)}, torch",
                ready=not trouble,
                hint=trouble,
            )
            for gpu, trouble in texts
        ]

    def _open(self) -> None:
        seen = probe()
        if not seen.ok:
            raise DeviceUnavailableError(
                f"{self.address}: {_join_remedy(seen.reason, seen.remedy)}"
            )
        self._gpu = choose_gpu(self.name, seen.devices, self._asked.place)
        if trouble := torch_trouble(seen, self._gpu) or _compile_trouble(self._asked.mode):
            raise DeviceUnavailableError(f"{self.address}: {trouble}")
        self._lock_target(self._gpu.uuid)
        from hwbench.devices.nvidia.torch_session import TorchGpu

        self._nvml = Nvml(self._gpu.uuid)
        self._at_close.callback(self._nvml.close)
        self._place = TorchGpu(self._gpu.index)

    def _close(self) -> None:
        for prepared in self._live:
            prepared.handle.close()
        self._nets.clear()
        self._gap_s = self._slowed = None

    def _info(self) -> DeviceInfo:
        import torch

        identity, cudnn = self._nvml.identity(), torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        limit = _show(identity.power_limit_w, "W")
        details = {
            "uuid": self._gpu.uuid,
            "compute_capability": ".".join(map(str, self._gpu.capability)),
            "driver": identity.driver or "unknown",
            "power_limit": limit,
            "persistence": _show(identity.persistence),
            "mig": _show(identity.mig),
            "latency": self._asked.latency,
            "memory_order": "channels_last",
            "cudnn_benchmark": "on",
            "tf32": "off",
            "cuda_graph": "on",
        }
        return DeviceInfo(
            address=self.address,
            target=_describe(self._gpu),
            target_id=f"{self._gpu.uuid}|{self._gpu.name}|{limit}|{self._asked.latency}",
            runtime=(
                f"torch {torch.__version__} {self._asked.mode}, CUDA {torch.version.cuda}, cuDNN"
                f" {cudnn}"
            ),
            details=tuple(details.items()),
        )

    def _conditions(self) -> Conditions:
        slowed, self._slowed = self._slowed, None
        return self._nvml.conditions(slowed=slowed)

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        from hwbench.devices.nvidia.torch_session import Session

        if settings.isolate:
            raise UsageError(
                f"{self.address} runs all sessions in one process", Argument("isolate", change="no")
            )
        compiled = self._asked.mode == "compile"
        session = Session(
            self._place, self._net(workload), workload, seed=settings.seed, compiled=compiled
        )
        return Prepared(workload, settings, session, self._nvml.findings())

    def _net(self, workload: Workload) -> TorchNet:
        from hwbench.devices.nvidia.torch_graph import to_torch

        if workload.sha256 not in self._nets:
            net = to_torch(workload.onnx)
            while len(self._nets) >= KEPT_NETS:
                del self._nets[next(iter(self._nets))]
            self._nets[workload.sha256] = net
        return self._nets[workload.sha256]

    def _release(self, prepared: Prepared) -> None:
        prepared.handle.close()

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        clock, findings = CLOCKS[self._asked.latency], []
        if not order:
            return Samples((), clock)
        graphs = [prepared.handle.graph for prepared in order]
        if self._asked.latency == "request":
            values_s = self._place.requested(graphs, loops)
        else:
            values_s, host_share = self._place.timed(graphs, loops)
            findings += [LAUNCH_BOUND] if host_share > HOST_SHARE else []
        reasons = self._nvml.reasons()  # right behind the rounds: the clock has not yet risen again
        if reasons is not None:
            self._slowed = bool(self._slowed) or bool(reasons & SLOWDOWN)
            findings += [POWER_CAPPED] if reasons & POWER_CAP else []
        return Samples(tuple(values_s), clock, tuple(findings))

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Per-layer times of `runs` inferences, each layer a CUDA graph of its own.

        Raises:
            OutputParseError: torch.compile has fused the layers beyond telling apart.
        """
        from hwbench.devices.nvidia.torch_layers import gap, layer_samples

        if self._asked.mode == "compile":
            raise OutputParseError(
                "torch.compile fuses across layers, so they have no times of their own; measure"
                " with mode=eager"
            )
        if self._gap_s is None:
            self._gap_s = gap(self._place)
        return layer_samples(self._place, prepared.handle, runs, self._gap_s)

    def _doctor(self) -> list[Advice]:
        nvml, conditions = self._nvml, self._conditions()
        identity, others = nvml.identity(), nvml.count_foreign()
        reasons = dict(conditions.details).get("clock_limits", "unknown")
        index = self._gpu.uuid
        return [
            _advice(
                "nvml",
                not nvml.reason,
                nvml.reason or "the GPU's state can be read",
                "install the driver's NVML library",
            ),
            _advice(
                "foreign_processes",
                not others,
                f"other processes on the GPU: {_show(others)}",
                "end them: nvidia-smi lists them",
            ),
            _advice(
                "persistence",
                identity.persistence is not False,
                f"persistence mode {_show(identity.persistence)}",
                f"sudo nvidia-smi -i {index} -pm 1",
            ),
            _advice(
                "mig",
                not identity.mig,
                f"split into instances (MIG): {_show(identity.mig)}",
                f"sudo nvidia-smi -i {index} -mig 0",
            ),
            _advice(
                "throttling",
                not conditions.throttled,
                f"what limits the clock: {reasons}",
                "let it cool; check the fan and the power supply",
            ),
            _advice(
                "power_cap",
                "power cap" not in reasons,
                f"power limit {_show(identity.power_limit_w, 'W')}",
                f"sudo nvidia-smi -i {index} -pl WATTS",
            ),
            _advice(
                "temperature",
                (conditions.temperature_c or 0) < HOT_C,
                f"temperature {_show(conditions.temperature_c, 'C')}",
                "let it cool; check the fan",
            ),
        ]


def torch_trouble(seen: Probe, gpu: Gpu) -> str:
    """Why torch cannot use a GPU that CUDA sees, and the command that mends it; empty if it can."""
    try:
        import torch
    except ImportError as error:
        return f"torch does not import ({error}); {_install_command(seen)}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; {_install_command(seen)}"
    built = tuple(map(int, torch.version.cuda.split(".")[:2]))
    if (
        seen.cuda is not None and built[0] > seen.cuda[0]
    ):  # CUDA's minor versions are compatible, its major ones not
        needs = (
            f"torch {torch.__version__} needs CUDA {torch.version.cuda}, the driver serves"
            f" {seen.cuda[0]}.{seen.cuda[1]}"
        )
        return f"{needs}; update the driver, or {_install_command(seen)}"
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} finds no GPU though CUDA does; run python -c 'import torch;"
            " torch.cuda.init()' to see why"
        )
    if not _has_kernels(torch.cuda.get_arch_list(), gpu.capability):
        kernels, wanted = " ".join(torch.cuda.get_arch_list()), "sm_{}{}".format(*gpu.capability)
        return (
            f"torch {torch.__version__} has kernels for {kernels}, not for {gpu.name} ({wanted});"
            f" {_install_command(seen)}"
        )
    return ""


def _has_kernels(built_for: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether kernels run on a GPU: binaries do within their major version and upwards, PTX (`compute_`) on all later ones."""
    for name in built_for:
        kind, _, digits = name.rstrip("af").partition("_")
        own = (int(digits[:-1]), int(digits[-1]))
        if own <= capability and (kind == "compute" or own[0] == capability[0]):
            return True
    return False


def _install_command(seen: Probe) -> str:
    version = next(
        (version for version in WHEELS if seen.cuda is None or version <= seen.cuda), WHEELS[-1]
    )
    return (
        f"pip install torch --index-url https://download.pytorch.org/whl/cu{version[0]}{version[1]}"
    )


def _compile_trouble(mode: str) -> str:
    """What torch.compile lacks here, and the command that installs it."""
    if mode != "compile":
        return ""
    if find_spec("triton") is None:
        return "mode=compile needs Triton: pip install triton; or measure with mode=eager"
    if not os.environ.get("CC") and not any(map(shutil.which, ("gcc", "clang", "cc"))):
        return "mode=compile needs a C compiler: sudo apt install gcc; or measure with mode=eager"
    return ""


def _describe(gpu: Gpu) -> str:
    return f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB"


def _join_remedy(reason: str, remedy: str) -> str:
    return f"{reason}; {remedy}" if remedy else reason


def _show(value: Any, unit: str = "") -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.0f} {unit}".strip()


def _advice(code: str, ok: bool, text: str, remedy: str) -> Advice:
    return Advice(code, ok, text, "" if ok else remedy)
