"""The TensorRT driver as tests open it: on fakes of one version, in a process of its own."""

from __future__ import annotations

import sys

import pytest

from hwbench.devices import _cuda, nvidia_trt
from hwbench.devices.nvidia_trt import NvidiaTrt
from tests.nvidia import wheels

UUID = "GPU-12345678-9abc-def0-1234-56789abcdef0"
PAPER = _cuda.Gpu(0, UUID, "NVIDIA Paper GPU", 80 << 30, (9, 0))


def use_fakes(monkeypatch: pytest.MonkeyPatch, version: str, fault: str = "") -> None:
    """From now on the driver finds one GPU, and TensorRT of that version on it."""
    environment = wheels.environment(wheels.bindings(version), wheels.cuda())
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setattr(_cuda, "probe", lambda: _cuda.Probe(ok=True, devices=(PAPER,), cuda=(13, 0)))
    monkeypatch.setattr(nvidia_trt, "_missing", lambda cuda: [])
    monkeypatch.setattr(NvidiaTrt, "child", (sys.executable, "-m", "tests.nvidia.fake_child"))
