"""Where the parts of an on-device bundle come from, and that they are what they should be.

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
from pathlib import Path, PurePath

from hwbench.devices.shared.runner.build import ort_library
from hwbench.devices.shared.runner.protocol import one_line
from hwbench.errors import DeviceTimeoutError, DeviceUnavailableError, UsageError
from hwbench.network.ort import onnxruntime


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor that a bundle can be for.

    Attributes:
        loader: File name of the C library's loader.
        elf: `e_machine` of its programs (ELF specification, table of machines).
        folders: Where a computer of this kind, or Debian's packages for it, keep the C library.
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
"""What ONNX Runtime's wheels and the runner are linked against (their ELF NEEDED entries)."""
_PACKAGES = ("libc6-arm64-cross", "libgcc-s1-arm64-cross", "libstdc++6-arm64-cross")
"""Debian's and Ubuntu's packages of the same, of architecture `all`: any computer can fetch them."""
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_CROSS_COMPILER = "aarch64-linux-gnu-gcc"
_OTHERWISE = "or give Android's own build: hwbench devices setup android --aar .. --ndk .."
_AAR_MEMBER = "jni/arm64-v8a/libonnxruntime.so"
_MAX_LIBRARY_BYTES = 1 << 29
_OLDEST_ANDROID = 24
"""API level: Android 7, the first whose adbd speaks shell v2, and the oldest that onnxruntime-android supports."""
_VERSION = re.compile(rb"\0VERS_(\d+\.\d+\.\d+)\0")
"""ONNX Runtime names the version of its exported symbols so (its linker scripts, tools/ci_build/gen_def.py)."""
_DOWNLOAD_TIMEOUT_S = 600.0


def host_version() -> str:
    """Version of ONNX Runtime on the host: the one that a bundle has."""
    return str(onnxruntime().__version__)


def compiler(machine: str) -> str | None:
    """What compiles the runner for `machine`, as one would type it.

    None: this computer's own compiler.

    Raises:
        DeviceUnavailableError: There is none.
    """
    if machine == platform.machine():
        return None
    if machine == "aarch64":
        if shutil.which(_CROSS_COMPILER):
            return _CROSS_COMPILER
        if importlib.util.find_spec("ziglang") is not None:
            # glibc 2.28 is the oldest that ONNX Runtime's wheels run with, so the runner asks for
            # no more
            return f"{shlex.quote(sys.executable)} -m ziglang cc -target aarch64-linux-gnu.2.28"
        hint = (
            "apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross, or pip install ziglang,"
            f" {_OTHERWISE}"
        )
        raise DeviceUnavailableError(f"no C compiler for 64-bit Arm; {hint}")
    raise DeviceUnavailableError(
        f"a bundle for {machine} is made on {machine}; this computer is {platform.machine()}"
    )


def c_library(machine: str, scratch: Path) -> list[Path]:
    """The loader and the C library's files for `machine`: those that are installed, else fetched into `scratch`.

    Raises:
        DeviceUnavailableError: They are not installed and cannot be fetched; says what to install.
        DeviceTimeoutError: apt-get did not finish.
    """
    folders = [Path(folder) for folder in MACHINES[machine].folders]
    found = _complete(folders, machine)
    if not found and machine == "aarch64":
        found = _complete([_fetch_c_library(scratch) / folders[0].relative_to("/")], machine)
    if not found:
        wanted = " ".join(_PACKAGES) if machine == "aarch64" else "libstdc++6"
        raise DeviceUnavailableError(
            f"no C library for {machine} in {folders[0]}; apt install {wanted}, {_OTHERWISE}"
        )
    return found


def _complete(folders: Sequence[Path], machine: str) -> list[Path]:
    """The C library's files from the first folder that has them all: parts of two releases do not fit together."""
    for folder in folders:
        paths = [folder / name for name in (MACHINES[machine].loader, *_C_LIBRARY)]
        if all(path.is_file() and _elf_machine(path) == MACHINES[machine].elf for path in paths):
            return paths
    return []


def _fetch_c_library(scratch: Path) -> Path:
    hint = f"apt install {' '.join(_PACKAGES)}, {_OTHERWISE}"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DeviceUnavailableError(
            "no C library for 64-bit Arm, and no apt-get to fetch it with; on Debian or Ubuntu:"
            f" {hint}"
        )
    packages, root = scratch / "packages", scratch / "root"
    packages.mkdir()
    _fetch(["apt-get", "-q", "download", *_PACKAGES], packages, hint)
    for package in sorted(packages.glob("*.deb")):
        _fetch(["dpkg-deb", "-x", str(package), str(root)], packages, hint)
    return root


