"""Rows of a long study, one a line as soon as they are there, so that a stopped one goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runners.studies._results import RESULTS


def journal_of(study: str) -> Path:
    """The file that holds the rows of a study."""
    return RESULTS / study / "rows.jsonl"


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The rows of a study that was stopped; a line that was cut off is made again."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append_to_journal(path: Path, row: Mapping[str, object]) -> None:
    """Keep a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.read_text() if path.exists() else ""
    whole = kept[: kept.rfind("\n") + 1]
    if whole != kept:
        path.write_text(whole)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
