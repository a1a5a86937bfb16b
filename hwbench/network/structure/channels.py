"""Which channels of an ONNX graph belong together: cut one and the others must be cut as well.

One pass in graph order gives every activation tensor a `Layout`: the axis of its channels and,
along it, the spans of channels and who made them. Convolutions and linear layers make new channels.
Depth-wise convolutions, normalization, activations, pooling and reshapes hand them on; flattening a
map multiplies them by its positions. Element-wise operators tie the channels of their operands
together (union-find), which is how residual additions couple whole stages; Concat puts spans side
by side. Channels that reach a graph output, or an operator not known here (grouped convolutions
that are not depth-wise, Split, Gather, products of two activations, padding of channels as in CIFAR
ResNets' parameter-free shortcut), are fixed at their width.

On the way every constant whose size follows from channels is noted, so that a graph of other widths
can be cut from this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.network.graph.fusion import ACTIVATIONS
from hwbench.network.graph.keys import (
    CONVOLUTIONS,
    ELEMENTWISE,
    POOLS,
    QUANTIZERS,
    RESHAPES,
    is_weighted,
)
from hwbench.network.graph.view import GraphView, attributes

if TYPE_CHECKING:
    from onnx import NodeProto

Span = tuple[int, int]
"""A run of channels: who made them, and how many entries of the axis each takes."""

_KEEPING = frozenset(
    {
        *ACTIVATIONS,
        *POOLS,
        "Abs",
        "Cast",
        "Celu",
        "DequantizeLinear",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LRN",
        "Log",
        "LogSoftmax",
        "Mish",
        "Neg",
        "QuantizeLinear",
        "Selu",
        "Softmax",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
    }
)
"""Operators of one activation that keep its channels and hold no constants that depend on them."""
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"})
_SPATIAL = frozenset({"Pad", "Slice", "Resize", "Upsample"})
_NORMALIZATIONS = frozenset({"BatchNormalization", "InstanceNormalization", "LayerNormalization"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Channels of one tensor: their axis, and the spans along it, in order."""

    axis: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """A constant whose size along `axis` follows the channels of `spans`."""

    tensor: str
    axis: int
    spans: tuple[Span, ...]


