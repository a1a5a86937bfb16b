"""The device under test: `--device ADDRESS`, or HWBENCH_HIL_DEVICE.

Without one every test here is skipped by name.
"""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default=None, metavar="ADDRESS", help="device for the tests on real hardware"
    )


@pytest.fixture(scope="session")
def address(pytestconfig: pytest.Config) -> str:
    found = pytestconfig.getoption("--device", default=None) or os.environ.get("HWBENCH_HIL_DEVICE")
    if not found:
        pytest.skip("needs a real device: make hil DEVICE=cuda:0 (or HWBENCH_HIL_DEVICE)")
    return str(found)
