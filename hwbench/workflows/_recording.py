"""What profile and compare share: where models come from, and a watch that writes every sample to the store as it arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hwbench import stats
from hwbench.measurement import Measurement
from hwbench.profiling import Watch
from hwbench.store import Store


@dataclass(frozen=True)
class ModelOptions:
    """How to read a model; the same for every command.

    Attributes:
        inputs: Input shapes as text, `1x3x224x224` or `NAME=1x3x224x224`.
        batch: Fixes the leading dimension.
        precision: `fp32` or `int8`.
        arch: `module:factory` that builds the network for a bare state_dict.
        trust_pickle: Whether the file may execute code.
        seed: Of random inputs and calibration.
    """

    inputs: tuple[str, ...] = ()
    batch: int | None = None
    precision: str = "fp32"
    arch: str | None = None
    trust_pickle: bool = False
    seed: int = 0


class Together(Watch):
    """Several watches as one, told in order."""

    def __init__(self, *watches: Watch) -> None:
        self.watches = watches

    def started(self, records: Sequence[Measurement]) -> None:
        for watch in self.watches:
            watch.started(records)

    def sampled(self, record: int, session: int, samples_s: Sequence[float], blocks: Sequence[int], *, warm_up: bool) -> None:
        for watch in self.watches:
            watch.sampled(record, session, samples_s, blocks, warm_up=warm_up)

    def looked(self, sessions: int, elapsed_s: float, so_far: stats.Estimate | Sequence[stats.Ratio]) -> None:
        for watch in self.watches:
            watch.looked(sessions, elapsed_s, so_far)

    def finished(self, records: Sequence[Measurement]) -> None:
        for watch in self.watches:
            watch.finished(records)
