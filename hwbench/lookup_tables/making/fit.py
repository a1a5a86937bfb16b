"""From measured networks to a table: entries, the scale that makes layers add up to whole networks, and honest errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwbench.lookup_tables.families import Family, place_of
from hwbench.lookup_tables.making.networks import NetworkSample
from hwbench.lookup_tables.metadata import Calibration, Entry, Metadata, Provenance, Source
from hwbench.lookup_tables.surface import Floats, Points, Shape, Surface
from hwbench.lookup_tables.table import LookupTable
from hwbench.records.layer_key import LayerKey

FOLDS = 8
DISTURBED = 1.25
"""An anchor slower than this many times its usual latency says that the device does something else: half a core is gone at 2,
while clock frequencies and neighbours on a shared host move it by 10 to 15 %."""
FAR, FAR_LEAST = 5.0, 0.005
"""A network further from the rest than this many robust deviations, and these at least so large, was measured badly."""
PASSES = 3
"""Times that such networks are looked for."""
CONTEXT_EVIDENCE = 3.0
"""That they do so is believed if it raises the log likelihood of the networks by more than this."""
CONTEXTS = tuple((np.arange(-12, 33) / 100).tolist())
"""Choices for how much more a layer costs in a larger network."""
BENDS = tuple((np.arange(-10, 6) / 50).tolist())
"""Choices for how that levels off."""
LEAST_GROWTH = 0.3
"""Networks whose layers sum to 1 % more take at least so many per cent more: what is smaller is never slower."""
LEAST_SD = 0.002
"""Deviation that two sessions of one network have on the quietest machine.

