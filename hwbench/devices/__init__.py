"""Devices: the table of drivers, and how to open or list targets.

Importing this loads no driver and no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from hwbench.devices.base import Device, Found
from hwbench.errors import DeviceUnavailableError, UsageError


@dataclass(frozen=True, slots=True)
class Driver:
    """One line of the table: where the class is, what it is for, and what to install for it."""

    target: str
    summary: str
    install: str = ""


DRIVERS: dict[str, Driver] = {
    "cpu": Driver(
        "hwbench.devices.ort.cpu:CpuOrt",
        "this computer's CPU through ONNX Runtime",
        "pip install onnxruntime",
    ),
    "android": Driver(
        "hwbench.devices.android.device:Android",
        "phones and boards over adb, through ONNX Runtime",
        'pip install "hwbench[android]"',
    ),
    "cuda": Driver(
        "hwbench.devices.nvidia.cuda:Cuda",
        "NVIDIA GPUs through PyTorch and CUDA graphs",
        "pip install torch",
    ),
    "tensorrt": Driver(
        "hwbench.devices.nvidia.tensorrt:NvidiaTrt",
        "NVIDIA GPUs through TensorRT",
        'pip install "hwbench[tensorrt]"',
    ),
    "virtual": Driver(
        "hwbench.devices.virtual.device:Virtual",
        "a simulated device with a known latency law, for tests",
    ),
}


def drivers() -> dict[str, Driver]:
    """All drivers: the built-in table, and those of other packages (entry-point group `hwbench.devices`)."""
    found = {
        point.name: Driver(
            point.value, f"from package {point.dist.name if point.dist else point.value}"
        )
        for point in entry_points(group="hwbench.devices")
    }
    return found | DRIVERS


def driver_class(name: str) -> type[Device]:
    """Import the driver called `name`.

    Raises:
        UsageError: There is no such driver.
        DeviceUnavailableError: The driver's library is not installed; the message has the command
            that installs it.
    """
    table = drivers()
    if name not in table:
        raise UsageError(
            f"unknown device {name!r}; known: {', '.join(sorted(table))} (see: hwbench devices)"
        )
    module, _, attribute = table[name].target.partition(":")
    try:
        found: type[Device] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        missing = f"; {table[name].install}" if table[name].install else ""
        raise DeviceUnavailableError(
            f"device {name!r} cannot be loaded ({error}){missing}"
        ) from error
    return found


def open_device(address: str) -> Device:
    """The closed `Device` at `address` (`cpu`, `android:SERIAL`); use it in a with block.

    Raises:
        UsageError: The address names no driver.
        DeviceUnavailableError: The driver's library is missing.
    """
    name, _, rest = address.partition(":")
    return driver_class(name)(rest)


def list_devices() -> list[Found]:
    """Every target within reach of every driver, ready or not, with what is missing for the others."""
    found: list[Found] = []
    for name in drivers():
        try:
            found += driver_class(name).discover()
        except DeviceUnavailableError as error:
            found.append(Found(name, drivers()[name].summary, ready=False, hint=str(error)))
    return found
