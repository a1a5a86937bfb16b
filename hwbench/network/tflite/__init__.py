"""Models of TensorFlow Lite (LiteRT), `.tflite`: what is in a file, read without their runtime.

    file -> TfliteGraph (graph) -> layers with keys (layers), or a Workload (here)

Files may be hostile: they are read by `flatbuffer`, which checks every offset and never reads more
than a file could honestly hold.
"""

from __future__ import annotations

import struct
from pathlib import Path

from hwbench.errors import UsageError, WorkloadError
from hwbench.network.tflite.graph import IDENTIFIER, TfliteGraph
from hwbench.network.tflite.layers import layers as layers
from hwbench.network.workload import TFLITE, Workload
from hwbench.records.findings import Finding
from hwbench.records.untrusted import require_file

MAX_BYTES = (1 << 31) - 1
"""Largest FlatBuffer (its offsets are 32 bits, signed)."""


def is_tflite(path: Path) -> bool:
    """Whether a file says that it is a model of TensorFlow Lite.

    Its name says so too, so that one that is damaged is told of as what it should be.
    """
    if path.suffix.lower() == ".tflite":
        return True
    try:
        if not path.is_file():  # opening a pipe would wait for whoever writes into it
            return False
        with path.open("rb") as file:
            return file.read(8)[4:] == IDENTIFIER
    except (OSError, ValueError):
        return False


def read_workload(path: Path, name: str) -> Workload:
    """Read a `.tflite` file.

    Args:
        path: The file.
        name: What the user calls it.

    Raises:
        UsageError: The file cannot be read.
        WorkloadError: It is no TensorFlow Lite model, or is damaged.
    """
    return describe(read_bytes(path), name)


def describe(data: bytes, name: str) -> Workload:
    """Describe the model in the bytes of a `.tflite` file.

    Raises:
        WorkloadError: It is no TensorFlow Lite model, or is damaged.
    """
    graph = TfliteGraph(data, name)
    inputs = graph.input_specs()
    batch = next((spec.shape[0] for spec in inputs if spec.shape), 1)
    precision = graph.precision()
    findings = []
    macs: int | None = sum(map(graph.count_macs, graph.operators))
    uncounted = graph.uncounted()
    if uncounted:
        macs = None
        names = ", ".join(operator.name for operator in uncounted[:3])
        more = ", ..." if len(uncounted) > 3 else ""
        text = f"multiply-accumulates are unknown: those of {names}{more} cannot be counted"
        findings.append(Finding("macs_unknown", text))
    if precision != "fp32":
        text = f"the file holds {precision} already and is measured so"
        findings.append(Finding("precision_of_file", text))
    try:
        layers(graph)
    except (struct.error, IndexError, ValueError, ZeroDivisionError) as error:
        raise WorkloadError(
            f"{name} is a damaged TensorFlow Lite model ({error}); convert or download it again"
        ) from error
    return Workload(
        name,
        data,
        inputs,
        batch,
        precision,
        macs,
        graph.params(),
        len(data),
        tuple(findings),
        format=TFLITE,
    )


def read_bytes(path: Path) -> bytes:
    """Read a file of a size that a FlatBuffer can have.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        require_file(path, "a file for TensorFlow Lite")
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(
                f"{str(path)!r} has {path.stat().st_size} bytes; expected at most {MAX_BYTES}"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r} ({error})") from error
