"""Workload: what is run once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

from numpy.typing import NDArray  # descriptions of workloads are read by the types of fields

from hwbench.errors import WorkloadError
from hwbench.network.weight_files import WeightFiles, forget_places
from hwbench.records.findings import Finding
from hwbench.records.tensors import TensorSpec

ONNX = "onnx"
"""Format of a serialised ModelProto without external data."""
LARGE_ONNX = "large-onnx"
"""Format of a serialised ModelProto whose large weights stay in files, as it cannot hold them."""
TFLITE = "tflite"
"""Format of a model of TensorFlow Lite (LiteRT)."""


@dataclass(frozen=True)
class Workload:
    """What is run once: a model file with fixed input shapes, and what is known about it.

    Attributes:
        name: How the user called it (`zoo:resnet18`, a path, a class name).
        artifact: Content of the model file, self-contained unless there are `weights`.
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
        weights: The files that large weights are read from, for the format `LARGE_ONNX` alone.
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
    weights: WeightFiles | None = None

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the artifact: the identity of the model.

        Of weights in other files it covers what they hold, and not where they lie.
        """
        if self.weights is None:
            return sha256(self.artifact).hexdigest()
        return sha256(forget_places(self.artifact)).hexdigest()

    @property
    def onnx(self) -> bytes:
        """The serialised ModelProto, self-contained.

        Raises:
            WorkloadError: The artifact has another format.
        """
        if self.format == LARGE_ONNX:
            raise WorkloadError(
                f"{self.name} keeps over 2 GiB of weights, which no ONNX model holds in itself: it"
                " can be profiled and compared on the device cpu, and nothing else; save it in half"
                " precision, or cut it into parts"
            )
        return self.onnx_graph

    @property
    def onnx_graph(self) -> bytes:
        """The serialised ModelProto, of which large weights may be in other files.

        That is enough for whoever needs the layers alone.

        Raises:
            WorkloadError: The artifact has another format.
        """
        if self.format not in {ONNX, LARGE_ONNX}:
            raise WorkloadError(
                f"{self.name} is a {self.format} file where an ONNX model is needed; give the"
                " model it was made from"
            )
        return self.artifact
