"""What CUDA sees on this computer, and if it sees nothing, why and what mends it.

The driver's library is asked in a process of its own: a broken installation hangs or crashes there,
not here, and a process that only asked holds no context on the GPU. This file is that process too,
so it uses the standard library alone. Calls and codes:
https://docs.nvidia.com/cuda/cuda-driver-api/ (initialisation, device management, CUresult).
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

PATIENCE_S = 30.0
"""Seconds that a working driver may take; eight GPUs without the persistence daemon need ten."""
LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_INSTALL = (
    "install NVIDIA's driver (Ubuntu: sudo ubuntu-drivers install; others:"
    " https://www.nvidia.com/drivers) and restart"
)
_RESTART = (
    "restart the computer, so that the driver in the kernel and its library are of one version"
    " again"
)
_CODES = {
    100: ("CUDA sees no GPU", "see what nvidia-smi says"),
    101: ("CUDA knows no such GPU", "see what nvidia-smi says"),
    802: ("the GPUs' fabric is not ready", "sudo systemctl start nvidia-fabricmanager"),
    803: ("the driver's library and the driver in the kernel differ", _RESTART),
    804: (
        "this GPU does not take the forward-compatible library",
        "remove the package cuda-compat, or update the driver",
    ),
    999: (
        "the driver failed with an unknown error",
        "sudo nvidia-smi; if that fails too, restart the computer",
    ),
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as CUDA numbers it.

    Attributes:
        index: CUDA's number, after CUDA_VISIBLE_DEVICES.
        uuid: `GPU-` and 36 characters, as nvidia-smi -L shows it.
        name: Name of the product.
        memory_bytes: Bytes of memory in all.
        capability: Compute capability, (9, 0) for Hopper.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Probe:
    """What CUDA sees on this computer.

    Attributes:
        ok: Whether there is a GPU that CUDA can use.
        reason: Why not; empty if ok.
        remedy: The command or action that mends it; empty if there is none.
        devices: The GPUs.
        cuda: Newest CUDA version that the driver supports, (13, 0); None if unknown.
    """

    ok: bool
    reason: str = ""
    remedy: str = ""
    devices: tuple[Gpu, ...] = ()
    cuda: tuple[int, int] | None = None


def probe(timeout_s: float = PATIENCE_S) -> Probe:
    """Ask the driver which GPUs there are; never raises, and answers in bounded time."""
    command = [sys.executable, "-I", str(Path(__file__))]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return Probe(
            ok=False,
            reason=f"NVIDIA's driver did not answer within {timeout_s:g} s",
            remedy=_CODES[999][1],
        )
    except OSError as error:
        return Probe(ok=False, reason=f"no process to ask NVIDIA's driver in: {error}")
    try:
        answer = json.loads(done.stdout)
        if "code" in answer:
            return _explain_failure(answer["code"], answer["text"])
        gpus = tuple(
            Gpu(**{**gpu, "capability": tuple(gpu["capability"])}) for gpu in answer["devices"]
        )
        cuda = (answer["cuda"] // 1000, answer["cuda"] % 1000 // 10)
    except (ValueError, TypeError, KeyError):
        ending = f"exit status {done.returncode}"
        if done.returncode < 0:
            ending = f"signal {-done.returncode}"
        return Probe(
            ok=False,
            reason=f"NVIDIA's driver crashed when it was asked for GPUs ({ending})",
            remedy=_CODES[999][1],
        )
    if not gpus:
        return _explain_failure(100, "")
    return Probe(ok=True, devices=gpus, cuda=cuda)


def _explain_failure(code: int | None, error_name: str) -> Probe:
    """Explain why CUDA cannot be used, also from what the system shows.

    The likeliest cause that can be mended comes first: a variable or a permission hides a GPU that
    is fine.

    Args:
        code: Code of the call that failed; None if the library does not load.
        error_name: CUDA's name of the error; empty if it has none.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if code in {100, 101} and hidden is not None:
        return Probe(
            ok=False,
            reason=f"CUDA_VISIBLE_DEVICES is {hidden!r} and hides every GPU",
            remedy="unset CUDA_VISIBLE_DEVICES",
        )
    closed = _closed_files()
    if closed:
        return Probe(
            ok=False,
            reason=f"no permission to use {closed}",
            remedy=f"sudo usermod -aG {_find_group(closed)} $USER, then log in anew",
        )
    if code is not None and code != 100:
        failure = f"the driver failed with {error_name or 'an error'} (code {code})"
        reason, remedy = _CODES.get(code, (failure, _CODES[999][1]))
        return Probe(ok=False, reason=reason, remedy=remedy)
    if _driver_in_kernel():
        reason = f"NVIDIA's driver runs, but {LIBRARY} or the GPU's files in /dev are not here"
        return Probe(
            ok=False,
            reason=reason,
            remedy="in a container: docker run --gpus all (needs nvidia-container-toolkit)",
        )
    if _on_bus():
        return Probe(
            ok=False, reason="there is an NVIDIA GPU, but no driver for it", remedy=_INSTALL
        )
    reason = _CODES[100][0]
    if code is None:
        reason = f"no NVIDIA GPU in this computer, and no driver ({LIBRARY} not found)"
    return Probe(ok=False, reason=reason)


