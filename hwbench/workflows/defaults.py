"""What workflows do where nobody says otherwise; the command line shows it without loading them."""

from __future__ import annotations

DEFAULT_MODEL = "zoo:mobilenet_v1"
TABLE_BUDGET_S = 45.0
"""For building a table.

With reading the model and the validation that follows, MobileNet-V1's table takes a minute.
"""
GRADING_NETWORKS = 10
"""Held-out networks that grade a table which was just built."""
VALIDATION_NETWORKS = 40
"""Held-out networks of a validation by itself."""
RECALIBRATION_NETWORKS = 12
"""Pruned networks that a table is scaled with."""
