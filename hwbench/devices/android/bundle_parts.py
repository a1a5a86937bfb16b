"""Finding the parts of an on-device bundle, and checking that they are what they should be.

Nothing is downloaded but through pip and apt-get, which verify what they fetch, and nothing is
installed.
"""

from __future__ import annotations

import base64
import csv
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from hwbench.devices.android.bundle_runtimes import Runtime
from hwbench.devices.shared.runner.protocol import one_line
from hwbench.errors import DeviceTimeoutError, DeviceUnavailableError, UsageError


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor that a bundle can be for.

    Attributes:
        loader: The file name of the C library's loader.
        elf: The `e_machine` of its programs (ELF specification, table of machines).
        folders: The folders where a computer of this kind, or Debian's packages for it, keep the C
            library.
    """

    loader: str
    elf: int
    folders: tuple[str, ...]


MACHINES = {
    "aarch64": Machine(
        "ld-linux-aarch64.so.1",
        183,
        (
            "/usr/aarch64-linux-gnu/lib",
            "/lib/aarch64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/lib",
            "/lib64",
            "/usr/lib64",
            "/usr/lib",
        ),
    ),
    "x86_64": Machine(
        "ld-linux-x86-64.so.2",
        62,
        ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"),
    ),
}

_C_LIBRARY = (
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
    "libgcc_s.so.1",
)
"""What the runtimes' wheels and the runners are linked against (their ELF NEEDED entries)."""
_PACKAGES = ("libc6-arm64-cross", "libgcc-s1-arm64-cross", "libstdc++6-arm64-cross")
"""Debian's and Ubuntu's packages of these libraries.

They are of architecture `all`, so that any computer can fetch them.
"""
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_CROSS_COMPILER = "aarch64-linux-gnu-gcc"
_MAX_LIBRARY_BYTES = 1 << 29
_OLDEST_ANDROID = 24
"""The API level of Android 7.

It is the first whose adbd speaks shell v2, and the oldest that onnxruntime-android supports.
"""
_LIBC_VERSION = re.compile(rb"(?<=\0)(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+(?=\0)")
"""How a library names the versions of the C library and of C++'s that it needs (System V ABI)."""
_DOWNLOAD_TIMEOUT_S = 600.0


def find_compiler(machine: str, runtime: Runtime) -> str | None:
    """Find the compiler of the runner for a machine.

    Args:
        machine: The processor, as `uname -m` says it.
        runtime: What the runner is for.

    Returns:
        The command as one would type it; None for this computer's own compiler.

    Raises:
        DeviceUnavailableError: There is none.
    """
    if machine == platform.machine():
        return None
    if machine == "aarch64":
        if shutil.which(_CROSS_COMPILER):
            return _CROSS_COMPILER
        if importlib.util.find_spec("ziglang") is not None:
            # glibc 2.28 is the oldest that any of the wheels runs with, so the runner asks for no
            # more
            return f"{shlex.quote(sys.executable)} -m ziglang cc -target aarch64-linux-gnu.2.28"
        raise DeviceUnavailableError(
            "no C compiler for 64-bit Arm; apt install gcc-aarch64-linux-gnu"
            " libc6-dev-arm64-cross, or pip install ziglang",
            runtime.android_build,
        )
    raise DeviceUnavailableError(
        f"a bundle for {machine} is made on {machine}; this computer is {platform.machine()}"
    )


def find_c_library(machine: str, runtime: Runtime, scratch: Path) -> list[Path]:
    """Find the loader and the files of the C library for a machine.

    Args:
        machine: The processor, as `uname -m` says it.
        runtime: What needs it.
        scratch: A folder into which they are fetched if they are not installed.

    Raises:
        DeviceUnavailableError: They are not installed and cannot be fetched; the message says what
            to install.
        DeviceTimeoutError: apt-get did not finish.
    """
    folders = [Path(folder) for folder in MACHINES[machine].folders]
    files = _find_complete_set(folders, machine)
    if not files and machine == "aarch64":
        fetched = _fetch_c_library(runtime, scratch) / folders[0].relative_to("/")
        files = _find_complete_set([fetched], machine)
    if not files:
        packages = " ".join(_PACKAGES) if machine == "aarch64" else "libstdc++6"
        raise DeviceUnavailableError(
            f"no C library for {machine} in {folders[0]}; apt install {packages}",
            runtime.android_build,
        )
    return files


