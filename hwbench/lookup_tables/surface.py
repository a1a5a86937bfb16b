"""Latency of one layer family over its channel counts: a trend, and a process on what it leaves.

The trend is a sum of costs: of a layer, of a multiply-accumulate, of a channel read and of one
written; the same with channels rounded up to the channel step; and the padded work once more where
a count is no multiple of the step. Its coefficients are not negative (Lawson and Hanson, Solving
Least Squares Problems, 1974) and fitted to relative errors: latencies are sums of costs, so the
trend is positive everywhere and tame where nothing was measured. What few points leave open is
decided by what other families of the kind cost (a prior, see `priors`).

What the trend leaves is followed by a Gaussian process on relative residuals (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1, and section 2.7 for the
trend's own uncertainty). Its kernel sees how full the last channel block is: latency need not grow
with width. Its posterior deviation says where measuring would help most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS = (1, 4, 8, 16, 32, 64)
"""Channel steps that are considered; kernels are blocked in powers of two."""
STEP_EVIDENCE = 0.9
"""A step is believed if it leaves less than this share of what is left without any.

What is left is the sum of squares over all families.
"""
STEP_MATTERS = 0.003
"""Nor is one looked for where the relative error without any is below this."""
LENGTHS, RATIOS = (0.5, 1.5), (0.0, 0.3, 1.0, 3.0)
"""Choices for the process.

