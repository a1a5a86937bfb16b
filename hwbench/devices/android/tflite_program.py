"""The user's `benchmark_model` of TensorFlow Lite: read and checked, never executed here."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from hwbench.errors import UsageError
from hwbench.network.tflite import read_bytes

_ELF_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""What `uname -m` says of a processor, by `e_machine` of the ELF specification."""


@dataclass(frozen=True)
class Program:
    """A program for a target.

    Attributes:
        path: Its path on this computer.
        data: The bytes of the file.
        machine: The processor it is for, as `uname -m` says it.
        sha256: The SHA-256 of the file, hexadecimal.
    """

    path: Path
    data: bytes = field(repr=False)
    machine: str
    sha256: str

    def check(self, machine: str) -> None:
        """Refuse to be put on a target with another processor.

        Args:
            machine: The processor of the target, as `uname -m` says it.

        Raises:
            UsageError: The program is for another processor.
        """
        if machine.startswith("armv"):
            machine = "armv7l"  # a 32-bit kernel on newer cores says armv8l
        if self.machine != machine:
            configs = {
                "aarch64": "android_arm64",
                "armv7l": "android_arm",
                "x86_64": "android_x86_64",
            }
            raise UsageError(
                f"{self.path} is a program for {self.machine}; the device is {machine}: give a"
                " benchmark_model built for it (bazel build -c opt"
                f" --config={configs.get(machine, machine)}"
                " tensorflow/lite/tools/benchmark:benchmark_model)"
            )


def read_program(path: Path) -> Program:
    """Read a `benchmark_model` program.

    Raises:
        UsageError: The file cannot be read, or is no ELF program.
    """
    data = read_bytes(path)
    kind, machine = 0, 0
    is_little_endian_elf = data[:4] == b"\x7fELF" and data[5:6] == b"\x01" and len(data) >= 20
    if is_little_endian_elf:
        kind, machine = struct.unpack_from("<HH", data, 16)
    if kind not in {2, 3}:  # ET_EXEC, ET_DYN
        raise UsageError(
            f"{path} is no program of Android or Linux (no ELF executable); give the"
            " benchmark_model that was built for the phone"
        )
    return Program(
        path, data, _ELF_MACHINES.get(machine, f"ELF machine {machine}"), sha256(data).hexdigest()
    )
