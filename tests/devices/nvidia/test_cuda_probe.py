"""Probing CUDA: through real ctypes calls into stub libraries, and through every way in which it
can fail.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from tempfile import mkdtemp

import pytest

from hwbench.devices.nvidia import probe as probe_module
from hwbench.devices.nvidia.probe import Gpu, probe
from tests.devices.nvidia.stub_driver import stub_driver  # noqa: F401 - a fixture
from tests.needs import needs_compiler

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def _bare_system(monkeypatch):
    """Nothing of this computer's own driver or devices shows."""
    monkeypatch.setattr(probe_module, "_closed_files", lambda: "")
    monkeypatch.setattr(probe_module, "_driver_in_kernel", lambda: False)
    monkeypatch.setattr(probe_module, "_on_bus", lambda: False)


def test_gpus_are_described(stub_driver):
    found = probe()
    assert found.ok
    assert not found.reason
    assert found.cuda == (13, 0)
    uuid = "GPU-10111213-1415-1617-1819-1a1b1c1d1e1f"
    assert found.devices[1] == Gpu(1, uuid, "Stub Two", 142 << 30, (9, 0))


def test_this_process_does_not_load_the_driver(stub_driver):
    probe()
    assert "libcuda.so" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("setting", "reason", "remedy"),
    [
        (("STUB_CRASH", "1"), "crashed.*signal 11", "nvidia-smi"),
        (("STUB_INIT", "803"), "differ", "restart"),
        (("STUB_INIT", "802"), "fabric", "nvidia-fabricmanager"),
        (("STUB_INIT", "77777"), "code 77777", "nvidia-smi"),
        (("STUB_INIT", "700"), "CUDA_ERROR_OF_THE_STUB", "nvidia-smi"),
        (("STUB_INIT", "100"), "no GPU", ""),
        (("STUB_GPUS", "0"), "no GPU", ""),
    ],
)
def test_failures_are_explained(stub_driver, setting, reason, remedy):
    stub_driver.setenv(*setting)
    found = probe()
    assert not found.ok
    assert found.devices == ()
    assert re.search(reason, found.reason)
    assert remedy in found.remedy
    assert len((found.reason + found.remedy).splitlines()) == 1


def test_hidden_gpus_are_named_as_such(stub_driver):
    stub_driver.setenv("CUDA_VISIBLE_DEVICES", "")
    stub_driver.setenv("STUB_INIT", "100")
    found = probe()
    assert "CUDA_VISIBLE_DEVICES is ''" in found.reason
    assert found.remedy == "unset CUDA_VISIBLE_DEVICES"


def test_a_hanging_driver_is_left(stub_driver):
    stub_driver.setenv("STUB_HANG", "1")
    start = time.monotonic()
    found = probe(timeout_s=0.5)
    assert time.monotonic() - start < 5
    assert not found.ok
    assert "0.5 s" in found.reason


def test_without_any_driver(monkeypatch):
    monkeypatch.setattr(probe_module, "__file__", _without_library())
    found = probe()
    assert not found.ok
    assert "no NVIDIA GPU" in found.reason
    monkeypatch.setattr(probe_module, "_on_bus", lambda: True)
    assert "ubuntu-drivers" in probe().remedy
    monkeypatch.setattr(probe_module, "_driver_in_kernel", lambda: True)
    assert "--gpus all" in probe().remedy
    monkeypatch.setattr(probe_module, "_closed_files", lambda: "/dev/nvidia0")
    assert "usermod -aG" in probe().remedy


def _without_library() -> str:
    """The probe's file, but asking for a library that no computer has."""
    text = Path(probe_module.__file__).read_text()
    copy = Path(mkdtemp(prefix="hwbench-probe-")) / "probe.py"
    assert 'LIBRARY = "libcuda.so.1"' in text
    copy.write_text(
        text.replace('LIBRARY = "libcuda.so.1"', 'LIBRARY = "libcuda-that-is-not-there.so"')
    )
    return str(copy)
