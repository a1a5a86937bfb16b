"""Workload: what is run once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

from hwbench.records.findings import Finding
from hwbench.records.tensors import TensorSpec


@dataclass(frozen=True)
class Workload:
    """What is run once: an ONNX model with fixed input shapes, and what is known about it.

    Attributes:
        name: How the user called it (`zoo:resnet18`, a path, a class name).
        onnx: The serialised ModelProto, self-contained (no external data).
        inputs: Every input, all dimensions fixed.
        batch: Leading dimension of the first input; latencies are for the whole batch.
        precision: `fp32`, `fp16` or `int8`; already inside the ONNX file, no driver converts.
        macs: Multiply-accumulates of all convolutions and linear layers, for the whole batch.
        params: Weights and biases of the ONNX graph (batch norm folded), elements.
        file_bytes: Size of the file the model came from; of `onnx` where there was none.
        findings: What the intake noticed (export differs from torch, zeros left dense, ...).
    """

    name: str
    onnx: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    batch: int
    precision: str
    macs: int
    params: int
    file_bytes: int
    findings: tuple[Finding, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the ONNX bytes: the identity of the model."""
        return sha256(self.onnx).hexdigest()
