"""The computer hwbench runs on, as an instrument.

Its identity, its conditions, the cores to pin to, and what would spoil a measurement.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from hwbench.devices.base import Advice
from hwbench.errors import Argument, UsageError
from hwbench.records.device import Conditions

CPUS = Path("/sys/devices/system/cpu")
LOCKED_AS = "cpu"
"""Name of this computer's processor as the target of a lock, the same for every runtime."""
CAN_PIN = hasattr(os, "sched_setaffinity")
LOOK_S = 0.2
"""Seconds over which cores are watched before some are chosen.

The kernel counts in ticks of 10 ms.
"""
ISA_FLAGS = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
"""Instruction sets that decide which kernels a runtime picks, as /proc/cpuinfo calls them."""
BUSY_LOAD = 0.5
"""1-minute load per core above which other work disturbs a measurement."""


def read(path: Path) -> str | None:
    """Read a small file of /sys or /proc, without surrounding space.

    Returns:
        The content; None if the file is absent or not readable.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def cpu_name() -> str:
    """Find the model name of the processor."""
    for line in (read(Path("/proc/cpuinfo")) or "").splitlines():
        label, _, value = line.partition(":")
        if label.strip() in {"model name", "Hardware"} and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> tuple[str, ...]:
    """List the instruction sets that decide which kernels a runtime picks."""
    for line in (read(Path("/proc/cpuinfo")) or "").splitlines():
        label, _, value = line.partition(":")
        if label.strip() in {"flags", "Features"}:
            present = set(value.split())
            return tuple(flag for flag in ISA_FLAGS if flag in present)
    return ()


def affinity() -> frozenset[int]:
    """List the logical cores that the calling thread may use."""
    if CAN_PIN:
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def physical_cores(allowed: Iterable[int]) -> tuple[int, ...]:
    """Choose one logical core of each physical core among `allowed`."""
    physical: dict[str, int] = {}
    for core in sorted(allowed):
        siblings = read(CPUS / f"cpu{core}" / "topology" / "thread_siblings_list") or str(core)
        physical.setdefault(siblings, core)
    return tuple(physical.values())


def core_count() -> int:
    """Count the physical cores of this computer, whether or not this process may use them."""
    return len(physical_cores(range(os.cpu_count() or 1)))


def quiet_first(cores: Sequence[int]) -> tuple[int, ...]:
    """Order `cores` by how well they serve for measuring.

    Fast cores come before slow ones, by their own highest frequency (hybrid processors have two
    kinds). Among equally fast ones, idle cores come before busy ones, as watched for `LOOK_S`
    seconds in steps of a tenth. The last cores come before the first, which serve most interrupts.
    """
    ticks_before = _idle_ticks()
    time.sleep(LOOK_S)
    ticks_after = _idle_ticks()
    idle_ticks = {core: ticks_after.get(core, 0) - ticks_before.get(core, 0) for core in cores}
    # A core that was idle all the time has the most ticks; the others are relative to it.
    most = max(idle_ticks.values(), default=0) or 1

    def rank(core: int) -> tuple[float, int, int]:
        idle = idle_ticks[core] / most
        highest = read(CPUS / f"cpu{core}" / "cpufreq" / "cpuinfo_max_freq") or "0"
        return -float(highest), -round(10 * idle), -core

    return tuple(sorted(cores, key=rank))


def _idle_ticks() -> dict[int, int]:
    """Read how many ticks each logical core has been idle since boot; empty off Linux.

    A line is `cpuN user nice system idle ...` (proc_stat(5)).
    """
    ticks = {}
    for line in (read(Path("/proc/stat")) or "").splitlines():
        if line.startswith("cpu") and line[3:4].isdigit():
            fields = line.split()
            ticks[int(fields[0][3:])] = int(fields[4])
    return ticks


def choose_cores(threads: int, cores: Sequence[int]) -> tuple[int, ...]:
    """Take the first `threads` of `cores`.

    Raises:
        UsageError: There are not that many.
    """
    if not 1 <= threads <= len(cores):
        raise UsageError(
            f"{threads} threads are wanted where this process may use {len(cores)} physical cores",
            Argument("threads", len(cores)),
        )
    return tuple(cores[:threads])


def target() -> str:
    """Describe this computer's processor for people, in the same words for every runtime."""
    return f"{cpu_name()}, {core_count()} cores"