No interval is narrower.
"""


@dataclass(frozen=True, slots=True)
class Campaign:
    """All pruned versions of one model that were measured.

    Attributes:
        source: The model; its latency is found here.
        samples: The networks, the anchor's own among them.
    """

    source: Source
    samples: tuple[NetworkSample, ...]

    @property
    def level_s(self) -> float:
        """Latency of the anchor over the whole campaign, seconds."""
        return float(np.median([sample.level_s for sample in self.samples]))

    def only(self, chosen: Sequence[bool]) -> Campaign:
        """The chosen ones of its samples; those left out are counted."""
        kept = tuple(sample for sample, keep in zip(self.samples, chosen, strict=True) if keep)
        out = self.source.disturbed + len(self.samples) - len(kept)
        return Campaign(replace(self.source, disturbed=out), kept)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table and how it did on the networks it was made of, each left out in turn.

    Attributes:
        table: The table.
        errors: Log of measured over predicted latency of each network of the first campaign, shape
            (n,).
    """

    table: LookupTable
    errors: Floats

    @property
    def rmspe(self) -> float:
        """Root of the mean squared relative error."""
        return float(np.sqrt(np.mean(np.expm1(self.errors) ** 2)))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Samples of one family: network, channels read and written, seconds; shape (m,) each."""

    network: NDArray[np.int64]
    cin: NDArray[np.int64]
    cout: NDArray[np.int64]
    latency_s: Floats

    def select(self, chosen: NDArray[np.bool_]) -> _Rows:
        return _Rows(
            self.network[chosen], self.cin[chosen], self.cout[chosen], self.latency_s[chosen]
        )

    def points(self) -> Points:
        """Samples at equal channels merged."""
        pairs, inverse, counts = np.unique(
            np.stack([self.cin, self.cout]), axis=1, return_inverse=True, return_counts=True
        )
        total_s = np.bincount(inverse.ravel(), self.latency_s, len(counts))
        return Points(
            pairs[0].astype(float), pairs[1].astype(float), total_s / counts, counts.astype(float)
        )


def fit(campaigns: Sequence[Campaign], provenance: Provenance) -> Fitted:
    """Make a table of everything measured on one device.

    Networks that were measured while the device was disturbed are left out and counted in their
    `Source`: those whose anchor was far too slow, and those whose latency, or the part of it that
    their layers explain, is far from that of all others.

    Args:
        campaigns: At least one, each with at least one sample.
        provenance: Device and versions; sources are filled in.
    """
    kept = list(campaigns)
    for _ in range(PASSES):
        fitted, sound = _fit(kept, provenance)
        if sound.all():
            break
        ends = np.cumsum([len(campaign.samples) for campaign in kept])[:-1]
        kept = [
            campaign.only(part.tolist())
            for campaign, part in zip(kept, np.split(sound, ends), strict=True)
        ]
    return fitted


def _fit(campaigns: Sequence[Campaign], provenance: Provenance) -> tuple[Fitted, NDArray[np.bool_]]:
    """A table of these networks, and which of them agree with the others."""
    levels_s = [campaign.level_s for campaign in campaigns]
    sources = [
        replace(c.source, latency_s=level_s) for c, level_s in zip(campaigns, levels_s, strict=True)
    ]
    rough = LookupTable(
        _entries(campaigns, levels_s, [1.0] * len(campaigns)), Metadata(provenance, Calibration())
    )
    rows = _rows(campaigns, levels_s)
    samples = [sample for campaign in campaigns for sample in campaign.samples]
    owner = np.array([index for index, c in enumerate(campaigns) for _ in c.samples])
    whole_s = np.array([sample.ratio for sample in samples]) * np.array(levels_s)[owner]
    depth = np.array([len(sample.layers) for sample in samples], float)
    sums_s, own = _left_out(rows, rough.shapes, len(samples))
    scales, adding_up = _calibrate(sums_s, whole_s, depth, owner)
    predicted_s = adding_up.whole_s(scales[owner] * sums_s, depth)
    errors = np.log(whole_s / predicted_s)
    gaps = np.log(whole_s / adding_up.whole_s(scales[owner] * _profiled(rows, len(samples)), depth))
    genuine = np.array([sample.number >= 0 for sample in samples])
    chosen = genuine if genuine.sum() > 2 else np.ones_like(genuine)
    # Errors hold the scatter of rounds and two sessions, the network's and the anchor's; predicted
    # is one session of the network.
    rounds = np.array([sample.ratio_variance for sample in samples])
    noise = (
        _deviation(gaps[chosen]) ** 2 / 2
    )  # layers and whole of a network come from two sessions of it
    known = (scales[owner] * own / predicted_s) ** 2
    shared = max(float(np.mean((errors**2 - known - rounds)[chosen])) - noise, noise, LEAST_SD**2)
    calibration = replace(adding_up, shared_sd=math.sqrt(shared), networks=int(chosen.sum()))
    metadata = Metadata(replace(provenance, sources=tuple(sources)), calibration)
    table = LookupTable(_entries(campaigns, levels_s, scales.tolist()), metadata)
    calm = np.array([sample.level_s for sample in samples]) < DISTURBED * np.array(levels_s)[owner]
    return Fitted(table, errors[chosen & (owner == 0)]), _spanning(
        rows, _near(errors) & _near(gaps) & calm
    )


def _spanning(rows: Mapping[Family, _Rows], sound: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The sound networks, and others where the measured range would shrink without them."""
    kept = sound.copy()
    for every in rows.values():
        for counts in (every.cin, every.cout):
            for end in (counts.min(), counts.max()):
                holders = every.network[counts == end]
                if not kept[holders].any():
                    kept[holders[0]] = True
    return kept


def _near(values: Floats) -> NDArray[np.bool_]:
    """Which values are not far from the rest."""
    if len(values) < FOLDS:
        return np.ones(len(values), bool)
    near: NDArray[np.bool_] = np.abs(values - np.median(values)) <= FAR * max(
        _deviation(values), FAR_LEAST
    )
    return near


