"""What some tests need and this machine may lack; each skip says by name what is missing."""

from __future__ import annotations

import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="needs a C compiler: apt-get install gcc",
)
needs_arm_compiler = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None,
    reason="needs a compiler for 64-bit Arm: apt-get install gcc-aarch64-linux-gnu",
)
