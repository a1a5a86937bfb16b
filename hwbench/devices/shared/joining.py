"""From the rows of a runtime's own profile to the layers of the network.

A runtime executes another graph than it was given: it fuses operators, splits them, and inserts
conversions. What a row of its profile was made of, each driver finds out in its own way (names,
tensors, metadata). From there on all join alike:

- rows that serve the same layer make one row of the result;
- a row that serves several layers which do real work (multiply-accumulates) is a group, whose time
  is never divided and has no key;
- a layer without a row of its own (a reshape that costs nothing) belongs to the row of the layer
  that reads it;
- what the runtime inserted is real cost and has a row of its own, without a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hwbench.devices.base import LayerRow
from hwbench.network.graph import Layer


@dataclass(frozen=True, slots=True)
class RuntimeRow:
    """One row of a runtime's own profile.

    Attributes:
        kind: The runtime's name for what it does (`Reorder`, `Convolution`).
        implementation: Kernel or layout the runtime chose.
        samples_s: One value per profiled inference, seconds.
        serves: Names of the layers whose work it does; none if the runtime inserted it.
        near: Where it serves none, the name of the layer it was inserted for; empty: of the row
            before it.
        principal: Whether it does the layers' own work; not, if it only converts for them.
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
class _Gathered:
    """Rows of the profile that make one row of the result, and the layers they serve."""

    parts: list[RuntimeRow] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)

    @property
    def heaviest(self) -> Layer | None:
        """The layer with the most multiply-accumulates, the first of them; None for an inserted row."""
        return max(self.layers, key=lambda layer: layer.macs, default=None)

    @property
    def is_group(self) -> bool:
        """Whether several layers that do real work are in one: then no single key has this time."""
        return sum(layer.macs > 0 for layer in self.layers) > 1

    @property
    def main_part(self) -> RuntimeRow:
        """The part that does the work of the heaviest layer, beside those that only convert for it."""
        heaviest = self.heaviest
        if heaviest is not None:
            for part in self.parts:
                if part.principal and heaviest.name in part.serves:
                    return part
        return self.parts[0]


def layers_served(nodes: Iterable[str], layers: Sequence[Layer]) -> tuple[str, ...]:
    """Names of the layers whose main nodes are among the ONNX nodes that a row was made of.

    If there are none, the layer most of the nodes are in: so a kernel that only adds or quantises
    between two layers belongs to one of them and ties nothing together.
    """
    nodes = list(nodes)
    names = {layer.name for layer in layers}
    main_nodes = [node for node in nodes if node in names]
    if main_nodes:
        return tuple(dict.fromkeys(main_nodes))
    owners = {node: layer.name for layer in layers for node in layer.nodes}
    counts = Counter(owners[node] for node in nodes if node in owners)
    return tuple(name for name, _ in counts.most_common(1))


def join_rows(rows: Sequence[RuntimeRow], layers: Sequence[Layer]) -> tuple[LayerRow, ...]:
    """One row per layer or group of layers, and one per row that the runtime inserted, in execution order.

    Args:
        rows: Of the runtime's profile, in the order of execution.
        layers: Of the network, in order.
    """
    gathered = _gather(rows, layers)
    _place_layers_without_row(gathered, layers)
    taken: Counter[str] = Counter()
    joined = []
    row_before = "input"
    for row in gathered:
        main, heaviest = row.main_part, row.heaviest
        op, key = main.kind, None
        if heaviest is None:
            label = f"{main.near or row_before}/{main.kind}"
        elif row.is_group:
            label, op = f"{heaviest.name}/group of {len(row.layers)}", "Group"
        else:
            label, op, key = heaviest.name, heaviest.op, heaviest.key
        if heaviest is not None:
            row_before = heaviest.name
        taken[label] += 1
        joined.append(
            LayerRow(
                name=label if taken[label] == 1 else f"{label}_{taken[label]}",
                op=op,
                key=key,
                implementation=main.implementation,
                samples_s=tuple(
                    map(sum, zip(*(part.samples_s for part in row.parts), strict=True))
                ),
                nodes=sum(part.nodes for part in row.parts),
            )
        )
    return tuple(joined)


def _gather(rows: Iterable[RuntimeRow], layers: Sequence[Layer]) -> list[_Gathered]:
    """Rows of the profile that serve the same layers, together."""
    by_name = {layer.name: layer for layer in layers}
    row_of: dict[str, _Gathered] = {}
    gathered: list[_Gathered] = []
    for part in rows:
        begun: list[_Gathered] = []
        for name in part.serves:
            if name in row_of and row_of[name] not in begun:
                begun.append(row_of[name])
        if begun:
            row = begun[0]
        else:
            row = _Gathered()
            gathered.append(row)
        for other in begun[1:]:  # this part ties rows together that were apart until now
            row.parts += other.parts
            row.layers += other.layers
            gathered = [kept for kept in gathered if kept is not other]
        row.parts.append(part)
        row.layers += [by_name[name] for name in part.serves if name not in row_of]
        row_of.update((layer.name, row) for layer in row.layers)
    return gathered


def _place_layers_without_row(rows: Sequence[_Gathered], layers: Sequence[Layer]) -> None:
    """Give layers that no row serves to the row of the layer that reads them, else of one they read."""
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
                row_of[layer.name].layers.append(layer)
                break
