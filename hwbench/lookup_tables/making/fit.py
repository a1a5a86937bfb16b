"""From measured networks to a table.

A table is more than the mean of what was profiled. Three things are fitted:

1. Entries: the layers of every network in seconds of one state of the device, averaged by key.
2. How layers add up to networks: a scale for each model, seconds between layers, and a curve, as a
   layer costs more in a large network than in a small one (`_calibrate`).
3. How well: every network is predicted from entries that it is no part of (cross-validation), and
   what these predictions are off by, beyond what measuring explains, widens every interval.

Networks that were measured badly spoil all three, so they are looked for and left out (`fit`).
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)

FOLDS = 8
DISTURBED = 1.25
"""An anchor slower than this many times its usual latency says that the device does something else.

Half a core is gone at 2, while clock frequencies and neighbours on a shared host move it by 10 to
15 %.
"""
FAR, FAR_LEAST = 5.0, 0.005
"""A network was measured badly if it is further from the rest than this many robust deviations.

The deviations are taken to be at least so large.
"""
PASSES = 3
"""Times that such networks are looked for."""
CONTEXT_EVIDENCE = 3.0
"""A curve is believed if it raises the log likelihood of the networks by more than this."""
CONTEXTS = tuple((np.arange(-12, 33) / 100).tolist())
"""Choices for how much more a layer costs in a larger network."""
BENDS = tuple((np.arange(-10, 6) / 50).tolist())
"""Choices for how that levels off."""
LEAST_SCALE = 1e-9
"""Layers that count for less of their profiled time than this explain nothing."""
LEAST_GROWTH = 0.3
"""Networks whose layers sum to 1 % more take at least so many per cent more.

