"""What leaving out whole blocks of a network saves, as searches are told it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Gain:
    """What leaving out one block saves, as a share of the network's latency.

    Attributes:
        share: The share that is saved.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    share: float
    low: float
    high: float


class BlockLatency(Protocol):
    """Latencies of a network without some of its blocks."""

    def gain(self, block: str) -> Gain:
        """What leaving out one block saves."""
        ...

    def latency_s(self, dropped: Sequence[str]) -> float:
        """Seconds of the network without the blocks `dropped`."""
        ...

    def interval_s(self, dropped: Sequence[str]) -> tuple[float, float]:
        """The 95 % interval of that, seconds."""
        ...
