"""This computer's CPU through LiteRT (TensorFlow Lite): address `litert[:kernels=builtin]`.

The sessions of all workloads of one block live in one process of the native runner, which times
runs in C and does nothing between them; every new session is a new process. With `isolate` each
workload has a process of its own. Networks are `.tflite` files, run by XNNPACK's kernels as
LiteRT does by itself, or by TensorFlow Lite's own.
"""

from __future__ import annotations

from hwbench.devices.base import Advice, Found
from hwbench.devices.shared import host
from hwbench.devices.shared.address import read_address
from hwbench.devices.shared.litert.device import LitertDevice
from hwbench.devices.shared.litert.library import (
    KERNELS,
    litert_library,
    litert_version,
    name_runtime,
)
from hwbench.devices.shared.runner.build import LITERT_RUNNER, build_runner
from hwbench.devices.shared.runner.engine import Engine, NativeEngine
from hwbench.devices.shared.runner.model_files import ModelFiles
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.errors import DeviceUnavailableError
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.measurement import Settings
from hwbench.records.scratch import scratch_folder
from hwbench.user_folders import cache_folder

OPTIONS = {"kernels": KERNELS}
NOT_PINNED = Finding(
    "not_pinned", "this system cannot pin threads to cores; expect wider intervals"
)


class Litert(LitertDevice):
    """The host's CPU; address `litert` or `litert:kernels=builtin`."""

    name = "litert"

    def __init__(self, address: str = "") -> None:
        _, values = read_address(self.name, address, OPTIONS, has_place=False)
        super().__init__(address, **values)

    @classmethod
    def discover(cls) -> list[Found]:
        """This computer, if LiteRT is installed."""
        try:
            litert_library()
        except DeviceUnavailableError as error:
            return [Found(cls.name, host.cpu_name(), ready=False, hint=str(error))]
        return [Found(cls.name, f"{host.target()}, LiteRT {litert_version()}", ready=True)]

    def _open(self) -> None:
        self._library, self._version = litert_library(), litert_version()
        build_runner(name=LITERT_RUNNER)
        self._lock_target(host.LOCKED_AS)
        self._cores = host.quiet_first(host.physical_cores(host.affinity()))
        self._folder = self._at_close.enter_context(scratch_folder(cache_folder()))
        self._models = ModelFiles(self._folder)
        self._findings = () if host.CAN_PIN else (NOT_PINNED,)

    def _info(self) -> DeviceInfo:
        runtime = name_runtime(f"LiteRT {self._version}", self._kernels)
        details = (
            ("isa", " ".join(host.cpu_flags())),
            ("engine", "native runner"),
            ("kernel", host.kernel()),
            ("virtual_machine", str(host.is_virtual_machine()).lower()),
        )
        return DeviceInfo(self.address, host.target(), host.target_id(), runtime, details)

    def _conditions(self) -> Conditions:
        return host.conditions(self._cores)

    def _doctor(self, threads: int) -> list[Advice]:
        return host.doctor(self._cores, threads)

    def _engine(self, settings: Settings) -> Engine:
        cores = host.choose_cores(settings.threads, self._cores)
        runner = RunnerProcess.start([str(build_runner(name=LITERT_RUNNER))])
        try:
            runner.attach()
            runner.library(self._library)
            self._choose_kernels(runner)
        except BaseException:
            runner.close()
            raise
        return NativeEngine(
            runner,
            self._models.place,
            self._folder,
            cores=cores if host.CAN_PIN else (),
            threads=len(cores),
            seed=settings.seed,
        )