What is smaller is never slower.
"""
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

    def select(self, chosen: Sequence[bool]) -> Campaign:
        """The chosen ones of its samples; those left out are counted as disturbed."""
        kept = tuple(sample for sample, keep in zip(self.samples, chosen, strict=True) if keep)
        disturbed = self.source.disturbed + len(self.samples) - len(kept)
        return Campaign(replace(self.source, disturbed=disturbed), kept)


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
        fitted, sound = _fit_once(kept, provenance)
        if sound.all():
            break
        # What is left out changes the fit, and with it what lies far from it; so it is done anew.
        ends = np.cumsum([len(campaign.samples) for campaign in kept])[:-1]
        by_campaign = zip(kept, np.split(sound, ends), strict=True)
        kept = _select_sound(by_campaign)
    return fitted


def _select_sound(
    by_campaign: Iterable[tuple[Campaign, NDArray[np.bool_]]],
) -> list[Campaign]:
    """The sound networks of every campaign. One without any is left out, but the first stays whole.

    The table is built for the first: if nothing of it agrees with earlier campaigns, it is they
    that cannot be trusted.
    """
    kept = []
    for campaign, sound in by_campaign:
        if sound.any():
            kept.append(campaign.select(sound.tolist()))
        elif not kept:
            kept.append(campaign)
        else:
            logger.warning(
                "what was measured of %s earlier (networks: %d) is left out of the table, as it"
                " agrees with nothing else",
                campaign.source.model,
                len(campaign.samples),
            )
    return kept


def _fit_once(
    campaigns: Sequence[Campaign], provenance: Provenance
) -> tuple[Fitted, NDArray[np.bool_]]:
    """A table of these networks, and which of them agree with the others, shape (networks,)."""
    samples = [sample for campaign in campaigns for sample in campaign.samples]
    owner = np.repeat(np.arange(len(campaigns)), [len(c.samples) for c in campaigns])
    levels_s = np.array([campaign.level_s for campaign in campaigns])
    whole_s = np.array([sample.ratio for sample in samples]) * levels_s[owner]
    depth = np.array([len(sample.layers) for sample in samples], float)
    rows = _rows_by_family(campaigns)
    profiled_s = _sum_profiled(rows, len(samples))

    # The choices of each surface (channel step, smoothness, prior) are made once, on all networks;
    # only the fits are repeated without some of them.
    rough = LookupTable(
        _average_entries(campaigns, [1.0] * len(campaigns)), Metadata(provenance, Calibration())
    )
    sums_s, sums_sd_s = _cross_validate(rows, rough.shapes, len(samples))
    scales, adding_up = _calibrate(sums_s, whole_s, depth, owner)
    predicted_s = adding_up.whole_s(scales[owner] * sums_s, depth)
    errors = np.log(whole_s / predicted_s)
    # The gap of a network is how far its own profiled layers, not predicted ones, miss its whole.
    gaps = np.log(whole_s / adding_up.whole_s(scales[owner] * profiled_s, depth))

    genuine = np.array([sample.number >= 0 for sample in samples])
    graded = genuine if genuine.sum() > 2 else np.ones_like(genuine)
    shared_sd = _shared_deviation(
        errors[graded],
        gaps[graded],
        layers_sd=(scales[owner] * sums_sd_s / predicted_s)[graded],
        rounds_variance=np.array([sample.ratio_variance for sample in samples])[graded],
    )
    sources = tuple(replace(campaign.source, latency_s=campaign.level_s) for campaign in campaigns)
    metadata = Metadata(
        replace(provenance, sources=sources),
        replace(adding_up, shared_sd=shared_sd, networks=int(graded.sum())),
    )
    table = LookupTable(_average_entries(campaigns, scales.tolist()), metadata)

    undisturbed = np.array([sample.level_s for sample in samples]) < DISTURBED * levels_s[owner]
    sound = _are_near(errors) & _are_near(gaps) & undisturbed
    of_first = owner == 0
    if (graded & of_first).any():
        of_first &= graded
    return Fitted(table, errors[of_first]), _keep_range(rows, sound)


def _shared_deviation(
    errors: Floats, gaps: Floats, *, layers_sd: Floats, rounds_variance: Floats
) -> float:
    """Relative deviation that all layers of one session of a network share.

    The variance of a prediction's error has four parts: what the layers' own surfaces leave open,
    the scatter of the rounds, the session of the network, and the session of the anchor. The first
    two are known and taken off. Sessions cannot be told apart from one fit, but a gap holds two of
    them as well (the network was profiled in a session and timed in another), so half the variance
    of the gaps is one session; a prediction is for one session, so one is taken off.

    Args:
        errors: Log of measured over predicted latency, shape (n,).
        gaps: Log of measured latency over what the network's own layers add up to, shape (n,).
        layers_sd: Relative deviation that the surfaces say, shape (n,).
        rounds_variance: Variance of the log of the measured ratio, shape (n,).
    """
    session = _robust_deviation(gaps) ** 2 / 2
    unexplained = float(np.mean(errors**2 - layers_sd**2 - rounds_variance))
    return math.sqrt(max(unexplained - session, session, LEAST_SD**2))


def _keep_range(rows: Mapping[Family, _Rows], sound: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The sound networks, and others where the measured range would shrink without them.

    A table refuses what lies outside its range, so one bad network at an end is the lesser evil.
    """
    kept = sound.copy()
    for family_rows in rows.values():
        for counts in (family_rows.cin, family_rows.cout):
            for end in (counts.min(), counts.max()):
                at_end = family_rows.network[counts == end]
                if not kept[at_end].any():
                    kept[at_end[0]] = True
    return kept


def _are_near(values: Floats) -> NDArray[np.bool_]:
    """Which values are not far from the rest."""
    if len(values) < FOLDS:
        return np.ones(len(values), bool)
    distance = np.abs(values - np.median(values))
    near: NDArray[np.bool_] = distance <= FAR * max(_robust_deviation(values), FAR_LEAST)
    return near


