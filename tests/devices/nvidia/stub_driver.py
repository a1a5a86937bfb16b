"""NVIDIA's driver libraries as stubs, compiled from C, so that the real ctypes calls are made."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

SOURCE = Path(__file__).with_name("stub_driver.c")


@cache
def folder() -> Path:
    """Where libcuda.so.1 and libnvidia-ml.so.1 lie."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    place = Path(mkdtemp(prefix="hwbench-stub-"))
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        command = [
            compiler,
            "-shared",
            "-fPIC",
            "-Wall",
            "-Werror",
            f"-Wl,-soname,{name}",
            "-o",
            str(place / name),
            str(SOURCE),
        ]
        subprocess.run(command, check=True, timeout=60)
    return place


@pytest.fixture
def stub_driver(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The stubs in the place of the driver.

    What they say is set with `setenv` on what this returns.
    """
    from hwbench.devices.nvidia import nvml

    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder()))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml, "LIBRARY", str(folder() / "libnvidia-ml.so.1"))
    return monkeypatch
