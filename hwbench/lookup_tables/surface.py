"""Latency of one layer family over its channel counts: a trend that knows channel steps, and what the trend leaves.

The trend is `1, cin*cout, cin, cout`, the same with channels rounded up to the channel step, and
the padded work again where a count is no multiple of the step, fitted with coefficients that are
not negative (Lawson and Hanson, Solving Least Squares Problems, 1974) to relative errors: latencies
are sums of costs, so the trend is positive everywhere and tame where nothing was measured. What few
points leave open is decided by what other families of the kind cost (a prior, which `kinds` makes).
What the trend leaves is followed by a Gaussian process (Rasmussen and Williams, Gaussian Processes
for Machine Learning, 2006, algorithm 2.1 and section 2.7 for the trend's own uncertainty) on
relative residuals, whose kernel sees how full the last channel block is: latency need not grow with
width. Its posterior deviation says where measuring would help most.
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
"""A step is believed if it leaves less than this share of what is left without any (sum of squares over all families)."""
STEP_MATTERS = 0.003
"""Nor is one looked for where the relative error without any is below this."""
LENGTHS, RATIOS = (0.5, 1.5), (0.0, 0.3, 1.0, 3.0)
"""Choices for the process: length scale in doublings of a width, and variance over that of one sample's noise."""
TREND_RATIO = 3.0
"""Variance of each trend cost, relative to itself, over that of one sample's noise."""
FEW = 6
"""Below so many points nothing can be learned about the process.

The two constants below stand in.
"""
FEW_SD, NOISE_SD = 0.1, 0.02
"""Relative deviation of a layer half an octave away from a lone point, and of one sample."""
OUTSIDE_SD = 0.25
"""Relative deviation for every doubling of a width beyond the measured range, on top of the process's own: layers of the largest
network on the Pixel 1 are 26 % per doubling off what two smaller ones say (root mean square, see
results/pixel1)."""
LEAST = 0.2
"""No prediction is below this share of the smallest measured latency."""
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Points:
    """Measured points of one family, arrays of shape (m,): channels read and written, latency in seconds, samples in each."""

    cin: Floats
    cout: Floats
    latency_s: Floats
    samples: Floats

    @property
    def weight(self) -> Floats:
        """What a residual in seconds is multiplied with: relative error, counting samples."""
        weight: Floats = np.sqrt(self.samples) / np.maximum(
            self.latency_s, 0.05 * self.latency_s.max()
        )
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
        self._silent = not points.latency_s.any()
        self._floor_s = LEAST * float(
            np.min(points.latency_s, where=points.latency_s > 0, initial=np.inf)
        )
        self.shape = shape or Shape(step, LENGTHS[-1], 0.0, prior)
        if self._silent:
            return
        self._costs, _ = _fit(points, step, self.shape.prior)
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
        if self._silent or not len(cin):
            return np.zeros(len(cin)), np.zeros(len(cin))
        parts = [
            self._at(cin[i : i + _CHUNK], cout[i : i + _CHUNK]) for i in range(0, len(cin), _CHUNK)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate(
            [part[1] for part in parts]
        )

    def _at(self, cin: NDArray[np.integer], cout: NDArray[np.integer]) -> tuple[Floats, Floats]:
        trend_s = self._trend_s(cin, cout)
        across = self._kernel(
            self._coordinates(cin, cout), self._known, self._shares(cin, cout), self._known_shares
        )
        own = self.shape.ratio + TREND_RATIO * (self._shares(cin, cout) ** 2).sum(axis=1)
        explained = ((across @ self._root.T) ** 2).sum(axis=1)
        sd = np.sqrt(self._noise_variance * np.maximum(own - explained, 0.0))
        beyond = OUTSIDE_SD * self._doublings(cin, cout)
        return np.maximum(trend_s * (1 + across @ self._pull), self._floor_s), np.hypot(sd, beyond)

    def _doublings(self, cin: NDArray[np.generic], cout: NDArray[np.generic]) -> Floats:
        """How far points lie outside the measured range, in doublings of a width."""
        ends = np.log2(np.reshape(self.box, (2, 2)).astype(float))
        counts = np.log2(np.stack([cin, cout], axis=1).astype(float))
        distance: Floats = np.linalg.norm(
            np.maximum(np.maximum(ends[:, 0] - counts, counts - ends[:, 1]), 0.0), axis=1
        )
        return distance

    def _trend_s(self, cin: NDArray[np.generic], cout: NDArray[np.generic]) -> Floats:
        total: Floats = np.maximum(features(cin, cout, self.step) @ self._costs, self._floor_s)
        return total

    def _shares(self, cin: NDArray[np.generic], cout: NDArray[np.generic]) -> Floats:
        """What each cost of the trend contributes, shape (n, costs), adding up to 1."""
        shares: Floats = (
            features(cin, cout, self.step) * self._costs / self._trend_s(cin, cout)[:, None]
        )
        return shares

    def _coordinates(self, cin: NDArray[np.generic], cout: NDArray[np.generic]) -> Floats:
        counts = np.stack([cin, cout], axis=1).astype(float)
        filled = counts / (np.ceil(counts / self.step) * self.step)
        return np.concatenate([np.log2(counts), filled], axis=1)

    def _kernel(self, a: Floats, b: Floats, shares_a: Floats, shares_b: Floats) -> Floats:
        trend: Floats = TREND_RATIO * shares_a @ shares_b.T
        return (
            trend
            if self.shape.ratio == 0
            else trend + self.shape.ratio * _matern(a, b, self.shape.length)
        )

    def _choose(self, residual: Floats) -> Shape:
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
        return -len(residual) / 2 * float(np.log(white @ white)) - float(
            np.log(np.diag(factor)).sum()
        )

    def _covariance(self) -> Floats:
        p = self._points
        self._known, self._known_shares = (
            self._coordinates(p.cin, p.cout),
            self._shares(p.cin, p.cout),
        )
        kernel = self._kernel(self._known, self._known, self._known_shares, self._known_shares)
        return kernel + np.diag(1 / p.samples)

    def _solve(self, residual: Floats) -> None:
        factor = np.linalg.cholesky(self._covariance())
        self._root = np.linalg.inv(factor)
        white = self._root @ residual
        self._pull = self._root.T @ white
        learned = float(white @ white) / len(residual)
        self._noise_variance = learned if len(residual) >= FEW else max(learned, NOISE_SD**2)


def features(cin: NDArray[np.generic], cout: NDArray[np.generic], step: int) -> Floats:
    """Costs of layers, shape (n, 9).

    With a step of 1 only the first 4 differ from 0 or from each other.
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


def _fit(points: Points, step: int, prior: Prior | None = None) -> tuple[Floats, float]:
    """Coefficients of `features`, none negative, and the sum of squares that they leave.

    A prior counts like one measured point, more or less as families stray less or more from theirs
    than points of a family from any trend: nothing beside many points, while of few it decides what
    they leave open.
    """
    from scipy.optimize import nnls

    matrix = features(points.cin, points.cout, step) * points.weight[:, None]
    wanted = points.latency_s * points.weight
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    matrix /= scale
    if prior is not None:
        weight = FEW_SD / prior.spread / np.sqrt(len(points.cin))
        matrix = np.concatenate([matrix, weight * np.eye(len(scale))])
        wanted = np.concatenate([wanted, weight * scale * prior.costs])
    costs, left = nnls(matrix, wanted)
    return costs / scale, float(left) ** 2


def find_step(families: Iterable[Points]) -> int:
    """Channel step that explains the families of one kind best together; 1 if none is needed."""
    seen = [points for points in families if points.latency_s.any() and len(points.cin) >= FEW]
    left = {step: sum(_fit(points, step)[1] for points in seen) for step in STEPS}
    best = min(STEPS, key=left.__getitem__)
    believed = left[best] < STEP_EVIDENCE * left[1] and left[1] > STEP_MATTERS**2 * sum(
        p.samples.sum() for p in seen
    )
    return best if believed else 1


def _matern(a: Floats, b: Floats, length: float) -> Floats:
    """Matern kernel of smoothness 3/2 between points (n, 4) and (m, 4)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    distance = np.sqrt(3 * np.maximum(squares, 0.0)) / length
    kernel: Floats = (1 + distance) * np.exp(-distance)
    return kernel