class Channels:
    """Layouts of all activations of a graph, and all that must be cut with them.

    Whoever makes channels (a layer, or a tensor whose channels are fixed) is a number, a *maker*.
    Makers whose channels must be cut alike form a tree of a union-find structure (Tarjan,
    Efficiency of a good but not linear set union algorithm, 1975): `_parent` points towards the
    root, which represents them all. Two layers that meet in an addition are joined by hanging one
    root below the other, which costs next to nothing however many layers are coupled already.

    Attributes:
        layouts: By tensor, identities resolved.
        cuts: Constants to cut, each possibly along several axes.
        depthwise: By node index of a depth-wise convolution, the layout of its input, which is its
            `group`.
        made: By node index of a layer that makes channels, who they are.
    """

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self.layouts: dict[str, Layout] = {}
        self.cuts: list[Cut] = []
        self.depthwise: dict[int, Layout] = {}
        self.made: dict[int, int] = {}
        self._parent: list[int] = []
        self._width: list[int] = []
        self._fixed: list[bool] = []
        self._handlers: dict[str, Callable[[NodeProto, list[Layout]], Layout | None]] = {
            **dict.fromkeys(_KEEPING, self._keep),
            **dict.fromkeys(_SPATIAL, self._spatial),
            **dict.fromkeys(ELEMENTWISE, self._elementwise),
            **dict.fromkeys(RESHAPES, self._reshape),
            **dict.fromkeys(_REDUCTIONS, self._reduce),
            **dict.fromkeys(_NORMALIZATIONS, self._normalize),
            "Concat": self._concat,
            "Transpose": self._transpose,
        }
        for name in view.inputs:
            self.layouts[name] = self._opaque(name)
        for index in view.active:
            self._trace(index, view.nodes[index])
        for name in view.outputs:
            if name in self.layouts:
                self._fix(self.layouts[name])

    def root(self, maker: int) -> int:
        """Representative of all channels tied to `maker`."""
        while self._parent[maker] != maker:
            # Halving the path on the way keeps later searches short.
            self._parent[maker] = self._parent[self._parent[maker]]
            maker = self._parent[maker]
        return maker

    def width(self, maker: int) -> int:
        """Number of channels."""
        return self._width[maker]

    def is_fixed(self, maker: int) -> bool:
        """Whether the channels, or any tied to them, must stay."""
        return self._fixed[self.root(maker)]

    def size(self, layout: Layout) -> int:
        """Entries along the layout's axis."""
        return sum(self._width[maker] * repeat for maker, repeat in layout.spans)

    def _new(self, width: int, *, fixed: bool = False) -> int:
        self._parent.append(len(self._parent))
        self._width.append(width)
        self._fixed.append(fixed)
        return len(self._parent) - 1

    def _fix(self, layout: Layout) -> None:
        for maker, _ in layout.spans:
            self._fixed[self.root(maker)] = True

    def _tie(self, one: Layout, other: Layout) -> None:
        """Let two layouts of equal size share their channels.

        Where their spans do not match one to one, a cut of the one is no cut of the other, so all
        of them are fixed.
        """
        if not self._spans_match(one, other):
            self._fix(one)
            self._fix(other)
            return
        for (maker, _), (other_maker, _) in zip(one.spans, other.spans, strict=True):
            # The maker that came first in the graph becomes the root: groups keep its order.
            first, second = sorted((self.root(maker), self.root(other_maker)))
            self._parent[second] = first
            self._fixed[first] |= self._fixed[second]

    def _spans_match(self, one: Layout, other: Layout) -> bool:
        if len(one.spans) != len(other.spans):
            return False
        for (maker, repeat), (other_maker, other_repeat) in zip(
            one.spans, other.spans, strict=True
        ):
            if repeat != other_repeat or self._width[maker] != self._width[other_maker]:
                return False
        return True

    def _opaque(self, name: str) -> Layout:
        """A layout of fixed channels for a tensor."""
        shape = self.view.fixed_shape(name) or ()
        axis = min(1, max(len(shape) - 1, 0))
        return Layout(axis, ((self._new(shape[axis] if shape else 1, fixed=True), 1),))

    def _trace(self, index: int, node: NodeProto) -> None:
        """Follow the channels of a node's inputs to its outputs; fix what cannot be followed."""
        inputs = [self.layouts[name] for name in self.view.activations(node)]
        followed = self._follow(index, node, inputs) if inputs else None
        if followed is None:
            for layout in inputs:
                self._fix(layout)
        for position, name in enumerate(node.output):
            if not name:
                continue
            if position == 0 and followed is not None:
                self.layouts[name] = followed
            else:
                self.layouts[name] = self._opaque(name)

    def _follow(self, index: int, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Layout of the node's first output.

        None if the channels of its inputs cannot be followed through it.
        """
        if is_weighted(self.view, node):
            if len(inputs) > 1:
                return None
            if node.op_type in CONVOLUTIONS:
                return self._convolution(index, node, inputs[0])
            return self._linear(index, node, inputs[0])
        if node.domain or node.op_type not in self._handlers:
            return None
        return self._handlers[node.op_type](node, inputs)

    def _convolution(self, index: int, node: NodeProto, layout: Layout) -> Layout | None:
        """A convolution makes new channels; a depth-wise one hands on those that it reads.

        Its weight is cut along both: output x input channels, input x output where it is
        transposed. A depth-wise weight has one axis of channels only.
        """
        shape = self.view.shape(node.input[0])
        inner, outer = shape[1], self.view.shape(node.output[0])[1]
        group = attributes(node).get("group", 1)
        transposed = node.op_type == "ConvTranspose"
        if layout.axis != 1 or group not in {1, inner}:
            return None
        if group == 1:
            maker = self._new(outer)
            self.made[index] = maker
            spans: tuple[Span, ...] = ((maker, 1),)
            read_axis, written_axis = (0, 1) if transposed else (1, 0)
            cuts = [(read_axis, layout.spans), (written_axis, spans)]
        else:
            self.depthwise[index] = layout
            multiplier = outer // inner  # channels written for each one read
            spans = tuple((maker, repeat * multiplier) for maker, repeat in layout.spans)
            cuts = [(0, layout.spans if transposed else spans)]
        followed = Layout(1, spans)
        known = all(self._cut(node.input[1], axis, cut) for axis, cut in cuts)
        known &= all(self._cut(name, 0, spans) for name in node.input[2:] if name)
        if not known or len(self.view.shape(node.input[1])) != len(shape):
            self._fix(followed)
            return None
        return followed

    def _linear(self, index: int, node: NodeProto, layout: Layout) -> Layout | None:
        """A linear layer reads the last axis and makes new channels along it."""
        shape = self.view.shape(node.output[0])
        last = len(shape) - 1
        maker = self._new(shape[-1])
        self.made[index] = maker
        followed = Layout(last, ((maker, 1),))
        # The weight is input x output, or output x input where the operator transposes it.
        read_axis = int(bool(attributes(node).get("transB", 0)))
        if layout.axis == last:
            known = self._cut(node.input[1], read_axis, layout.spans)
        else:
            self._fix(layout)
            known = True
        known &= self._cut(node.input[1], 1 - read_axis, followed.spans)
        for name in node.input[2:]:
            known &= not name or self._cut_broadcast(name, followed, last + 1)
        if not known:
            self._fix(followed)
            return None
        return followed

    def _cut(self, name: str, axis: int, spans: tuple[Span, ...]) -> bool:
        """Note that a constant follows `spans` along `axis`.

        A weight may be computed from the constant that a file holds: transposed, or dequantised.
        What is cut is the constant in the file, so the axis is followed back to it.

        Returns:
            False if it is computed in another way, which is not followed.
        """
        name = self.view.resolve(name)
        maker = self.view.maker(name)
        if name in self.view.initializers:
            self.cuts.append(Cut(name, axis, spans))
            return True
        if maker is None or not maker.input:
            return False
        if maker.op_type == "Transpose":
            order = list(attributes(maker).get("perm", range(len(self.view.shape(name)))[::-1]))
            return self._cut(maker.input[0], order[axis], spans)
        if maker.op_type == "DequantizeLinear":
            return self._cut_quantised(maker, axis, spans)
        return False

    def _cut_quantised(self, maker: NodeProto, axis: int, spans: tuple[Span, ...]) -> bool:
        """Note a quantised constant behind its DequantizeLinear; see `_cut`."""
        if not self._cut(maker.input[0], axis, spans):
            return False
        rank = max(len(self.view.shape(maker.output[0])), 1)
        if attributes(maker).get("axis", 1) % rank != axis:
            return True
        # Scales and zero points are one per channel along this axis, so they are cut as well.
        for scale in maker.input[1:]:
            if scale and self.view.elements(scale) > 1 and not self._cut(scale, 0, spans):
                return False
        return True

    def _cut_broadcast(self, name: str, layout: Layout, rank: int) -> bool:
        """Note a constant that is broadcast against a tensor of `rank` dimensions.

        The tensor is laid out as `layout`. Broadcasting aligns shapes at their ends, so a constant
        of fewer dimensions lacks the first ones.
        """
        shape = self.view.shape(name)
        axis = layout.axis - (rank - len(shape))
        if axis < 0 or shape[axis] == 1:
            return True
        return shape[axis] == self.size(layout) and self._cut(name, axis, layout.spans)

    def _keep(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Channels stay; scales of a quantisation that differ between channels are not followed."""
        if len(inputs) != 1:
            return None
        if node.op_type in QUANTIZERS:
            for scale in filter(None, node.input[1:]):
                if self.view.elements(scale) != 1:
                    return None
        return inputs[0]

    def _spatial(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Pad, Slice and Resize, as long as they leave the channels alone."""
        layout = inputs[0]
        if len(inputs) > 1 or self.view.shape(node.output[0])[layout.axis] != self.size(layout):
            return None
        if node.op_type == "Slice":
            # A slice of all channels names their number as its end, which would have to be cut too.
            rank = len(self.view.shape(node.input[0]))
            axes = self._slice_axes(node)
            if axes is None or layout.axis in {axis % rank for axis in axes}:
                return None
        if node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            return None  # sizes instead of scales: they name the number of channels
        return layout

    def _slice_axes(self, node: NodeProto) -> list[int] | None:
        """Axes that a Slice cuts, an attribute or an input by opset; None if they are not known."""
        axes = attributes(node).get("axes")
        if axes is None and len(node.input) > 3 and node.input[3]:
            value = self.view.value(node.input[3])
            axes = None if value is None else value.tolist()
        return axes

    def _elementwise(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Operands that meet element by element have the same channels from now on.

        An operand that is broadcast along the channels (a map of one channel) is no part of them.
        """
        shape = self.view.shape(node.output[0])
        # Broadcasting aligns shapes at their ends; axes are counted in the output's dimensions.
        aligned = []
        for name, layout in zip(self.view.activations(node), inputs, strict=True):
            axis = layout.axis + len(shape) - len(self.view.shape(name))
            aligned.append(Layout(axis, layout.spans))
        full = [layout for layout in aligned if self.size(layout) == shape[layout.axis]]
        if not full or any(layout.axis != full[0].axis for layout in aligned):
            return None
        for layout in aligned:
            if layout in full:
                self._tie(full[0], layout)
            else:
                self._fix(layout)
        constants = [name for name in node.input if name and self.view.is_constant(name)]
        known = all(self._cut_broadcast(name, full[0], len(shape)) for name in constants)
        return full[0] if known else None

    def _concat(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Channels come to lie side by side; along another axis they are the same channels."""
        axis = attributes(node)["axis"] % len(self.view.shape(node.output[0]))
        if len(inputs) < len(node.input) or any(layout.axis != inputs[0].axis for layout in inputs):
            return None
        if inputs[0].axis == axis:
            return Layout(axis, tuple(span for layout in inputs for span in layout.spans))
        for layout in inputs[1:]:
            self._tie(inputs[0], layout)
        return inputs[0]

    def _reshape(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Dimensions before the channels stay; the channels stay too, or take in some behind them.

        A flattened map of 7 x 7 positions has 49 entries for every channel, next to each other: a
        span then repeats 49 times as often.
        """
        layout = inputs[0]
        before = self.view.shape(self.view.activations(node)[0])
        after = self.view.shape(node.output[0])
        axis = layout.axis
        if len(after) <= axis or before[:axis] != after[:axis]:
            return None
        size = before[axis]
        for behind in (*before[axis + 1 :], 1):
            if size == after[axis]:
                repeat = size // before[axis]
                return Layout(axis, tuple((maker, times * repeat) for maker, times in layout.spans))
            size *= behind
        return None

    def _transpose(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        rank = len(self.view.shape(node.output[0]))
        order = list(attributes(node).get("perm", range(rank)[::-1]))
        return Layout(order.index(inputs[0].axis), inputs[0].spans)

    def _reduce(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Channels stay unless they are reduced; dimensions that vanish before them shift them."""
        given, layout = attributes(node), inputs[0]
        if len(node.input) > 1 and node.input[1]:
            reduced = self.view.value(node.input[1])
        else:
            reduced = given.get("axes")
        if reduced is None:
            return None
        rank = len(self.view.shape(self.view.activations(node)[0]))
        axes = {int(axis) % rank for axis in reduced}
        if layout.axis in axes:
            return self._opaque(node.output[0])
        vanished = 0
        if not given.get("keepdims", 1):
            vanished = sum(axis < layout.axis for axis in axes)
        return Layout(layout.axis - vanished, layout.spans)

    def _normalize(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Normalization with one scale and shift per channel."""
        layout = inputs[0]
        axis = 1
        if node.op_type == "LayerNormalization":
            axis = len(self.view.shape(node.output[0])) - 1
        if len(inputs) > 1 or layout.axis != axis:
            return None
        parameters = [name for name in node.input[1:] if name]
        if any(len(self.view.shape(name)) != 1 for name in parameters):
            return None
        if not all(self._cut(name, 0, layout.spans) for name in parameters):
            return None
        return layout
