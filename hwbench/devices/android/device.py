"""Android phones, and Linux boards that adb reaches, through ONNX Runtime or LiteRT.

It needs no app and no root, and leaves nothing behind. The native runner and its runtime are
copied to the phone once, with all they need. From then on everything that has to do with a session
passes through the one stream of its runner: models, times, profiles and graphs. So a table of
hundreds of networks costs a handful of round trips, and what is measured is the phone's processor
and nothing of the connection to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from hwbench.devices.android import phone_checks as checks
from hwbench.devices.android.adb.client import list_phones
from hwbench.devices.android.bundle import build_bundle, ndk_bundle
from hwbench.devices.android.bundle_runtimes import LITERT, ORT, Runtime
from hwbench.devices.android.phone import Phone, PhoneAddress, erase
from hwbench.devices.base import Advice, Device, Found
from hwbench.devices.shared.litert.device import LitertDevice
from hwbench.devices.shared.litert.library import name_runtime
from hwbench.devices.shared.ort.device import OrtDevice
from hwbench.devices.shared.runner.device import EngineDevice
from hwbench.devices.shared.runner.engine import Engine, NativeEngine
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.devices.shared.runner.protocol import CLOCK
from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.measurement import Settings

PROVEN = (
    "proven against Google's adbd and real ARM64 code under emulation; not yet on a phone in the"
    " hand"
)


class PhoneDevice(EngineDevice):
    """A phone, whatever runs networks on it.

    Its address is `android[:SERIAL|HOST:PORT][,OPTION=VALUE]...`, see `phone.PhoneAddress`.
    """

    name = "android"
    runtime: ClassVar[Runtime]

    def __init__(self, address: str = "", **options: str) -> None:
        super().__init__(address, **options)
        self._options = PhoneAddress.parse(address)
        if self._options.runtime != self.runtime.name:
            raise UsageError(
                f"{self.address} names the runtime {self._options.runtime}; open it by"
                " hwbench.devices.open_device"
            )
        self._opened: Phone | None = None

    @classmethod
    def at(cls, address: str) -> Device:
        """See `Device.at`: the address says which runtime."""
        if PhoneAddress.parse(address).runtime == LITERT.name:
            return AndroidLitert(address)
        return Android(address)

    @classmethod
    def discover(cls) -> list[Found]:
        """List the phones that an adb server lists or that are on USB, ready or not.

        Those on the network are opened by their address.
        """
        targets = []
        for phone in list_phones():
            address = f"{cls.name}:{phone.address}" if phone.address else cls.name
            facts = (
                phone.model or "Android phone",
                phone.soc,
                phone.android and f"Android {phone.android}",
                phone.state,
            )
            hint = phone.hint or f"{PROVEN}; .tflite files: {_with_litert(address)}"
            targets.append(
                Found(address, ", ".join(filter(None, facts)), ready=not phone.hint, hint=hint)
            )
        if targets:
            return targets
        hint = (
            f"plug a phone in and switch on USB debugging, or name one: android:HOST:PORT; {PROVEN}"
        )
        return [Found(cls.name, "Android phones over adb", ready=False, hint=hint)]

    @property
    def _phone(self) -> Phone:
        if self._opened is None:
            raise DeviceUnavailableError(
                f"device {self.address} is not open; use it in a with block"
            )
        return self._opened

    def _open(self) -> None:
        self._opened = Phone(self._options, self.locked_targets)
        self._locked.add(self._opened.target)

    def _close(self) -> None:
        super()._close()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _info(self) -> DeviceInfo:
        phone = self._phone
        details = {
            "engine": "native runner",
            "bundle": f"{self._options.build} {phone.bundle.digest}",
            **self._runtime_details(),
        }
        return phone.describe(self.address, self._runtime_name(), details)

    def _runtime_name(self) -> str:
        """Name the runtime and its version."""
        return self._phone.bundle.runtime

    def _runtime_details(self) -> Mapping[str, str]:
        """Tell how the runtime is used, for the record. The default has nothing to tell."""
        return {}

    def _conditions(self) -> Conditions:
        state = self._phone.read_state()
        return state.conditions(self._phone.cluster.cpus, self._phone.caps_hz)

    def _doctor(self, threads: int) -> list[Advice]:  # noqa: ARG002
        """Check ten things that would spoil a measurement on this phone."""
        phone = self._phone
        phone_settings = checks.parse_settings(phone.adb.script(checks.SETTINGS_SCRIPT).stdout)
        return checks.check_phone(phone.identity, phone.cluster, phone.read_state(), phone_settings)

    def _engine(self, settings: Settings) -> Engine:
        phone = self._phone
        cores = phone.choose_cores(settings.threads)  # before a runner is started for them
        runner = phone.start_runner()
        try:
            self._configure(runner)
        except BaseException:
            runner.close()
            raise
        return NativeEngine(
            runner,
            phone.send_model,
            phone.folder,
            cores=cores,
            threads=settings.threads,
            seed=settings.seed,
            clock=f"{CLOCK} in the native runner on the device",
            leased=True,
        )

    def _configure(self, runner: RunnerProcess) -> None:
        """Set what the runtime alone needs. The default has nothing to set."""

    def setup(self, files: Mapping[str, Path] | None = None) -> None:
        """Make the bundle and put it on the phone; without a phone in sight, make it for later.

        Args:
            files: `aar` and `ndk`: Android's own build of the runtime, and the folder of the NDK
                that compiles a runner for it.

        Raises:
            UsageError: Only one of them, or they are not what they should be.
        """
        if files and files.keys() != {"aar", "ndk"}:
            raise UsageError(
                f"Android's own build needs both aar and ndk; got {', '.join(sorted(files))} alone"
            )
        if files:
            ndk_bundle(files["aar"], files["ndk"], self.runtime)
        else:
            build_bundle(runtime=self.runtime)
        if self._options.place or any(not phone.hint for phone in list_phones()):
            with self:
                pass

    def clean(self) -> None:
        """Restore the phone's settings and remove everything that hwbench ever put there."""
        if self._opened is not None:
            raise UsageError(f"{self.address} is open; close it before it is cleaned")
        erase(self._options)


class Android(PhoneDevice, OrtDevice):
    """A phone that runs ONNX Runtime: address `android[:SERIAL|HOST:PORT]`."""

    runtime = ORT

    def _runtime_details(self) -> Mapping[str, str]:
        """See `PhoneDevice`."""
        return {
            "graph_optimisation": "all",
            "execution": "sequential",
            "memory_arena": "on",
            "spinning": "stopped between runs",
        }


class AndroidLitert(PhoneDevice, LitertDevice):
    """A phone that runs LiteRT: address `android[:SERIAL|HOST:PORT],runtime=litert`."""

    runtime = LITERT

    def __init__(self, address: str = "") -> None:
        super().__init__(address, kernels=PhoneAddress.parse(address).kernels)

    def _runtime_name(self) -> str:
        """See `PhoneDevice`."""
        return name_runtime(super()._runtime_name(), self._kernels)

    def _configure(self, runner: RunnerProcess) -> None:
        """See `PhoneDevice`."""
        self._choose_kernels(runner)


def _with_litert(address: str) -> str:
    """Write the address of a phone for measurements with LiteRT."""
    joint = "," if ":" in address else ":"
    return f"{address}{joint}runtime={LITERT.name}"
