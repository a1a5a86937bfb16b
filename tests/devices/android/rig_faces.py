"""What a phone shows of itself: properties, processor, clocks, temperatures, battery.

Plain files that a test may change.

The frame is a phone of 2019 (two clusters, Cortex-A55 and Cortex-A76) with as many CPUs as this
computer has, up to eight, as pinning must work; nothing of it claims to be a product that exists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SHELL_UID = 2000
_FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop"
    " asimddp"
)
_BATTERY = {
    "AC powered": "false",
    "USB powered": "true",
    "Wireless powered": "false",
    "Dock powered": "false",
    "Max charging current": "500000",
    "Max charging voltage": "5000000",
    "Charge counter": "2812000",
    "status": "2",
    "health": "2",
    "present": "true",
    "level": "87",
    "scale": "100",
    "voltage": "4203",
    "temperature": "281",
    "technology": "Li-ion",
}
_TEMPERATURES = {
    "cpu-0-0": 38000,
    "cpu-1-0": 39500,
    "gpu-0": 37200,
    "skin-therm": 33100,
    "battery": 28100,
}


@dataclass(frozen=True)
class Cluster:
    """CPUs that share a clock.

    Attributes:
        cpus: Their numbers.
        part: `CPU part` of /proc/cpuinfo (Arm's MIDR register).
        capacity: `cpu_capacity` of the kernel, 1024 for the fastest.
        steps_khz: The clock's steps.
    """

    cpus: range
    part: str
    capacity: int
    steps_khz: tuple[int, ...]


def clusters() -> tuple[Cluster, ...]:
    """Of the phone: little first, as phones number them; big alone on a computer with one CPU."""
    count = min(os.cpu_count() or 1, 8)
    little = Cluster(range(count // 2), "0xd05", 261, (300000, 1113600, 1785600))
    big = Cluster(range(count // 2, count), "0xd0b", 1024, (710400, 1612800, 2841600))
    return (little, big) if little.cpus else (big,)


def furnish(root: Path, arch: str, port: int) -> None:
    """Fill a phone's own folders: everything but `usr` and `system`, which all phones share."""
    for name in (
        "usr",
        "system",
        "proc",
        "sys",
        "dev",
        "etc",
        "data/misc/adb",
        "data/rig/settings/global",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "sbin", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name, mode in (("tmp", 0o1777), ("data/local/tmp", 0o771)):
        (root / name).mkdir(parents=True)
        (root / name).chmod(mode)
    write_tree(
        root / "etc",
        _accounts()
        | {"properties": "".join(f"{k}={v}\n" for k, v in _properties(arch, port).items())},
    )
    write_tree(root / "sys/devices/system/cpu", _cpus())
    for cluster in clusters():
        for cpu in cluster.cpus:
            (root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq").symlink_to(
                f"../cpufreq/policy{cluster.cpus[0]}"
            )
    for number, (kind, millidegrees) in enumerate(_TEMPERATURES.items()):
        write_tree(
            root / f"sys/class/thermal/thermal_zone{number}",
            {"type": kind, "temp": str(millidegrees)},
        )
    state = {
        "battery": "".join(f"  {key}: {value}\n" for key, value in _BATTERY.items()),
        "thermal_status": "0",
        "wakefulness": "Awake",
        "fixed_performance": "false",
        "fixed_performance_supported": "true",
        "calls": "",
        "settings/global/stay_on_while_plugged_in": "0",
    }
    write_tree(root / "data/rig", state)
    for path in [
        root / "data/local/tmp",
        root / "data/misc/adb",
        *(root / "data/rig").rglob("*"),
        root / "data/rig",
    ]:
        os.chown(path, SHELL_UID, SHELL_UID)


def write_tree(folder: Path, files: Mapping[str, str]) -> None:
    """Write small files with their folders; texts end with a line break, as the kernel's do."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.endswith("\n") or not text else text + "\n")


def cpuinfo() -> str:
    """`/proc/cpuinfo` of the arm64 phone, as Linux prints it (arch/arm64/kernel/cpuinfo.c)."""
    text = ""
    for cluster in clusters():
        for cpu in cluster.cpus:
            text += (
                f"processor\t: {cpu}\nBogoMIPS\t: 38.40\nFeatures\t: {_FEATURES}\nCPU"
                " implementer\t: 0x41\n"
            )
            text += (
                f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {cluster.part}\nCPU"
                " revision\t: 0\n\n"
            )
    return text


def _accounts() -> dict[str, str]:
    users = "root:x:0:0:root:/:/bin/sh\nshell:x:{0}:{0}:shell:/data/local/tmp:/bin/sh\n"
    return {"passwd": users.format(SHELL_UID), "group": f"root:x:0:\nshell:x:{SHELL_UID}:\n"}


def _properties(arch: str, port: int) -> dict[str, str]:
    return {
        "ro.build.fingerprint": f"hwbench/rig_{arch}/rig:14/UP1A.231005.007/1:userdebug/test-keys",
        "ro.build.version.release": "14",
        "ro.build.version.sdk": "34",
        "ro.product.cpu.abi": "arm64-v8a" if arch == "arm64" else "x86_64",
        "ro.product.device": "rig",
        "ro.product.manufacturer": "hwbench",
        "ro.product.model": f"Rig {arch}",
        "ro.product.name": f"rig_{arch}",
        "ro.soc.manufacturer": "hwbench",
        "ro.soc.model": "RIG855",
        "ro.serialno": f"RIG{port}",
        "service.adb.tcp.port": str(port),
        "sys.boot_completed": "1",
    }


def _cpus() -> dict[str, str]:
    last = clusters()[-1].cpus[-1]
    every = f"0-{last}" if last else "0"
    files = {"possible": every, "present": every, "online": every, "offline": "\n"}
    for number, cluster in enumerate(clusters()):
        first, final = cluster.cpus[0], cluster.cpus[-1]
        span, steps = (f"{first}-{final}" if final > first else str(first)), cluster.steps_khz
        clock = {
            "affected_cpus": " ".join(map(str, cluster.cpus)),
            "related_cpus": " ".join(map(str, cluster.cpus)),
            "cpuinfo_max_freq": steps[-1],
            "cpuinfo_min_freq": steps[0],
            "scaling_available_frequencies": " ".join(map(str, steps)),
            "scaling_available_governors": "conservative powersave performance schedutil",
            "scaling_cur_freq": steps[-1],
            "scaling_governor": "schedutil",
            "scaling_max_freq": steps[-1],
            "scaling_min_freq": steps[0],
        }
        files |= {f"cpufreq/policy{first}/{name}": str(value) for name, value in clock.items()}
        for cpu in cluster.cpus:
            mask = f"{sum(1 << other for other in cluster.cpus):x}"
            topology = {
                "physical_package_id": "0",
                "core_id": str(cpu - first),
                "cluster_id": str(number),
            }
            topology |= {
                "core_siblings": mask,
                "core_siblings_list": span,
                "cluster_cpus_list": span,
                "thread_siblings_list": str(cpu),
            }
            files |= {f"cpu{cpu}/topology/{name}": value for name, value in topology.items()}
            files |= {f"cpu{cpu}/cpu_capacity": str(cluster.capacity), f"cpu{cpu}/online": "1"}
    return files
