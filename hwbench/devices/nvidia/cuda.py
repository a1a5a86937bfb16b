"""NVIDIA GPUs through PyTorch alone: each network as a CUDA graph.

The kernels are those of eager torch or of torch.compile. It needs a driver and a CUDA build of
torch, nothing else, and is the reference that TensorRT has to beat. What runs is the workload's
ONNX graph, node for node (`torch_graph`), batch normalization folded as everywhere in hwbench;
images and weights lie in channels_last order, cuDNN picks its algorithms by trying them, fp32 is
fp32 (TF32 off). Threads are not used.

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
    from hwbench.devices.nvidia.torch_session import TorchSession
    from hwbench.network.torch_graph import TorchNet

OPTIONS = {"mode": choice("eager", "compile"), "latency": choice("gpu", "request")}
CLOCKS = {
    "gpu": "cuda_event, one round ahead",
    "request": "perf_counter, from start to end of each inference",
}
WHEELS = ((13, 0), (12, 8), (12, 6), (11, 8))
"""CUDA versions that torch's own index has had wheels for, newest first.

They are listed on https://pytorch.org/get-started/locally/.
"""
KEPT_NETS = 4
"""Networks whose torch form is kept.

Building a table prepares hundreds of models once, a comparison prepares the same two repeatedly.
"""
HOT_C = 85.0
"""Degrees Celsius from which a GPU counts as hot."""
HOST_SHARE = 0.9
"""If starting a round takes the host this share of it, the GPU has likely waited for the host."""
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
class CudaAddress:
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
        self._options = CudaAddress.parse(address)
        self._nets: dict[str, TorchNet] = {}  # by SHA-256 of the model
        self._gap_s: float | None = None
        self._slowed: bool | None = None

    @classmethod
    def discover(cls) -> list[Found]:
        """List the GPUs, or say what is missing."""
        driver = probe()
        if not driver.ok:
            hint = _join_remedy(driver.reason, driver.remedy)
            return [Found(cls.name, "NVIDIA GPUs through PyTorch", ready=False, hint=hint)]
        targets = []
        for gpu in driver.devices:
            trouble = torch_trouble(driver, gpu)
            address = f"{cls.name}:{gpu.index}"
            targets.append(
                Found(address, f"{_describe(gpu)}, torch", ready=not trouble, hint=trouble)
            )
        return targets

    def _open(self) -> None:
        driver = probe()
        if not driver.ok:
            raise DeviceUnavailableError(
                f"{self.address}: {_join_remedy(driver.reason, driver.remedy)}"
            )
        self._gpu = choose_gpu(self.name, driver.devices, self._options.place)
        trouble = torch_trouble(driver, self._gpu) or _compile_trouble(self._options.mode)
        if trouble:
            raise DeviceUnavailableError(f"{self.address}: {trouble}")
        self._lock_target(self._gpu.uuid)
        from hwbench.devices.nvidia.torch_session import TorchGpu

        self._nvml = Nvml(self._gpu.uuid)
        self._at_close.callback(self._nvml.close)
        self._torch_gpu = TorchGpu(self._gpu.index)

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
            "latency": self._options.latency,
            "memory_order": "channels_last",
            "cudnn_benchmark": "on",
            "tf32": "off",
            "cuda_graph": "on",
        }
        return DeviceInfo(
            address=self.address,
            target=_describe(self._gpu),
            target_id=f"{self._gpu.uuid}|{self._gpu.name}|{limit}|{self._options.latency}",
            runtime=(
                f"torch {torch.__version__} {self._options.mode}, CUDA {torch.version.cuda}, cuDNN"
                f" {cudnn}"
            ),
            details=tuple(details.items()),
        )

    def _conditions(self) -> Conditions:
        slowed, self._slowed = self._slowed, None
        return self._nvml.conditions(slowed=slowed)

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        from hwbench.devices.nvidia.torch_session import TorchSession

        if settings.isolate:
            raise UsageError(
                f"{self.address} runs all sessions in one process", Argument("isolate", change="no")
            )
        compiled = self._options.mode == "compile"
        session = TorchSession(
            self._torch_gpu, self._net(workload), workload, seed=settings.seed, compiled=compiled
        )
        return Prepared(
            workload,
            settings,
            session,
            self._nvml.findings(),
            load_s=session.load_s,
            first_run_s=session.first_run_s,
        )

    def measures_memory(self) -> bool:
        """No process of its own is needed: torch counts what it allocates for each session."""
        return False

    def peak_memory_bytes(self, prepared: Prepared) -> int | None:
        """Read the most bytes of the GPU that a session had allocated at once."""
        session: TorchSession = prepared.handle
        return session.peak_memory_bytes or None

    def _net(self, workload: Workload) -> TorchNet:
        from hwbench.network.torch_graph import to_torch

        if workload.sha256 not in self._nets:
            net = to_torch(workload.onnx)
            while len(self._nets) >= KEPT_NETS:
                del self._nets[next(iter(self._nets))]
            self._nets[workload.sha256] = net
        return self._nets[workload.sha256]

    def _release(self, prepared: Prepared) -> None:
        prepared.handle.close()

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        clock = CLOCKS[self._options.latency]
        findings: list[Finding] = []
        if not order:
            return Samples((), clock)
        graphs = [prepared.handle.graph for prepared in order]
        if self._options.latency == "request":
            values_s = self._torch_gpu.time_requests(graphs, loops)
        else:
            values_s, host_share = self._torch_gpu.time_rounds(graphs, loops)
            if host_share > HOST_SHARE:
                findings.append(LAUNCH_BOUND)
        # They are read right after the rounds, before the clock has risen again.
        reasons = self._nvml.reasons()
        if reasons is not None:
            self._slowed = bool(self._slowed) or bool(reasons & SLOWDOWN)
            if reasons & POWER_CAP:
                findings.append(POWER_CAPPED)
        return Samples(tuple(values_s), clock, tuple(findings))

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Time the layers of `runs` inferences, each layer a CUDA graph of its own.

        Raises:
            OutputParseError: torch.compile has fused the layers, so that they cannot be told apart.
        """
        from hwbench.devices.nvidia.torch_layers import measure_gap_s, profile_layers

        if self._options.mode == "compile":
            raise OutputParseError(
                "torch.compile fuses across layers, so they have no times of their own; measure"
                " with mode=eager"
            )
        if self._gap_s is None:
            self._gap_s = measure_gap_s(self._torch_gpu)
        return profile_layers(self._torch_gpu, prepared.handle, runs, self._gap_s)

    def _doctor(self, threads: int) -> list[Advice]:  # noqa: ARG002
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