def _find_complete_set(folders: Sequence[Path], machine: str) -> list[Path]:
    """Find the C library's files in the first folder that has them all.

    Parts of two releases do not fit together, so files of two folders are never mixed.
    """
    for folder in folders:
        paths = [folder / name for name in (MACHINES[machine].loader, *_C_LIBRARY)]
        if all(path.is_file() and _elf_machine(path) == MACHINES[machine].elf for path in paths):
            return paths
    return []


def _fetch_c_library(runtime: Runtime, scratch: Path) -> Path:
    """Download and unpack Debian's packages of the C library; gives the folder they lie in."""
    hint = f"apt install {' '.join(_PACKAGES)}"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DeviceUnavailableError(
            "no C library for 64-bit Arm, and no apt-get to fetch it with; on Debian or Ubuntu:"
            f" {hint}",
            runtime.android_build,
        )
    packages, root = scratch / "packages", scratch / "root"
    packages.mkdir()
    _run_download(["apt-get", "-q", "download", *_PACKAGES], packages, hint, runtime)
    for package in sorted(packages.glob("*.deb")):
        _run_download(["dpkg-deb", "-x", str(package), str(root)], packages, hint, runtime)
    return root


def find_library(machine: str, runtime: Runtime, version: str, scratch: Path) -> Path:
    """Find a runtime's C library for a machine: this computer's own, or out of a wheel.

    Args:
        machine: The processor, as `uname -m` says it.
        runtime: The runtime.
        version: Its version.
        scratch: A folder into which the wheel is fetched.

    Raises:
        DeviceUnavailableError: The wheel cannot be had, or has no such library; the message says
            what to do.
        DeviceTimeoutError: pip did not finish.
    """
    if machine == platform.machine():
        return runtime.host_library()
    requirement = f"{runtime.distribution}=={version}"
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-input",
    ]
    for platform_tag in _PLATFORMS:
        argv += ["--platform", platform_tag]
    argv += ["--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"]
    argv += ["--dest", str(scratch), requirement]
    hint = (
        f"look whether `pip download {requirement}` works here (python -m ensurepip if pip is"
        " missing), or put its wheel for aarch64 into a folder and set PIP_FIND_LINKS to that"
    )
    _run_download(argv, scratch, hint, runtime)
    wheels = sorted(scratch.glob(f"{runtime.distribution.replace('-', '_')}-{version}-*.whl"))
    if not wheels:
        raise DeviceUnavailableError(
            f"pip brought no wheel of {runtime.distribution} {version}; {hint}",
            runtime.android_build,
        )
    library = scratch / runtime.library
    library.write_bytes(read_wheel_library(wheels[0], runtime))
    return library


