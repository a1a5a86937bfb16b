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
    """What a run was asked for; None where a default of hwbench holds.

    Attributes:
        device: Address of the device.
        budget_s: Longest time of one measurement, seconds.
        min_effect: Smallest relative difference that matters.
        threads: Threads of the runtime.
        store: SQLAlchemy URL of the store, or path of a SQLite file.
        unresolved: Outcome of a test whose question the samples do not answer: `xfail` or `fail`.
        wait_s: Longest time to wait for a device that another process measures on, seconds.
        device_named: Whether the device was asked for, and is not just the default.
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
        """Name of the device's driver: the part of the address before the colon."""
        return self.device.partition(":")[0]

    def settings(self, base: Settings) -> Settings:
        """`base` with what was asked for."""
        asked = {"budget_s": self.budget_s, "min_effect": self.min_effect, "threads": self.threads}
        return replace(base, **{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]


OPTIONS = pytest.StashKey[Options]()


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError("it is not positive")
    return value


def _share(text: str) -> float:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value < 1:
        raise ValueError("it is not between 0 and 100 %")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("it is not positive")
    return value


def _outcome(text: str) -> str:
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
        _seconds,
        "seconds",
        "longest time of one measurement; 10 for one model, 30 for a comparison",
    ),
    "min-effect": _Option(
        "min_effect",
        "SHARE",
        _share,
        "1% or 0.01",
        "smallest difference that matters; 1%% if not given",
    ),
    "threads": _Option(
        "threads",
        "N",
        _count,
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
        _outcome,
        " or ".join(UNRESOLVED),
        "outcome of a test that noise leaves open; xfail",
    ),
    "wait": _Option(
        "wait_s", "SECONDS", _seconds, "seconds", "longest wait for a device that is in use; 600"
    ),
}


def add_options(parser: pytest.Parser) -> None:
    """Add every option, on the command line and in the ini file."""
    group = parser.getgroup("hwbench", "latency of networks on a device (hwbench)")
    for name, option in _TABLE.items():
        group.addoption(f"--hwbench-{name}", metavar=option.metavar, default=None, help=option.help)
        parser.addini(_ini(name), option.help.replace("%%", "%"), default=None)


def read_options(config: pytest.Config) -> Options:
    """The options of a run, checked.

    Raises:
        pytest.UsageError: A value is not of its kind; the message has it, and what was expected.
    """
    found: dict[str, Any] = {}
    for name, option in _TABLE.items():
        said = f"--hwbench-{name}"
        text = config.getoption(_ini(name))
        if text is None:
            said, text = _ini(name), config.getini(_ini(name))
        if text is None:
            continue
        try:
            found[option.field] = option.parse(text.strip())
        except ValueError as error:
            raise pytest.UsageError(
                f"{said}: {text!r} where {option.expected} was expected ({error})"
            ) from error
    return Options(**found, device_named="device" in found)


def _ini(name: str) -> str:
    return f"hwbench_{name.replace('-', '_')}"
