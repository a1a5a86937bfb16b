"""Predicted latencies, and the interface of whatever predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hwbench.records.layer_key import LayerKey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted latency of one network.

    Attributes:
        latency_s: Expected latency in seconds.
        ci_s: 95 % prediction interval in seconds.
        measured: Keys answered by a measured entry.
        interpolated: Keys answered between measured entries.
        extrapolated: Keys answered outside the measured range, because that was allowed.
    """

    latency_s: float
    ci_s: tuple[float, float]
    measured: tuple[LayerKey, ...] = ()
    interpolated: tuple[LayerKey, ...] = ()
    extrapolated: tuple[LayerKey, ...] = ()


@runtime_checkable
class LatencySource(Protocol):
    """Anything that tells the latency of a network, as a lookup table does."""

    def predict(self, keys: Sequence[LayerKey]) -> Prediction:
        """Latency of the network made of `keys`, in order."""
        ...

    def predict_widths(self, widths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Latencies of n structures in seconds, shape (n,), for widths of shape (n, groups)."""
        ...
