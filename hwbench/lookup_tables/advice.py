"""Which widths to prefer on a device, with the evidence from its table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwbench.lookup_tables.families import Family
from hwbench.lookup_tables.table import LookupTable

WORTH_SAYING = 0.95
"""Share of the wider layer's latency from which being narrower is not worth it."""
ENOUGH = 12
"""Different widths that a layer must have been measured at.

They are more than the trend has costs, so that a step is seen and not only fitted.
"""


@dataclass(frozen=True, slots=True)
class StepAdvice:
    """Keep output channels of one kind of layer to multiples of a step.

    Attributes:
        kind: Kind of layer, as in `LookupTable.steps`.
        step: Channel step.
        family: The layer the evidence is from.
        cin: Channels it reads in both cases.
        narrow: A width between two steps.
        wide: The next multiple of the step.
        narrow_s: Latency at `narrow`.
        wide_s: Latency at `wide`.
    """

    kind: str
    step: int
    family: Family
    cin: int
    narrow: int
    wide: int
    narrow_s: float
    wide_s: float


def advice(table: LookupTable) -> tuple[StepAdvice, ...]:
    """Find evidence for the channel step of every kind of layer that has one.

    It is the width that gains least from being narrower, if it gains little.
    """
    found = []
    for kind, step in table.steps.items():
        families = [
            family
            for family, points in table.families.items()
            if family.kind == kind and len(points.cin) >= ENOUGH
        ]
        cases = (
            [case for family in families for case in _compare_widths(table, family, step)]
            if step > 1
            else []
        )
        if cases:
            found.append(max(cases, key=lambda case: case.narrow_s / case.wide_s))
    return tuple(found)


def _compare_widths(table: LookupTable, family: Family, step: int) -> list[StepAdvice]:
    """Widths half a step below a multiple that lie in the measured range, beside that multiple."""
    surface = table.surfaces[family]
    low_in, high_in, low_out, high_out = surface.box
    wide = np.arange(step, high_out + 1, step)
    narrow = wide - step // 2
    inside = narrow >= low_out
    wide, narrow = wide[inside], narrow[inside]
    tied = (
        low_in == low_out
        and high_in == high_out
        and all(table.families[family].cin == table.families[family].cout)
    )
    cin = high_in // step * step or high_in
    reads = (narrow, wide) if tied else (np.full_like(narrow, cin), np.full_like(wide, cin))
    narrow_s, wide_s = surface.at(reads[0], narrow)[0], surface.at(reads[1], wide)[0]
    return [
        StepAdvice(
            family.kind,
            step,
            family,
            int(reads[1][i]),
            int(narrow[i]),
            int(wide[i]),
            float(narrow_s[i]),
            float(wide_s[i]),
        )
        for i in range(len(wide))
        if narrow_s[i] > WORTH_SAYING * wide_s[i] > 0
    ]