def ort_library_for(machine: str, version: str, scratch: Path) -> Path:
    """ONNX Runtime's C library for `machine`: this computer's own, or out of the wheel, fetched into `scratch`.

    Raises:
        DeviceUnavailableError: The wheel cannot be had, or has no such library; says what to do.
        DeviceTimeoutError: pip did not finish.
    """
    if machine == platform.machine():
        return ort_library()
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
    argv += [word for name in _PLATFORMS for word in ("--platform", name)]
    argv += [
        "--python-version",
        f"{sys.version_info.major}.{sys.version_info.minor}",
        "--dest",
        str(scratch),
    ]
    hint = (
        f"look whether `pip download onnxruntime=={version}` works here (python -m ensurepip if pip"
        f" is missing), {_OTHERWISE}"
    )
    _fetch([*argv, f"onnxruntime=={version}"], scratch, hint)
    wheels = sorted(scratch.glob(f"onnxruntime-{version}-*.whl"))
    if not wheels:
        raise DeviceUnavailableError(f"pip brought no wheel of onnxruntime {version}; {hint}")
    library = scratch / "libonnxruntime.so"
    library.write_bytes(library_of_wheel(wheels[0]))
    return library


def _fetch(argv: Sequence[str], folder: Path, hint: str) -> None:
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
        raise DeviceUnavailableError(f"{words} does not start ({error}); {hint}") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceTimeoutError(
            f"{words} did not finish within {_DOWNLOAD_TIMEOUT_S:.0f} s; look at the network, try"
            " again"
        ) from error
    if done.returncode != 0:
        tail = one_line(done.stderr[-400:].decode("utf-8", "replace"))
        raise DeviceUnavailableError(f"{words} failed ({done.returncode}: {tail}); {hint}")


def library_of_wheel(wheel: Path) -> bytes:
    """ONNX Runtime's C library inside a wheel, checked against the wheel's own RECORD (PEP 427).

    Raises:
        DeviceUnavailableError: It is not in it, or damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            name = next(
                name
                for name in names
                if re.fullmatch(r"onnxruntime/capi/libonnxruntime\.so[\d.]*", name)
            )
            record = next(name for name in names if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
            rows = {
                row[0]: row[1]
                for row in csv.reader(archive.read(record).decode().splitlines())
                if len(row) == 3
            }
            data = _read_member(archive, name)
    except (OSError, StopIteration, ValueError, zipfile.BadZipFile) as error:
        raise DeviceUnavailableError(
            f"{wheel.name} is no wheel of onnxruntime for Linux ({error!r}); pip cache purge, try"
            " again"
        ) from error
    if rows.get(name) != "sha256=" + base64.urlsafe_b64encode(
        sha256(data).digest()
    ).decode().rstrip("="):
        raise DeviceUnavailableError(
            f"{name} in {wheel.name} is not what its RECORD says; pip cache purge, try again"
        )
    return data


def library_of_aar(aar: Path) -> bytes:
    """ONNX Runtime's library for arm64 inside an Android archive.

    Read by its exact name, so no path in it is ever followed.

    Raises:
        UsageError: It is no such archive.
    """
    try:
        with zipfile.ZipFile(aar) as archive:
            return _read_member(archive, _AAR_MEMBER)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{aar} is no onnxruntime-android AAR ({error}); a zip file with {_AAR_MEMBER} was"
            " expected"
        ) from error


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > _MAX_LIBRARY_BYTES:
        raise ValueError(f"{name} has {size} bytes, more than {_MAX_LIBRARY_BYTES}")
    return archive.read(name)


def library_version(library: bytes, origin: PurePath) -> str:
    """Version of ONNX Runtime, as the library itself tells it.

    Raises:
        UsageError: It is another library.
    """
    found = set(_VERSION.findall(library))
    if len(found) != 1:
        raise UsageError(
            f"the library in {origin} does not say which ONNX Runtime it is (found"
            f" {sorted(found)}); take another AAR"
        )
    return str(found.pop().decode())


def ndk_compiler(ndk: Path) -> str:
    """The NDK's C compiler for arm64, for the oldest Android that will do, as one would type it.

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


def check_machine(path: Path, machine: str) -> None:
    """Check that a file is a program or library for `machine`.

    Raises:
        DeviceUnavailableError: It is not.
    """
    found = _elf_machine(path)
    if found != MACHINES[machine].elf:
        told = "no ELF file" if found is None else f"for ELF machine {found}"
        raise DeviceUnavailableError(
            f"{path.name} is {told}; {machine} ({MACHINES[machine].elf}) was expected: look at the"
            " compiler and the packages"
        )


def _elf_machine(path: Path) -> int | None:
    with path.open("rb") as file:
        head = file.read(20)
    return (
        int.from_bytes(head[18:20], "little")
        if head[:5] == b"\x7fELF\x02" and len(head) == 20
        else None
    )
