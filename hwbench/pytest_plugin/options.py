"""The plugin's options: on the command line as `--hwbench-NAME`, in the ini file as `hwbench_NAME`.

The command line wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hwbench.records.measurement import Settings

UNRESOLVED = ("xfail", "fail")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run; None where a default of hwbench holds.

    Attributes:
        device: The address of the device.
        budget_s: The longest time of one measurement, in seconds.
        min_effect: The smallest relative difference that matters.
        threads: The number of threads of the runtime.
        store: The SQLAlchemy URL of the store, or the path of an SQLite file.
        unresolved: The outcome of a test whose question the samples do not answer: `xfail` or
            `fail`.
        wait_s: The longest time to wait for a device that another process measures on, in seconds.
        device_named: Whether the device was named, and is not just the default.
    """

    device: str = "cpu"
    budget_s: float | None = None
    min_effect: float | None = None
    threads: int | None = None
    store: str | None = None
    unresolved: str = "xfail"
    wait_s: float = 600.0
    device_named: bool = False

    @property
    def driver(self) -> str:
        """The name of the device's driver: the part of the address before the colon."""
        return self.device.partition(":")[0]

    def settings(self, base: Settings) -> Settings:
        """Make settings of a run: `base`, changed by the options that are given."""
        if self.budget_s is not None:
            base = replace(base, budget_s=self.budget_s)
        if self.min_effect is not None:
            base = replace(base, min_effect=self.min_effect)
        if self.threads is not None:
            base = replace(base, threads=self.threads)
        return base


OPTIONS = pytest.StashKey[Options]()


def _parse_seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError("it is not positive")
    return value


def _parse_share(text: str) -> float:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value < 1:
        raise ValueError("it is not between 0 and 100 %")
    return value


def _parse_count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("it is not positive")
    return value


def _parse_outcome(text: str) -> str:
    if text not in UNRESOLVED:
        raise ValueError("there is no such outcome")
    return text


@dataclass(frozen=True, slots=True)
class _Option:
    field: str
    metavar: str
    parse: Callable[[str], Any]
    expected: str
    help: str


_TABLE = {
    "device": _Option(
        "device",
        "ADDRESS",
        str,
        "an address",
        "where to measure; cpu if not given (see: hwbench devices)",
    ),
    "budget": _Option(
        "budget_s",
        "SECONDS",
        _parse_seconds,
        "seconds",
        "longest time of one measurement; 10 for one model, 30 for a comparison",
    ),
    "min-effect": _Option(
        "min_effect",
        "SHARE",
        _parse_share,
        "1% or 0.01",
        "smallest difference that matters; 1%% if not given",
    ),
    "threads": _Option(
        "threads",
        "N",
        _parse_count,
        "a whole number",
        "threads of the runtime, each on a core of its own; 1",
    ),
    "store": _Option(
        "store",
        "URL",
        str,
        "a URL or a file",
        "where records are kept; else $HWBENCH_STORE, else the user's data folder",
    ),
    "unresolved": _Option(
        "unresolved",
        "|".join(UNRESOLVED),
        _parse_outcome,
        " or ".join(UNRESOLVED),
        "outcome of a test that noise leaves open; xfail",
    ),
    "wait": _Option(
        "wait_s",
        "SECONDS",
        _parse_seconds,
        "seconds",
        "longest wait for a device that is in use; 600",
    ),
}


def add_options(parser: pytest.Parser) -> None:
    """Add every option, on the command line and in the ini file."""
    group = parser.getgroup("hwbench", "latency of networks on a device (hwbench)")
    for name, option in _TABLE.items():
        group.addoption(f"--hwbench-{name}", metavar=option.metavar, default=None, help=option.help)
        parser.addini(_ini_name(name), option.help.replace("%%", "%"), default=None)


def read_options(config: pytest.Config) -> Options:
    """Read and check the options of a run.

    Raises:
        pytest.UsageError: A value is not of its kind; the message has it, and what was expected.
    """
    values: dict[str, Any] = {}
    for name, option in _TABLE.items():
        source = f"--hwbench-{name}"
        text = config.getoption(_ini_name(name))
        if text is None:
            source, text = _ini_name(name), config.getini(_ini_name(name))
        if text is None:
            continue
        try:
            values[option.field] = option.parse(text.strip())
        except ValueError as error:
            raise pytest.UsageError(
                f"{source}: {text!r} where {option.expected} was expected ({error})"
            ) from error
    return Options(**values, device_named="device" in values)


def _ini_name(name: str) -> str:
    return f"hwbench_{name.replace('-', '_')}"
