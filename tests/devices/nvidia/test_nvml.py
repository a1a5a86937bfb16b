"""NVML: through real ctypes calls into a stub library.

What is not told is unknown, never a stand-in.
"""

from __future__ import annotations

import pytest

from hwbench.devices.nvidia import nvml as nvml_module
from hwbench.devices.nvidia.nvml import Identity, Nvml, name_reasons
from tests.devices.nvidia.stub_driver import stub_driver  # noqa: F401 - a fixture
from tests.needs import needs_compiler

pytestmark = needs_compiler
UUID = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"


@pytest.fixture
def nvml(stub_driver):
    found = Nvml(UUID)
    assert not found.reason
    yield found
    found.close()


def test_conditions_are_in_our_units(nvml):
    conditions = nvml.conditions()
    assert conditions.frequency_hz == (1980e6,)
    assert conditions.temperature_c == 41.0
    assert conditions.throttled is False
    assert dict(conditions.details) == {
        "memory_hz": "3201000000",
        "power_w": "123.4",
        "clock_limits": "none",
    }


def test_identity(nvml, stub_driver):
    assert nvml.identity() == Identity("580.65.06", 700.0, persistence=True, mig=False)
    stub_driver.setenv("STUB_MIG", "1")
    assert nvml.identity().mig is True
    assert [finding.code for finding in nvml.findings()] == ["mig"]


@pytest.mark.parametrize(
    ("bits", "throttled"),
    [(0x1, False), (0x4, False), (0x8, True), (0x20, True), (0x44, True), (0x80, True)],
)
def test_slowdown_is_told_from_other_limits(nvml, stub_driver, bits, throttled):
    stub_driver.setenv("STUB_REASONS", str(bits))
    assert nvml.conditions().throttled is throttled
    assert dict(nvml.conditions().details)["clock_limits"] == name_reasons(bits)


def test_a_slowdown_that_is_over_still_counts(nvml):
    assert nvml.conditions(slowed=True).throttled is True
    assert nvml.conditions(slowed=False).throttled is False


def test_unknown_bits_are_shown():
    assert name_reasons(0x4 | 0x10000) == "power cap, 0x10000"


@pytest.mark.parametrize(
    ("listed", "lists_us", "foreign"),
    [(0, 0, 0), (1, 1, 0), (3, 1, 2), (1, 0, 0), (40, 0, 39), (40, 1, 39)],
)
def test_foreign_processes(nvml, stub_driver, listed, lists_us, foreign):
    """In a container we are in the list under another number: one entry is taken for ours."""
    stub_driver.setenv("STUB_PROCESSES", str(listed))
    stub_driver.setenv("STUB_LISTS_US", str(lists_us))
    assert nvml.count_foreign() == foreign
    assert [finding.code for finding in nvml.findings()] == (
        ["foreign_processes"] if foreign else []
    )


def test_our_other_processes_are_not_foreign(nvml, stub_driver):
    stub_driver.setenv("STUB_PROCESSES", "3")
    assert nvml.count_foreign(own=[900000, 900002]) == 1


def test_what_is_refused_is_unknown(nvml, stub_driver):
    stub_driver.setenv("STUB_NVML_REFUSES", "1")
    assert_nothing_known(nvml)


@pytest.mark.parametrize("fault", ["library", "init", "uuid"])
def test_without_nvml_everything_is_unknown(stub_driver, fault):
    if fault == "library":
        stub_driver.setattr(nvml_module, "LIBRARY", "libnvidia-ml-that-is-not-there.so")
    if fault == "init":
        stub_driver.setenv("STUB_NVML_INIT", "9")
    nvml = Nvml("MIG-1" if fault == "uuid" else UUID)
    assert nvml.reason
    assert_nothing_known(nvml)
    nvml.close()


def assert_nothing_known(nvml):
    conditions = nvml.conditions()
    assert conditions.frequency_hz is conditions.temperature_c is conditions.throttled is None
    assert conditions.details == ()
    assert nvml.identity() == Identity()
    assert nvml.count_foreign() is None
    assert nvml.reasons() is None
    assert nvml.findings() == ()


def test_a_call_that_this_driver_lacks_is_unknown(nvml, monkeypatch):
    assert nvml._number("nvmlDeviceGetSomethingNew") is None
