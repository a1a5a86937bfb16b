"""The latency of an invented device, which computes channels by eights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.network.structure import Structure
from hwbench.search.costs import Addends, Floats, Integers, on_grid

STEP = 8
"""Channels that are computed at once: a layer of fewer takes as long."""
MACS_PER_S, VALUES_PER_S = 20e9, 2e9
"""Multiply-accumulates, and values written, in a second."""
LAYER_S = 2e-6
"""What every layer takes beside."""


class SteppedLatency:
    """Seconds of the pruned versions of a network, rounded up to whole vectors.

    Args:
        structure: Structure of a network without depthwise layers.
    """

    name, unit = "latency", "s"

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        whole = structure.layer_widths(np.array([structure.widths], np.int64))[0]
        macs = np.array([slot.layer.macs for slot in structure.slots], np.float64)
        values = [float(np.prod(slot.layer.key.output)) for slot in structure.slots]
        self._pair_s = macs / whole.prod(axis=1) / MACS_PER_S
        self._output_s = np.array(values) / whole[:, 1] / VALUES_PER_S

    def of(self, widths: Integers) -> Floats:
        """Seconds, shape (n,)."""
        seconds: Floats = self._layers(np.asarray(widths)).sum(axis=1)
        return seconds

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """Seconds of layers, gathered by the groups they depend on."""
        addends: dict[tuple[int, ...], Floats] = {}
        for index, slot in enumerate(self._structure.slots):
            groups = slot.groups
            rows = on_grid(groups, choices, self._structure.widths)
            shape = [len(choices[group]) for group in groups]
            grid = self._layers(rows)[:, index].reshape(shape)
            addends[groups] = addends.get(groups, 0.0) + grid
        return addends

    def whole(self, sums: Floats) -> Floats:
        """The sums themselves."""
        return sums

    def _layers(self, widths: Integers) -> Floats:
        """Seconds of every layer, shape (n, layers)."""
        channels = np.ceil(self._structure.layer_widths(widths) / STEP) * STEP
        computing_s = channels.prod(axis=2) * self._pair_s
        seconds: Floats = computing_s + channels[..., 1] * self._output_s + LAYER_S
        return seconds
