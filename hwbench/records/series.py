"""Series: the samples of one workload, with the session and the block of each."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from hwbench import stats
from hwbench.errors import SchemaError


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one workload in the order they were taken.

    Attributes:
        samples_s: Latency of each round, seconds of one inference.
        session: Session number of each sample.
        block: Block number of each sample, unique within the measurement; samples of interleaved
            workloads pair by it. Empty for warm-up, which pairs with nothing.

    Raises:
        SchemaError: They differ in number.
    """

    samples_s: tuple[float, ...] = ()
    session: tuple[int, ...] = ()
    block: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.session) != len(self.samples_s) or (
            self.block and len(self.block) != len(self.samples_s)
        ):
            raise SchemaError("samples, sessions and blocks differ in number")

    def __len__(self) -> int:
        return len(self.samples_s)

    @property
    def sessions(self) -> int:
        """Number of sessions."""
        return len(set(self.session))

    def latency(self) -> stats.Estimate:
        """Geometric mean over sessions of the session medians, with its 95 % interval, seconds.

        Raises:
            MeasurementError: There are no samples.
        """
        return stats.latency(self.samples_s, self.session)

    def ratio_to(self, baseline: Series) -> stats.Ratio:
        """Ratio to the samples of a workload that was interleaved with this one."""
        return stats.ratio(
            baseline.samples_s, self.samples_s, baseline.session, baseline.block, self.block
        )

    def session_ratios_to(self, baseline: Series) -> dict[int, float]:
        """The same ratio of each session alone, by its number."""
        return {
            number: self.of_session(number).ratio_to(baseline.of_session(number)).ratio
            for number in sorted(set(self.session))
        }

    def of_session(self, number: int) -> Series:
        """The samples of one session."""
        return self.of_sessions({number})

    def of_sessions(self, numbers: Set[int]) -> Series:
        """The samples of several sessions."""
        places = [place for place, session in enumerate(self.session) if session in numbers]
        return Series(
            tuple(self.samples_s[place] for place in places),
            tuple(self.session[place] for place in places),
            tuple(self.block[place] for place in places) if self.block else (),
        )


def join_series(parts: Sequence[Series]) -> Series:
    """Series of several measurements as one; sessions and blocks are numbered on.

    Series that pair in each part, block by block, pair when they are joined.

    Args:
        parts: In the order in which they were measured; timed samples, not warm-up.
    """
    joined = SeriesBuilder()
    for part in parts:
        first_session = 1 + max(joined.session, default=-1)
        first_block = 1 + max(joined.block, default=-1)
        joined.samples_s += part.samples_s
        joined.session += [first_session + session for session in part.session]
        joined.block += [first_block + block for block in part.block]
    return joined.build()


@dataclass
class SeriesBuilder:
    """A series that grows while samples arrive."""

    samples_s: list[float] = field(default_factory=list)
    session: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)

    def add(self, session: int, samples_s: Sequence[float], block: Sequence[int] = ()) -> None:
        """Append samples of one session; without blocks they are warm-up."""
        self.samples_s += samples_s
        self.session += [session] * len(samples_s)
        self.block += block

    def take_session(self, number: int) -> Sequence[float]:
        """Remove the samples of the last session, if that is its number, and return them."""
        start = self.session.index(number) if number in self.session else len(self.session)
        removed_s = self.samples_s[start:]
        del self.samples_s[start:], self.session[start:], self.block[start:]
        return removed_s

    def build(self) -> Series:
        """All samples so far."""
        return Series(tuple(self.samples_s), tuple(self.session), tuple(self.block))