def _deviation(values: Floats) -> float:
    """Robust standard deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _profiled(rows: Mapping[Family, _Rows], networks: int) -> Floats:
    """Sum of the profiled layers of every network, seconds, shape (n,)."""
    sums_s = np.zeros(networks)
    for every in rows.values():
        np.add.at(sums_s, every.network, every.latency_s)
    return sums_s


def _rows(campaigns: Sequence[Campaign], levels_s: Sequence[float]) -> dict[Family, _Rows]:
    gathered: dict[Family, list[tuple[int, int, int, float]]] = {}
    number = 0
    for campaign, level_s in zip(campaigns, levels_s, strict=True):
        for sample in campaign.samples:
            for layer in sample.layers:
                place = place_of(layer.key)
                row = (
                    number,
                    place.cin,
                    place.cout,
                    layer.latency_s * sample.ratio * level_s / sample.beside_s,
                )
                gathered.setdefault(place.family, []).append(row)
            number += 1
    return {
        family: _Rows(*(np.array(column) for column in zip(*rows, strict=True)))
        for family, rows in gathered.items()
    }


def _left_out(
    rows: Mapping[Family, _Rows], shapes: Mapping[Family, Shape], networks: int
) -> tuple[Floats, Floats]:
    """Sum of the layers of every network, predicted without it, and the deviation of that sum, seconds; shape (n,) each."""
    fold = (
        np.arange(networks) % min(FOLDS, networks)
        if networks >= FOLDS
        else np.full(networks, _NO_FOLD)
    )
    sums_s, variance = np.zeros(networks), np.zeros(networks)
    for family, every in rows.items():
        own_s = np.zeros(networks)
        for number in np.unique(fold):
            test = fold[every.network] == number
            seen, asked = every.select(test if number == _NO_FOLD else ~test), every.select(test)
            latency_s, sd = Surface(seen.points(), shapes[family].step, shapes[family]).at(
                asked.cin, asked.cout
            )
            np.add.at(sums_s, asked.network, latency_s)
            np.add.at(own_s, asked.network, latency_s * sd)
        variance += own_s**2
    return sums_s, np.sqrt(variance)


_NO_FOLD = -1
"""Too few networks to leave any out."""


def _calibrate(
    sums_s: Floats, whole_s: Floats, depth: Floats, owner: NDArray[np.int64]
) -> tuple[Floats, Calibration]:
    """Scale of each model's layers, and how they add up, fitted to relative errors of whole networks."""
    reference_s = float(np.median(sums_s))
    size = np.log(sums_s / reference_s)
    models = owner[:, None] == np.arange(owner.max() + 1)

    def tried(context: float, bend: float) -> tuple[float, Floats, float, float]:
        grown_s = sums_s * np.exp(context * size + bend * size**2)
        return *_add_up(models * grown_s[:, None], depth, whole_s), context, bend

    # The scale is taken inside the curve, where the entries are: scale * curve(s / r) = curve'(k *
    # s / r') for r' = k * r.
    best = tried(0.0, 0.0)
    if len(whole_s) >= FOLDS:
        for bends in ((0.0,), BENDS):
            monotone = [
                (c, b)
                for c in CONTEXTS
                for b in bends
                if 1 + c + 2 * b * (size.max() if b < 0 else size.min()) > LEAST_GROWTH
            ]
            found = min((tried(*pair) for pair in monotone), key=lambda one: one[0])
            gain = len(whole_s) * math.log(max(best[0], LEAST_SD) / max(found[0], LEAST_SD))
            best = found if gain > CONTEXT_EVIDENCE else best
    _, costs, context, bend = best
    scales = costs[:-1]
    typical = (
        float(np.median(scales[owner])) or 1.0
    )  # 0 where layers explain nothing: any reference will do, but 0
    span = (float(size.min()), float(size.max())) if bend else (0.0, 0.0)
    return scales, Calibration(float(costs[-1]), context, bend, span, reference_s * typical)


def _add_up(grown_s: Floats, depth: Floats, whole_s: Floats) -> tuple[float, Floats]:
    """Least squares of relative errors: what is left (norm), then the scale of every model and the seconds per layer."""
    from scipy.optimize import nnls

    matrix = np.concatenate([grown_s, depth[:, None]], axis=1) / whole_s[:, None]
    length = np.linalg.norm(matrix, axis=0)
    costs, left = nnls(matrix / length, np.ones_like(whole_s))
    return float(left), costs / length


def _entries(
    campaigns: Sequence[Campaign], levels_s: Sequence[float], scales: Sequence[float]
) -> dict[LayerKey, Entry]:
    gathered: dict[LayerKey, list[tuple[float, float]]] = {}
    for campaign, level_s, scale in zip(campaigns, levels_s, scales, strict=True):
        for sample in campaign.samples:
            factor = scale * sample.ratio * level_s / sample.beside_s
            for layer in sample.layers:
                gathered.setdefault(layer.key, []).append((layer.latency_s * factor, layer.sd))
    return {key: _entry(samples) for key, samples in gathered.items()}


def _entry(samples: Iterable[tuple[float, float]]) -> Entry:
    values_s, sds = np.array(list(samples)).T
    n, mean_s = len(values_s), float(values_s.mean())
    within = math.sqrt(float((sds**2).mean()) / n)
    between = float(values_s.std(ddof=1)) / mean_s / math.sqrt(n) if n > 1 and mean_s > 0 else 0.0
    return Entry(mean_s, max(within, between), n)
