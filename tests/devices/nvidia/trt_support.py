"""The TensorRT driver as tests open it: on fakes of one version, in a process of its own."""

from __future__ import annotations

import sys

import pytest

from hwbench.devices.nvidia import probe
from hwbench.devices.nvidia import tensorrt as tensorrt_driver
from hwbench.devices.nvidia.tensorrt import NvidiaTrt
from tests.devices.nvidia import wheels

UUID = "GPU-12345678-9abc-def0-1234-56789abcdef0"
PAPER = probe.Gpu(0, UUID, "NVIDIA Paper GPU", 80 << 30, (9, 0))


def use_fakes(monkeypatch: pytest.MonkeyPatch, version: str, fault: str = "") -> None:
    """From now on the driver finds one GPU, and TensorRT of that version on it."""
    environment = wheels.environment(wheels.bindings(version), wheels.cuda())
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setattr(
        probe, "probe", lambda: probe.Probe(ok=True, devices=(PAPER,), cuda=(13, 0))
    )
    monkeypatch.setattr(tensorrt_driver, "_missing_libraries", lambda cuda: [])
    monkeypatch.setattr(
        NvidiaTrt, "child", (sys.executable, "-m", "tests.devices.nvidia.fake_child")
    )
