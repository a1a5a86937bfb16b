"""What a phone or board tells of itself, as text, and what it means.

Pure functions, and the scripts whose output they read.

A script prints parts, each after a line of a record separator (ASCII 30) and the part's name. What
a target does not have, or does not let us read, prints nothing: Android's tools on a plain Linux
board, clocks that SELinux hides, sensors of some makers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from hwbench.devices.android.phone_cpus import (
    CPU_FACT,
    Cluster,
    cores_of,
    find_clusters,
    processors,
    speeds_of,
)
from hwbench.devices.shared.host import ISA_FLAGS
from hwbench.errors import DeviceUnavailableError, OutputParseError, UsageError
from hwbench.records.device import Conditions

PART = """
part() { printf '\\036%s\\n' "$1"; }
show() { for f; do [ -r "$f" ] && read -r value <"$f" 2>/dev/null && echo "${f#/sys/} $value"; done; }
"""
IDENTITY = (
    PART
    + """
part machine; uname -m
part kernel; uname -r
part properties; getprop 2>/dev/null
part cpuinfo; cat /proc/cpuinfo
part board; [ -r /proc/device-tree/model ] && tr -d '\\000' </proc/device-tree/model
part cpus; cd /sys/devices/system/cpu && show cpu[0-9]*/online cpu[0-9]*/cpu_capacity cpu[0-9]*/cpufreq/cpuinfo_max_freq
part present; cat /sys/devices/system/cpu/present
part space; df -k "${1%/*}" 2>/dev/null
part files; cd "$1" 2>/dev/null && stat -c '%s %n' bundle/*/* models/* 2>/dev/null
exit 0
"""
)
"""Who it is and what lies there already; $1 is hwbench's folder."""
STATE = (
    PART
    + """
part load; cat /proc/loadavg
part cpus; cd /sys/devices/system/cpu && show cpu[0-9]*/online cpu[0-9]*/cpufreq/scaling_cur_freq \\
  cpu[0-9]*/cpufreq/scaling_max_freq cpu[0-9]*/cpufreq/scaling_governor
part zones; show /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp
part battery; dumpsys battery 2>/dev/null
part thermal; dumpsys thermalservice 2>/dev/null
part power; dumpsys power 2>/dev/null | grep mWakefulness=
exit 0
"""
)
"""How it is now."""

_ZONE = re.compile(r"class/thermal/thermal_zone(\d+)/(type|temp) (.*)")
_PROPERTY = re.compile(r"\[([^\]]+)\]: \[(.*)\]")
_LISTED = re.compile(r"^(\d+) (\S+)$", re.MULTILINE)
_PROCESSOR_ZONE = re.compile(r"cpu|soc|core|apc|tsens|big|little|mid|cluster", re.IGNORECASE)


@dataclass(frozen=True)
class Identity:
    """Who a target is.

    Attributes:
        machine: As `uname -m` says it.
        kernel: Release of its kernel.
        model: Maker and model.
        soc: System on chip; empty if it is not told.
        android: Version of Android; empty on another Linux.
        build: Fingerprint of the system build.
        serial: Its own serial number, whatever way it is reached; empty if it is not told.
        features: Instruction sets that decide which kernels a runtime picks.
        cores: Kind of core and highest frequency of each cluster, for people.
        highest_hz: What each CPU can do by its make, where it is told.
        clusters: By name.
        files: Size of each file that hwbench keeps on it, by its path in hwbench's folder.
        free_bytes: Space where hwbench's folder is; None if it is not told.
    """

    machine: str
    kernel: str
    model: str
    soc: str
    android: str
    build: str
    serial: str
    features: str
    cores: str
    highest_hz: Mapping[int, float]
    clusters: Mapping[str, Cluster]
    files: Mapping[str, int]
    free_bytes: int | None

    def cluster(self, name: str) -> Cluster:
        """The cluster called `name`.

        Raises:
            UsageError: There is none of that name.
        """
        if name not in self.clusters:
            raise UsageError(
                f"{self.model} has no cluster {name!r}; it has {', '.join(self.clusters)}"
            )
        return self.clusters[name]


def parts(output: bytes) -> dict[str, str]:
    """The parts of a script's output by name."""
    found = {}
    for part in output.decode("utf-8", "replace").split("\x1e")[1:]:
        name, _, text = part.partition("\n")
        found[name] = text.strip("\n")
    return found


