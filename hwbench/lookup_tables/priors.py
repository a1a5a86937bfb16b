"""What layer families of one kind have in common: what each unit of work costs.

Units of work are a layer, a multiply-accumulate, a weight, an element read and one written.

A family with two measured points cannot tell a constant from a slope; all families of its kind
together can. Their common trend is where the trend of each family starts from (partial pooling:
Gelman and Hill, Data Analysis Using Regression and Multilevel/Hierarchical Models, 2007, chapter
12), and how far they stray from it says how little a point of its own outweighs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hwbench.lookup_tables.families import EACH, Family
from hwbench.lookup_tables.surface import FEW_SD, Floats, Points, Prior, features
from hwbench.records.tensors import Shape


def priors(families: Mapping[Family, Points], steps: Mapping[str, int]) -> dict[Family, Prior]:
    """What its kind says about every family.

    Args:
        families: Measured points of each.
        steps: Channel step of each kind.

    Returns:
        One for every family that takes time at all: one whose layers the runtime computes inside
        neighbours says nothing.
    """
    kinds: dict[str, dict[Family, Points]] = {}
    for family, points in families.items():
        if points.latency_s.any():
            kinds.setdefault(family.kind, {})[family] = points
    found: dict[Family, Prior] = {}
    for kind, members in kinds.items():
        found |= _pool_kind(members, steps[kind])
    return found


def _pool_kind(families: Mapping[Family, Points], step: int) -> dict[Family, Prior]:
    """Costs of work that all these families share, none negative, fitted to relative errors.

    Every family counts the same, however often it was measured: families differ from each other by
    more than samples do.
    """
    from scipy.optimize import nnls

    done = {family: work(family, step) for family in families}
    rows: list[Floats] = []
    for family, points in families.items():
        some = points.latency_s > 0
        relative = (
            features(points.cin[some], points.cout[some], step)
            @ done[family]
            / points.latency_s[some, None]
        )
        rows.append(relative / math.sqrt(some.sum()))
    matrix = np.concatenate(rows)
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    costs, left = nnls(
        matrix / scale,
        np.concatenate([np.full(len(part), 1 / math.sqrt(len(part))) for part in rows]),
    )
    spread = max(float(left) / math.sqrt(len(families)), FEW_SD)
    return {
        family: Prior(tuple((done[family] @ (costs / scale)).tolist()), spread)
        for family in families
    }


def work(family: Family, step: int) -> Floats:
    """Work of a layer per unit of each of `features`.

    Rows are those features; columns are layers, multiply-accumulates, weights, elements read and
    elements written; the last four again with channels rounded up to the step; and the
    multiply-accumulates of layers whose last block of channels read, or written, is not full. With
    a step of 1 there are only the first five.
    """
    from scipy.linalg import block_diag

    plain = _work(family)
    if step == 1:
        return plain
    whole: Floats = block_diag(plain, plain[1:, 1:], plain[1, 1], plain[1, 1])
    return whole


def _work(family: Family) -> Floats:
    pattern = family.pattern
    first, *others = pattern.inputs or (pattern.output,)
    layer, pair, read, write = np.eye(4)
    if pattern.attr("group") == EACH:
        # Every channel has its own kernel: work grows with the channels written alone.
        unit, each = family.key(1, 1), write
    else:
        # The smallest layer of the family has one channel in each of its groups.
        unit = family.key(pattern.groups, pattern.groups)
        each = pair / pattern.groups**2
    elements_read = _per_channel(first) * read
    for shape in others:
        elements_read = elements_read + _per_channel(shape) * write
    columns = [
        layer,
        unit.macs * each,
        unit.weights * each,
        elements_read,
        _per_channel(pattern.output) * write,
    ]
    return np.stack(columns, axis=1)


def _per_channel(shape: Shape) -> int:
    """Elements for each channel of a family's pattern."""
    return math.prod(size for size in shape if size)
