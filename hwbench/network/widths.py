"""Which widths pruning chooses where nobody says otherwise."""

from __future__ import annotations

DEFAULT_STEP = 8
"""Pruned widths are multiples of it, where the device has no channel step of its own."""
DEFAULT_LOWER = 0.2
"""Smallest share of a width that pruning keeps."""
