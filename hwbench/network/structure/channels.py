"""Which channels of an ONNX graph belong together: cut one and the others must be cut as well.

Every channel that a layer makes is an *atom*, a number. One pass in graph order gives every
activation tensor a `Layout`: the axis of its channels and which atom each entry along it is.
Convolutions and linear layers make new atoms. Depth-wise convolutions, normalization, activations,
pooling and reshapes hand them on; flattening a map repeats them. Element-wise operators tie the
atoms of their operands, which is how residual additions couple whole stages. Concat, Split, Slice
and channel shuffles only move atoms about. Where an operator takes channels by equal parts (grouped
convolutions, group normalization, heads, halves), the parts are tied, place by place: what goes
from one goes from all.

Atoms that are tied, directly or through others, form a *class*: they go or stay together. Channels
that reach a graph output, or an operator not known here (padding of channels as in CIFAR ResNets'
parameter-free shortcut, recurrent layers), are fixed. Classes that have the same number of entries
along every axis are interchangeable: they form a *group*, whose width is how many of them stay.

On the way every constant whose size follows from channels is noted, so that a graph of other widths
can be cut from this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwbench.network.graph.fusion import ACTIVATIONS
from hwbench.network.graph.keys import (
    CONVOLUTIONS,
    ELEMENTWISE,
    LONG,
    POOLS,
    QUANTIZERS,
    RESHAPES,
    is_weighted,
)
from hwbench.network.graph.view import GraphView, attributes

if TYPE_CHECKING:
    from onnx import NodeProto

Integers = NDArray[np.int64]

_KEEPING = frozenset(
    {
        *ACTIVATIONS,
        *POOLS,
        "Abs",
        "Cast",
        "Ceil",
        "Celu",
        "Cos",
        "DequantizeLinear",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LRN",
        "Log",
        "LogSoftmax",
        "Mish",
        "Neg",
        "Not",
        "QuantizeLinear",
        "Reciprocal",
        "Round",
        "Selu",
        "Sign",
        "Sin",
        "Softmax",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
    }
)
"""Operators of one activation that keep its channels and hold no constants that depend on them."""
_MEETING = ELEMENTWISE | {
    "And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mean", "Mod", "Or",
    "Where", "Xor",
}  # fmt: skip
"""Operators whose operands meet element by element."""
_REDUCTIONS = frozenset(
    {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
     "ReduceLogSumExp", "ReduceProd"}
)  # fmt: skip
_NORMALIZATIONS = frozenset({"BatchNormalization", "InstanceNormalization", "LayerNormalization"})
_FIXED = 0
"""The atom of every channel that must stay from the beginning, such as the network's inputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Channels of one tensor, activation or constant.

    Attributes:
        axis: The axis of its channels.
        atoms: Which channel each stretch of entries along the axis is, in order.
        repeat: Entries of each stretch; not 1 behind a flattened map.
    """

    axis: int
    atoms: Integers
    repeat: int = 1

    @property
    def size(self) -> int:
        """Entries along the axis."""
        return len(self.atoms) * self.repeat

    @property
    def entries(self) -> Integers:
        """The atom of every single entry."""
        return self.atoms if self.repeat == 1 else np.repeat(self.atoms, self.repeat)

    @property
    def is_fixed(self) -> bool:
        """Whether nothing of the tensor can be cut, along any axis."""
        return not self.atoms.any()

    def along(self, axis: int) -> Layout:
        """The same channels along another axis."""
        return Layout(axis, self.atoms, self.repeat)


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A constant of the file whose size along an axis follows channels."""

    tensor: str
    layout: Layout


Followed = Layout | dict[str, Layout] | None
"""What a node makes of channels: layouts of its outputs, or of the first; None if not known."""


