"""Workload: what is run once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

from numpy.typing import NDArray  # descriptions of workloads are read by the types of fields

from hwbench.errors import WorkloadError
from hwbench.records.findings import Finding
from hwbench.records.tensors import TensorSpec

ONNX = "onnx"
"""Format of a serialised ModelProto without external data."""
TFLITE = "tflite"
"""Format of a model of TensorFlow Lite (LiteRT)."""


@dataclass(frozen=True)
class Workload:
    """What is run once: a model file with fixed input shapes, and what is known about it.

    Attributes:
        name: How the user called it (`zoo:resnet18`, a path, a class name).
        artifact: Content of the model file, self-contained (no data in other files).
        inputs: Every input, all dimensions fixed.
        batch: Leading dimension of the first input; latencies are for the whole batch.
        precision: That of the weights (`fp32`, `fp16`, `int8`, ...); already inside the artifact,
            no driver converts.
        macs: Multiply-accumulates for the whole batch, as `hwbench.network.graph.counting` counts
            them; None where something in the network cannot be counted.
        params: Weights and biases of the graph (batch norm folded), elements.
        file_bytes: Size of the file the model came from; of `artifact` where there was none.
        findings: What the intake noticed (export differs from torch, zeros left dense, ...).
        format: What kind of file `artifact` is. A device says in `Device.formats` which it runs.
        values: The values of inputs by name, where they matter; bfloat16 as `uint16` of the same
            bits. A device draws the others.
        node_names: The nodes of the model by the names that the file it was read from has for
            them, which profiles of other tools use; empty for constants that are no longer there.
    """

    name: str
    artifact: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    batch: int
    precision: str
    macs: int | None
    params: int
    file_bytes: int
    findings: tuple[Finding, ...] = ()
    format: str = ONNX
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    node_names: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the artifact: the identity of the model."""
        return sha256(self.artifact).hexdigest()

    @property
    def onnx(self) -> bytes:
        """The serialised ModelProto.

        Raises:
            WorkloadError: The artifact has another format.
        """
        if self.format != ONNX:
            raise WorkloadError(
                f"{self.name} is a {self.format} file where an ONNX model is needed; give the"
                " model it was made from"
            )
        return self.artifact
