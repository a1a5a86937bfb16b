"""A fake phone around the Python adbd: its own /data, /sys and Android commands, whose state a test
can see and set.

Commands run in a mount namespace whose root holds this computer's folders and, over them, the
phone's (`unshare`, `nsenter`); nothing outside the folder given is written. It needs the right to
mount, so `needs_namespace` skips tests without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Self

import pytest

from tests.devices.android.pyadbd import PyAdbd

PROGRAMS = Path(__file__).parent / "pyadbd_programs"
"""The Android commands, scripts for `sh`; their state is in /fake on the phone."""
# It is ready only inside the new root: others enter by that of this process.
_ENTER = """
set -e; new=$1; phone=$2
mount -t tmpfs -o mode=755 tmpfs "$new"
for there in /*; do
  name=${there#/}
  case $name in data|fake|system|sys|lost+found) continue;; esac
  if [ -L "$there" ]; then cp -P "$there" "$new/$name"
  elif [ -d "$there" ]; then mkdir "$new/$name"; mount --rbind "$there" "$new/$name"; fi
done
for name in data fake system sys; do mkdir "$new/$name"; mount --bind "$phone/$name" "$new/$name"; done
cd "$new"; exec chroot "$new" sh -c 'echo ready; exec cat'
"""


@cache
def _namespaces() -> bool:
    if not all(shutil.which(program) for program in ("unshare", "nsenter", "chroot")):
        return False
    probe = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "mount",
        "-t",
        "tmpfs",
        "tmpfs",
        "/mnt",
    ]
    return subprocess.run(probe, capture_output=True).returncode == 0


needs_namespace = pytest.mark.skipif(
    not _namespaces(), reason="a fake phone needs root and a mount namespace (unshare --mount)"
)


class FakePhone:
    """A phone in a folder: a context manager.

    `adbd` is its daemon, for faults and for what runs on it.

    Args:
        folder: An empty folder for its files.
        cores: Its CPUs; the second half are the big ones.
        options: Of `PyAdbd`.
    """

    def __init__(self, folder: Path, *, cores: int = os.cpu_count() or 1, **options: Any) -> None:
        self.folder, self.address = folder, ""
        (folder / "data/local/tmp").mkdir(parents=True)
        (folder / "new").mkdir()
        shutil.copytree(PROGRAMS / "bin", folder / "system/bin")
        shutil.copytree(PROGRAMS / "state", folder / "fake")
        for program in (folder / "system/bin").iterdir():
            program.chmod(0o755)
        (folder / "system/bin/sh").symlink_to("/bin/sh")
        _make_sys(folder / "sys", cores)
        self._options = options

    def __enter__(self) -> Self:
        enter = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _ENTER,
            "sh",
            self.folder / "new",
            self.folder,
        ]
        self._holder = subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._holder.stdout.readline() != b"ready\n":
            self._end_holder()
            raise OSError("the fake phone's namespace could not be made")
        place = f"/proc/{self._holder.pid}"
        self.adbd = PyAdbd(
            prefix=[
                "nsenter",
                f"--mount={place}/ns/mnt",
                f"--root={place}/root",
                f"--wd={place}/root",
            ],
            folders={f"/{name}": self.folder / name for name in ("data", "fake", "system", "sys")},
            environment={
                "PATH": "/system/bin:/usr/bin:/bin",
                "HOME": "/data/local/tmp",
                "TMPDIR": "/data/local/tmp",
            },
            **self._options,
        )
        self.address = self.adbd.address
        return self

    def __exit__(self, *_: object) -> None:
        self.adbd.close()
        self._end_holder()

    def _end_holder(self) -> None:
        self._holder.communicate(timeout=10)

    @property
    def home(self) -> Path:
        """Its /data/local/tmp, as seen from here."""
        return self.folder / "data/local/tmp"

    def setting(self, namespace: str, key: str) -> str | None:
        """The value of an Android setting; None if it is not set."""
        file = self.folder / "fake/settings" / namespace / key
        return file.read_text().rstrip("\n") if file.exists() else None

    def state(self, name: str, value: str | None = None) -> str:
        """One piece of its state (a file of /fake), set first if a value is given."""
        file = self.folder / "fake" / name
        if value is not None:
            file.write_text(f"{value}\n")
        return file.read_text().rstrip("\n")

    def changeable(self) -> dict[str, str]:
        """Everything that a visitor could have changed: settings, modes, governors.

        Equal before and after a good one.
        """
        files = [*(self.folder / "fake").rglob("*"), *(self.folder / "sys").rglob("scaling_*")]
        return {
            str(file.relative_to(self.folder)): file.read_text()
            for file in files
            if file.is_file() and file.name != "calls"
        }

    def calls(self) -> list[str]:
        """The Android commands called so far, with their arguments."""
        file = self.folder / "fake/calls"
        return file.read_text().splitlines() if file.exists() else []


def _make_sys(sys: Path, cores: int) -> None:
    """A phone's /sys as far as it matters: CPUs in two clusters, thermal zones."""
    cpu = sys / "devices/system/cpu"
    for index in range(cores):
        big = index >= cores // 2
        fastest = "2850000" if big else "1800000"
        cluster = range(cores // 2, cores) if big else range(cores // 2)
        members = f"{cluster[0]}-{cluster[-1]}" if len(cluster) > 1 else str(cluster[0])
        _write(
            cpu / f"cpu{index}/cpufreq",
            cpuinfo_max_freq=fastest,
            scaling_max_freq=fastest,
            cpuinfo_min_freq="300000",
        )
        _write(
            cpu / f"cpu{index}/cpufreq",
            scaling_min_freq="300000",
            scaling_cur_freq=fastest,
            scaling_governor="schedutil",
        )
        _write(cpu / f"cpu{index}", cpu_capacity="1024" if big else "380", online="1")
        _write(
            cpu / f"cpu{index}/topology",
            core_id=str(index),
            physical_package_id="0",
            cluster_cpus_list=members,
        )
        _write(
            cpu / f"cpu{index}/topology",
            core_siblings_list=f"0-{cores - 1}",
            package_cpus_list=f"0-{cores - 1}",
        )
    present = f"0-{cores - 1}" if cores > 1 else "0"
    _write(cpu, possible=present, present=present, online=present, offline="")
    for index, (kind, temperature) in enumerate(
        (("cpu-0", 38000), ("cpu-1", 39500), ("skin", 33000), ("battery", 29100))
    ):
        _write(sys / f"class/thermal/thermal_zone{index}", type=kind, temp=str(temperature))


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