Its length scale in doublings of a width, and its variance over that of one sample's noise.
"""
TREND_RATIO = 3.0
"""Variance of each trend cost, relative to itself, over that of one sample's noise."""
FEW = 6
"""Below so many points nothing can be learned about the process.

The two constants below stand in.
"""
FEW_SD, NOISE_SD = 0.1, 0.02
"""Relative deviation of a layer half an octave away from a lone point, and of one sample."""
OUTSIDE_SD = 0.25
"""Relative deviation for every doubling of a width beyond the measured range.

It comes on top of the process's own: layers of the largest network on the Pixel 1 are 26 % per
doubling off what two smaller ones say (root mean square, see results/pixel1).
"""
LEAST = 0.2
"""No prediction is below this share of the smallest measured latency."""
_NOTHING = float(np.finfo(float).tiny)
"""Misfit of rows that are all alike, whose logarithm is finite."""
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Points:
    """Measured points of one family.

    Attributes:
        cin: Channels read, shape (m,).
        cout: Channels written, shape (m,).
        latency_s: Seconds, shape (m,).
        samples: Networks that each point was measured in, shape (m,).
    """

    cin: Floats
    cout: Floats
    latency_s: Floats
    samples: Floats

    @property
    def weight(self) -> Floats:
        """What a residual in seconds is multiplied with: it makes it relative, and counts samples.

        Points far below the largest one would count without bound, so they count as 5 % of it.
        """
        least_s = 0.05 * self.latency_s.max()
        weight: Floats = np.sqrt(self.samples) / np.maximum(self.latency_s, least_s)
        return weight


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known of a family before it is measured.

    Attributes:
        costs: Expected coefficients of `features`, seconds.
        spread: Relative deviation of families from what is expected of them.
    """

    costs: tuple[float, ...]
    spread: float


@dataclass(frozen=True, slots=True)
class Shape:
    """What is chosen once for a surface and kept in cross-validation.

    Attributes:
        step: Channel step.
        length: Length scale of the process, in doublings of a width.
        ratio: Its variance over that of one sample's noise.
        prior: What the trend starts from; None for nothing.
    """

    step: int
    length: float
    ratio: float
    prior: Prior | None = None


class Surface:
    """A fitted surface.

    Args:
        points: What was measured.
        step: Channel step of the family's kind.
        shape: Choices of an earlier fit, its prior among them; None chooses by marginal likelihood.
        prior: What the family's kind says of it.
    """

    def __init__(
        self, points: Points, step: int, shape: Shape | None = None, prior: Prior | None = None
    ) -> None:
        self._points = points
        # The runtime computes all layers of a silent family inside their neighbours.
        self._silent = not points.latency_s.any()
        self._floor_s = LEAST * float(
            np.min(points.latency_s, where=points.latency_s > 0, initial=np.inf)
        )
        self.shape = shape or Shape(step, LENGTHS[-1], 0.0, prior)
        if self._silent:
            return
        self._costs, _ = _fit_trend(points, step, self.shape.prior)
        trend_s = self._trend_s(points.cin, points.cout)
        residual = points.latency_s / trend_s - 1
        if shape is None:
            self.shape = self._choose(residual)
        self._solve(residual)

    @property
    def step(self) -> int:
        """Channel step."""
        return self.shape.step

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Measured range: least and largest channels read, least and largest written."""
        p = self._points
        return int(p.cin.min()), int(p.cin.max()), int(p.cout.min()), int(p.cout.max())

    def inside(self, cin: NDArray[np.integer], cout: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether points of shape (n,) lie in the measured range."""
        low_in, high_in, low_out, high_out = self.box
        inside: NDArray[np.bool_] = (
            (cin >= low_in) & (cin <= high_in) & (cout >= low_out) & (cout <= high_out)
        )
        return inside

    def at(self, cin: NDArray[np.integer], cout: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """Predicted latency in seconds and its relative deviation, both of shape (n,)."""
        latency_s, sd = np.zeros(len(cin)), np.zeros(len(cin))
        if self._silent:
            return latency_s, sd
        # In chunks, as the kernel between all asked and all known points may be large.
        for start in range(0, len(cin), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            latency_s[chunk], sd[chunk] = self._predict(cin[chunk], cout[chunk])
        return latency_s, sd

    def _predict(
        self, cin: NDArray[np.integer], cout: NDArray[np.integer]
    ) -> tuple[Floats, Floats]:
        """Posterior mean and deviation of the process, on top of the trend."""
        trend_s = self._trend_s(cin, cout)
        shares = self._shares(cin, cout)
        to_known = self._kernel(
            self._coordinates(cin, cout), self._known, shares, self._known_shares
        )
        residual = to_known @ self._pull
        latency_s = np.maximum(trend_s * (1 + residual), self._floor_s)
        # Prior variance of each point, less what the known points explain of it (both over the
        # variance of one sample's noise).
        before = self.shape.ratio + TREND_RATIO * (shares**2).sum(axis=1)
        explained = ((to_known @ self._whitening.T) ** 2).sum(axis=1)
        inside_sd = np.sqrt(self._noise_variance * np.maximum(before - explained, 0.0))
        return latency_s, np.hypot(inside_sd, OUTSIDE_SD * self._doublings_outside(cin, cout))

    def _doublings_outside(self, cin: NDArray[np.generic], cout: NDArray[np.generic]) -> Floats:
        """How far points lie outside the measured range, in doublings of a width."""
        low, high = np.log2(np.reshape(self.box, (2, 2)).astype(float)).T
        counts = np.log2(np.stack([cin, cout], axis=1).astype(float))
        outside = np.maximum(np.maximum(low - counts, counts - high), 0.0)
        distance: Floats = np.linalg.norm(outside, axis=1)
        return distance

    def _trend_s(self, cin: NDArray[np.generic], cout: NDArray[np.generic]) -> Floats:
        total: Floats = np.maximum(features(cin, cout, self.step) @ self._costs, self._floor_s)
        return total

    def _shares(self, cin: NDArray[np.generic], cout: NDArray[np.generic]) -> Floats:
        """What each cost of the trend contributes, shape (n, costs), adding up to 1."""
        costs_s = features(cin, cout, self.step) * self._costs
        shares: Floats = costs_s / self._trend_s(cin, cout)[:, None]
        return shares

    def _coordinates(self, cin: NDArray[np.generic], cout: NDArray[np.generic]) -> Floats:
        """Where the process sees points, shape (n, 4).

        Both widths in doublings, and how full their last channel blocks are.
        """
        counts = np.stack([cin, cout], axis=1).astype(float)
        filled = counts / (np.ceil(counts / self.step) * self.step)
        return np.concatenate([np.log2(counts), filled], axis=1)

    def _kernel(self, a: Floats, b: Floats, shares_a: Floats, shares_b: Floats) -> Floats:
        """Covariance of relative residuals between points a and b, over that of a sample's noise.

        The trend's own costs are uncertain too: an error of one shows wherever it contributes.
        """
        trend: Floats = TREND_RATIO * shares_a @ shares_b.T
        if self.shape.ratio == 0:
            return trend
        return trend + self.shape.ratio * _matern(a, b, self.shape.length)

    def _choose(self, residual: Floats) -> Shape:
        """The most likely shape; from few points nothing can be told, so the constants stand in."""
        if len(residual) < FEW:
            return replace(self.shape, length=LENGTHS[-1], ratio=(FEW_SD / NOISE_SD) ** 2)
        choices = [
            replace(self.shape, length=length, ratio=ratio)
            for ratio in RATIOS
            for length in (LENGTHS if ratio else LENGTHS[-1:])
        ]
        return max(choices, key=lambda shape: self._evidence(residual, shape))

    def _evidence(self, residual: Floats, shape: Shape) -> float:
        """Log marginal likelihood, the noise variance at its best."""
        self.shape = shape
        factor = np.linalg.cholesky(self._covariance())
        white = np.linalg.solve(factor, residual)
        misfit = len(residual) / 2 * float(np.log(max(float(white @ white), _NOTHING)))
        complexity = float(np.log(np.diag(factor)).sum())
        return -misfit - complexity

    def _covariance(self) -> Floats:
        """Of the measured residuals: the kernel, and noise that shrinks with samples."""
        points = self._points
        self._known = self._coordinates(points.cin, points.cout)
        self._known_shares = self._shares(points.cin, points.cout)
        kernel = self._kernel(self._known, self._known, self._known_shares, self._known_shares)
        return kernel + np.diag(1 / points.samples)

    def _solve(self, residual: Floats) -> None:
        """Condition the process on the measured residuals (algorithm 2.1)."""
        self._whitening = np.linalg.inv(np.linalg.cholesky(self._covariance()))
        white = self._whitening @ residual
        self._pull = self._whitening.T @ white
        self._noise_variance = float(white @ white) / len(residual)
        if len(residual) < FEW:
            self._noise_variance = max(self._noise_variance, NOISE_SD**2)


def features(cin: NDArray[np.generic], cout: NDArray[np.generic], step: int) -> Floats:
    """What the costs of a trend are multiplied with, shape (n, 9); (n, 4) with a step of 1.

    1, cin * cout, cin, cout; the last three with channels rounded up to the step; and the rounded
    product where the channels read, then those written, do not fill their last block.
    """
    read, written = cin.astype(float), cout.astype(float)
    plain = [np.ones_like(read), read * written, read, written]
    if step == 1:
        return np.stack(plain, axis=1)
    full_in, full_out = np.ceil(read / step) * step, np.ceil(written / step) * step
    work = full_in * full_out
    return np.stack(
        [*plain, work, full_in, full_out, work * (full_in > read), work * (full_out > written)],
        axis=1,
    )


def _fit_trend(points: Points, step: int, prior: Prior | None = None) -> tuple[Floats, float]:
    """Coefficients of `features`, none negative, and the sum of squares that they leave.

    A prior counts like one measured point: next to nothing beside many points, while beside few it
    decides what they leave open. It counts for more where families stray little from theirs.
    """
    from scipy.optimize import nnls

    matrix = features(points.cin, points.cout, step) * points.weight[:, None]
    wanted = points.latency_s * points.weight
    # Columns of equal length: cin * cout is millions of times larger than 1.
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    matrix /= scale
    if prior is not None:
        # One further row for each cost, which draws it towards the expected one (ridge regression).
        weight = FEW_SD / prior.spread / np.sqrt(len(points.cin))
        matrix = np.concatenate([matrix, weight * np.eye(len(scale))])
        wanted = np.concatenate([wanted, weight * scale * prior.costs])
    costs, left = nnls(matrix, wanted)
    return costs / scale, float(left) ** 2


def find_step(families: Iterable[Points]) -> int:
    """Channel step that explains the families of one kind best together; 1 if none is needed."""
    telling = [points for points in families if points.latency_s.any() and len(points.cin) >= FEW]
    left = {step: sum(_fit_trend(points, step)[1] for points in telling) for step in STEPS}
    best = min(STEPS, key=left.__getitem__)
    samples = sum(points.samples.sum() for points in telling)
    if left[1] <= STEP_MATTERS**2 * samples:
        return 1
    return best if left[best] < STEP_EVIDENCE * left[1] else 1


def _matern(a: Floats, b: Floats, length: float) -> Floats:
    """Matern kernel of smoothness 3/2 between points (n, 4) and (m, 4), shape (n, m)."""
    # |a - b|**2 = |a|**2 + |b|**2 - 2 a.b needs no array of all differences.
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    distance = np.sqrt(3 * np.maximum(squares, 0.0)) / length
    kernel: Floats = (1 + distance) * np.exp(-distance)
    return kernel
