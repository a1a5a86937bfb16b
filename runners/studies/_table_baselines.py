"""Older recipes for predicting latency from layers, for comparison: written anew after their
papers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hwbench.devices.base import Device
from hwbench.lookup_tables import LookupTable
from hwbench.lookup_tables.families import Family, place_of
from hwbench.network.graph.build import layer_model
from hwbench.network.structure import Structure
from hwbench.network.workload import Workload
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec

Floats = NDArray[np.float64]
Widths = Sequence[Sequence[int]]
RUNS = 15
NETADAPT_POINTS = 12
"""Widths per axis of NetAdapt's grid (at most), multiples of 8."""
TREES = 50


def isolated(
    device: Device, structure: Structure, chosen: Widths, settings: Settings
) -> tuple[Floats, float]:
    """Sum of the layers of each network, every different layer measured as a network of its own."""
    networks = [structure.keys(widths) for widths in (*chosen, structure.widths)]
    latency_s = measure_layers(device, {key for keys in networks for key in keys}, settings)
    sums_s = np.array([sum(latency_s[key] for key in keys) for keys in networks])
    return sums_s[:-1], float(sums_s[-1])


def netadapt(
    device: Device, structure: Structure, chosen: Widths, settings: Settings
) -> tuple[Floats, float]:
    """NetAdapt's recipe (Yang et al., ECCV 2018): weighted layers on a grid of widths, cubic radial
    basis functions between.
    """
    from scipy.interpolate import RBFInterpolator

    ranges: dict[Family, list[tuple[int, int]]] = {}
    weighted = [
        [key for key in structure.keys(widths) if key.op in {"Conv", "Linear"}]
        for widths in (*chosen, structure.widths)
    ]
    networks = [tuple(keys) for keys in weighted]
    for key in (key for keys in networks for key in keys):
        place = place_of(key)
        ranges.setdefault(place.family, []).append((place.cin, place.cout))
    grids = {family: _grid(np.array(pairs)) for family, pairs in ranges.items()}
    keys = {
        family: [family.key(*map(int, pair)) for pair in grid] for family, grid in grids.items()
    }
    latency_s = measure_layers(device, {key for some in keys.values() for key in some}, settings)
    sums_s = np.zeros(len(networks))
    for family, grid in grids.items():
        values_s = np.array([latency_s[key] for key in keys[family]])
        varying = np.ptp(grid, axis=0) > 0
        if varying.all() and (grid[:, 0] == grid[:, 1]).all():
            varying[1] = False  # a depthwise layer has one width
        asked = [(number, place_of(key)) for number, some in enumerate(networks) for key in some]
        places = [(number, place) for number, place in asked if place.family == family]
        points = np.array([(place.cin, place.cout) for _, place in places], float)[:, varying]
        if len(grid) > 3:
            found_s = RBFInterpolator(grid[:, varying], values_s, kernel="cubic")(points)
        else:
            found_s = np.full(len(points), values_s.mean())
        np.add.at(sums_s, [number for number, _ in places], found_s)
    return sums_s[:-1], float(sums_s[-1])


def forest(
    table: LookupTable, structure: Structure, chosen: Widths, seed: int = 0
) -> tuple[Floats, float]:
    """A random forest per layer family (nn-Meter's regressor; Zhang et al., MobiSys 2021) on the
    entries of a table.
    """
    networks = [structure.keys(widths) for widths in (*chosen, structure.widths)]
    sums_s = np.zeros(len(networks))
    rng = np.random.default_rng(seed)
    for family, points in table.families.items():
        asked = [(number, place_of(key)) for number, keys in enumerate(networks) for key in keys]
        places = [(number, place) for number, place in asked if place.family == family]
        if not places:
            continue
        known = np.stack([points.cin, points.cout, points.cin * points.cout], axis=1)
        wanted = np.array([(p.cin, p.cout, p.cin * p.cout) for _, p in places], float)
        np.add.at(
            sums_s, [number for number, _ in places], _forest(known, points.latency_s, wanted, rng)
        )
    return sums_s[:-1], float(sums_s[-1])


def measure_layers(
    device: Device, keys: Iterable[LayerKey], settings: Settings
) -> dict[LayerKey, float]:
    """Median latency of each layer as a network of its own, seconds."""
    latency_s = {}
    for key in sorted(keys):
        data = layer_model(key)
        inputs = tuple(TensorSpec(f"x{index}", shape) for index, shape in enumerate(key.inputs))
        prepared = device.prepare(
            Workload(str(key), data, inputs, 1, key.precision, 0, 0, len(data)), settings
        )
        latency_s[key] = float(np.median(device.run([prepared] * RUNS).values_s))
        device.release(prepared)
    return latency_s


def _grid(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Channel counts between the smallest and the largest: all combinations, or one axis where both
    are equal.
    """
    axes = [_axis(int(column.min()), int(column.max())) for column in pairs.T]
    if (pairs[:, 0] == pairs[:, 1]).all():
        return np.stack([axes[0], axes[0]], axis=1)
    first, second = np.meshgrid(*axes, indexing="ij")
    return np.stack([first.ravel(), second.ravel()], axis=1)


def _axis(low: int, high: int) -> NDArray[np.int64]:
    wanted = np.linspace(low, high, NETADAPT_POINTS)
    return np.unique(np.clip(np.round(wanted / 8).astype(np.int64) * 8, low, high))


def _forest(known: Floats, values: Floats, wanted: Floats, rng: np.random.Generator) -> Floats:
    """Mean over trees, each grown on a bootstrap sample."""
    total = np.zeros(len(wanted))
    for _ in range(TREES):
        drawn = rng.integers(0, len(known), len(known))
        total += _tree(known[drawn], values[drawn], wanted)
    return total / TREES


def _tree(known: Floats, values: Floats, wanted: Floats) -> Floats:
    """A regression tree grown until its leaves hold 2 values or are pure, evaluated at `wanted`."""
    if len(values) < 3 or np.ptp(values) == 0:
        return np.full(len(wanted), values.mean())
    best: tuple[float, int, float] | None = None
    for column in range(known.shape[1]):
        order = np.argsort(known[:, column], kind="stable")
        x, y = known[order, column], values[order]
        size = np.arange(1, len(y))
        sums, squares = np.cumsum(y)[:-1], np.cumsum(y**2)
        left = squares[:-1] - sums**2 / size
        right = squares[-1] - squares[:-1] - (y.sum() - sums) ** 2 / (len(y) - size)
        cost = np.where(x[1:] > x[:-1], left + right, np.inf)
        place = int(np.argmin(cost))
        if np.isfinite(cost[place]) and (best is None or cost[place] < best[0]):
            best = float(cost[place]), column, float(x[place] + x[place + 1]) / 2
    if best is None:
        return np.full(len(wanted), values.mean())
    _, column, edge = best
    low, low_wanted = known[:, column] < edge, wanted[:, column] < edge
    found = np.empty(len(wanted))
    found[low_wanted] = _tree(known[low], values[low], wanted[low_wanted])
    found[~low_wanted] = _tree(known[~low], values[~low], wanted[~low_wanted])
    return found
