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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.network.graph.fusion import ACTIVATIONS
from hwbench.network.graph.keys import CONVOLUTIONS, ELEMENTWISE, POOLS, RESHAPES, is_weighted
from hwbench.network.graph.view import GraphView, attributes

if TYPE_CHECKING:
    from onnx import NodeProto

Span = tuple[int, int]
"""A run of channels: who made them, and how many entries of the axis each takes."""

_KEEPING = (
    ACTIVATIONS
    | POOLS
    | {
        "GlobalAveragePool",
        "GlobalMaxPool",
        "QuantizeLinear",
        "DequantizeLinear",
        "Cast",
        "LRN",
        "Softmax",
        "LogSoftmax",
    }
    | {
        "Elu",
        "Selu",
        "Celu",
        "Gelu",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Neg",
        "Abs",
        "Softplus",
        "Softsign",
        "Mish",
        "Swish",
    }
)
"""Operators with one activation whose channels they keep, without constants that depend on channels."""
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"})


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

    Attributes:
        layouts: By tensor, identities resolved.
        cuts: Constants to cut, each possibly several times.
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
        normalize = dict.fromkeys(
            ("BatchNormalization", "InstanceNormalization", "LayerNormalization"), self._normalize
        )
        self._handlers: Mapping[str, Callable[[NodeProto, list[Layout]], Layout | None]] = (
            dict.fromkeys(_KEEPING, self._keep)
            | dict.fromkeys(("Pad", "Slice", "Resize", "Upsample"), self._spatial)
            | dict.fromkeys(ELEMENTWISE, self._elementwise)
            | dict.fromkeys(RESHAPES, self._reshape)
            | dict.fromkeys(_REDUCTIONS, self._reduce)
            | normalize
            | {"Concat": self._concat, "Transpose": self._transpose}
        )
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

        Where their spans do not match, all of them are fixed.
        """
        pairs = list(zip(one.spans, other.spans, strict=False))
        matched = len(one.spans) == len(other.spans) and all(
            repeat == again and self._width[a] == self._width[b]
            for (a, repeat), (b, again) in pairs
        )
        if not matched:
            self._fix(one)
            self._fix(other)
            return
        for (a, _), (b, _) in pairs:
            first, second = sorted((self.root(a), self.root(b)))
            self._parent[second] = first
            self._fixed[first] |= self._fixed[second]

    def _opaque(self, name: str) -> Layout:
        """A layout of fixed channels for a tensor."""
        shape = self.view.fixed_shape(name) or ()
        axis = min(1, max(len(shape) - 1, 0))
        return Layout(axis, ((self._new(shape[axis] if shape else 1, fixed=True), 1),))

    def _trace(self, index: int, node: NodeProto) -> None:
        inputs = [self.layouts[name] for name in self.view.activations(node)]
        output = self._handed_on(index, node, inputs) if inputs else None
        if output is None:
            for layout in inputs:
                self._fix(layout)
        for position, name in enumerate(node.output):
            if name:
                self.layouts[name] = (
                    output if output is not None and position == 0 else self._opaque(name)
                )

    def _handed_on(self, index: int, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Layout of the node's first output, or None if its inputs' channels cannot be followed through it."""
        if is_weighted(self.view, node):
            if len(inputs) > 1:
                return None
            return (self._convolution if node.op_type in CONVOLUTIONS else self._linear)(
                index, node, inputs[0]
            )
        handler = None if node.domain else self._handlers.get(node.op_type)
        return handler(node, inputs) if handler else None

    def _convolution(self, index: int, node: NodeProto, layout: Layout) -> Layout | None:
        weight = self.view.shape(node.input[1])
        group, inner = attributes(node).get("group", 1), self.view.shape(node.input[0])[1]
        outer = self.view.shape(node.output[0])[1]
        transposed = node.op_type == "ConvTranspose"
        if layout.axis != 1 or (group not in {1, inner}):
            return None
        if group == 1:
            spans: tuple[Span, ...] = ((self._new(outer), 1),)
            self.made[index] = spans[0][0]
            cuts = (
                [(1, layout.spans), (0, spans)]
                if not transposed
                else [(0, layout.spans), (1, spans)]
            )
        else:
            spans = tuple((maker, repeat * (outer // inner)) for maker, repeat in layout.spans)
            self.depthwise[index] = layout
            cuts = [(0, layout.spans if transposed else spans)]
        made = Layout(1, spans)
        known = all(self._cut(node.input[1], axis, cut) for axis, cut in cuts)
        known &= all(self._cut(name, 0, spans) for name in node.input[2:] if name)
        if not known or len(weight) != len(self.view.shape(node.input[0])):
            self._fix(made)
            return None
        return made

    def _linear(self, index: int, node: NodeProto, layout: Layout) -> Layout | None:
        last = len(self.view.shape(node.output[0])) - 1
        flipped = bool(attributes(node).get("transB", 0))
        made = Layout(last, ((self._new(self.view.shape(node.output[0])[-1]), 1),))
        self.made[index] = made.spans[0][0]
        if layout.axis == last:
            known = self._cut(node.input[1], int(flipped), layout.spans)
        else:
            self._fix(layout)
            known = True
        known &= self._cut(node.input[1], 1 - int(flipped), made.spans)
        for name in node.input[2:]:
            known &= not name or self._cut_broadcast(name, made, last + 1)
        if not known:
            self._fix(made)
            return None
        return made

    def _cut(self, name: str, axis: int, spans: tuple[Span, ...]) -> bool:
        """Note that a constant follows `spans` along `axis`.

        False if it is computed in a way that is not followed.
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
        if maker.op_type != "DequantizeLinear":
            return False
        per_channel = attributes(maker).get("axis", 1) % max(len(self.view.shape(name)), 1) == axis
        scales = [
            scale
            for scale in maker.input[1:]
            if scale and per_channel and self.view.elements(scale) > 1
        ]
        return self._cut(maker.input[0], axis, spans) and all(
            self._cut(scale, 0, spans) for scale in scales
        )

    def _cut_broadcast(self, name: str, layout: Layout, rank: int) -> bool:
        """Note a constant that is broadcast against a tensor of `rank` dimensions laid out as `layout`."""
        shape = self.view.shape(name)
        axis = layout.axis - (rank - len(shape))
        if axis < 0 or shape[axis] == 1:
            return True
        return shape[axis] == self.size(layout) and self._cut(name, axis, layout.spans)

    def _keep(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        scales = node.input[1:] if node.op_type in {"QuantizeLinear", "DequantizeLinear"} else ()
        known = len(inputs) == 1 and all(self.view.elements(name) == 1 for name in scales if name)
        return inputs[0] if known else None

    def _spatial(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Pad, Slice and Resize, as long as they leave the channels alone."""
        (layout,) = inputs[:1]
        if len(inputs) > 1 or self.view.shape(node.output[0])[layout.axis] != self.size(layout):
            return None
        rank = len(self.view.shape(node.input[0]))
        axes = attributes(node).get("axes")
        place = {"Slice": 3, "Pad": 3}.get(node.op_type, rank)
        if axes is None and len(node.input) > place and node.input[place]:
            value = self.view.value(node.input[place])
            axes = value.tolist() if value is not None else None
        if node.op_type == "Slice" and (
            axes is None or layout.axis in {axis % rank for axis in axes}
        ):
            return None
        sized = node.op_type == "Resize" and len(node.input) > 3 and node.input[3]
        return None if sized else layout

    def _elementwise(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        shape = self.view.shape(node.output[0])
        names = self.view.activations(node)
        whole = []
        for name, layout in zip(names, inputs, strict=True):
            axis = layout.axis + len(shape) - len(self.view.shape(name))
            whole.append(Layout(axis, layout.spans))
        full = [layout for layout in whole if self.size(layout) == shape[layout.axis]]
        if not full or any(layout.axis != full[0].axis for layout in whole):
            return None
        for layout in whole:
            if layout in full:
                self._tie(full[0], layout)
            else:
                self._fix(layout)
        constants = [name for name in node.input if name and self.view.is_constant(name)]
        known = all(self._cut_broadcast(name, full[0], len(shape)) for name in constants)
        return full[0] if known else None

    def _concat(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        axis = attributes(node)["axis"] % len(self.view.shape(node.output[0]))
        if len(inputs) < len(node.input) or any(layout.axis != inputs[0].axis for layout in inputs):
            return None
        if inputs[0].axis == axis:
            return Layout(axis, tuple(span for layout in inputs for span in layout.spans))
        for layout in inputs[1:]:
            self._tie(inputs[0], layout)
        return inputs[0]

    def _reshape(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Dimensions up to the channels stay.

        The channels stay too, or take in dimensions behind them.
        """
        (layout,) = inputs[:1]
        before, after = (
            self.view.shape(self.view.activations(node)[0]),
            self.view.shape(node.output[0]),
        )
        axis = layout.axis
        if len(after) <= axis or before[:axis] != after[:axis]:
            return None
        size = before[axis]
        for taken in range(axis + 1, len(before) + 1):
            if size == after[axis]:
                repeat = size // before[axis]
                return Layout(axis, tuple((maker, times * repeat) for maker, times in layout.spans))
            size *= before[taken] if taken < len(before) else 1
        return None

    def _transpose(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        rank = len(self.view.shape(node.output[0]))
        order = list(attributes(node).get("perm", range(rank)[::-1]))
        return Layout(order.index(inputs[0].axis), inputs[0].spans)

    def _reduce(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        given, layout = attributes(node), inputs[0]
        value = (
            self.view.value(node.input[1])
            if len(node.input) > 1 and node.input[1]
            else given.get("axes")
        )
        if value is None:
            return None
        rank = len(self.view.shape(self.view.activations(node)[0]))
        axes = {int(axis) % rank for axis in value}
        if layout.axis in axes:
            return self._opaque(node.output[0])
        gone = 0 if given.get("keepdims", 1) else sum(axis < layout.axis for axis in axes)
        return Layout(layout.axis - gone, layout.spans)

    def _normalize(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Normalization with one scale and shift per channel."""
        (layout,) = inputs[:1]
        last = len(self.view.shape(node.output[0])) - 1
        per_channel = all(len(self.view.shape(name)) == 1 for name in node.input[1:] if name)
        if (
            len(inputs) > 1
            or not per_channel
            or layout.axis != (last if node.op_type == "LayerNormalization" else 1)
        ):
            return None
        return (
            layout
            if all(self._cut(name, 0, layout.spans) for name in node.input[1:] if name)
            else None
        )
