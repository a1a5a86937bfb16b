"""The CPUs of a phone or board: which there are, how fast each kind is, and what to call them.

Pure functions on text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CPU_FACT = re.compile(r"(?:.*/)?cpu(\d+)/(?:cpufreq/)?(\w+) (.*)")
"""A line `cpu4/cpufreq/NAME VALUE`: a file of /sys/devices/system/cpu and its content."""
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
"""Numbers of Arm's cores in /proc/cpuinfo (MIDR_EL1; names as in the kernel's arch/arm64/include/asm/cputype.h)."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """CPUs of one kind.

    Attributes:
        name: `little`, `middle`, `big`, or `all`.
        cpus: Those online, the fastest last.
        offline: Those that are switched off.
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
        speeds: Capacity and highest frequency of each CPU; 0 where they are not told.
        online: Whether each is switched on; those not named are.
    """
    if not speeds:
        return {}
    kinds = sorted(set(speeds.values()))
    groups = [[cpu for cpu in sorted(speeds) if speeds[cpu] == kind] for kind in kinds]
    middle, every = ([cpu for group in some for cpu in group] for some in (groups[1:-1], groups))
    named = {"little": groups[0], "middle": middle, "big": groups[-1], "all": every}
    wanted = {1: ("big",), 2: ("big", "little", "all")}.get(
        len(groups), ("big", "middle", "little", "all")
    )
    return {
        name: Cluster(
            name,
            tuple(cpu for cpu in named[name] if online.get(cpu, True)),
            tuple(cpu for cpu in named[name] if not online.get(cpu, True)),
        )
        for name in wanted
    }


def processors(cpuinfo: str) -> dict[int, dict[str, str]]:
    """The fields of each processor in /proc/cpuinfo."""
    found: dict[int, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        label, colon, value = line.partition(":")
        label, value = label.strip(), value.strip()
        if label == "processor" and value.isdecimal():
            fields = found.setdefault(int(value), {})
        elif colon:
            fields[label] = value
    return found


def speeds_of(present: str, facts: str) -> tuple[dict[int, tuple[int, int]], dict[int, bool]]:
    """Capacity and highest frequency of each CPU that is present, and whether it is online."""
    speeds = dict.fromkeys(_cpu_list(present), (0, 0))
    online = dict.fromkeys(speeds, True)
    for text, name, value in CPU_FACT.findall(facts):
        cpu, number = int(text), int(value) if value.strip().isdecimal() else 0
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


def cores_of(
    speeds: Mapping[int, tuple[int, int]], described: Mapping[int, Mapping[str, str]]
) -> str:
    """`4 x Cortex-A55 at 1.79 GHz, 4 x Cortex-A76 at 2.84 GHz`."""
    texts = []
    for kind in sorted(set(speeds.values())):
        cpus = [cpu for cpu in speeds if speeds[cpu] == kind]
        fields = described.get(cpus[0], {})
        part = fields.get("CPU part", "")
        core = (
            _PARTS_OF_ARM.get(part, part)
            if fields.get("CPU implementer") == "0x41"
            else fields.get("model name", part)
        )
        texts.append(
            f"{len(cpus)} x {core or 'core'}" + (f" at {kind[1] / 1e6:.2f} GHz" if kind[1] else "")
        )
    return ", ".join(texts)


def _cpu_list(text: str) -> Iterator[int]:
    """CPUs as the kernel lists them: `0-3,6`."""
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            yield from range(
                int(first), min(MOST_CPUS, int(last) + 1 if last.isdecimal() else int(first) + 1)
            )
