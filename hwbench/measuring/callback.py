"""What is called while something is measured, to show or to store how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.records.measurement import Measurement
from hwbench.stats import Estimate, Ratio


class MeasuringCallback:
    """Called while something is measured; the methods of this base class do nothing.

    The line of progress on a terminal and the writer to the store are such callbacks.
    """

    def started(self, records: Sequence[Measurement]) -> None:
        """The first warm-up is over and samples follow.

        Args:
            records: One per workload, without samples yet and with `complete=False`.
        """

    def sampled(
        self,
        record: int,
        session: int,
        samples_s: Sequence[float],
        blocks: Sequence[int],
        *,
        warm_up: bool,
    ) -> None:
        """Samples of one session arrived.

        Args:
            record: Number of the workload among those measured together.
            session: Number of the session.
            samples_s: Seconds, in order.
            blocks: Block number of each sample; empty for warm-up.
            warm_up: Whether they are warm-up rounds.
        """

    def session_withdrawn(self, session: int) -> None:
        """The timed samples of a session count as warm-up from now on.

        The session is repeated under the same number.
        """

    def session_ended(
        self, sessions: int, elapsed_s: float, so_far: Estimate | Sequence[Ratio]
    ) -> None:
        """A session ended.

        Args:
            sessions: Sessions done.
            elapsed_s: Seconds since the measurement began.
            so_far: Latency of a single workload, or the ratio of each other workload to the first.
        """

    def examine(self, records: Sequence[Measurement]) -> tuple[Measurement, ...]:
        """Look at the complete records before they are handed on and kept.

        Args:
            records: One per workload.

        Returns:
            The same, with findings where there is something to say.
        """
        return tuple(records)

    def finished(self, records: Sequence[Measurement]) -> None:
        """All samples are there.

        Args:
            records: The complete records, one per workload.
        """
