"""The CPUs of a phone or board: which there are, how fast each kind is, and what to call them.

Pure functions on text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CPU_FACT = re.compile(r"(?:.*/)?cpu(\d+)/(?:cpufreq/)?(\w+) (.*)")
"""A line `cpu4/cpufreq/NAME VALUE`: the path and content of a file in /sys/devices/system/cpu."""
MOST_CPUS = 1024
_PARTS_OF_ARM = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0d": "Cortex-A77",
    "0xd41": "Cortex-A78",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
    "0xd80": "Cortex-A520",
    "0xd81": "Cortex-A720",
    "0xd82": "Cortex-X4",
}
"""The names of Arm's cores by their number in /proc/cpuinfo.

Numbers are those of MIDR_EL1, names as in the kernel's arch/arm64/include/asm/cputype.h.
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """CPUs of one kind.

    Attributes:
        name: `little`, `middle`, `big`, or `all`.
        cpus: The numbers of the CPUs that are online, the fastest last.
        offline: The numbers of the CPUs that are switched off.
    """

    name: str
    cpus: tuple[int, ...]
    offline: tuple[int, ...] = ()


def find_clusters(
    speeds: Mapping[int, tuple[int, int]], online: Mapping[int, bool]
) -> dict[str, Cluster]:
    """Group CPUs of equal speed.

    The slowest are `little`, the fastest `big`, what lies between `middle`.

    Args:
        speeds: The capacity and highest frequency of each CPU; 0 where they are unknown.
        online: Whether each CPU is switched on; those that are not named are.

    Returns:
        The clusters by name. A processor of one kind has only `big`, one of two kinds no `middle`.
    """
    if not speeds:
        return {}
    # Sorted by speed first, so that the fastest CPU of each cluster comes last.
    by_speed = sorted(speeds, key=lambda cpu: (speeds[cpu], cpu))
    slowest, fastest = speeds[by_speed[0]], speeds[by_speed[-1]]
    cpus_by_name = {"big": [cpu for cpu in by_speed if speeds[cpu] == fastest]}
    if slowest != fastest:
        middle = [cpu for cpu in by_speed if slowest < speeds[cpu] < fastest]
        if middle:
            cpus_by_name["middle"] = middle
        cpus_by_name["little"] = [cpu for cpu in by_speed if speeds[cpu] == slowest]
        cpus_by_name["all"] = by_speed
    clusters = {}
    for name, cpus in cpus_by_name.items():
        clusters[name] = Cluster(
            name,
            tuple(cpu for cpu in cpus if online.get(cpu, True)),
            tuple(cpu for cpu in cpus if not online.get(cpu, True)),
        )
    return clusters


def parse_cpuinfo(text: str) -> dict[int, dict[str, str]]:
    """Parse /proc/cpuinfo: the fields of each processor, by its number."""
    processors: dict[int, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        label, colon, value = line.partition(":")
        label, value = label.strip(), value.strip()
        if label == "processor" and value.isdecimal():
            fields = processors.setdefault(int(value), {})
        elif colon:
            fields[label] = value
    return processors


def parse_speeds(
    present: str, cpu_files: str
) -> tuple[dict[int, tuple[int, int]], dict[int, bool]]:
    """Find out how fast each CPU is, and whether it is online.

    Args:
        present: The content of /sys/devices/system/cpu/present.
        cpu_files: Lines of the form of `CPU_FACT`.

    Returns:
        The capacity and highest frequency (in kHz) of each CPU, 0 where unknown, and whether each
        is switched on.
    """
    speeds = dict.fromkeys(_parse_cpu_list(present), (0, 0))
    online = dict.fromkeys(speeds, True)
    for cpu_text, name, value in CPU_FACT.findall(cpu_files):
        cpu = int(cpu_text)
        number = int(value) if value.strip().isdecimal() else 0
        if cpu not in speeds:
            continue
        capacity, highest = speeds[cpu]
        if name == "cpu_capacity":
            speeds[cpu] = number, highest
        elif name == "cpuinfo_max_freq":
            speeds[cpu] = capacity, number
        elif name == "online":
            online[cpu] = number != 0
    return speeds, online


def describe_cores(
    speeds: Mapping[int, tuple[int, int]], processors: Mapping[int, Mapping[str, str]]
) -> str:
    """Describe the CPUs: `4 x Cortex-A55 at 1.79 GHz, 4 x Cortex-A76 at 2.84 GHz`.

    Args:
        speeds: The capacity and highest frequency (in kHz) of each CPU.
        processors: The fields of each CPU in /proc/cpuinfo.
    """
    descriptions = []
    for speed in sorted(set(speeds.values())):
        cpus = [cpu for cpu in speeds if speeds[cpu] == speed]
        fields = processors.get(cpus[0], {})
        part = fields.get("CPU part", "")
        if fields.get("CPU implementer") == "0x41":  # Arm
            core = _PARTS_OF_ARM.get(part, part)
        else:
            core = fields.get("model name", part)
        description = f"{len(cpus)} x {core or 'core'}"
        highest_khz = speed[1]
        if highest_khz:
            description += f" at {highest_khz / 1e6:.2f} GHz"
        descriptions.append(description)
    return ", ".join(descriptions)


def _parse_cpu_list(text: str) -> Iterator[int]:
    """Parse numbers of CPUs as the kernel lists them: `0-3,6`."""
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            end = int(last) + 1 if last.isdecimal() else int(first) + 1
            yield from range(int(first), min(MOST_CPUS, end))