def target_id() -> str:
    """Make the text that tells this computer's processor from others."""
    return f"{cpu_name()}|{core_count()} cores|{' '.join(cpu_flags())}"


def kernel() -> str:
    """Read the release of the operating system's kernel."""
    return platform.release()


def governor() -> str | None:
    """Read the frequency governor of the first core."""
    return read(CPUS / "cpu0" / "cpufreq" / "scaling_governor")


def is_virtual_machine() -> bool:
    """Tell whether the processor says that a hypervisor stands below it."""
    return "hypervisor" in (read(Path("/proc/cpuinfo")) or "").split()


def stolen_share() -> float | None:
    """Compute the share (0 to 1) of time since boot that the hypervisor gave to others.

    The first line of /proc/stat is `cpu user nice system idle iowait irq softirq steal ...`.

    Returns:
        The share; None where the system does not count it.
    """
    first = (read(Path("/proc/stat")) or "").partition("\n")[0].split()
    ticks = [int(value) for value in first[1:9]] if len(first) >= 9 else []
    if not ticks or not sum(ticks):
        return None
    return ticks[7] / sum(ticks)


def count_throttles(cores: Sequence[int]) -> int | None:
    """Count how often `cores` have slowed themselves down for heat since boot.

    Returns:
        The count; None where the processor does not count (Intel's do).
    """
    counts = [
        read(CPUS / f"cpu{core}" / "thermal_throttle" / "core_throttle_count") for core in cores
    ]
    if not any(counts):
        return None
    return sum(int(count) for count in counts if count)


def conditions(cores: Sequence[int]) -> Conditions:
    """Read the state of the host now; the frequencies are those of `cores`."""
    import psutil

    frequencies = [read(CPUS / f"cpu{core}" / "cpufreq" / "scaling_cur_freq") for core in cores]
    battery = None
    if hasattr(psutil, "sensors_battery"):
        with suppress(OSError):  # psutil expects /sys to be complete
            battery = psutil.sensors_battery()
    return Conditions(
        at_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
        frequency_hz=tuple(float(value) * 1e3 for value in frequencies if value) or None,
        governor=governor(),
        temperature_c=_temperature_c(),
        load_1m=os.getloadavg()[0],
        battery=None if battery is None else battery.percent / 100,
        charging=None if battery is None else bool(battery.power_plugged),
        details=(("cores", " ".join(map(str, cores))),),
    )


def _temperature_c() -> float | None:
    import psutil

    sensors = {}
    if hasattr(psutil, "sensors_temperatures"):
        with suppress(OSError):
            sensors = psutil.sensors_temperatures()
    readings = [
        sensor.current
        for name in ("coretemp", "k10temp", "cpu_thermal")
        for sensor in sensors.get(name, [])
    ]
    return max(readings, default=None)


