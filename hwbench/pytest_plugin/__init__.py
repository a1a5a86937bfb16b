"""The pytest plugin: latency of networks on a device as tests.

Fixtures: `hw_benchmark` measures a workload, in pytest-benchmark's table where that is installed;
`hw_compare` compares two; `assert_faster` fails unless the candidate is as much faster as a test
demands; `hw_device` is the opened device. `docs/pytest.md` shows all of it.

pytest imports this file in every run of every project that has hwbench installed, so it holds the
options and hooks alone and loads nothing else of hwbench until a run uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwbench.pytest_plugin import fixtures
from hwbench.pytest_plugin.options import OPTIONS, add_options, read_options
from hwbench.pytest_plugin.summary import RunSummary

if TYPE_CHECKING:
    from hwbench.pytest_plugin.options import Options

__all__ = ["OPTIONS"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command-line and ini options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, and register the fixtures that fit the other plugins."""
    config.addinivalue_line("markers", "hil: needs real hardware beyond this computer's CPU")
    options = config.stash[OPTIONS] = read_options(config)
    if options.device_named:
        _check_address(options.device)
    manager = config.pluginmanager
    manager.register(fixtures, "hwbench-fixtures")
    manager.register(RunSummary(options), "hwbench-summary")
    if manager.hasplugin("benchmark"):
        from hwbench.pytest_plugin import with_benchmark

        manager.register(with_benchmark, "hwbench-with-benchmark")
    else:
        from hwbench.pytest_plugin import without_benchmark

        manager.register(without_benchmark, "hwbench-without-benchmark")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say where latency is measured, in runs that name a device."""
    options = config.stash[OPTIONS]
    if not options.device_named:
        return None
    return f"hwbench: device {options.device}"


@pytest.hookimpl(tryfirst=True)  # before anything is opened for the test
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need more than this computer where no other device was named."""
    options: Options = item.config.stash[OPTIONS]
    if "hw_device" not in getattr(item, "fixturenames", ()):
        return
    if item.get_closest_marker("hil") is not None and options.driver in {"cpu", "virtual"}:
        pytest.skip(
            f"needs a device beyond {options.driver!r}: pytest --hwbench-device ADDRESS (see:"
            " hwbench devices)"
        )


def _check_address(address: str) -> None:
    """Refuse an address that names no driver before any test runs.

    Whether the device is there is found out when it is needed.
    """
    from hwbench.devices import open_device
    from hwbench.errors import DeviceUnavailableError, UsageError

    try:
        open_device(address)
    except UsageError as error:
        raise pytest.UsageError(f"--hwbench-device: {error}") from error
    except DeviceUnavailableError:
        return  # its library is missing: an error of the tests that need it