def torch_trouble(driver: Probe, gpu: Gpu) -> str:
    """Say why torch cannot use a GPU that CUDA sees, with the command that mends it.

    Returns:
        One line; empty if torch can use the GPU.
    """
    try:
        import torch
    except ImportError as error:
        return f"torch does not import ({error}); {_install_command(driver)}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; {_install_command(driver)}"
    built_major = int(torch.version.cuda.split(".")[0])
    # CUDA's minor versions are compatible with each other, its major ones are not.
    if driver.cuda is not None and built_major > driver.cuda[0]:
        mismatch = (
            f"torch {torch.__version__} needs CUDA {torch.version.cuda}, the driver serves"
            f" {driver.cuda[0]}.{driver.cuda[1]}"
        )
        return f"{mismatch}; update the driver, or {_install_command(driver)}"
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} finds no GPU though CUDA does; run python -c 'import torch;"
            " torch.cuda.init()' to see why"
        )
    if not _has_kernels(torch.cuda.get_arch_list(), gpu.capability):
        kernels = " ".join(torch.cuda.get_arch_list())
        needed = "sm_{}{}".format(*gpu.capability)
        return (
            f"torch {torch.__version__} has kernels for {kernels}, not for {gpu.name} ({needed});"
            f" {_install_command(driver)}"
        )
    return ""


def _has_kernels(built_for: Sequence[str], capability: tuple[int, int]) -> bool:
    """Tell whether kernels run on a GPU.

    Binaries (`sm_`) run on GPUs of the same major version and an equal or later minor one; PTX
    (`compute_`) runs on all later GPUs
    (https://docs.nvidia.com/cuda/cuda-c-programming-guide/#application-compatibility).

    Args:
        built_for: What torch was built for: `sm_90`, `compute_90`.
        capability: Compute capability of the GPU.
    """
    for name in built_for:
        kind, _, digits = name.rstrip("af").partition("_")
        own = (int(digits[:-1]), int(digits[-1]))
        if own <= capability and (kind == "compute" or own[0] == capability[0]):
            return True
    return False


def _install_command(driver: Probe) -> str:
    """Write the command that installs the newest torch that this driver supports."""
    major, minor = WHEELS[-1]
    for version in WHEELS:
        if driver.cuda is None or version <= driver.cuda:
            major, minor = version
            break
    return f"pip install torch --index-url https://download.pytorch.org/whl/cu{major}{minor}"


def _compile_trouble(mode: str) -> str:
    """Say what torch.compile lacks here, with the command that installs it; empty if nothing."""
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
