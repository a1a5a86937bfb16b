"""Where things lie in the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout: what `python -m hwbench` and `python -m runners...` are started in."""
DATA = ROOT / "tests" / "data"
"""Small files of other tools."""
