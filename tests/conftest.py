"""What holds for all tests."""

from __future__ import annotations

import os

# Small layers on several threads wait for each other more than they compute: on two busy cores tests took ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
