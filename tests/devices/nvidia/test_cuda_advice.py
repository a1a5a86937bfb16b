"""What the torch driver says where something is missing or amiss, and the command that mends it."""

from __future__ import annotations

import sys

import pytest
import torch

from hwbench.devices.nvidia import cuda as cuda_driver
from hwbench.devices.nvidia import nvml
from hwbench.devices.nvidia.cuda import Cuda, torch_trouble
from hwbench.devices.nvidia.probe import Probe
from hwbench.errors import DeviceUnavailableError
from hwbench.records.measurement import Settings
from tests.devices.nvidia import fake_torch
from tests.devices.nvidia.stub_driver import stub_driver  # noqa: F401 - a fixture
from tests.needs import needs_compiler
from tests.support.models import conv_workload


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    return fake_torch.install(monkeypatch)


def trouble(cuda_version: tuple[int, int] = (12, 9)) -> str:
    return torch_trouble(
        Probe(ok=True, devices=(fake_torch.GPU,), cuda=cuda_version), fake_torch.GPU
    )


def test_nothing_is_missing():
    assert trouble() == ""
    (found,) = Cuda.discover()
    assert found.ready
    assert found.address == "cuda:0"
    assert found.description == "Fake H200, 141 GiB, torch"


def test_no_gpu_is_one_clear_line(monkeypatch):
    missing = Probe(ok=False, reason="no NVIDIA GPU here", remedy="buy one")
    monkeypatch.setattr(cuda_driver, "probe", lambda: missing)
    (found,) = Cuda.discover()
    assert not found.ready
    assert found.hint == "no NVIDIA GPU here; buy one"
    with pytest.raises(DeviceUnavailableError, match=r"^cuda: no NVIDIA GPU here; buy one$"):
        Cuda().open()


def test_torch_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert trouble().endswith(
        "pip install torch --index-url https://download.pytorch.org/whl/cu128"
    )


@pytest.mark.parametrize(
    ("driver", "wheel"), [((13, 1), "cu130"), ((12, 7), "cu126"), ((11, 2), "cu118")]
)
def test_cpu_build_of_torch(monkeypatch, driver, wheel):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert (
        "is a build without CUDA; pip install torch --index-url"
        f" https://download.pytorch.org/whl/{wheel}" in trouble(driver)
    )
    with pytest.raises(DeviceUnavailableError, match="build without CUDA"):
        Cuda().open()
    assert not Cuda.discover()[0].ready


def test_driver_is_too_old(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "needs CUDA 13.0, the driver serves 12.4; update the driver, or pip install" in trouble(
        (12, 4)
    )
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert trouble((12, 4)) == "", "minor versions of CUDA are compatible"


def test_torch_sees_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch.cuda.init()" in trouble()


@pytest.mark.parametrize(
    ("built_for", "runs"),
    [
        (["sm_80", "sm_90"], True),
        (["sm_90a"], True),
        (["sm_80", "compute_80"], True),
        (["sm_80"], False),
        (["sm_100"], False),
    ],
)
def test_kernels_for_the_gpu(monkeypatch, built_for, runs):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    assert (trouble() == "") is runs
    assert runs or "not for Fake H200 (sm_90)" in trouble()


def test_compile_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(cuda_driver, "find_spec", lambda _: None)
    with pytest.raises(DeviceUnavailableError, match="pip install triton"):
        Cuda("mode=compile").open()
    monkeypatch.setattr(cuda_driver, "find_spec", lambda _: object())
    monkeypatch.setattr(cuda_driver.shutil, "which", lambda _: None)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(DeviceUnavailableError, match="apt install gcc"):
        Cuda("mode=compile").open()


def test_doctor_without_nvml_knows_nothing_and_invents_nothing(monkeypatch):
    # Another test may have loaded a stub of the library, and the loader knows it by its name.
    monkeypatch.setattr(nvml, "LIBRARY", "libnvidia-ml-that-is-not-there.so")
    with Cuda() as device:
        advice = {item.code: item for item in device.doctor()}
    assert not advice["nvml"].ok
    assert all(item.ok for code, item in advice.items() if code != "nvml")
    assert "unknown" in advice["persistence"].text


@needs_compiler
def test_doctor_with_nvml(stub_driver):
    with Cuda() as device:
        assert all(item.ok for item in device.doctor())
        for name, value in {"REASONS": 0x24, "PERSISTENCE": 0, "MIG": 1, "PROCESSES": 3}.items():
            stub_driver.setenv(f"STUB_{name}", str(value))
        bad = {item.code: item.remedy for item in device.doctor() if not item.ok}
    assert set(bad) == {"foreign_processes", "persistence", "mig", "throttling", "power_cap"}
    assert bad["persistence"] == f"sudo nvidia-smi -i {fake_torch.GPU.uuid} -pm 1"


@needs_compiler
def test_a_slowdown_during_rounds_is_in_the_next_conditions(stub_driver):
    with Cuda() as device:
        prepared = device.prepare(conv_workload(), Settings())
        assert device.conditions().throttled is False
        stub_driver.setenv("STUB_REASONS", str(0x44))
        assert "power_capped" in {finding.code for finding in device.run([prepared]).findings}
        stub_driver.setenv("STUB_REASONS", "0")
        assert device.conditions().throttled is True
        assert device.conditions().throttled is False, "and counts once"


@needs_compiler
def test_foreign_processes_are_a_finding_of_every_session(stub_driver):
    stub_driver.setenv("STUB_PROCESSES", "2")
    stub_driver.setenv("STUB_LISTS_US", "1")
    with Cuda() as device:
        assert [
            finding.code for finding in device.prepare(conv_workload(), Settings()).findings
        ] == ["foreign_processes"]
        details = dict(device.info().details)
    assert details["driver"] == "580.65.06"
    assert details["power_limit"] == "700 W"