def _closed_files() -> str:
    """Find a file of the driver that this user may not use; empty if there is none."""
    for file in (Path("/dev/nvidiactl"), Path("/dev/nvidia0")):
        if file.exists() and not os.access(file, os.R_OK | os.W_OK):
            return str(file)
    return ""


def _find_group(file: str) -> str:
    try:
        return Path(file).group()
    except (OSError, KeyError):
        return "video"


def _driver_in_kernel() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _on_bus() -> bool:
    """Tell whether a display controller (PCI class 3) of NVIDIA's (vendor 0x10de) is plugged in."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            if vendor == "0x10de" and (device / "class").read_text().startswith("0x03"):
                return True
        except OSError:
            continue
    return False


def _query_driver() -> dict[str, Any]:
    """List the GPUs, or return the code of the call that failed; in the process of its own."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        return {"code": None, "text": str(error)}
    number = ctypes.c_int()
    try:
        _call(library, "cuInit", ctypes.c_uint(0))
        _call(library, "cuDriverGetVersion", ctypes.byref(number))
        cuda = number.value
        _call(library, "cuDeviceGetCount", ctypes.byref(number))
        return {
            "cuda": cuda,
            "devices": [_describe(library, index) for index in range(number.value)],
        }
    except _RefusedError as error:
        return {"code": error.code, "text": error.name}


class _RefusedError(Exception):
    """A call of the driver failed.

    Attributes:
        code: The driver's code of the error.
        name: Its name of the error; empty if it has none.
    """

    def __init__(self, code: int, name: str) -> None:
        super().__init__(name)
        self.code = code
        self.name = name


def _call(library: ctypes.CDLL, name: str, *args: Any) -> None:
    code = int(getattr(library, name)(*args))
    if code:
        text = ctypes.c_char_p()
        has_name = library.cuGetErrorName(code, ctypes.byref(text)) == 0
        raise _RefusedError(code, (text.value or b"").decode() if has_name else "")


def _describe(library: ctypes.CDLL, index: int) -> dict[str, Any]:
    device, value, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name, uuid = ctypes.create_string_buffer(_NAME_BYTES), (ctypes.c_ubyte * 16)()
    _call(library, "cuDeviceGet", ctypes.byref(device), index)
    _call(library, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(library, "cuDeviceGetUuid", ctypes.byref(uuid), device)
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(size), device)
    capability = []
    for attribute in (_COMPUTE_MAJOR, _COMPUTE_MINOR):
        _call(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return {
        "index": index,
        "uuid": f"GPU-{UUID(bytes=bytes(uuid))}",
        "name": name.value.decode(errors="replace"),
        "memory_bytes": size.value,
        "capability": capability,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_query_driver()))