def identity(output: bytes) -> Identity:
    """Read what `IDENTITY` printed.

    Raises:
        DeviceUnavailableError: It does not even tell its machine or its CPUs.
    """
    told = parts(output)
    properties = dict(_PROPERTY.findall(told.get("properties", "")))
    described = processors(told.get("cpuinfo", ""))
    speeds, online = speeds_of(told.get("present", ""), told.get("cpus", ""))
    if not told.get("machine") or not speeds:
        raise DeviceUnavailableError(
            f"the target's shell does not tell uname or its CPUs (it said {output[:80]!r}); it must"
            " be Android or Linux"
        )
    first = next(iter(described.values()), {})
    features = (first.get("Features", "") or first.get("flags", "")).split()
    hardware = told.get("board") or first.get("model name", "") or "Linux board"
    maker, model = (
        properties.get("ro.product.manufacturer", ""),
        properties.get("ro.product.model", ""),
    )
    soc = " ".join(
        filter(None, (properties.get("ro.soc.manufacturer"), properties.get("ro.soc.model")))
    )
    return Identity(
        machine=told["machine"].strip(),
        kernel=told.get("kernel", "").strip(),
        model=f"{maker} {model}".strip() or hardware,
        soc=soc or properties.get("ro.board.platform", "") or first.get("Hardware", ""),
        android=properties.get("ro.build.version.release", ""),
        build=properties.get("ro.build.fingerprint", ""),
        serial=properties.get("ro.serialno", ""),
        features=" ".join(flag for flag in ISA_FLAGS if flag in features),
        cores=cores_of(speeds, described),
        highest_hz={cpu: highest * 1e3 for cpu, (_, highest) in speeds.items() if highest},
        clusters=find_clusters(speeds, online),
        files={name: int(size) for size, name in _LISTED.findall(told.get("files", ""))},
        free_bytes=_free_bytes(told.get("space", "")),
    )


@dataclass(frozen=True)
class State:
    """How a target is at one moment; None or nothing where it does not tell.

    Attributes:
        frequencies_hz: Of each CPU that is online, now.
        caps_hz: The highest each may run at, now.
        governors: Of each.
        online: Whether each CPU is switched on.
        zones_c: Temperatures by sensor.
        load_1m: Runnable processes, 1 minute average.
        battery: Lines of `dumpsys battery`.
        thermal_status: Android's: 0 none, 1 light, 2 moderate, 3 severe and worse.
        wakefulness: `Awake`, `Asleep`, `Dozing`.
    """

    frequencies_hz: Mapping[int, float]
    caps_hz: Mapping[int, float]
    governors: Mapping[int, str]
    online: Mapping[int, bool]
    zones_c: Mapping[str, float]
    load_1m: float | None
    battery: Mapping[str, str]
    thermal_status: int | None
    wakefulness: str

    @property
    def battery_level(self) -> float | None:
        """Charge from 0 to 1."""
        level, scale = self.battery.get("level", ""), self.battery.get("scale", "100")
        present = (
            self.battery.get("present") != "false"
            and level.isdecimal()
            and scale.isdecimal()
            and int(scale) > 0
        )
        return int(level) / int(scale) if present else None

    @property
    def charging(self) -> bool | None:
        """Whether the battery is being charged (BatteryManager.BATTERY_STATUS_CHARGING is 2)."""
        return self.battery["status"] == "2" if "status" in self.battery else None

    @property
    def battery_c(self) -> float | None:
        """Temperature of the battery."""
        tenths = self.battery.get("temperature", "")
        return int(tenths) / 10 if tenths.lstrip("-").isdecimal() else None

    @property
    def processor_c(self) -> float | None:
        """The hottest sensor of the processor, or of anything if none is named after it."""
        named = [value for name, value in self.zones_c.items() if _PROCESSOR_ZONE.search(name)]
        return max(named or self.zones_c.values(), default=None)

    def conditions(self, cpus: tuple[int, ...], caps_hz: Mapping[int, float]) -> Conditions:
        """The record of this state.

        Args:
            cpus: Those measured on.
            caps_hz: The highest frequency of each CPU when the device was opened: below it, it is
                throttled.
        """
        capped = {
            cpu
            for cpu in cpus
            if cpu in self.caps_hz and cpu in caps_hz and self.caps_hz[cpu] < caps_hz[cpu]
        }
        told = self.thermal_status is not None or any(cpu in self.caps_hz for cpu in cpus)
        frequencies = tuple(self.frequencies_hz[cpu] for cpu in cpus if cpu in self.frequencies_hz)
        caps = tuple(f"{self.caps_hz[cpu] / 1e6:.0f}" for cpu in cpus if cpu in self.caps_hz)
        details = {
            "cores": " ".join(map(str, cpus)),
            "frequency_caps_mhz": " ".join(caps),
            "thermal_status": "" if self.thermal_status is None else str(self.thermal_status),
            "battery_c": "" if self.battery_c is None else f"{self.battery_c:.1f}",
            "screen": self.wakefulness,
        }
        return Conditions(
            at_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            frequency_hz=frequencies or None,
            governor=next((self.governors[cpu] for cpu in cpus if cpu in self.governors), None),
            temperature_c=self.processor_c,
            load_1m=self.load_1m,
            battery=self.battery_level,
            charging=self.charging,
            throttled=bool(capped) or bool(self.thermal_status) if told else None,
            details=tuple((name, value) for name, value in details.items() if value),
        )


