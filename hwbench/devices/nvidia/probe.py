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
"""Seconds a sound driver may take; eight GPUs without the persistence daemon need some ten."""
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
        name: Of the product.
        memory_bytes: In all.
        capability: Compute capability, (9, 0) for Hopper.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found.

    Attributes:
        ok: Whether there is a GPU that CUDA can use.
        reason: Why not; empty if ok.
        remedy: The command or action that mends it; empty if there is none.
        devices: The GPUs.
        cuda: Newest CUDA version the driver serves, (13, 0); None if unknown.
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
        found = json.loads(done.stdout)
        if "code" in found:
            return _explained(found["code"], found["said"])
        gpus = tuple(
            Gpu(**{**gpu, "capability": tuple(gpu["capability"])}) for gpu in found["devices"]
        )
        cuda = (found["cuda"] // 1000, found["cuda"] % 1000 // 10)
    except (ValueError, TypeError, KeyError):
        how = (
            f"signal {-done.returncode}"
            if done.returncode < 0
            else f"exit status {done.returncode}"
        )
        return Probe(
            ok=False,
            reason=f"NVIDIA's driver crashed when it was asked for GPUs ({how})",
            remedy=_CODES[999][1],
        )
    return Probe(ok=True, devices=gpus, cuda=cuda) if gpus else _explained(100, "")


def _explained(code: int | None, said: str) -> Probe:
    """Why CUDA cannot be used, from its code (None: the library does not load) and from what the system shows."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if code in {100, 101} and hidden is not None:
        return Probe(
            ok=False,
            reason=f"CUDA_VISIBLE_DEVICES is {hidden!r} and hides every GPU",
            remedy="unset CUDA_VISIBLE_DEVICES",
        )
    if closed := _closed_files():
        return Probe(
            ok=False,
            reason=f"no permission to use {closed}",
            remedy=f"sudo usermod -aG {_group(closed)} $USER, then log in anew",
        )
    if code is not None and code != 100:
        reason, remedy = _CODES.get(
            code, (f"the driver failed with {said or 'an error'} (code {code})", _CODES[999][1])
        )
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
    return Probe(
        ok=False,
        reason=(
            f"no NVIDIA GPU in this computer, and no driver ({LIBRARY} not found)"
            if code is None
            else _CODES[100][0]
        ),
    )


def _closed_files() -> str:
    files = (Path("/dev/nvidiactl"), Path("/dev/nvidia0"))
    return next(
        (str(file) for file in files if file.exists() and not os.access(file, os.R_OK | os.W_OK)),
        "",
    )


def _group(file: str) -> str:
    try:
        return Path(file).group()
    except (OSError, KeyError):
        return "video"


def _driver_in_kernel() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _on_bus() -> bool:
    """Whether a display controller (PCI class 3) of NVIDIA's (vendor 0x10de) is plugged in."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            if (device / "vendor").read_text().strip() == "0x10de" and (
                device / "class"
            ).read_text().startswith("0x03"):
                return True
        except OSError:
            continue
    return False


def _ask() -> dict[str, Any]:
    """In the process of its own: the GPUs, or the code of the call that failed."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        return {"code": None, "said": str(error)}
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
        return {"code": error.code, "said": error.said}


class _RefusedError(Exception):
    """A call of the driver's failed."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code, self.said = code, said


def _call(library: ctypes.CDLL, name: str, *args: Any) -> None:
    code = int(getattr(library, name)(*args))
    if code:
        text = ctypes.c_char_p()
        known = library.cuGetErrorName(code, ctypes.byref(text)) == 0
        raise _RefusedError(code, (text.value or b"").decode() if known else "")


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
    sys.stdout.write(json.dumps(_ask()))
