"""Which widths pruning chooses where nobody says otherwise."""

from __future__ import annotations

import math

DEFAULT_STEP = 8
"""Pruned widths are multiples of it, where the device has no channel step of its own."""
DEFAULT_LOWER = 0.2
"""Smallest share of a width that pruning keeps."""


def group_step(step: int, unit: int) -> int:
    """Step of a group's width by which the channels of its layers are multiples of `step`.

    Args:
        step: In channels.
        unit: Channels that each of the group's stands for, see `hwbench.network.structure.Group`.
    """
    return step // math.gcd(step, unit)
