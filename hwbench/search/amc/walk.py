"""AMC's walk through a network: one decision per group of channels, and what the agent sees.

The paper takes one step per layer and decides the channels it reads, which are those that the layer
before it writes; layers that share their channels (residual additions) share one decision. Its
first step, whose action is fixed, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwbench.search.costs import Floats

if TYPE_CHECKING:
    from hwbench.network.structure import Slot, Structure
    from hwbench.search.budget import Budget

FEATURES = ("t", "n", "c", "h", "w", "stride", "k", "cost", "reduced", "rest", "a")
"""Of a state (paper, equation 1).

`cost`, `reduced` and `rest` are shares of the unpruned network's cost, of whatever kind.
"""
SIZE = len(FEATURES)


def channel_geometry(structure: Structure) -> Floats:
    """n, c, h, w, stride and kernel of the first layer that reads each group, shape (groups, 6)."""
    slots = {slot.layer.name: slot for slot in structure.slots}
    names = [(group.consumers or group.producers)[0] for group in structure.groups]
    return np.array([_geometry(slots[name]) for name in names], np.float64).reshape(-1, 6)


def weight_geometry(structure: Structure) -> Floats:
    """The same of each layer with weights, for single-weight pruning."""
    return np.array(
        [_geometry(slot) for slot in structure.slots if slot.layer.macs], np.float64
    ).reshape(-1, 6)


def _geometry(slot: Slot) -> tuple[int, int, int, int, int, int]:
    key = slot.layer.key
    shape = key.inputs[0]
    convolution = len(shape) == 4 and "Conv" in key.op
    axis = 1 if convolution else -1
    height, width = (shape[2], shape[3]) if convolution else (1, 1)
    stride, kernel = (int(key.attr(name, "1").split("x")[0]) for name in ("strides", "kernel"))
    return key.output[axis], shape[axis], height, width, stride, kernel


class Walk:
    """One episode at a time: `reset`, then one `step` per decision.

    Args:
        budget: What bounds every step.
        geometry: Of each decision, shape (decisions, 6).

    Attributes:
        decided: Widths so far.
    """

    def __init__(self, budget: Budget, geometry: Floats) -> None:
        self.budget = budget
        parts = budget.parts
        fixed = np.column_stack([np.arange(len(geometry)), geometry])
        low, high = fixed.min(axis=0), fixed.max(axis=0)
        scaled = (fixed - low) / np.where(high > low, high - low, 1)
        self._parts = parts
        self._fixed = np.column_stack([scaled, parts.own / parts.total])
        self._rest = parts.rest / parts.total
        self._place: list[Mapping[int, int]] = [
            {int(w): i for i, w in enumerate(grid)} for grid in budget.choices
        ]
        self.reset()

    @property
    def done(self) -> bool:
        """Whether all decisions are taken."""
        return len(self.decided) == len(self._place)

    def reset(self) -> Floats:
        """Begin anew; the state before the first decision, shape (11,), in [0, 1]."""
        self.decided: list[int] = []
        self._places: list[int] = []
        self._last = 1.0
        self._reduced = 0.0
        return self.state()

    def step(self, action: float) -> Floats:
        """Take one decision.

        Args:
            action: Preserve ratio that is wished for, in [0, 1].

        Returns:
            The next state; after the last decision, the state in which it was taken, with what came
            of it.
        """
        group = len(self.decided)
        choices = self.budget.choices[group]
        wish = choices[
            min(int(np.searchsorted(choices, round(action * int(choices[-1])))), len(choices) - 1)
        ]
        return self._take(self.budget.bounded(self.decided, wish))

    def retrace(self, widths: Sequence[int]) -> list[Floats]:
        """Walk anew to these widths; the states before the first decision and after each."""
        states = [self.reset()]
        states += [self._take(width) for width in widths]
        return states

    def _take(self, width: int) -> Floats:
        group = len(self.decided)
        self._reduced += self._parts.freed(group, (*self._places, self._place[group][width]))
        self.decided.append(width)
        self._places.append(self._place[group][width])
        self._last = width / int(self.budget.choices[group][-1])
        return self.state()

    def state(self) -> Floats:
        """What the agent sees now."""
        step = min(len(self.decided), len(self._place) - 1)
        reduced = self._reduced / self._parts.total
        changing = (min(max(reduced, 0.0), 1.0), self._rest[step], self._last)
        return np.concatenate([self._fixed[step], changing])
