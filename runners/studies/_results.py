"""What every study shares: one folder with the question, the machine, the command, a table, a
picture and the raw data.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hwbench import __version__
from hwbench.devices.shared import host
from hwbench.network.workload import Workload
from hwbench.records.measurement import Measurement

RESULTS = Path(__file__).parents[2] / "results"
PICTURE = "picture.png"


def save_study(
    name: str,
    *,
    question: str,
    rows: Sequence[Mapping[str, object]],
    command: str,
    answer: str = "",
    notes: str = "",
    raw: object = None,
    picture: Any = None,
) -> Path:
    """Write results/NAME: README.md, data.csv with `rows`, raw.json.gz if there are raw data,
    picture.png if there is a figure.

    Prints the answer and the table.
    """
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if raw is not None:
        with gzip.GzipFile(folder / "raw.json.gz", "wb", mtime=0) as packed:
            packed.write(json.dumps(raw).encode())
    if picture is not None:
        picture.savefig(folder / PICTURE, dpi=100)
    table = markdown(rows)
    libraries = ", ".join(
        f"{library} {version(library)}" for library in ("onnxruntime", "torch", "numpy")
    )
    cores = host.core_count()
    machine = (
        f"{host.cpu_name()}, {cores}"
        f" cores{', virtual machine' if host.is_virtual_machine() else ''}"
    )
    parts = [
        question,
        f"**{answer}**" if answer else "",
        f"![{name}]({PICTURE})" if picture is not None else "",
        table,
        notes,
    ]
    body = "\n\n".join(part for part in parts if part)
    text = f"""# {name}

{body}

- machine: {machine}, {platform.system()} {platform.release()}
- versions: hwbench {__version__}, Python {platform.python_version()}, {libraries}
- date: {datetime.now(UTC).date().isoformat()}
- load at the end: {os.getloadavg()[0]:.1f} (1-minute average, this program included)
- repeat: `{command}`
- data: `data.csv`{", `raw.json.gz` (raw samples, seconds)" if raw is not None else ""}
"""
    (folder / "README.md").write_text(text)
    print(answer, table, sep="\n" if answer else "")
    return folder


def count_macs(network: Workload | Measurement) -> int:
    """Multiply-accumulates of a network whose are known, as those of all networks of studies are.

    Raises:
        ValueError: They are not.
    """
    if network.macs is None:
        raise ValueError("the multiply-accumulates of the network are unknown")
    return network.macs


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_text(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def load_raw(name: str) -> Any:
    """Raw data that results/NAME holds, to go on from; an empty dictionary where it holds none."""
    path = RESULTS / name / "raw.json.gz"
    return json.loads(gzip.decompress(path.read_bytes())) if path.exists() else {}
