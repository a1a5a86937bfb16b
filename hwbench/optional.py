"""Optional libraries: loaded in one place, and what is missing named as a command that works here.

An optional library can be missing in more ways than one: not installed, installed without the
system's library that it wraps (which raises an OSError when it is imported), of a version that does
not go with another, or damaged. All of them end in the same error with the same remedy. What
brings a library is read from our own metadata, so that a message and `pyproject.toml` cannot
differ, and no message names a package on the index that is not ours.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from types import ModuleType

from hwbench.errors import HwbenchError, UsageError

DISTRIBUTION = "hwbench-latency"
"""Our name on the package index; `hwbench` there belongs to others."""
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w.-]+)["']""")


def import_optional(
    module: str, extra: str, purpose: str, error: type[HwbenchError] = UsageError
) -> ModuleType:
    """Import a library that only some uses of hwbench need.

    Args:
        module: Name of the module (`matplotlib.pyplot`).
        extra: Extra of our own distribution that brings it (`report`).
        purpose: What needs it, as the beginning of a sentence ("pictures").
        error: Class of the error that is raised where the module does not load.

    Raises:
        HwbenchError: It cannot be imported, for whatever reason; the message has the command that
            installs what is missing.
    """
    try:
        return load_library(module)
    except ImportError as cause:
        name = module.partition(".")[0]
        text = f"{purpose} need {name}, which does not load ({first_line(cause)})"
        raise error(f"{text}; try: {install_command(extra)}") from cause


def load_library(module: str) -> ModuleType:
    """Import a library that may be missing or broken, so that either shows as an `ImportError`.

    A library that is installed but lacks the system's library which it wraps, or that does not go
    with the version of another, raises anything at all when it is imported.

    Raises:
        ImportError: It cannot be imported, for whatever reason; its cause is what was raised.
    """
    try:
        return import_module(module)
    except ImportError:
        raise
    except Exception as cause:
        raise ImportError(f"{type(cause).__name__}: {first_line(cause)}") from cause


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def requirements(extra: str) -> tuple[str, ...]:
    """What an extra of our own distribution installs (`("adb-shell[usb]==0.4.4",)`).

    Empty where our metadata are not to be had: hwbench then runs from a folder that was never
    installed.
    """
    try:
        lines = requires(DISTRIBUTION) or ()
    except PackageNotFoundError:
        return ()
    names = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        match = _EXTRA.search(marker)
        if match is not None and match[1] == extra:
            names.append(requirement.strip())
    return tuple(names)


def install_command(extra: str = "", packages: Sequence[str] = ()) -> str:
    """The command that installs an extra, or packages, beside this very hwbench.

    It names the packages themselves, so it works for an installation from the index, from a wheel
    and from a checkout alike, and it names this interpreter, so it works for an environment that is
    not activated.

    Args:
        extra: Extra of our own distribution.
        packages: Requirements to install as well, or instead.
    """
    wanted = [*requirements(extra), *packages]
    if extra and not requirements(extra):
        wanted.append(f"{DISTRIBUTION}[{extra}]")
    python = shlex.quote(sys.executable or "python3")
    installer = f"{python} -m pip install"
    if find_spec("pip") is None:  # environments made by uv have none
        installer = f"uv pip install --python {python}"
    return f"{installer} {' '.join(map(shlex.quote, wanted))}"