class Channels:
    """Layouts of all activations of a graph, and all that must be cut with them.

    Attributes:
        layouts: By tensor, identities resolved.
        cuts: Constants to cut, each possibly along several axes.
        depthwise: By node index of a depth-wise convolution, the layout of its input, which is its
            `group`.
        made: By node index of a layer that makes channels, its output's layout.
        size_arguments: By node index of an operator that takes numbers of channels (Slice, Split,
            Expand, Resize), what it is given by the name of the input: numbers, and layouts for
            their sizes.
        summed: By tensor, the layout along which a product of two activations is summed, as those
            of queries and keys are. Code often divides such sums by a root of their number.
        tables: By node index of a lookup in a constant table, what it makes.
    """

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self.layouts: dict[str, Layout] = {}
        self.cuts: list[Cut] = []
        self.depthwise: dict[int, Layout] = {}
        self.made: dict[int, Layout] = {}
        self.size_arguments: dict[int, dict[str, list[int | Layout]]] = {}
        self.summed: dict[str, Layout] = {}
        self.tables: dict[int, Layout] = {}
        self._sliced: dict[str, tuple[Layout, set[tuple[int, int]]]] = {}
        self._count = 1
        self._ties: list[tuple[Integers, Integers]] = []
        self._fixes: list[tuple[Integers, str]] = []
        self._cut_at: dict[tuple[str, int], Layout] = {}
        self._node: NodeProto | None = None
        self._index = 0
        self._handlers: dict[str, Callable[[NodeProto, list[Layout]], Followed]] = {
            **dict.fromkeys(_KEEPING, self._keep),
            **dict.fromkeys(_MEETING, self._elementwise),
            **dict.fromkeys(RESHAPES, self._reshape),
            **dict.fromkeys(_REDUCTIONS, self._reduce),
            **dict.fromkeys(_NORMALIZATIONS, self._normalize),
            "Concat": self._concat,
            "CumSum": self._cumulate,
            "DepthToSpace": self._depth_to_space,
            "Expand": self._expand,
            "Gather": self._gather,
            "MatMul": self._product,
            "Pad": self._pad,
            "Resize": self._resize,
            "Slice": self._slice,
            "Split": self._split,
            "Transpose": self._transpose,
            "Upsample": self._resize,
        }
        for name in view.inputs:
            self.layouts[name] = self._opaque(name)
        for index in view.active:
            self._trace(index, view.nodes[index])
        self._node = None
        for layout, bounds in self._sliced.values():
            self._tie_slices(layout, bounds)
        # What a reader is told first about a channel is that it is one of the outputs'.
        outputs = [self.layouts[name] for name in view.outputs if name in self.layouts]
        self._fixes[:0] = [
            (layout.atoms, "its channels are the network's outputs") for layout in outputs
        ]

    # What belongs together

    @cached_property
    def classes(self) -> Integers:
        """Class of each atom, shape (atoms,), numbered in the order of their first atoms."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = np.array([[_FIXED], [_FIXED]], np.int64)
        if self._ties:
            pairs = np.concatenate([np.stack(pair) for pair in self._ties], axis=1)
        links = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), (self._count, self._count))
        _, labels = connected_components(links, directed=False)
        _, first, number = np.unique(labels, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        ordered: Integers = rank[number]
        return ordered

    @cached_property
    def reasons(self) -> dict[int, str]:
        """Why classes are fixed, by their numbers."""
        reasons: dict[int, str] = {}
        for atoms, reason in self._fixes:
            for number in np.unique(self.classes[atoms]).tolist():
                reasons.setdefault(number, reason)
        reasons.setdefault(
            int(self.classes[_FIXED]), "its channels meet others that must stay as they are"
        )
        return reasons

    @cached_property
    def groups(self) -> Integers:
        """Group of each atom, shape (atoms,), in the order of their first atoms; -1 if fixed."""
        classes = self.classes
        free = np.ones(int(classes.max()) + 1, bool)
        free[list(self.reasons)] = False
        # Classes are interchangeable if each axis of a tensor has as many entries of one as of the
        # other. Instead of all these numbers, their sums with random factors are compared: 64 bits,
        # so that different ones practically never agree.
        marks = np.zeros(len(free), np.uint64)
        random = np.random.default_rng(0)
        seen: set[int] = set()
        for layout in self._every_layout():
            if id(layout.atoms) in seen:
                continue
            seen.add(id(layout.atoms))
            members, counts = np.unique(classes[layout.atoms], return_counts=True)
            factor = random.integers(1 << 63, dtype=np.uint64)
            marks[members] += counts.astype(np.uint64) * factor
        numbers: dict[int, int] = {}
        by_class = np.full(len(free), -1, np.int64)
        for member in np.flatnonzero(free).tolist():
            by_class[member] = numbers.setdefault(int(marks[member]), len(numbers))
        return by_class[classes]

    @cached_property
    def ranks(self) -> Integers:
        """Place of each atom's class among those of its group, shape (atoms,)."""
        classes, first = np.unique(self.classes, return_index=True)
        group_of_class = self.groups[first]
        rank = np.zeros(len(classes), np.int64)
        for group in range(int(group_of_class.max(initial=-1)) + 1):
            members = np.flatnonzero(group_of_class == group)
            rank[members] = np.arange(len(members))
        ranks: Integers = rank[self.classes]
        return ranks

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Number of classes of each group."""
        count = int(self.groups.max(initial=-1)) + 1
        return tuple(int(self.ranks[self.groups == group].max()) + 1 for group in range(count))

    def groups_in(self, layout: Layout) -> list[int]:
        """Groups that have channels in a layout, each once, in the order of their entries."""
        return [group for group in dict.fromkeys(self.groups[layout.atoms].tolist()) if group >= 0]

    def kept_entries(self, layout: Layout, widths: Sequence[int]) -> Integers:
        """Which entries of a layout's axis stay in a structure: the first ones of every group."""
        groups, ranks = self.groups[layout.atoms], self.ranks[layout.atoms]
        # A last width, for the group -1, that no rank reaches.
        limits = np.array([*widths, self._count + 1], np.int64)
        stays: Integers = np.flatnonzero(np.repeat(ranks < limits[groups], layout.repeat))
        return stays

    def _every_layout(self) -> Iterable[Layout]:
        yield from self.layouts.values()
        for cut in self.cuts:
            yield cut.layout

    # Making, tying and fixing

    def _new(self, width: int) -> Integers:
        self._count += width
        return np.arange(self._count - width, self._count)

    def _fix(self, layout: Layout, reason: str = "") -> None:
        if not reason:
            reason = f"its channels reach {self._place}, through which channels cannot be followed"
        self._fixes.append((layout.atoms, reason))

    @property
    def _place(self) -> str:
        if self._node is None:
            return "the network's end"
        return f"{self._node.op_type} ({self._node.name})"

    def _tie(self, one: Layout, other: Layout) -> None:
        """Let two layouts of equal size share their channels."""
        if one.repeat == other.repeat:
            self._ties.append((one.atoms, other.atoms))
        else:
            self._ties.append((one.entries, other.entries))

    def _tie_parts(self, atoms: Integers, parts: int) -> Integers:
        """Let equal parts of an axis share their channels, place by place; gives the first part."""
        rows = atoms.reshape(parts, -1)
        for row in rows[1:]:
            self._ties.append((rows[0], row))
        first: Integers = rows[0]
        return first

    def _tie_slices(self, layout: Layout, bounds: set[tuple[int, int]]) -> None:
        """Let equal slices that make up a whole share their channels: exporters write halves so."""
        size = layout.size // len(bounds)
        parts = {(begin, begin + size) for begin in range(0, layout.size, max(size, 1))}
        if len(bounds) > 1 and bounds == parts and size * len(bounds) == layout.size:
            self._tie_parts(layout.entries, len(bounds))

    def _fix_by(self, layout: Layout, other: str) -> None:
        """Fix channels that meet those of a tensor of which nothing can be cut."""
        maker = self.view.maker(other)
        if maker is None:
            origin = "are those of the network's input"
        else:
            origin = f"come from {maker.op_type} ({maker.name})"
        self._fix(layout, f"its channels meet others that {origin} and must stay as they are")

    def _opaque(self, name: str) -> Layout:
        """A layout of fixed channels for a tensor."""
        shape = self.view.fixed_shape(name) or ()
        axis = min(1, max(len(shape) - 1, 0))
        return Layout(axis, np.zeros(shape[axis] if shape else 1, np.int64))

    # Following channels through nodes

    def _trace(self, index: int, node: NodeProto) -> None:
        """Follow the channels of a node's inputs to its outputs; fix what cannot be followed."""
        self._node, self._index = node, index
        inputs = [self.layouts[name] for name in self.view.activations(node)]
        followed = self._follow(index, node, inputs) if inputs else None
        if followed is None:
            for layout in inputs:
                self._fix(layout)
            followed = {}
        elif isinstance(followed, Layout):
            followed = {node.output[0]: followed}
        for name in filter(None, node.output):
            self.layouts[name] = followed.get(name) or self._opaque(name)

    def _follow(self, index: int, node: NodeProto, inputs: list[Layout]) -> Followed:
        """Layouts of the node's outputs.

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
        if all(layout.is_fixed for layout in inputs) and not self._is_lookup(node):
            return {}
        return self._handlers[node.op_type](node, inputs)

    def _convolution(self, index: int, node: NodeProto, layout: Layout) -> Layout | None:
        """A convolution makes new channels; a depth-wise one hands on those that it reads.

        Its weight is cut along both: output x input channels, input x output where it is
        transposed. A depth-wise weight has one axis of channels only. Where there are groups, the
        weight's inner axis holds the channels of one of them, and the same go from all.
        """
        shape = self.view.shape(node.input[0])
        inner, outer = shape[1], self.view.shape(node.output[0])[1]
        group = attributes(node).get("group", 1)
        transposed = node.op_type == "ConvTranspose"
        if layout.axis > 1 and not layout.is_fixed:
            # It slides over the channels, as those of efficient channel attention do: its own are
            # others, and it makes as many as it reads.
            self.made[index] = Layout(1, np.zeros(outer, np.int64))
            return layout if self._stays(node, layout) else None
        read_axis, written_axis = (0, 1) if transposed else (1, 0)
        if inner % group or outer % group or (layout.axis < 1 and not layout.is_fixed):
            return None
        if layout.is_fixed:
            layout = Layout(1, np.zeros(inner, np.int64))
        if group == inner and group > 1:
            self.depthwise[index] = layout
            # The channels written for each one read lie side by side.
            followed = Layout(1, layout.atoms, layout.repeat * (outer // inner))
            cuts = [(layout if transposed else followed).along(0)]
        else:
            per_group = self._new(outer // group)
            followed = Layout(1, np.tile(per_group, group))
            self.made[index] = followed
            read, written = layout, followed
            if group > 1 and transposed:
                self._tie_parts(layout.entries, group)
                written = Layout(1, per_group)
            elif group > 1:
                read = Layout(1, self._tie_parts(layout.entries, group))
            cuts = [read.along(read_axis), written.along(written_axis)]
        known = all(self._cut(node.input[1], cut) for cut in cuts)
        known &= all(self._cut(name, followed.along(0)) for name in node.input[2:] if name)
        if not known or len(self.view.shape(node.input[1])) != len(shape):
            self._fix(followed)
            return None
        return followed

    def _linear(self, index: int, node: NodeProto, layout: Layout) -> Layout | None:
        """A linear layer reads the last axis and makes new channels along it."""
        shape = self.view.shape(node.output[0])
        last = len(shape) - 1
        followed = Layout(last, self._new(shape[-1]))
        self.made[index] = followed
        # The weight is input x output, or output x input where the operator transposes it.
        read_axis = int(bool(attributes(node).get("transB", 0)))
        if layout.axis == last:
            known = self._cut(node.input[1], layout.along(read_axis))
        else:
            self._fix(layout)
            known = True
        known &= self._cut(node.input[1], followed.along(1 - read_axis))
        for name in node.input[2:]:
            known &= not name or self._cut_broadcast(name, followed, last + 1)
        if not known:
            self._fix(followed)
            return None
        return followed

    def _is_lookup(self, node: NodeProto) -> bool:
        """Whether a node takes rows of a constant table, as embeddings of tokens do."""
        if node.op_type != "Gather" or not self.view.is_constant(node.input[0]):
            return False
        from onnx import TensorProto

        table = self.view.resolve(node.input[0])
        return (
            len(self.view.shape(table)) == 2
            and self.view.elements(table) > LONG
            and self.view.element_type(table) == TensorProto.FLOAT
            and attributes(node).get("axis", 0) == 0
        )

    def _look_up(self, node: NodeProto) -> Followed:
        """A table makes new channels, the entries of its rows."""
        width = self.view.shape(node.input[0])[1]
        followed = Layout(len(self.view.shape(node.output[0])) - 1, self._new(width))
        if not self._cut(node.input[0], followed.along(1)):
            self._fix(followed)
            return {}
        self.tables[self._index] = followed
        return followed

    def _cut(self, name: str, layout: Layout) -> bool:
        """Note that a constant follows channels.

        A weight may be computed from the constant that a file holds: transposed, expanded along
        other axes, looked up, or dequantised. What is cut is the constant in the file, so the axis
        is followed back to it.

        Returns:
            False if it is computed in another way, which is not followed.
        """
        name = self.view.resolve(name)
        maker = self.view.maker(name)
        if name in self.view.initializers:
            # A constant that several layers share is cut once, so that they share their channels.
            before = self._cut_at.setdefault((name, layout.axis), layout)
            if before is not layout:
                self._tie(before, layout)
            else:
                self.cuts.append(Cut(name, layout))
            return True
        if layout.is_fixed:
            return True
        return maker is not None and self._cut_computed(maker, name, layout)

    def _cut_computed(self, maker: NodeProto, name: str, layout: Layout) -> bool:
        """Note the constant that another one is computed from by a node; see `_cut`."""
        if not maker.input:
            return False
        if maker.op_type == "Transpose":
            order = list(attributes(maker).get("perm", range(len(self.view.shape(name)))[::-1]))
            return self._cut(maker.input[0], layout.along(order[layout.axis]))
        table, last = maker.input[0], len(self.view.shape(name)) - 1
        if maker.op_type == "Gather" and layout.axis == last and not attributes(maker).get("axis"):
            # Rows of a table at positions that are known, such as 0, 1, 2, ..
            return self._cut(table, layout.along(len(self.view.shape(table)) - 1))
        if maker.op_type == "Expand":
            shape: list[int | Layout] = list(self.view.shape(name))
            shape[layout.axis] = layout
            index = self.view.maker_index(name)
            if index is not None:
                self.size_arguments[index] = {"shape": shape}
            return self._cut_broadcast(maker.input[0], layout, len(shape))
        if maker.op_type == "DequantizeLinear":
            return self._cut_quantised(maker, layout)
        return False

    def _cut_quantised(self, maker: NodeProto, layout: Layout) -> bool:
        """Note a quantised constant behind its DequantizeLinear; see `_cut`."""
        if not self._cut(maker.input[0], layout):
            return False
        rank = max(len(self.view.shape(maker.output[0])), 1)
        if attributes(maker).get("axis", 1) % rank != layout.axis:
            return True
        # Scales and zero points are one per channel along this axis, so they are cut as well.
        for scale in maker.input[1:]:
            if scale and self.view.elements(scale) > 1 and not self._cut(scale, layout.along(0)):
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
        return shape[axis] == layout.size and self._cut(name, layout.along(axis))

    def _keep(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Channels stay; scales of a quantisation that differ between channels are not followed."""
        if len(inputs) != 1:
            return None
        if node.op_type in QUANTIZERS:
            for scale in filter(None, node.input[1:]):
                if self.view.elements(scale) != 1:
                    return None
        return inputs[0]

    def _stays(self, node: NodeProto, layout: Layout) -> bool:
        """Whether the output has as many channels, along the same axis, as the input."""
        shape = self.view.shape(node.output[0])
        return len(shape) > layout.axis and shape[layout.axis] == layout.size

    def _pad(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Padding leaves channels alone, or they cannot be followed."""
        return inputs[0] if len(inputs) == 1 and self._stays(node, inputs[0]) else None

    def _resize(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Resizing leaves channels alone; sizes given to it name their number."""
        layout = inputs[0]
        if len(inputs) > 1 or not self._stays(node, layout):
            return None
        if len(node.input) > 3 and node.input[3]:
            if attributes(node).get("axes"):
                return None
            self._tell(node, "sizes", layout)
        return layout

    def _expand(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Channels stay where they are, aligned at the ends of the shapes."""
        shape = self.view.shape(node.output[0])
        axis = inputs[0].axis + len(shape) - len(self.view.shape(self.view.activations(node)[0]))
        layout = inputs[0].along(axis)
        if len(inputs) > 1 or not self._stays(node, layout):
            return None
        self._tell(node, "shape", layout)
        return layout

    def _tell(self, node: NodeProto, name: str, layout: Layout) -> None:
        """Note that a node is told the shape that it makes."""
        shape: list[int | Layout] = list(self.view.shape(node.output[0]))
        shape[layout.axis] = layout
        self.size_arguments[self._index] = {name: shape}

    def _cumulate(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """A running sum along another axis leaves channels alone."""
        axis = self.view.value(node.input[1])
        rank = len(self.view.shape(node.output[0]))
        if len(inputs) > 1 or axis is None or int(axis) % rank == inputs[0].axis:
            return None
        return inputs[0]

    def _slice(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """A slice of channels has some of them, one after the other."""
        layout = inputs[0]
        if len(inputs) > 1:
            return None
        if len(node.input) < 3:  # told by attributes, before opset 10
            rank = len(self.view.shape(node.input[0]))
            axes = attributes(node).get("axes")
            away = axes is not None and layout.axis not in {axis % rank for axis in axes}
            return layout if away else None
        place = self._slice_place(node, layout.axis)
        begins, ends = self.view.value(node.input[1]), self.view.value(node.input[2])
        if place is None or begins is None or ends is None:
            return None
        if place < 0:
            return layout
        begin, end, _ = slice(int(begins[place]), int(ends[place])).indices(layout.size)
        if (begin, end) == (0, layout.size):
            return layout
        entries = layout.entries
        bounds: dict[str, list[int | Layout]] = {"starts": begins.tolist(), "ends": ends.tolist()}
        bounds["starts"][place] = Layout(layout.axis, entries[:begin])
        bounds["ends"][place] = Layout(layout.axis, entries[:end])
        self.size_arguments[self._index] = bounds
        source = self.view.resolve(node.input[0])
        self._sliced.setdefault(source, (layout, set()))[1].add((begin, end))
        return Layout(layout.axis, entries[begin:end])

    def _slice_place(self, node: NodeProto, axis: int) -> int | None:
        """Which bound of a Slice is that of an axis, -1 for none; None if it takes no run of it."""
        rank = len(self.view.shape(node.input[0]))
        axes, steps = None, None
        if len(node.input) > 3 and node.input[3]:
            axes = self.view.value(node.input[3])
            if axes is None:
                return None
        if len(node.input) > 4 and node.input[4]:
            steps = self.view.value(node.input[4])
            if steps is None:
                return None
        named = [int(entry) % rank for entry in (range(rank) if axes is None else axes)]
        if axis not in named:
            return -1
        place = named.index(axis)
        return place if steps is None or steps[place] == 1 else None

    def _split(self, node: NodeProto, inputs: list[Layout]) -> Followed:
        """Parts of the channels; equal parts stay equal, as whoever splits in halves expects."""
        layout = inputs[0]
        rank = len(self.view.shape(node.input[0]))
        outputs = [name for name in node.output if name]
        if len(inputs) > 1 or not 1 < len(outputs) == len(node.output) <= LONG:
            return None
        if attributes(node).get("axis", 0) % rank != layout.axis:
            return dict.fromkeys(outputs, layout)
        sizes = [self.view.shape(name)[layout.axis] for name in outputs]
        by_number = self.view.opset >= 13 and len(node.input) < 2
        if len(set(sizes)) == 1:
            self._tie_parts(layout.entries, len(sizes))
        elif by_number:
            return None
        parts = np.split(layout.entries, np.cumsum(sizes)[:-1])
        layouts = [Layout(layout.axis, part) for part in parts]
        if not by_number:
            self.size_arguments[self._index] = {"split": [*layouts]}
        return dict(zip(outputs, layouts, strict=True))

    def _gather(self, node: NodeProto, inputs: list[Layout]) -> Followed:
        """Entries taken along another axis leave channels alone."""
        data, layout = node.input[0], inputs[0]
        if layout.is_fixed and self._is_lookup(node):
            return self._look_up(node)
        if len(inputs) > 1 or self.view.is_constant(data):
            return None
        axis = attributes(node).get("axis", 0) % len(self.view.shape(data))
        if axis == layout.axis:
            return None
        grown = len(self.view.shape(node.output[0])) - len(self.view.shape(data))
        return layout.along(layout.axis + (grown if axis < layout.axis else 0))

    def _elementwise(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Operands that meet element by element have the same channels from now on.

        An operand that is broadcast along the channels (a map of one channel) is no part of them.
        """
        shape = self.view.shape(node.output[0])
        # Broadcasting aligns shapes at their ends; axes are counted in the output's dimensions.
        full: list[Layout] = []
        for name, layout in zip(self.view.activations(node), inputs, strict=True):
            aligned = layout.along(layout.axis + len(shape) - len(self.view.shape(name)))
            if not layout.is_fixed and aligned.size == shape[aligned.axis]:
                full.append(aligned)
            else:
                self._fix(layout)
        if not full or any(layout.axis != full[0].axis for layout in full):
            return None
        for layout in full[1:]:
            self._tie(full[0], layout)
        known = all(self._meet(name, full[0], len(shape)) for name in filter(None, node.input))
        return full[0] if known else None

    def _concat(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Channels come to lie side by side; along another axis they are the same channels."""
        rank = len(self.view.shape(node.output[0]))
        axis = attributes(node)["axis"] % rank
        free = [layout for layout in inputs if not layout.is_fixed]
        if any(layout.axis != free[0].axis for layout in free):
            return None
        if axis != free[0].axis:
            for layout in free[1:]:
                self._tie(free[0], layout)
            known = all(self._meet(name, free[0], rank) for name in filter(None, node.input))
            return free[0] if known else None
        parts = []
        by_name = dict(zip(self.view.activations(node), inputs, strict=True))
        for name in filter(None, node.input):
            part = by_name.get(self.view.resolve(name))
            if part is None or part.is_fixed:
                part = Layout(axis, np.zeros(self.view.shape(name)[axis], np.int64))
            parts.append(part)
        if len({part.repeat for part in parts}) == 1:
            return Layout(axis, np.concatenate([part.atoms for part in parts]), parts[0].repeat)
        return Layout(axis, np.concatenate([part.entries for part in parts]))

    def _meet(self, name: str, layout: Layout, rank: int) -> bool:
        """Cut a constant that meets channels; let them stay if an activation does that is fixed.

        The tensor whose channels these are has `rank` dimensions, and `name` is broadcast to it.

        Returns:
            False if it is a constant that cannot be cut.
        """
        if self.view.is_constant(name):
            return self._cut_broadcast(name, layout, rank)
        axis = layout.axis - rank + len(self.view.shape(name))
        fixed = self.layouts[self.view.resolve(name)].is_fixed
        if fixed and axis >= 0 and self.view.shape(name)[axis] != 1:
            self._fix_by(layout, name)
        return True

    def _reshape(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Channels are merged with dimensions beside them, or taken apart.

        A flattened map of 7 x 7 positions has 49 entries for every channel, next to each other.
        Where channels are taken apart (into groups, or heads, of so many each), the last of the new
        dimensions gets narrower, and as many go from every part.
        """
        if len(inputs) != 1:
            return None
        layout = inputs[0]
        before = self.view.shape(self.view.activations(node)[0])
        after = self.view.shape(node.output[0])
        # Entries from one channel to the next, and from the first channel to where they begin anew.
        inner = layout.repeat * math.prod(before[layout.axis + 1 :])
        outer = len(layout.atoms) * inner
        own = []  # dimensions of the output along which the channel changes
        for axis, size in enumerate(after):
            stride = math.prod(after[axis + 1 :])
            if size > 1 and stride < outer and stride * size > inner:
                own.append(axis)
        if not own:  # a single channel
            same = before[: layout.axis + 1] == after[: layout.axis + 1]
            return layout if same else None
        axis = own[-1]
        stride = math.prod(after[axis + 1 :])
        reach = stride * after[axis]
        if (
            inner % stride
            or reach % inner
            or (outer if len(own) > 1 else reach) % min(outer, reach)
        ):
            return None
        if len(own) > 1:
            atoms = self._tie_parts(layout.atoms, outer // reach)
        else:
            atoms = np.tile(layout.atoms, reach // outer)
        return Layout(axis, atoms, inner // stride)

    def _depth_to_space(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Channels become positions: those of one position are tied to those of the next."""
        layout = inputs[0]
        positions = attributes(node)["blocksize"] ** 2
        if layout.axis != 1:
            return None
        entries = layout.entries
        if attributes(node).get("mode", b"DCR") == b"CRD":
            entries = entries.reshape(-1, positions).T.ravel()
        return Layout(1, self._tie_parts(entries, positions))

    def _transpose(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        rank = len(self.view.shape(node.output[0]))
        order = list(attributes(node).get("perm", range(rank)[::-1]))
        return inputs[0].along(order.index(inputs[0].axis))

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
        return layout.along(layout.axis - vanished)

    def _normalize(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """Normalization with one scale and shift per channel."""
        layout = inputs[0]
        rank = len(self.view.shape(node.output[0]))
        axis = rank - 1 if node.op_type == "LayerNormalization" else 1
        if len(inputs) > 1:
            return None
        parameters = [name for name in node.input[1:] if name]
        if any(len(self.view.shape(name)) != 1 for name in parameters):
            return None
        if layout.axis != axis:
            # Group normalization: each group is a channel here, and its own channels lie behind.
            return layout if node.op_type == "InstanceNormalization" else None
        if not all(self._cut(name, layout.along(0)) for name in parameters):
            return None
        return layout

    def _product(self, node: NodeProto, inputs: list[Layout]) -> Layout | None:
        """A product of two activations, as in attention: what is summed over is the same in both.

        Channels may lie along what is summed over, or along what stays; of the latter, one operand
        alone may have any.
        """
        if len(inputs) != 2 or len(node.input) != 2:
            return None
        rank = len(self.view.shape(node.output[0]))
        summed: list[Layout] = []
        staying: list[Layout] = []
        operands = zip(self.view.activations(node), inputs, (1, 2), (2, 1), strict=True)
        for name, layout, summed_end, staying_end in operands:
            own_rank = len(self.view.shape(name))
            if layout.is_fixed:
                continue
            if layout.axis == own_rank - summed_end:
                summed.append(layout)
            elif layout.axis == own_rank - staying_end:
                staying.append(layout.along(layout.axis + rank - own_rank))
            else:
                return None
        if len(summed) == 2:
            self._tie(*summed)
            self.summed[node.output[0]] = summed[0]
            return self._opaque(node.output[0])
        for layout in summed:
            self._fix(layout)  # the other operand has as many, and there they are fixed
        if len(staying) == 2:
            return None
        return staying[0] if staying else self._opaque(node.output[0])
