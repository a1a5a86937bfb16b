"""Workload (what is run once), LayerKey (identity of one fused layer) and LatencySource (who predicts latency)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import quote, unquote

from hwbench.errors import SchemaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason to distrust a number, or a fact that explains it, as data.

    Attributes:
        code: Stable name in snake_case (`drift`, `macs_without_gain`); tools select by it.
        text: One sentence for people, with the values that led to it.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, fixed shape and element type (numpy name, e.g. `float32`) of one model input."""

    name: str
    shape: Shape
    dtype: str = "float32"


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


_KEY = re.compile(r"(?P<op>[\w.~%-]+)\[(?P<inputs>[^\]]*)->(?P<output>[^\]]*)\]\{(?P<attrs>[^}]*)\}@(?P<precision>\w+)")


@dataclass(frozen=True, order=True, slots=True)
class LayerKey:
    """Identity of one layer after fusion: all that changes its latency, and nothing that does not.

    Two layers with equal keys share one table entry. Text form, whose parse is exact:
    `Conv[1x32x112x112->1x64x112x112]{act=Relu,group=1,kernel=1x1,pads=0.0.0.0,strides=1x1}@fp32`.

    Attributes:
        op: ONNX operator type of the main node; `Linear` for Gemm, MatMul with weights, and 1x1 convolution of a 1x1 map.
        inputs: Shapes of the activations read (weights are implied by geometry).
        output: Shape of the activation written.
        attrs: Sorted (name, value) pairs: kernel, strides, pads, dilations, group, act (fused activation),
            add (a residual addition is fused in), ...
        precision: `fp32`, `fp16` or `int8`.
    """

    op: str
    inputs: tuple[Shape, ...]
    output: Shape
    attrs: tuple[tuple[str, str], ...] = ()
    precision: str = "fp32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", tuple(sorted(self.attrs)))

    def __str__(self) -> str:
        shapes = "+".join(_shape_text(shape) for shape in self.inputs)
        attrs = ",".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.attrs)
        return f"{quote(self.op, safe='')}[{shapes}->{_shape_text(self.output)}]{{{attrs}}}@{self.precision}"

    def attr(self, name: str, default: str = "") -> str:
        """Value of one attribute, or `default`."""
        return dict(self.attrs).get(name, default)

    @classmethod
    def parse(cls, text: str) -> LayerKey:
        """Read the text form back.

        Raises:
            SchemaError: If `text` is not a layer key.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            raise SchemaError(f"not a layer key: {text[:120]!r}; expected OP[IN->OUT]{{name=value,...}}@PRECISION")
        try:
            inputs = tuple(_parse_shape(part) for part in match["inputs"].split("+")) if match["inputs"] else ()
            pairs = [part.split("=") for part in match["attrs"].split(",") if part]
            attrs = tuple((unquote(name), unquote(value)) for name, value in pairs)
            return cls(unquote(match["op"]), inputs, _parse_shape(match["output"]), attrs, match["precision"])
        except ValueError as error:
            raise SchemaError(f"not a layer key: {text[:120]!r} ({error})") from error


def _shape_text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _parse_shape(text: str) -> Shape:
    return () if text == "scalar" else tuple(int(part) for part in text.split("x"))


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted latency of one network.

    Attributes:
        latency_s: Expected latency in seconds.
        ci_s: 95 % prediction interval in seconds.
        measured: Keys answered by a measured entry.
        interpolated: Keys answered between measured entries.
        extrapolated: Keys answered outside the measured range, because that was allowed.
    """

    latency_s: float
    ci_s: tuple[float, float]
    measured: tuple[LayerKey, ...] = ()
    interpolated: tuple[LayerKey, ...] = ()
    extrapolated: tuple[LayerKey, ...] = ()


@runtime_checkable
class LatencySource(Protocol):
    """Anything that tells the latency of a network: a lookup table, or a live device."""

    def predict(self, keys: Sequence[LayerKey]) -> Prediction:
        """Latency of the network made of `keys`, in order."""
        ...

    def predict_widths(self, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Latencies in seconds, shape (n,), of n structures given by widths of shape (n, groups)."""
        ...