def state(output: bytes) -> State:
    """Read what `STATE` printed.

    Raises:
        OutputParseError: It is not the output of that script.
    """
    told = parts(output)
    if "load" not in told or "power" not in told:
        raise OutputParseError(f"the target's state cannot be read from {output[:80]!r}; try again")
    clocks: dict[str, dict[int, str]] = {}
    for cpu, name, value in CPU_FACT.findall(told.get("cpus", "")):
        clocks.setdefault(name, {})[int(cpu)] = value.strip()
    status = re.search(r"^Thermal Status: (\d+)", told.get("thermal", ""), re.MULTILINE)
    load = told["load"].split()
    return State(
        frequencies_hz=_hertz(clocks.get("scaling_cur_freq", {})),
        caps_hz=_hertz(clocks.get("scaling_max_freq", {})),
        governors=clocks.get("scaling_governor", {}),
        online={cpu: value != "0" for cpu, value in clocks.get("online", {}).items()},
        zones_c=_zones(told.get("zones", "")),
        load_1m=_number(load[0]) if load else None,
        battery=dict(
            re.findall(r"^\s*([^:\n]+): (.*?)\s*$", told.get("battery", ""), re.MULTILINE)
        ),
        thermal_status=int(status[1]) if status else None,
        wakefulness=told["power"].partition("mWakefulness=")[2].split("\n")[0].strip(),
    )


def caps_hz(output: bytes) -> dict[int, float]:
    """The highest frequency each CPU may run at, from a part `cpus` of `scaling_max_freq`."""
    told = CPU_FACT.findall(parts(output).get("cpus", ""))
    return _hertz(
        {int(cpu): value.strip() for cpu, name, value in told if name == "scaling_max_freq"}
    )


def _free_bytes(df: str) -> int | None:
    """Bytes available, from the last line of `df -k`.

    Its columns end in: available, use%, mount point.
    """
    fields = df.splitlines()[-1].split() if df else []
    return int(fields[-3]) * 1024 if len(fields) > 4 and fields[-3].isdecimal() else None


def _zones(text: str) -> dict[str, float]:
    """Plausible temperatures; sensors that are off report 0 or nonsense."""
    kinds: dict[str, dict[str, str]] = {}
    for zone, name, value in _ZONE.findall(text):
        kinds.setdefault(zone, {})[name] = value.strip()
    found: dict[str, float] = {}
    for zone, fields in kinds.items():
        celsius = _number(fields.get("temp", ""))
        if celsius is not None and abs(celsius) > 200:  # millidegrees on nearly all
            celsius /= 1000
        if celsius is not None and 0 < celsius < 150:
            found[f"{fields.get('type', 'zone')} {zone}"] = celsius
    return found


def _hertz(kilohertz: Mapping[int, str]) -> dict[int, float]:
    return {cpu: int(value) * 1e3 for cpu, value in kilohertz.items() if value.isdecimal()}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
