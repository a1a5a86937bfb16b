"""LayerKey: the identity of one layer after fusion."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from hwbench.errors import SchemaError
from hwbench.records.tensors import Shape

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Linear"})
"""Operators of keys that have weights, and whose multiply-accumulates count."""
_KEY = re.compile(
    r"(?P<op>[\w.~%-]+)\[(?P<inputs>[^\]]*)->(?P<output>[^\]]*)\]\{(?P<attrs>[^}]*)\}@(?P<precision>\w+)"
)


@dataclass(frozen=True, order=True, slots=True)
class LayerKey:
    """Identity of one layer after fusion: all that changes its latency, and nothing that does not.

    Two layers with equal keys share one table entry. Text form, whose parse is exact:
    `Conv[1x32x112x112->1x64x112x112]{act=Relu,group=1,kernel=1x1,pads=0.0.0.0,strides=1x1}@fp32`.

    Attributes:
        op: ONNX operator type of the main node; `Linear` for Gemm, MatMul with weights, and 1x1
            convolution of a 1x1 map.
        inputs: Shapes of the activations read (weights are implied by geometry).
        output: Shape of the activation written.
        attrs: Sorted (name, value) pairs: kernel, strides, pads, dilations, group, act (fused
            activation), add (a residual addition is fused in), ...
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
        attrs = ",".join(
            f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.attrs
        )
        shapes = f"{shapes}->{_shape_text(self.output)}"
        return f"{quote(self.op, safe='')}[{shapes}]{{{attrs}}}@{self.precision}"

    def attr(self, name: str, default: str = "") -> str:
        """Value of one attribute, or `default`."""
        return dict(self.attrs).get(name, default)

    @property
    def groups(self) -> int:
        """Groups of channels that a convolution keeps apart; 1 for all else."""
        return max([1, *_numbers(self.attr("group"))])

    @property
    def weights(self) -> int:
        """Elements of the weights of a convolution or linear layer, no biases; 0 for all else."""
        # A key may come from a file of unknown origin, so it need not describe a possible layer.
        if self.op not in WEIGHTED or not self.inputs:
            return 0
        if len(self.inputs[0]) < 2 or len(self.output) < 2:
            return 0
        cin, cout = self._channels()
        return cout * (cin // self.groups) * math.prod(_numbers(self.attr("kernel")))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference for the whole batch.

        Every weight is used once per position. Positions are those of the output; where a
        convolution is transposed, and in a linear layer, those of the input. 0 for all but
        convolutions and linear layers.
        """
        weights = self.weights
        if not weights:
            return 0
        cin, cout = self._channels()
        if self.op == "Conv":
            return weights * (math.prod(self.output) // cout)
        return weights * (math.prod(self.inputs[0]) // cin)

    def _channels(self) -> tuple[int, int]:
        """Channels that a convolution or linear layer reads, and those that it writes."""
        axis = -1 if self.op == "Linear" else 1
        return self.inputs[0][axis], self.output[axis]

    @classmethod
    def parse(cls, text: str) -> LayerKey:
        """Read the text form back.

        Raises:
            SchemaError: If `text` is not a layer key.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            raise SchemaError(
                f"not a layer key: {text[:120]!r}; expected OP[IN->OUT]{{name=value,...}}@PRECISION"
            )
        try:
            inputs = (
                tuple(_parse_shape(part) for part in match["inputs"].split("+"))
                if match["inputs"]
                else ()
            )
            pairs = [part.split("=") for part in match["attrs"].split(",") if part]
            attrs = tuple((unquote(name), unquote(value)) for name, value in pairs)
            return cls(
                unquote(match["op"]),
                inputs,
                _parse_shape(match["output"]),
                attrs,
                match["precision"],
            )
        except ValueError as error:
            raise SchemaError(f"not a layer key: {text[:120]!r} ({error})") from error


def _numbers(text: str) -> list[int]:
    """The whole numbers in the text of an attribute (`3x3`), as far as they are sizes."""
    return [int(number) for number in re.findall(r"\d{1,9}", text)]


def _shape_text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _parse_shape(text: str) -> Shape:
    return () if text == "scalar" else tuple(int(part) for part in text.split("x"))
