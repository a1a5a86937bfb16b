"""From the rows of a runtime's own profile to the layers of the network.

A runtime executes another graph than it was given: it fuses operators, splits them, and inserts
conversions. Each driver finds out in its own way (names, tensors, metadata) what a row of its
profile was made of. From there on the rows of all runtimes are joined alike:

- rows that serve the same layer make one row of the result;
- a row that serves several layers which do real work (multiply-accumulates), or several of equal
  rank where none does (two slices in one split), is a group, whose time is never divided and has no
  key;
- a layer without a row of its own (a reshape that costs nothing, a layer that was fused into
  another) belongs to the row of the layer that reads it, and names it if it is the heavier;
- what the runtime inserted is real cost and has a row of its own, without a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hwbench.devices.base import LayerRow
from hwbench.network.graph import PartialLayer
from hwbench.network.graph.keys import ELEMENTWISE

_MOVES = frozenset(
    {
        "Cast",
        "Concat",
        "DepthToSpace",
        "DequantizeLinear",
        "Expand",
        "Gather",
        "Pad",
        "QuantizeLinear",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Tile",
        "Transpose",
    }
)
"""Operators that move or convert elements and compute nothing of them."""
_NAMES_ONLY = frozenset({"AssignVariable", "CallOnce", "ReadVariable", "Reshape", "VarHandle"})
"""Operators that rename dimensions, or say where a state is kept."""
_POINTWISE = ELEMENTWISE | {
    "Abs",
    "Clip",
    "Cos",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Neg",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Sin",
    "Softplus",
    "Sqrt",
    "Tanh",
    "Where",
}
"""Operators that compute each element by itself."""


@dataclass(frozen=True, slots=True)
class RuntimeRow:
    """One row of a runtime's own profile.

    Attributes:
        kind: The runtime's name for what it does (`Reorder`, `Convolution`).
        implementation: Kernel or layout the runtime chose.
        samples_s: One value per profiled inference, seconds.
        serves: Names of the layers whose work it does; none if the runtime inserted it.
        near: If it serves none, the name of the layer it was inserted for; empty for the layer of
            the row before it.
        principal: Whether it does the layers' own work, and does not only convert for them.
        nodes: Profiled nodes in it (each carries the profiler's cost once).
    """

    kind: str
    implementation: str
    samples_s: tuple[float, ...]
    serves: tuple[str, ...] = ()
    near: str = ""
    principal: bool = True
    nodes: int = 1


@dataclass(eq=False, slots=True)
class JoinedRow:
    """Rows of the profile that make one row of the result.

    Attributes:
        parts: The rows of the profile.
        layers: The layers they serve.
        placed: Layers that no row serves and that belong here.
    """

    parts: list[RuntimeRow] = field(default_factory=list)
    layers: list[PartialLayer] = field(default_factory=list)
    placed: list[PartialLayer] = field(default_factory=list)

    @property
    def heaviest(self) -> PartialLayer | None:
        """The first layer that does the most work; None for an inserted row."""
        return max(self.all_layers, key=_weigh, default=None)

    @property
    def all_layers(self) -> list[PartialLayer]:
        """The layers served, then those placed here."""
        return self.layers + self.placed

    @property
    def is_group(self) -> bool:
        """Whether several layers that do real work are in one: no single key has its time."""
        if any(layer.macs for layer in self.all_layers):
            return sum(layer.macs > 0 for layer in self.all_layers) > 1
        highest = max(map(_rank, self.layers), default=0)
        # Layers with the same key that read the same tensors are computed once.
        different = {(layer.key, layer.inputs) for layer in self.layers if _rank(layer) == highest}
        return highest > 0 and len(different) > 1

    @property
    def main_part(self) -> RuntimeRow:
        """The part that does the work of the heaviest layer, and does not only convert for it."""
        heaviest = self.heaviest
        if heaviest is not None:
            for part in self.parts:
                if part.principal and heaviest.name in part.serves:
                    return part
        return self.parts[0]


def _weigh(layer: PartialLayer) -> tuple[int, int]:
    """Weigh layers against each other: by multiply-accumulates, then by rank."""
    return layer.macs, _rank(layer)


def _rank(layer: PartialLayer) -> int:
    """Rank a layer without multiply-accumulates by what it does to each element.

    Names cost nothing, moving elements a little, arithmetic of one element more, and
    whatever combines elements (pooling, normalization, a product of activations) the most.
    """
    if layer.op in _NAMES_ONLY:
        return 0
    if layer.op in _MOVES:
        return 1
    return 2 if layer.op in _POINTWISE else 3


def layers_served(nodes: Iterable[str], layers: Sequence[PartialLayer]) -> tuple[str, ...]:
    """Name the layers whose main nodes are among the ONNX nodes that a row was made of.

    If there are none, it is the layer that most of the nodes are in: so a kernel that only adds or
    quantises between two layers belongs to one of them and ties nothing together.
    """
    nodes = list(nodes)
    names = {layer.name for layer in layers}
    main_nodes = [node for node in nodes if node in names]
    if main_nodes:
        return tuple(dict.fromkeys(main_nodes))
    owners = {node: layer.name for layer in layers for node in layer.nodes}
    counts = Counter(owners[node] for node in nodes if node in owners)
    return tuple(name for name, _ in counts.most_common(1))


def join_rows(rows: Sequence[RuntimeRow], layers: Sequence[PartialLayer]) -> tuple[LayerRow, ...]:
    """Make one row per layer or group of layers, and one per row that the runtime inserted.

    Args:
        rows: Rows of the runtime's profile, in the order of execution.
        layers: Layers of the network, in order.

    Returns:
        The rows in the order of execution, told apart by their names.
    """
    joined_rows = gather_by_layer(rows, layers)
    _place_layers_without_row(joined_rows, layers)
    label_counts: Counter[str] = Counter()
    results = []
    label_before = "input"
    for row in joined_rows:
        main, heaviest = row.main_part, row.heaviest
        op, key = main.kind, None
        if heaviest is None:
            label = f"{main.near or label_before}/{main.kind}"
        elif row.is_group:
            label, op = f"{heaviest.name}/group of {len(row.all_layers)}", "Group"
        else:
            label, op, key = heaviest.name, heaviest.op, heaviest.key
        if heaviest is not None:
            label_before = heaviest.name
        label_counts[label] += 1
        name = label
        if label_counts[label] > 1:
            name = f"{label}_{label_counts[label]}"
        runs = zip(*(part.samples_s for part in row.parts), strict=True)
        results.append(
            LayerRow(
                name=name,
                op=op,
                key=key,
                implementation=main.implementation,
                samples_s=tuple(sum(times_s) for times_s in runs),
                nodes=sum(part.nodes for part in row.parts),
            )
        )
    return tuple(results)


def gather_by_layer(rows: Iterable[RuntimeRow], layers: Sequence[PartialLayer]) -> list[JoinedRow]:
    """Put rows of the profile together that serve the same layers.

    A part that serves layers of several rows makes one row of them: their times cannot be told
    apart any more. So the rows are the connected components of layers tied by parts.
    """
    by_name = {layer.name: layer for layer in layers}
    row_of: dict[str, JoinedRow] = {}
    joined_rows: list[JoinedRow] = []
    for part in rows:
        earlier: list[JoinedRow] = []
        for name in part.serves:
            if name in row_of and row_of[name] not in earlier:
                earlier.append(row_of[name])
        if earlier:
            row = earlier[0]
        else:
            row = JoinedRow()
            joined_rows.append(row)
        for other in earlier[1:]:  # this part ties rows together that were apart until now
            row.parts += other.parts
            row.layers += other.layers
            joined_rows.remove(other)
        row.parts.append(part)
        row.layers += [by_name[name] for name in part.serves if name not in row_of]
        row_of.update((layer.name, row) for layer in row.layers)
    return joined_rows


def _place_layers_without_row(rows: Sequence[JoinedRow], layers: Sequence[PartialLayer]) -> None:
    """Give each layer that no row serves to a row.

    It is the row of the layer that reads it, else of one that it reads.
    """
    row_of = {layer.name: row for row in rows for layer in row.layers}
    readers = {tensor: layer for layer in reversed(layers) for tensor in layer.inputs}
    writers = {layer.output: layer for layer in layers}
    # From the end, so that a chain of such layers ends up in the row of its last reader.
    for layer in reversed(layers):
        if layer.name in row_of:
            continue
        for neighbour in (readers.get(layer.output), *map(writers.get, layer.inputs)):
            if neighbour is not None and neighbour.name in row_of:
                row_of[layer.name] = row_of[neighbour.name]
                row_of[layer.name].placed.append(layer)
                break