def _robust_deviation(values: Floats) -> float:
    """Standard deviation from the median absolute deviation, which a few outliers do not move."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _sum_profiled(rows: Mapping[Family, _Rows], networks: int) -> Floats:
    """Sum of the profiled layers of every network, seconds, shape (n,)."""
    sums_s = np.zeros(networks)
    for family_rows in rows.values():
        np.add.at(sums_s, family_rows.network, family_rows.latency_s)
    return sums_s


def _seconds_per_profiled(campaign: Campaign, sample: NetworkSample) -> float:
    """What a profiled second of a network counts, in seconds of the campaign's usual state.

    Profiled layers are relative to the unprofiled inferences beside them, the whole is relative to
    the anchor, and the anchor's latency over the campaign makes seconds of the product.
    """
    return sample.ratio * campaign.level_s / sample.beside_s


def _rows_by_family(campaigns: Sequence[Campaign]) -> dict[Family, _Rows]:
    """Every layer of every network, by family; networks are numbered over all campaigns."""
    gathered: dict[Family, list[tuple[int, int, int, float]]] = {}
    number = 0
    for campaign in campaigns:
        for sample in campaign.samples:
            factor = _seconds_per_profiled(campaign, sample)
            for layer in sample.layers:
                place = place_of(layer.key)
                row = (number, place.cin, place.cout, layer.latency_s * factor)
                gathered.setdefault(place.family, []).append(row)
            number += 1
    rows = {}
    for family, family_rows in gathered.items():
        columns = zip(*family_rows, strict=True)
        rows[family] = _Rows(*(np.array(column) for column in columns))
    return rows


def _cross_validate(
    rows: Mapping[Family, _Rows], shapes: Mapping[Family, Shape], networks: int
) -> tuple[Floats, Floats]:
    """Sum of the layers of every network, predicted without it, and the deviation of that sum.

    Networks are left out in `FOLDS` parts. With fewer networks than parts none is left out.

    Returns:
        Seconds, shape (n,) each.
    """
    sums_s, variance = np.zeros(networks), np.zeros(networks)
    fold = np.arange(networks) % FOLDS
    for family, family_rows in rows.items():
        # Errors of one family's layers add up, as one surface answers all of them; those of
        # different families are independent, so their variances add up.
        family_sd_s = np.zeros(networks)
        for number in range(FOLDS if networks >= FOLDS else 1):
            if networks >= FOLDS:
                held_out = fold[family_rows.network] == number
                seen, asked = family_rows.select(~held_out), family_rows.select(held_out)
            else:
                seen = asked = family_rows
            if not len(seen.network):
                seen = asked  # only these networks have such layers, so none can be left out
            surface = Surface(seen.points(), shapes[family].step, shapes[family])
            latency_s, sd = surface.at(asked.cin, asked.cout)
            np.add.at(sums_s, asked.network, latency_s)
            np.add.at(family_sd_s, asked.network, latency_s * sd)
        variance += family_sd_s**2
    return sums_s, np.sqrt(variance)


def _calibrate(
    sums_s: Floats, whole_s: Floats, depth: Floats, owner: NDArray[np.int64]
) -> tuple[Floats, Calibration]:
    """How layers add up to whole networks, fitted to relative errors of whole networks.

    A network takes `scale * sum * exp(context * x + bend * x**2) + per_layer * depth` seconds,
    where x is the log of the sum over a typical one: the larger a network, the less of the caches
    is left to each layer. `scale` is its model's, all else is shared. For a given curve the rest is
    linear, so all curves of a grid are tried, and each is solved by least squares. A straight line
    is kept unless a curve is far more likely, and one that bends needs the same evidence again.

    Args:
        sums_s: Sum of the layers of every network, seconds, shape (n,).
        whole_s: Its latency, seconds, shape (n,).
        depth: Its layers, shape (n,).
        owner: Number of its model, shape (n,).

    Returns:
        The scale of every model, and the calibration without its deviation.
    """
    typical_s = float(np.median(sums_s))
    size = np.log(sums_s / typical_s)
    is_of_model = owner[:, None] == np.arange(owner.max() + 1)

    def solve(context: float, bend: float) -> _Curve:
        grown_s = sums_s * np.exp(context * size + bend * size**2)
        error, costs = _add_up(is_of_model * grown_s[:, None], depth, whole_s)
        return _Curve(error, costs, context, bend)

    best = solve(0.0, 0.0)
    if len(whole_s) >= FOLDS:
        for bends in ((0.0,), BENDS):
            curves = [
                solve(context, bend)
                for context in CONTEXTS
                for bend in bends
                if _grows(context, bend, size)
            ]
            curve = min(curves, key=lambda tried: tried.error)
            errors = max(best.error, LEAST_SD) / max(curve.error, LEAST_SD)
            # The log likelihood of normal errors of unknown size is -n log of their norm.
            if len(whole_s) * math.log(errors) > CONTEXT_EVIDENCE:
                best = curve
    # Least squares leave a rounding error in place of a scale that is 0.
    scales = np.where(best.costs[:-1] < LEAST_SCALE, 0.0, best.costs[:-1])
    # Scales go into the entries, inside the curve: scale * curve(s / r) equals curve(k * s / r')
    # for the reference r' = k * r, where k is a typical scale. It is 0 where layers explain
    # nothing; then any reference will do, but 0.
    reference_s = typical_s * (float(np.median(scales[owner])) or 1.0)
    span = (float(size.min()), float(size.max())) if best.bend else (0.0, 0.0)
    return scales, Calibration(float(best.costs[-1]), best.context, best.bend, span, reference_s)


@dataclass(frozen=True, slots=True)
class _Curve:
    """A curve that was tried: `error` is the norm of its relative errors, `costs` what it needs."""

    error: float
    costs: Floats
    context: float
    bend: float


def _grows(context: float, bend: float, size: Floats) -> bool:
    """Whether larger networks take longer everywhere along a curve, by `LEAST_GROWTH` at least.

    The slope 1 + context + 2 * bend * x is least at the one end or the other.
    """
    end = size.max() if bend < 0 else size.min()
    return bool(1 + context + 2 * bend * end > LEAST_GROWTH)


def _add_up(grown_s: Floats, depth: Floats, whole_s: Floats) -> tuple[float, Floats]:
    """Least squares of relative errors, no cost below 0.

    Args:
        grown_s: Layers of every network along a curve, in the column of its model, shape (n, m).
        depth: Layers of every network, shape (n,).
        whole_s: Latency of every network, seconds, shape (n,).

    Returns:
        Norm of the errors; the scale of every model, then the seconds per layer, shape (m + 1,).
    """
    from scipy.optimize import nnls

    # Dividing by the latencies makes errors relative; columns of equal length condition the fit.
    matrix = np.concatenate([grown_s, depth[:, None]], axis=1) / whole_s[:, None]
    length = np.linalg.norm(matrix, axis=0)
    costs, error = nnls(matrix / length, np.ones_like(whole_s))
    return float(error), costs / length


def _average_entries(
    campaigns: Sequence[Campaign], scales: Sequence[float]
) -> dict[LayerKey, Entry]:
    """The entry of every key that was measured, each model's layers scaled by its own factor."""
    gathered: dict[LayerKey, list[tuple[float, float]]] = {}
    for campaign, scale in zip(campaigns, scales, strict=True):
        for sample in campaign.samples:
            factor = scale * _seconds_per_profiled(campaign, sample)
            for layer in sample.layers:
                gathered.setdefault(layer.key, []).append((layer.latency_s * factor, layer.sd))
    return {key: _average(samples) for key, samples in gathered.items()}


def _average(samples: Iterable[tuple[float, float]]) -> Entry:
    """One entry of latencies in seconds and their relative deviations.

    The scatter between networks says more than that inside them, where there are several.
    """
    values_s, sds = np.array(list(samples)).T
    n, mean_s = len(values_s), float(values_s.mean())
    within = math.sqrt(float((sds**2).mean()) / n)
    between = 0.0
    if n > 1 and mean_s > 0:
        between = float(values_s.std(ddof=1)) / mean_s / math.sqrt(n)
    return Entry(mean_s, max(within, between), n)
