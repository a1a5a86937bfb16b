"""NVIDIA's own Python packages, kept in the tests' cache folder.

A test that cannot have one is skipped by its name.

The bindings are imported without TensorRT: stub libraries answer to the few names that the module
links to. Nothing of NVIDIA's is copied into this repository or its environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import ZipFile

import platformdirs
import pytest

from tests.support.paths import ROOT

BINDINGS = {
    "8.6.1": "tensorrt_bindings==8.6.1",
    "10.16.1.11": "tensorrt_cu13_bindings==10.16.1.11",
    "11.4.0.106": "tensorrt_cu13_bindings==11.4.0.106",
}
CUDA = ("cuda-bindings==13.0.3", "cuda-pathfinder==1.9.0")
RTX = "tensorrt-rtx==1.7.1.116"
DOWNLOAD_S = 600
_SYSTEM = re.compile(r"_?Py|dl(open|sym|close|error)$|_ITM_|__gmon|__cxa_finalize$")


def bindings(version: str) -> Path:
    """A folder to put first on the path: `tensorrt_bindings` of that version.

    Its stub libraries are in `lib`.
    """

    def make(folder: Path) -> None:
        _download([BINDINGS[version]], folder)
        _stub(folder / "tensorrt_bindings" / "tensorrt.so", folder / "lib")

    return _kept(f"bindings-{version}", make)


def cuda() -> Path:
    """A folder with `cuda.bindings`."""
    return _kept("cuda-bindings", lambda folder: _download(CUDA, folder))


def rtx() -> Path:
    """A folder with `tensorrt_rtx`, complete: 95 MB to fetch, 230 MB on disk."""
    return _kept("rtx", lambda folder: _pip("install", "--target", str(folder), RTX))


def _kept(name: str, make: Callable[[Path], object]) -> Path:
    """The folder of that name, made whole or not at all; two processes may make it at once."""
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    home = Path(platformdirs.user_cache_dir("hwbench")) / "tests-nvidia"
    target = home / f"{name}-{python}"
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=home, prefix="."))
    try:
        make(folder)
        folder.rename(target)
    except (subprocess.SubprocessError, FileNotFoundError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"needs {name} of NVIDIA, which cannot be had here: {str(error)[:200]}")
    except OSError:  # another process was first
        shutil.rmtree(folder, ignore_errors=True)
    return target


def _pip(*arguments: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        *arguments[:1],
        "-q",
        "--disable-pip-version-check",
        *arguments[1:],
    ]
    subprocess.run(command, check=True, timeout=DOWNLOAD_S, capture_output=True)


def _download(packages: Sequence[str], folder: Path) -> None:
    with tempfile.TemporaryDirectory() as wheels:
        _pip("download", "--no-deps", "--only-binary=:all:", "-d", wheels, *packages)
        for wheel in Path(wheels).glob("*.whl"):
            with ZipFile(wheel) as archive:
                archive.extractall(folder)


def _stub(extension: Path, folder: Path) -> None:
    """Compile libraries that the module links to, whose functions all return null."""
    folder.mkdir()
    needed = re.findall(r"NEEDED.*\[(libnv\S+)\]", _output("readelf", "-d", str(extension)))
    undefined = re.findall(
        r"^\s+U ([A-Za-z_]\w*)$",
        _output("nm", "-D", "--undefined-only", str(extension)),
        re.MULTILINE,
    )
    body = "".join(
        f"void *{name}(void) {{ return 0; }}\n" for name in undefined if not _SYSTEM.match(name)
    )
    for place, soname in enumerate(needed):
        command = [
            "cc",
            "-x",
            "c",
            "-",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{soname}",
            "-o",
            str(folder / soname),
        ]
        subprocess.run(
            command,
            input="\n" if place else body,
            text=True,
            check=True,
            timeout=60,
            capture_output=True,
        )


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout


def environment(*folders: Path) -> dict[str, str]:
    """For a process that imports from these folders, without a GPU."""
    paths = [str(folder) for folder in folders] + [str(ROOT)]
    libraries = [str(folder / "lib") for folder in folders if (folder / "lib").is_dir()]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }
