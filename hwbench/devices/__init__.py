"""Devices: the table of drivers, and how to open or list targets.

Importing this loads no driver and no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points

from hwbench.devices.base import Device, Found
from hwbench.errors import Call, DeviceUnavailableError, UsageError
from hwbench.optional import first_line, install_command, load_library


@dataclass(frozen=True, slots=True)
class Driver:
    """One line of the table.

    Attributes:
        target: Where the class is, as `module:Class`.
        summary: What it measures on, for people.
        extra: The extra of hwbench's distribution that installs what the driver needs; empty if
            the core does.
    """

    target: str
    summary: str
    extra: str = ""


DRIVERS: dict[str, Driver] = {
    "cpu": Driver(
        "hwbench.devices.ort.cpu:CpuOrt",
        "this computer's CPU through ONNX Runtime",
    ),
    "litert": Driver(
        "hwbench.devices.litert.device:Litert",
        "this computer's CPU through LiteRT (TensorFlow Lite)",
        "litert",
    ),
    "openvino": Driver(
        "hwbench.devices.openvino.device:OpenVino",
        "this computer's CPU through OpenVINO",
        "openvino",
    ),
    "android": Driver(
        "hwbench.devices.android.device:Android",
        "phones and boards over adb, through ONNX Runtime or LiteRT",
        "android",
    ),
    "cuda": Driver(
        "hwbench.devices.nvidia.cuda:Cuda",
        "NVIDIA GPUs through PyTorch and CUDA graphs",
    ),
    "tensorrt": Driver(
        "hwbench.devices.nvidia.tensorrt:NvidiaTrt",
        "NVIDIA GPUs through TensorRT",
        "tensorrt",
    ),
    "virtual": Driver(
        "hwbench.devices.virtual.device:Virtual",
        "a simulated device with a known latency law, for tests",
    ),
}


def drivers() -> dict[str, Driver]:
    """List all drivers: those of `DRIVERS`, and those of other packages.

    Other packages have an entry point in the group `hwbench.devices`.
    """
    others = {}
    for point in entry_points(group="hwbench.devices"):
        package = point.dist.name if point.dist else point.value
        others[point.name] = Driver(point.value, f"from package {package}")
    return others | DRIVERS


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
            f"unknown device {name!r}; known: {', '.join(sorted(table))}",
            Call("list_devices", purpose="see"),
        )
    module, _, attribute = table[name].target.partition(":")
    try:
        driver: type[Device] = getattr(load_library(module), attribute)
    except (ImportError, AttributeError) as error:
        text = f"device {name!r} cannot be loaded ({first_line(error)})"
        if table[name].extra:
            text += f"; try: {install_command(table[name].extra)}"
        raise DeviceUnavailableError(text) from error
    return driver


def open_device(address: str) -> Device:
    """Make the closed `Device` at `address` (`cpu`, `android:SERIAL`); use it in a with block.

    Raises:
        UsageError: The address names no driver.
        DeviceUnavailableError: The driver's library is missing.
    """
    name, _, rest = address.partition(":")
    return driver_class(name).at(rest)


def list_devices() -> list[Found]:
    """List every target within reach of every driver, ready or not.

    Those that are not ready say what is missing.
    """
    targets: list[Found] = []
    for name in drivers():
        try:
            targets += driver_class(name).discover()
        except DeviceUnavailableError as error:
            targets.append(Found(name, drivers()[name].summary, ready=False, hint=str(error)))
    return targets
