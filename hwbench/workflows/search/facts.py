"""What a delivered network needs to be used and trained further: its input, images and original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwbench.search.context import Subject

FACTS, SCRIPT = "network.json", "finetune.py"
SCHEMA = 1


def write_facts(subject: Subject, folder: Path) -> None:
    """Write how inputs of the network are made, and a script that goes on training it.

    Args:
        subject: The original and its images.
        folder: The folder of the network.

    Raises:
        OSError: The files cannot be written.
    """
    text = json.dumps(describe_network(subject), indent=2) + "\n"
    (folder / FACTS).write_text(text, encoding="utf-8")
    # The script needs nothing filled in, so it is the very file that is tested.
    script = Path(__file__).with_name(SCRIPT).read_text(encoding="utf-8")
    (folder / SCRIPT).write_text(script, encoding="utf-8")


def describe_network(subject: Subject) -> dict[str, Any]:
    """What is known of a network beside its weights, as plain JSON types."""
    data = subject.data
    preprocessing = None if data is None else data.preprocessing
    return {
        "schema": SCHEMA,
        "model": subject.source.get("model"),
        "arch": subject.source.get("arch"),
        "main": list(subject.source.get("main", ())),
        "shape": list(subject.workload.inputs[0].shape[1:]),
        "dtype": subject.workload.inputs[0].dtype,
        "data": None if data is None else data.name,
        "classes": [] if data is None else list(data.names),
        "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
    }
