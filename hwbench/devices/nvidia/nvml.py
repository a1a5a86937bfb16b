"""State of an NVIDIA GPU through NVML, the library behind nvidia-smi, which comes with the driver.

Each fact stands alone: what this GPU, driver or container does not say is None, never a stand-in.
GPUs are found by UUID, since NVML's numbers ignore CUDA_VISIBLE_DEVICES. Names, structures and bits
are those of NVIDIA's nvml.h (https://docs.nvidia.com/deploy/nvml-api/).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hwbench.records.device import Conditions
from hwbench.records.findings import Finding

LIBRARY = "libnvidia-ml.so.1"
_GRAPHICS, _MEMORY = 0, 2  # nvmlClockType_t
_CORE_SENSOR = 0  # NVML_TEMPERATURE_GPU
_TEXT_BYTES = 96
_MORE = 7  # NVML_ERROR_INSUFFICIENT_SIZE
REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "heat (driver)",
    0x40: "heat (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
"""nvmlClocksEventReasons, bit by bit."""
SLOWDOWN = 0x8 | 0x20 | 0x40 | 0x80
"""Reasons that mean that the GPU slows itself down for heat or for its supply.

The power cap is not among them: under a long load it is a state like any other, and waiting does
not end it; it is reported as such."""
POWER_CAP = 0x4


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t of the calls with suffix _v2 and _v3."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """Facts of a GPU that do not change during a measurement; None where NVML does not say.

    Attributes:
        driver: Version of the driver.
        power_limit_w: The limit in force, watts.
        persistence: Whether the driver keeps the GPU initialised.
        mig: Whether it is split into instances.
    """

    driver: str | None = None
    power_limit_w: float | None = None
    persistence: bool | None = None
    mig: bool | None = None


class Nvml:
    """One GPU as NVML knows it; without the library or the GPU, everything is unknown.

    Args:
        uuid: UUID of the GPU, as in `hwbench.devices.nvidia.probe.Gpu.uuid`.
    """

    def __init__(self, uuid: str) -> None:
        self._handle = ctypes.c_void_p()
        self._library: ctypes.CDLL | None = None
        self.reason = ""
        """Why nothing is known; empty if the GPU answers."""
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError:
            self.reason = f"{LIBRARY} not found"
            return
        if code := _call(library, "nvmlInit_v2"):
            self.reason = f"NVML does not start (code {code})"
            return
        self._library = library
        if code := _call(
            library, "nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(self._handle)
        ):
            self.close()
            self.reason = f"NVML knows no GPU {uuid} (code {code})"

    def close(self) -> None:
        """Leave NVML."""
        if self._library is not None:
            _call(self._library, "nvmlShutdown")
            self._library = None

    def identity(self) -> Identity:
        """Read what does not change."""
        driver = None
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        if self._library is not None:
            code = _call(self._library, "nvmlSystemGetDriverVersion", text, _TEXT_BYTES)
            if code == 0:
                driver = text.value.decode(errors="replace")
        limit_mw = self._number("nvmlDeviceGetEnforcedPowerLimit")
        persistence = self._number("nvmlDeviceGetPersistenceMode")
        is_split = None
        mig, pending = ctypes.c_uint(), ctypes.c_uint()
        if self._succeeds("nvmlDeviceGetMigMode", ctypes.byref(mig), ctypes.byref(pending)):
            is_split = bool(mig.value)
        return Identity(
            driver=driver,
            power_limit_w=None if limit_mw is None else limit_mw / 1e3,
            persistence=None if persistence is None else bool(persistence),
            mig=is_split,
        )

    def reasons(self) -> int | None:
        """Read why the clock is what it is, as bits of `REASONS`; None if NVML does not say."""
        value = ctypes.c_ulonglong()
        # The call was renamed in driver 535, and newer drivers keep the old name.
        if not self._succeeds("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.byref(value)):
            return None
        return value.value

    def conditions(self, *, slowed: bool | None = None) -> Conditions:
        """Read the state of the GPU now.

        Args:
            slowed: Whether it slowed itself down since the last call; None if unknown.
        """
        reasons = self.reasons()
        throttled = slowed
        clock_limits = None
        if reasons is not None:
            throttled = bool(reasons & SLOWDOWN) or bool(slowed)
            clock_limits = name_reasons(reasons) or "none"
        clock = self._number("nvmlDeviceGetClockInfo", _GRAPHICS)  # MHz
        memory = self._number("nvmlDeviceGetClockInfo", _MEMORY)
        power_mw = self._number("nvmlDeviceGetPowerUsage")
        celsius = self._number("nvmlDeviceGetTemperature", _CORE_SENSOR)
        details = {
            "memory_hz": None if memory is None else f"{memory * 1e6:.0f}",
            "power_w": None if power_mw is None else f"{power_mw / 1e3:.1f}",
            "clock_limits": clock_limits,
        }
        return Conditions(
            at_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            frequency_hz=None if clock is None else (clock * 1e6,),
            temperature_c=None if celsius is None else float(celsius),
            load_1m=os.getloadavg()[0],
            throttled=throttled,
            details=tuple((name, text) for name, text in details.items() if text is not None),
        )

    def findings(self, own: Iterable[int] = ()) -> tuple[Finding, ...]:
        """Find reasons to distrust the GPU: other processes on it, or that it is split.

        Args:
            own: Process ids of hwbench besides this process.
        """
        findings = []
        others = self.count_foreign(own)
        if others:
            processes = "process" if others == 1 else "processes"
            text = f"{others} other {processes} on the GPU (nvidia-smi shows which): end them"
            findings.append(Finding("foreign_processes", text))
        if self.identity().mig:
            findings.append(
                Finding(
                    "mig",
                    "the GPU is split into instances (MIG), which share its memory and its power",
                )
            )
        return tuple(findings)

    def count_foreign(self, own: Iterable[int] = ()) -> int | None:
        """Count the processes of others that compute on the GPU; None if NVML does not say.

        In a container NVML lists processes by the numbers of the host, so ours cannot be recognised
        among them: then one of them is taken for ours.
        """
        listed = self._processes()
        if listed is None:
            return None
        ours = {os.getpid(), *own}
        if listed & ours:
            return len(listed - ours)
        return max(0, len(listed) - 1)

    def _processes(self) -> set[int] | None:
        """List the ids of the processes that compute on the GPU; None if NVML does not say."""
        if self._library is None:
            return None
        call = "nvmlDeviceGetComputeRunningProcesses_v3"
        size = 16
        for _ in range(3):  # more processes may start between two calls
            count, buffer = ctypes.c_uint(size), (_Process * size)()
            code = _call(self._library, call, self._handle, ctypes.byref(count), buffer)
            if code == 0:
                return {entry.pid for entry in buffer[: count.value]}
            if code != _MORE:
                return None
            size = 2 * count.value + 1
        return None

    def _number(self, call: str, *args: int) -> int | None:
        """Make a call that writes one unsigned int, and return that; None if it fails."""
        value = ctypes.c_uint()
        return value.value if self._succeeds(call, *args, ctypes.byref(value)) else None

    def _succeeds(self, call: str, *args: Any) -> bool:
        return self._library is not None and _call(self._library, call, self._handle, *args) == 0


def name_reasons(reasons: int) -> str:
    """Name reasons for people: `power cap, heat (driver)`."""
    names = [name for bit, name in REASONS.items() if reasons & bit]
    unknown = reasons & ~sum(REASONS)
    if unknown:
        names.append(f"0x{unknown:x}")
    return ", ".join(names)


def _call(library: ctypes.CDLL, call: str, *args: Any) -> int:
    """Make a call of NVML.

    Returns:
        Its result, 0 for success; -1 where this driver has no such call.
    """
    try:
        function = getattr(library, call)
    except AttributeError:
        return -1
    return int(function(*args))