def _run_download(argv: Sequence[str], folder: Path, hint: str, runtime: Runtime) -> None:
    """Run a command that downloads or unpacks.

    Args:
        argv: The command.
        folder: The folder to run it in.
        hint: What to do if it fails, for messages.
        runtime: What it is for.
    """
    words = " ".join(argv[:4] if argv[0] == sys.executable else argv[:2])
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise DeviceUnavailableError(
            f"{words} does not start ({error}); {hint}", runtime.android_build
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceTimeoutError(
            f"{words} did not finish within {_DOWNLOAD_TIMEOUT_S:.0f} s; look at the network, try"
            " again"
        ) from error
    if done.returncode != 0:
        tail = one_line(done.stderr[-400:].decode("utf-8", "replace"))
        raise DeviceUnavailableError(
            f"{words} failed ({done.returncode}: {tail}); {hint}", runtime.android_build
        )


def read_wheel_library(wheel: Path, runtime: Runtime) -> bytes:
    """Read a runtime's C library out of a wheel, checked against the wheel's RECORD (PEP 427).

    Raises:
        DeviceUnavailableError: The library is not in it, or damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            library = _find_member(archive, runtime.wheel_member)
            record = _find_member(archive, r"[^/]+\.dist-info/RECORD")
            recorded_hashes = {}
            for row in csv.reader(archive.read(record).decode().splitlines()):
                if len(row) == 3:
                    recorded_hashes[row[0]] = row[1]
            data = _read_member(archive, library)
    except (OSError, LookupError, ValueError, zipfile.BadZipFile) as error:
        raise DeviceUnavailableError(
            f"{wheel.name} is no wheel of {runtime.distribution} for Linux ({error!r}); pip cache"
            " purge, try again"
        ) from error
    digest = base64.urlsafe_b64encode(sha256(data).digest()).decode().rstrip("=")
    if recorded_hashes.get(library) != f"sha256={digest}":
        raise DeviceUnavailableError(
            f"{library} in {wheel.name} is not what its RECORD says; pip cache purge, try again"
        )
    return data


def _find_member(archive: zipfile.ZipFile, pattern: str) -> str:
    """Find the first member of an archive whose name matches a pattern."""
    for name in archive.namelist():
        if re.fullmatch(pattern, name):
            return name
    raise LookupError(f"no member {pattern}")


def read_aar_library(aar: Path, runtime: Runtime) -> bytes:
    """Read a runtime's library for arm64 out of an Android archive.

    It is read by its exact name, so that no path in the archive is ever followed.

    Raises:
        UsageError: The file is no such archive.
    """
    try:
        with zipfile.ZipFile(aar) as archive:
            return _read_member(archive, runtime.aar_member)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{aar} is no {runtime.aar_name} AAR ({error}); a zip file with"
            f" {runtime.aar_member} was expected"
        ) from error


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > _MAX_LIBRARY_BYTES:
        raise ValueError(f"{name} has {size} bytes, more than {_MAX_LIBRARY_BYTES}")
    return archive.read(name)


def find_ndk_compiler(ndk: Path) -> str:
    """Find the NDK's C compiler for arm64 and the oldest Android that will do.

    Args:
        ndk: The folder of the NDK.

    Returns:
        The command as one would type it.

    Raises:
        UsageError: There is none in that folder.
    """
    pattern = "toolchains/llvm/prebuilt/*/bin/aarch64-linux-android*-clang"
    levels = {}
    for path in sorted(ndk.glob(pattern)):
        level = re.fullmatch(r"aarch64-linux-android(\d+)-clang", path.name)
        if level and int(level[1]) >= _OLDEST_ANDROID and os.access(path, os.X_OK):
            levels[int(level[1])] = path.absolute()
    if not levels:
        expected = f"{pattern} of API level {_OLDEST_ANDROID} or above was expected"
        raise UsageError(f"{ndk} is no Android NDK; {expected}: the folder that holds 'toolchains'")
    return shlex.quote(str(levels[min(levels)]))


def check_versions(library: Path, c_library: Sequence[Path], runtime: Runtime) -> None:
    """Check that the C library is as new as a runtime's library needs it.

    Args:
        library: The runtime's library.
        c_library: The files of the C library.
        runtime: The runtime.

    Raises:
        DeviceUnavailableError: It is older; the message says what is missing in it.
    """
    there = set()
    for path in c_library:
        there.update(_LIBC_VERSION.findall(path.read_bytes()))
    missing = sorted(
        name.decode() for name in set(_LIBC_VERSION.findall(library.read_bytes())) - there
    )
    if missing:
        raise DeviceUnavailableError(
            f"the C library in {c_library[0].parent} is too old for {runtime.title}: it has no"
            f" {', '.join(missing)}; take a newer release of the system (LiteRT needs that of"
            " Debian 12 or Ubuntu 22.04)",
            runtime.android_build,
        )


def check_machine(path: Path, machine: str) -> None:
    """Check that a file is a program or library for `machine`.

    Raises:
        DeviceUnavailableError: It is not.
    """
    file_machine = _elf_machine(path)
    if file_machine != MACHINES[machine].elf:
        kind = "no ELF file" if file_machine is None else f"for ELF machine {file_machine}"
        raise DeviceUnavailableError(
            f"{path.name} is {kind}; {machine} ({MACHINES[machine].elf}) was expected: look at the"
            " compiler and the packages"
        )


def _elf_machine(path: Path) -> int | None:
    """Read the machine of a 64-bit ELF file; None if it is none."""
    with path.open("rb") as file:
        header = file.read(20)
    if header[:5] != b"\x7fELF\x02" or len(header) < 20:
        return None
    return int.from_bytes(header[18:20], "little")
