"""What a phone or board prints about itself, and what that means.

This module holds pure functions, and the scripts whose output they read. A script prints parts,
each after a line of a record separator (ASCII 30) and the name of the part. What a target does not
have, or does not let us read, prints nothing: Android's tools on a plain Linux board, clocks that
SELinux hides, sensors of some makers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from hwbench.devices.android.phone_cpus import (
    CPU_FACT,
    Cluster,
    describe_cores,
    find_clusters,
    parse_cpuinfo,
    parse_speeds,
)
from hwbench.devices.shared.host import ISA_FLAGS
from hwbench.errors import DeviceUnavailableError, OutputParseError, UsageError
from hwbench.records.device import Conditions

PART_SCRIPT = """
part() { printf '\\036%s\\n' "$1"; }
show() {
  for f; do [ -r "$f" ] && read -r value <"$f" 2>/dev/null && echo "${f#/sys/} $value"; done
}
"""
"""Defines `part`, which begins a part, and `show`, which prints paths and contents of files."""
IDENTITY_SCRIPT = (
    PART_SCRIPT
    + """
part machine; uname -m
part kernel; uname -r
part properties; getprop 2>/dev/null
part cpuinfo; cat /proc/cpuinfo
part board; [ -r /proc/device-tree/model ] && tr -d '\\000' </proc/device-tree/model
part cpus; cd /sys/devices/system/cpu && show cpu[0-9]*/online cpu[0-9]*/cpu_capacity \\
  cpu[0-9]*/cpufreq/cpuinfo_max_freq
