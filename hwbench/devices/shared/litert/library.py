"""LiteRT's C library as the installed package has it, and the options that all its devices have."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from hwbench.devices.shared.address import choice
from hwbench.errors import DeviceUnavailableError
from hwbench.optional import install_command

PACKAGE, DISTRIBUTION = "ai_edge_litert", "ai-edge-litert"
LIBRARY = "libLiteRt.so"
DELEGATE = "delegate"
KERNELS = choice(DELEGATE, "builtin")
"""An option of an address: XNNPACK's kernels where it has any, or TensorFlow Lite's own alone."""


def litert_version() -> str:
    """Read the version of the installed package.

    Raises:
        DeviceUnavailableError: It is not installed; the message has the command.
    """
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise DeviceUnavailableError(
            f"measurements with LiteRT need {DISTRIBUTION}, which is not installed; try:"
            f" {install_command('litert')}"
        ) from error


def litert_library() -> Path:
    """Find LiteRT's C library inside the installed package.

    The package is not imported, which would load the library into this process.

    Raises:
        DeviceUnavailableError: It is not installed, or has no such library.
    """
    number = litert_version()
    spec = find_spec(PACKAGE)
    library = None
    if spec is not None and spec.origin is not None:
        library = Path(spec.origin).parent / LIBRARY
    if library is None or not library.is_file():
        raise DeviceUnavailableError(
            f"{DISTRIBUTION} {number} has no {LIBRARY} (it takes 2.1 or later, on Linux); try:"
            f" {install_command('litert')}"
        )
    return library


def name_runtime(name: str, kernels: str) -> str:
    """Name LiteRT with what it runs networks with.

    Args:
        name: LiteRT and its version.
        kernels: The value of the option `kernels`.
    """
    return name if kernels == DELEGATE else f"{name} without XNNPACK"
