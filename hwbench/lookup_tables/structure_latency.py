"""A lookup table for one network: latencies of a hundred thousand pruned versions a second.

They are sums of small dense grids.

Every layer depends on the widths of at most two groups (behind a concatenation of several). Its
latencies over their allowed widths are computed once; layers of the same groups share one grid. A
structure is then one addition per pair of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwbench.errors import MissingEntryError
from hwbench.lookup_tables.families import Place, place_of
from hwbench.lookup_tables.table import LookupTable
from hwbench.network.structure import Dimension, Slot, Structure
from hwbench.network.widths import DEFAULT_STEP, group_step
from hwbench.records.layer_key import LayerKey
from hwbench.records.prediction import Prediction

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_OFF = -1
LEAST_SUM, SLOPES = 0.1, 64
"""Share of the sum of a network's layers down to which the slope of its latency is looked at, and
how often."""


class StructureLatency:
    """A `LatencySource` for the pruned versions of one network: a lookup table, asked by widths.

    It answers 100,000 of them a second.

    Args:
        table: Where latencies come from.
        structure: Groups and layers of the network.
        step: Widths that are multiples of it (and the original ones) are on the grid; others are
            answered too, more slowly. None: the table's.

    Raises:
        MissingEntryError: A layer of the unpruned network has no entry.
    """

    def __init__(self, table: LookupTable, structure: Structure, step: int | None = None) -> None:
        step = step or min((s.step for s in table.provenance.sources), default=DEFAULT_STEP)
        self.table, self.structure = table, structure
        self._places = [place_of(slot.key(structure.widths)) for slot in structure.slots]
        for slot, place in zip(structure.slots, self._places, strict=True):
            table.lookup(
                place.family,
                np.array([place.cin]),
                np.array([place.cout]),
                f"{slot.layer.name} ({slot.layer.key})",
            )
        self._groups = [slot.groups for slot in structure.slots]
        self._choices = [
            _choices(group.width, group_step(step, group.unit)) for group in structure.groups
        ]
        self._position = np.full(
            (len(structure.widths), max(structure.widths, default=0) + 1), _OFF, np.int64
        )
        for group, widths in enumerate(self._choices):
            self._position[group, widths] = np.arange(len(widths))
        self._grids: dict[tuple[int, ...], Floats] = {}
        self._many_group_layers: list[int] = []  # layers that depend on more than two groups
        for index, groups in enumerate(self._groups):
            if len(groups) > 2:
                self._many_group_layers.append(index)
            else:
                self._grids[groups] = self._grids.get(groups, 0.0) + self._grid(
                    index, groups, self._choices
                )
        self._merge_small_grids()

    def predict(self, keys: Sequence[LayerKey]) -> Prediction:
        """Latency of the network made of `keys`; see `LookupTable.predict`."""
        return self.table.predict(keys)

    def predict_widths(self, widths: NDArray[np.int64]) -> Floats:
        """Latencies of many structures at once: those of `predict`.

        Args:
            widths: Shape (n, groups).

        Returns:
            Seconds, shape (n,).

        Raises:
            MissingEntryError: A layer lies outside the measured range.
            UsageError: The array has another shape, or holds a width that is impossible.
        """
        wide = np.asarray(widths)
        if (
            wide.ndim != 2
            or wide.shape[1] != len(self._choices)
            or not np.issubdtype(wide.dtype, np.integer)
        ):
            self.structure.layer_widths(wide)  # says what is wrong
        bounds = np.array(self.structure.widths)
        if (wide < 1).any() or (wide > bounds).any():
            self.structure.layer_widths(wide)
        position = self._position[np.arange(wide.shape[1]), wide]
        on = (position != _OFF).all(axis=1)
        if on.all():
            sums_s = self._sum_grids(wide, position)
        else:
            sums_s = np.empty(len(wide))
            sums_s[on] = self._sum_grids(wide[on], position[on])
            sums_s[~on] = self._sum_layers(wide[~on], range(len(self._places)))
        return self.whole_s(sums_s)

    @property
    def scopes(self) -> list[tuple[int, ...]]:
        """The groups that each layer depends on, ascending."""
        return self._groups

    def addends(self, choices: Sequence[Integers]) -> dict[tuple[int, ...], Floats]:
        """What layers add, by the groups they depend on; it bounds a search.

        There is one value for every combination of the `choices` of those groups.

        Args:
            choices: Allowed widths of every group.

        Returns:
            Seconds; infinite outside the measured range.
        """
        found: dict[tuple[int, ...], Floats] = {}
        for groups, grid in self.layer_addends(choices).values():
            found[groups] = found.get(groups, 0.0) + grid
        return found

    def layer_addends(
        self, choices: Sequence[Integers]
    ) -> dict[int, tuple[tuple[int, ...], Floats]]:
        """What each layer adds: the groups it depends on, and seconds over their `choices`.

        Args:
            choices: Allowed widths of every group.

        Returns:
            By layer; infinite outside the measured range.
        """
        found = {}
        for index, groups in enumerate(self._groups):
            grid = self._grid(index, groups, choices)
            found[index] = groups, np.where(np.isnan(grid), np.inf, grid)
        return found

    @cached_property
    def absent_s(self) -> float:
        """What stands in the sum of layers for one that is left out, seconds; at most 0.

        `whole_s` counts all layers of the network, and for each what it takes beside its addend.
        That goes with a layer, so a smaller sum stands for it: by what a layer takes beside, over
        the most that the whole grows by for a second of the sum. So no network without some of its
        layers is taken to be faster than the table says.
        """
        widths = np.array([self.structure.widths], np.int64)
        sum_s = float(self._sum_layers(widths, range(len(self._places)))[0])
        sums_s = np.linspace(LEAST_SUM * sum_s, sum_s, SLOPES)
        steepest = float((np.diff(self.whole_s(sums_s)) / np.diff(sums_s)).max())
        return -self.table.calibration.per_layer_s / steepest

    def whole_s(self, sums_s: Floats) -> Floats:
        """Latencies of networks whose layers add up to `sums_s`, seconds."""
        return self.table.calibration.whole_s(sums_s, len(self._places))

    def _sum_grids(self, wide: Integers, position: Integers) -> Floats:
        total_s = np.zeros(len(wide))
        for groups, grid in self._grids.items():
            total_s += grid[tuple(position[:, group] for group in groups)]
        if np.isnan(total_s).any():  # a point of a grid that is outside the measured range
            self._sum_layers(wide[np.isnan(total_s)][:1], range(len(self._places)))
        return (
            total_s + self._sum_layers(wide, self._many_group_layers)
            if self._many_group_layers
            else total_s
        )

    def _sum_layers(self, wide: Integers, layers: Sequence[int]) -> Floats:
        """Sum of some layers, each different pair of channel counts looked up once."""
        total_s = np.zeros(len(wide))
        for index in layers if len(wide) else ():
            groups = list(self._groups[index])
            rows, inverse = np.unique(wide[:, groups], axis=0, return_inverse=True)
            total_s += self._latencies(index, groups, rows, refuse=True)[inverse.ravel()]
        return total_s

    def _grid(self, index: int, groups: tuple[int, ...], choices: Sequence[Integers]) -> Floats:
        """Latencies of one layer over the choices of its groups.

        NaN where they are outside the measured range.
        """
        axes = np.meshgrid(*(choices[group] for group in groups), indexing="ij")
        rows = (
            np.stack([axis.ravel() for axis in axes], axis=1)
            if groups
            else np.zeros((1, 0), np.int64)
        )
        return self._latencies(index, list(groups), rows, refuse=False).reshape(
            [len(choices[group]) for group in groups]
        )

    def _latencies(self, index: int, groups: list[int], rows: Integers, *, refuse: bool) -> Floats:
        """Latencies of one layer for widths (n, len(groups)) of its groups."""
        slot, place = self.structure.slots[index], self._places[index]
        full = np.tile(np.array(self.structure.widths, np.int64), (len(rows), 1))
        full[:, groups] = rows
        counts = _channels(slot, place, full)
        if counts is None:
            return self._look_up_one_by_one(slot, full, refuse=refuse)
        cin, cout = counts
        surface = self.table.surfaces[place.family]
        if refuse or self.table.extrapolate:
            return self.table.lookup(place.family, cin, cout, slot.layer.name)[0]
        return np.where(surface.inside(cin, cout), surface.at(cin, cout)[0], np.nan)

    def _look_up_one_by_one(self, slot: Slot, full: Integers, *, refuse: bool) -> Floats:
        """The same for a layer whose family changes with the widths."""
        found = np.full(len(full), np.nan)
        for row, widths in enumerate(full.tolist()):
            try:
                found[row] = self.table.layers([slot.key(widths)])[0].latency_s
            except MissingEntryError:
                if refuse:
                    raise
        return found

    def _merge_small_grids(self) -> None:
        """Add grids of one group, or of none, to a grid of two that holds the group.

        That makes fewer additions per structure.
        """
        for groups in [groups for groups in self._grids if len(groups) < 2]:
            host = next(
                (pair for pair in self._grids if len(pair) == 2 and set(groups) <= set(pair)), None
            )
            if host is not None:
                grid = self._grids.pop(groups)
                self._grids[host] = self._grids[host] + (
                    grid[None, :] if groups and host[1] == groups[0] else grid[..., None]
                )


class ConvertedLatency(StructureLatency):
    """Latencies of a network that a device runs in another format, asked by the original.

    A conversion makes other layers of it (a residual addition is a layer here, and part of one
    there), so that its keys are others; its widths are the same.

    Args:
        table: Where latencies come from, of converted layers.
        structure: Groups of the original, layers of the converted network.
        original: The original.
        step: As that of `StructureLatency`.

    Raises:
        MissingEntryError: A layer of the unpruned network has no entry.
    """

    def __init__(
        self,
        table: LookupTable,
        structure: Structure,
        original: Structure,
        step: int | None = None,
    ) -> None:
        super().__init__(table, structure, step)
        self._original = original

    def predict(self, keys: Sequence[LayerKey]) -> Prediction:
        """Latency of a version of the original that has the layers `keys`.

        Raises:
            MissingEntryError: They are no version of other widths.
        """
        widths = self._original.widths_of(keys)
        if widths is None:
            raise MissingEntryError(
                f"{len(keys)} layers are no version of the network with other widths, and the table"
                f" {self.table.provenance.device.address} knows those alone"
            )
        return super().predict(self.structure.keys(widths))


def _choices(width: int, step: int) -> Integers:
    return np.unique(np.append(np.arange(step, width + 1, step), width))


def _channels(slot: Slot, place: Place, full: Integers) -> tuple[Integers, Integers] | None:
    """Channels read and written in structures `full`.

    None if the keys of the layer are not of one family.
    """
    first = slot.inputs[0] if slot.inputs else slot.output
    cin, cout = _sizes(first, full), _sizes(slot.output, full)
    least = int(np.argmin(cin + cout))
    probe = place_of(slot.key(full[least].tolist()))
    return (cin, cout) if probe == Place(place.family, int(cin[least]), int(cout[least])) else None


def _sizes(dimension: Dimension, full: Integers) -> Integers:
    """Sizes of one channel dimension in structures `full`."""
    sizes = np.full(len(full), dimension.fixed, np.int64)
    for group, scale in dimension.terms:
        sizes += scale * full[:, group]
    return sizes