part present; cat /sys/devices/system/cpu/present
part space; df -k "${1%/*}" 2>/dev/null
part files; cd "$1" 2>/dev/null && stat -c '%s %n' bundle/*/* models/* 2>/dev/null
exit 0
"""
)
"""Prints what the target is and what lies there already; $1 is hwbench's folder."""
STATE_SCRIPT = (
    PART_SCRIPT
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
"""Prints how the target is now."""

_ZONE = re.compile(r"class/thermal/thermal_zone(\d+)/(type|temp) (.*)")
_PROPERTY = re.compile(r"\[([^\]]+)\]: \[(.*)\]")
_FILE_SIZE = re.compile(r"^(\d+) (\S+)$", re.MULTILINE)
_PROCESSOR_ZONE = re.compile(r"cpu|soc|core|apc|tsens|big|little|mid|cluster", re.IGNORECASE)


@dataclass(frozen=True)
class PhoneIdentity:
    """What a target is.

    Attributes:
        machine: The processor, as `uname -m` says it.
        kernel: The release of its kernel.
        model: The maker and model.
        soc: The system on chip; empty if it is unknown.
        android: The version of Android; empty on another Linux.
        build: The fingerprint of the system build.
        serial: Its own serial number, whatever way it is reached; empty if it is unknown.
        features: The instruction sets that decide which kernels a runtime picks.
        cores: The kind of core and highest frequency of each cluster, for people.
        highest_hz: The highest frequency of each CPU by its make, where it is known.
        clusters: The clusters of its CPUs by name.
        files: The size of each file that hwbench keeps on it, by its path in hwbench's folder.
        free_bytes: The free space where hwbench's folder is; None if it is unknown.
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
        """Give the cluster of a name.

        Raises:
            UsageError: There is none of that name.
        """
        if name not in self.clusters:
            raise UsageError(
                f"{self.model} has no cluster {name!r}; it has {', '.join(self.clusters)}"
            )
        return self.clusters[name]


def split_parts(output: bytes) -> dict[str, str]:
    """Split the output of a script into its parts, by name."""
    parts = {}
    for part in output.decode("utf-8", "replace").split("\x1e")[1:]:
        name, _, text = part.partition("\n")
        parts[name] = text.strip("\n")
    return parts


def parse_identity(output: bytes) -> PhoneIdentity:
    """Parse what `IDENTITY_SCRIPT` printed.

    Raises:
        DeviceUnavailableError: The output does not even name the machine or its CPUs.
    """
    parts = split_parts(output)
    properties = dict(_PROPERTY.findall(parts.get("properties", "")))
    processors = parse_cpuinfo(parts.get("cpuinfo", ""))
    speeds, online = parse_speeds(parts.get("present", ""), parts.get("cpus", ""))
    if not parts.get("machine") or not speeds:
        raise DeviceUnavailableError(
            f"the target's shell does not answer uname or list its CPUs (it printed"
            f" {output[:80]!r}); it must be Android or Linux"
        )
    first_processor = next(iter(processors.values()), {})
    flags = first_processor.get("Features", "") or first_processor.get("flags", "")
    features = flags.split()
    # Android names maker and model as properties, a board only its hardware.
    maker = properties.get("ro.product.manufacturer", "")
    product = properties.get("ro.product.model", "")
    board = parts.get("board") or first_processor.get("model name", "") or "Linux board"
    soc_maker = properties.get("ro.soc.manufacturer", "")
    soc = f"{soc_maker} {properties.get('ro.soc.model', '')}".strip()
    older_soc = properties.get("ro.board.platform", "") or first_processor.get("Hardware", "")
    return PhoneIdentity(
        machine=parts["machine"].strip(),
        kernel=parts.get("kernel", "").strip(),
        model=f"{maker} {product}".strip() or board,
        soc=soc or older_soc,
        android=properties.get("ro.build.version.release", ""),
        build=properties.get("ro.build.fingerprint", ""),
        serial=properties.get("ro.serialno", ""),
        features=" ".join(flag for flag in ISA_FLAGS if flag in features),
        cores=describe_cores(speeds, processors),
        highest_hz={cpu: highest * 1e3 for cpu, (_, highest) in speeds.items() if highest},
        clusters=find_clusters(speeds, online),
        files={name: int(size) for size, name in _FILE_SIZE.findall(parts.get("files", ""))},
        free_bytes=_parse_free_bytes(parts.get("space", "")),
    )


@dataclass(frozen=True)
class PhoneState:
    """How a target is at one moment. What is unknown is None, or has no entry.

    Attributes:
        frequencies_hz: The present frequency of each CPU that is online.
        caps_hz: The highest frequency that each CPU may run at now.
        governors: The frequency governor of each CPU.
        online: Whether each CPU is switched on.
        zones_c: The temperatures by name of the sensor.
        load_1m: The number of runnable processes, averaged over 1 minute.
        battery: The lines of `dumpsys battery`.
        thermal_status: Android's thermal status: 0 none, 1 light, 2 moderate, 3 severe and worse.
        wakefulness: The state of the screen: `Awake`, `Asleep` or `Dozing`.
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
        """The charge of the battery from 0 to 1."""
        if self.battery.get("present") == "false":
            return None
        level, scale = self.battery.get("level", ""), self.battery.get("scale", "100")
        if not level.isdecimal() or not scale.isdecimal() or int(scale) == 0:
            return None
        return int(level) / int(scale)

    @property
    def charging(self) -> bool | None:
        """Whether the battery is being charged (BatteryManager.BATTERY_STATUS_CHARGING is 2)."""
        if "status" not in self.battery:
            return None
        return self.battery["status"] == "2"

    @property
    def battery_c(self) -> float | None:
        """The temperature of the battery."""
        tenths = self.battery.get("temperature", "")
        if not tenths.lstrip("-").isdecimal():
            return None
        return int(tenths) / 10

    @property
    def processor_c(self) -> float | None:
        """The hottest sensor of the processor, or of anything if none is named after it."""
        zones_c = [value for name, value in self.zones_c.items() if _PROCESSOR_ZONE.search(name)]
        return max(zones_c or self.zones_c.values(), default=None)

    def conditions(self, cpus: tuple[int, ...], caps_hz: Mapping[int, float]) -> Conditions:
        """Make the record of this state.

        Args:
            cpus: The numbers of the CPUs that are measured on.
            caps_hz: The highest frequency that each CPU might run at when the device was opened: a
                CPU that may no longer is throttled.
        """
        capped = False
        for cpu in cpus:
            if cpu in self.caps_hz and cpu in caps_hz and self.caps_hz[cpu] < caps_hz[cpu]:
                capped = True
        # Without a thermal status and caps, throttling is unknown rather than absent.
        throttled = None
        if self.thermal_status is not None or any(cpu in self.caps_hz for cpu in cpus):
            throttled = capped or bool(self.thermal_status)
        frequencies = tuple(self.frequencies_hz[cpu] for cpu in cpus if cpu in self.frequencies_hz)
        governors = [self.governors[cpu] for cpu in cpus if cpu in self.governors]
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
            governor=governors[0] if governors else None,
            temperature_c=self.processor_c,
            load_1m=self.load_1m,
            battery=self.battery_level,
            charging=self.charging,
            throttled=throttled,
            details=tuple((name, value) for name, value in details.items() if value),
        )


def parse_state(output: bytes) -> PhoneState:
    """Parse what `STATE_SCRIPT` printed.

    Raises:
        OutputParseError: It is not the output of that script.
    """
    parts = split_parts(output)
    if "load" not in parts or "power" not in parts:
        raise OutputParseError(f"the target's state cannot be read from {output[:80]!r}; try again")
    cpu_files = _parse_cpu_files(parts.get("cpus", ""))
    status = re.search(r"^Thermal Status: (\d+)", parts.get("thermal", ""), re.MULTILINE)
    load = parts["load"].split()
    battery = re.findall(r"^\s*([^:\n]+): (.*?)\s*$", parts.get("battery", ""), re.MULTILINE)
    return PhoneState(
        frequencies_hz=_to_hertz(cpu_files.get("scaling_cur_freq", {})),
        caps_hz=_to_hertz(cpu_files.get("scaling_max_freq", {})),
        governors=cpu_files.get("scaling_governor", {}),
        online={cpu: value != "0" for cpu, value in cpu_files.get("online", {}).items()},
        zones_c=_parse_zones(parts.get("zones", "")),
        load_1m=_parse_number(load[0]) if load else None,
        battery=dict(battery),
        thermal_status=int(status[1]) if status else None,
        wakefulness=parts["power"].partition("mWakefulness=")[2].split("\n")[0].strip(),
    )


def parse_caps_hz(output: bytes) -> dict[int, float]:
    """Parse the highest frequency that each CPU may run at, from a part `cpus` of a script."""
    cpu_files = _parse_cpu_files(split_parts(output).get("cpus", ""))
    return _to_hertz(cpu_files.get("scaling_max_freq", {}))


def _parse_cpu_files(text: str) -> dict[str, dict[int, str]]:
    """Parse lines of the form of `CPU_FACT`: the contents by name of the file and CPU."""
    contents: dict[str, dict[int, str]] = {}
    for cpu, name, value in CPU_FACT.findall(text):
        contents.setdefault(name, {})[int(cpu)] = value.strip()
    return contents


def _parse_free_bytes(df: str) -> int | None:
    """Parse the bytes available, from the last line of `df -k`.

    Its columns end in: available, use%, mount point.
    """
    fields = df.splitlines()[-1].split() if df else []
    if len(fields) > 4 and fields[-3].isdecimal():
        return int(fields[-3]) * 1024
    return None


def _parse_zones(text: str) -> dict[str, float]:
    """Parse the plausible temperatures by sensor; sensors that are off report 0 or nonsense."""
    fields_by_zone: dict[str, dict[str, str]] = {}
    for zone, name, value in _ZONE.findall(text):
        fields_by_zone.setdefault(zone, {})[name] = value.strip()
    temperatures_c: dict[str, float] = {}
    for zone, fields in fields_by_zone.items():
        celsius = _parse_number(fields.get("temp", ""))
        if celsius is None:
            continue
        if abs(celsius) > 200:  # millidegrees on nearly all
            celsius /= 1000
        if 0 < celsius < 150:
            temperatures_c[f"{fields.get('type', 'zone')} {zone}"] = celsius
    return temperatures_c


def _to_hertz(kilohertz: Mapping[int, str]) -> dict[int, float]:
    return {cpu: int(value) * 1e3 for cpu, value in kilohertz.items() if value.isdecimal()}


def _parse_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
