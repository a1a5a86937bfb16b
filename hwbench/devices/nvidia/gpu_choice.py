"""Which GPU an address means: `0`, `GPU-5f2c...`, or none for the first."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.devices.nvidia.probe import Gpu
from hwbench.errors import UsageError

UUID_CHARACTERS = 8
"""Characters from which a number is the beginning of a UUID, and no longer CUDA's index."""


def choose_gpu(driver: str, gpus: Sequence[Gpu], place: str) -> Gpu:
    """Choose the GPU that an address names: by number, by the beginning of its UUID, or the first.

    Args:
        driver: The driver's name, for messages.
        gpus: All that CUDA sees, at least one.
        place: The part of the address that names a GPU; empty for the first.

    Raises:
        UsageError: The address names none of them, or several.
    """
    if not place:
        return gpus[0]
    if place.isdecimal() and len(place) < UUID_CHARACTERS:
        fitting = [gpu for gpu in gpus if gpu.index == int(place)]
    else:
        beginning = place.lower().removeprefix("gpu-")
        fitting = [
            gpu for gpu in gpus if gpu.uuid.lower().removeprefix("gpu-").startswith(beginning)
        ]
    if len(fitting) != 1:
        available = ", ".join(f"{driver}:{gpu.index} is {gpu.name} {gpu.uuid}" for gpu in gpus)
        raise UsageError(f"'{driver}:{place}' names {len(fitting)} GPUs; there are: {available}")
    return fitting[0]
