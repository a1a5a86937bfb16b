"""How many tries a command takes if its errors are answered by pasting what they give."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST_TRIES = 4
TIMEOUT_S = 600
DEVICE_CODE, WAIT_S = 3, 5.0
"""Exit code where the device is in use, and how long to wait for it each time."""


def try_command(folder: Path, words: Sequence[str]) -> tuple[int, dict[str, Any] | str]:
    """Run a command of hwbench as a user does, pasting what errors give.

    Args:
        folder: Where it is run; its answer is left there as `answer.json`.
        words: The command, without `hwbench`.

    Returns:
        The tries, 0 if it was never answered; and the answer, or else the last line of the error.
    """
    pasted = [*words, "--no-save", "--json", "answer.json"]
    line = ""
    for tries in range(1, MOST_TRIES + 1):
        line = _run(folder, pasted)
        answer = folder / "answer.json"
        if answer.is_file():
            read: dict[str, Any] = json.loads(answer.read_text())
            return tries, read
        given = re.search(
            rf"hwbench ({words[0]} .*?)(?:, or |$)", line.removeprefix("hwbench: error: ")
        )
        if given is None:
            break
        pasted = shlex.split(given[1])
    return 0, line[:300]


def _run(folder: Path, words: Sequence[str]) -> str:
    """Run hwbench, once no other process measures, and give the last line that it says."""
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "hwbench", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        lines = [entry for entry in done.stderr.splitlines() if entry.startswith("hwbench: ")]
        line = lines[-1] if lines else ""
        if done.returncode != DEVICE_CODE or "is in use by" not in line:
            return line
        time.sleep(WAIT_S)
