"""Phones without a phone: Google's adbd with authorisation, in namespaces of its own, on this
computer.

`amd64` runs at full speed; `arm64` runs under qemu-user, real 64-bit Arm code: evidence of
behaviour, never of a latency. A phone is a folder (`Rig.root`) and one process; whatever ends the
test ends the phone, its processes and its mounts.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.devices.android import rig_faces
from tests.devices.android.rig_build import KEYRING, KINDS, PIECES, RigError, built, rig_folder

_QEMU = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
_READY_S = 20.0
_PORTS = range(20000, 32000)
"""Below the ports that the kernel gives to clients, and above 5555..5585, where an adb server takes
a phone for an emulator.
"""


@functools.cache
def missing(arch: str) -> str:
    """What this computer lacks to run a phone of that kind; empty if nothing."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "a rig needs Linux on x86-64"
    if os.geteuid() != 0:
        return "a rig needs root (chroot, mount)"
    programs = ("dpkg-deb", "apt-get", "tar", "mount", "unshare", KINDS[arch].compiler)
    absent = [program for program in programs if shutil.which(program) is None]
    absent += [str(KEYRING)] if not KEYRING.exists() else []
    absent += [str(_QEMU)] if arch == "arm64" and not _QEMU.exists() else []
    if absent:
        packages = " ".join(("dpkg", "util-linux", "debian-archive-keyring", *KINDS[arch].packages))
        return f"an {arch} rig needs {', '.join(absent)}: apt-get install {packages}"
    try:
        subprocess.run([*namespaces(arch), "true"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return f"an {arch} rig needs namespaces, mounts and, for Arm programs, binfmt_misc: {error}"
    return ""


def namespaces(arch: str) -> list[str]:
    """The beginning of a command that runs in mount and process namespaces of its own, where
    programs of `arch` run.

    If it ends, by whatever cause, all that it started ends.
    """
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    return argv if arch == "amd64" else [*argv, "sh", str(PIECES / "with_arm.sh")]


@contextlib.contextmanager
def phone(
    arch: str = "amd64", trusted: Sequence[str] = (), dialog: str = "ignore"
) -> Iterator[Rig]:
    """A phone that listens on `Rig.address` until the end of the block.

    Args:
        arch: `amd64` or `arm64`.
        trusted: Public keys it lets in, as in `adbkey.pub`.
        dialog: What its owner does when asked whether to allow another key: `ignore`, `allow` or
            `deny`.

    Raises:
        pytest.skip.Exception: This computer lacks something; the reason names it.
        RigError: It could not be built or started.
    """
    if reason := missing(arch):
        pytest.skip(reason)
    phones = rig_folder() / "phones"
    phones.mkdir(parents=True, exist_ok=True)
    system = built(arch)
    with _own_folder(phones) as folder:
        rig = Rig(arch, folder, system)
        rig.dialog = dialog
        for key in trusted:
            rig.trust(key)
        try:
            rig.start()
            yield rig
        finally:
            rig.kill()


@contextlib.contextmanager
def _own_folder(phones: Path) -> Iterator[Path]:
    """A folder that goes at the end, or, if this process is killed, when the next phone starts: its
    lock is free then.
    """
    with (phones / ".lock").open("a") as census:
        fcntl.flock(census, fcntl.LOCK_EX)
        for left in phones.glob("*/lock"):
            with left.open("a") as lock, contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left.parent)
        folder = Path(tempfile.mkdtemp(dir=phones))
        lock = (folder / "lock").open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


class Rig:
    """One phone.

    Attributes:
        arch: `amd64` or `arm64`.
        port: Where it listens on 127.0.0.1, the same after a restart.
        root: Its root folder, as this computer sees it. Plain files, which survive a restart: what
            was pushed, and the phone's faces: `sys/` (clocks, temperatures), `data/rig/` (battery,
            thermal status, settings, `calls` that changed any).
    """

    def __init__(self, arch: str, folder: Path, system: Path) -> None:
        self.arch = arch
        self.port = _free_port()
        self.root = folder / "root"
        self._folder, self._system = folder, system
        self._process: subprocess.Popen[bytes] | None = None
        self.root.mkdir()
        rig_faces.furnish(self.root, arch, self.port)
        (folder / "cpuinfo").write_text(rig_faces.cpuinfo())

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def dialog(self) -> str:
        """What its owner does with the dialog "Allow USB debugging?".

        May be changed while it runs.
        """
        return (self._folder / "dialog").read_text()

    @dialog.setter
    def dialog(self, answer: str) -> None:
        if answer not in {"ignore", "allow", "deny"}:
            raise ValueError(f"dialog is {answer!r}; ignore, allow or deny")
        (self._folder / "dialog").write_text(answer)

    def trust(self, key: str) -> None:
        """Let in the owner of a public key."""
        with (self.root / "data/misc/adb/adb_keys").open("a") as file:
            file.write(key.strip() + "\n")

    def start(self) -> None:
        """Switch on, and wait until it listens; on a running phone nothing happens.

        Raises:
            RigError: It does not listen; with what it said.
        """
        if self._process is not None:
            return
        cpuinfo = str(self._folder / "cpuinfo") if self.arch == "arm64" else ""
        init = [
            sys.executable,
            "-I",
            "-S",
            PIECES / "init.py",
            self.root,
            self._system,
            cpuinfo,
            self._folder / "dialog",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*namespaces(self.arch), *init], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _READY_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RigError(
                    f"the {self.arch} phone does not listen on {self.address}: {self.log()[-500:]}"
                )
            time.sleep(0.02)

    def kill(self) -> None:
        """Cut the power: everything on it ends at once, files stay.

        Returns when it is over; twice is fine.
        """
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()  # its first process ends, and the kernel ends the rest
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log(self) -> str:
        """What adbd said to people, since the first start."""
        return (self._folder / "log").read_text(errors="replace")

    def processes(self) -> list[str]:
        """Command lines of what runs on the phone besides its first process and adbd."""
        if self._process is None:
            return []
        namespace = Path(f"/proc/{self._process.pid}/ns/pid_for_children").readlink()
        lines = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "ns/pid").readlink() == namespace:
                    lines.append(
                        (entry / "cmdline")
                        .read_bytes()
                        .rstrip(b"\0")
                        .replace(b"\0", b" ")
                        .decode(errors="replace")
                    )
        own = (str(PIECES / "init.py"), "/usr/sbin/adbd")
        return sorted(line for line in lines if line and not any(name in line for name in own))

    def set_thermal_status(self, status: int) -> None:
        """Android's thermal status: 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency,
        6 shutdown.
        """
        (self.root / "data/rig/thermal_status").write_text(f"{status}\n")

    def cap_frequency(self, share: float) -> None:
        """Lower the highest clock of every cluster to that share of it, as a hot phone does.

        1.0 lifts the cap.
        """
        for policy in (self.root / "sys/devices/system/cpu/cpufreq").iterdir():
            highest_khz = int((policy / "cpuinfo_max_freq").read_text())
            for name in ("scaling_max_freq", "scaling_cur_freq"):
                (policy / name).write_text(f"{int(highest_khz * share)}\n")

    def settings(self) -> dict[str, str]:
        """Android's global settings, and the fixed performance mode as the setting
        `fixed_performance`.
        """
        state = self.root / "data/rig"
        paths = [*(state / "settings/global").iterdir(), state / "fixed_performance"]
        return {path.name: path.read_text().strip() for path in paths}

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RigError(f"no free port among 100 of {_PORTS}")