def cpu_quota(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Cores' worth of time that the control groups of this process leave it; None for no limit.

    Every group above it may have a limit, and the smallest one counts
    (https://docs.kernel.org/admin-guide/cgroup-v2.html, cpu.max;
    https://docs.kernel.org/scheduler/sched-bwc.html for version 1, where -1 is no limit).

    Args:
        root: Where control groups are mounted: of version 2 themselves, of version 1 a folder for
            each controller.
        own: The file that names the group of this process.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            quotas += _group_quotas(root, path, ["cpu.max"])
        elif "cpu" in controllers.split(","):
            files = ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            quotas += _group_quotas(root / controllers, path, files)
            quotas += _group_quotas(root / "cpu", path, files)
    return min(quotas, default=None)


def _group_quotas(mount: Path, path: str, files: Sequence[str]) -> list[float]:
    """Limits of a control group and those above it, in cores; what has no limit is left out."""
    group = mount / path.lstrip("/")
    quotas = []
    for folder in (group, *group.parents):
        if folder.is_relative_to(mount):
            try:
                texts = [(folder / file).read_text(encoding="utf-8") for file in files]
                quota, period = map(float, " ".join(texts).split())
                cores = quota / period
            except (OSError, ValueError, ZeroDivisionError):
                continue  # the root group has no such file
            if 0 <= cores < math.inf:
                quotas.append(cores)
    return quotas


def _quota_advice(count: int) -> Advice:
    quota = cpu_quota()
    if quota is None:
        return Advice("quota", ok=True, text="no limit of processor time by a control group")
    return _advice(
        "quota",
        quota >= count,
        f"the control group gives the time of {quota:g} of {count} logical cores, and stops this"
        " process for the rest of each period",
        "start the container without --cpus (or raise cpu.max), or give it whole cores",
    )


def doctor(cores: Sequence[int], threads: int = 1) -> list[Advice]:
    """Check what would spoil a measurement on this computer.

    Args:
        cores: Logical cores to measure on, one of each physical core that this process may use.
        threads: Threads to measure with.
    """
    load_1m, count = os.getloadavg()[0], os.cpu_count() or 1
    stolen, turbo, state = stolen_share(), _turbo(), conditions(cores)
    stolen_text = "stolen time not visible"
    if stolen is not None:
        stolen_text = f"{stolen:.2%} of time stolen by the hypervisor since boot"
    temperature_text = "temperature not visible"
    if state.temperature_c is not None:
        temperature_text = f"temperature {state.temperature_c:.0f} C"
    return [
        _advice(
            "pinning",
            CAN_PIN,
            "threads can be pinned to cores",
            "this system has no sched_setaffinity: expect wider intervals",
        ),
        _advice(
            "spare_core",
            count > 1,
            f"{count} logical cores",
            "with a single core every other process disturbs: use a larger machine",
        ),
        _quota_advice(count),
        _advice(
            "affinity",
            len(cores) >= threads,
            f"this process may use {len(cores)} of {core_count()} physical cores, and needs one for"
            f" each of {threads} threads",
            "start it without taskset or numactl, or ask for fewer threads",
        ),
        _advice(
            "load",
            load_1m < BUSY_LOAD * count,
            f"1-minute load {load_1m:.2f} on {count} cores",
            "stop other work; the busiest: ps -eo pcpu,comm --sort=-pcpu | head",
        ),
        _advice(
            "governor",
            governor() in {None, "performance"},
            f"frequency governor {governor() or 'not visible'}",
            "sudo cpupower frequency-set --governor performance",
        ),
        _advice(
            "turbo",
            turbo is not True,
            f"turbo {_describe_switch(turbo)}",
            "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo",
        ),
        _advice(
            "virtual_machine",
            not is_virtual_machine(),
            "a hypervisor shares this processor" if is_virtual_machine() else "no hypervisor",
            "neighbours add noise that no setting removes: measure for longer, or on bare metal",
        ),
        _advice(
            "stolen_time",
            stolen is None or stolen < 0.01,
            stolen_text,
            "choose an instance with dedicated cores",
        ),
        _advice(
            "temperature",
            state.temperature_c is None or state.temperature_c < 85,
            temperature_text,
            "let it cool; check the fan",
        ),
        _advice(
            "power",
            state.charging is not False,
            f"mains power {_describe_switch(state.charging)}",
            "plug the charger in: batteries lower the clock",
        ),
    ]


def _advice(code: str, ok: bool, text: str, remedy: str) -> Advice:
    return Advice(code, ok, text, "" if ok else remedy)


def _describe_switch(value: bool | None) -> str:
    if value is None:
        return "not visible"
    return "on" if value else "off"


def _turbo() -> bool | None:
    no_turbo, boost = read(CPUS / "intel_pstate" / "no_turbo"), read(CPUS / "cpufreq" / "boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return None if boost is None else boost == "1"
