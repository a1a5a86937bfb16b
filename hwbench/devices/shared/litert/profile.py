"""The profile that LiteRT's profiler gives through the native runner.

The runner writes one line of JSON per profiled inference: a list of entries `[tag, kind, index,
subgraph, microseconds]`, in the order in which they began. Two kinds are operators: those that
TensorFlow Lite's own kernels ran, whose index is that in the file, and those of XNNPACK, which only
have their order. Others hold what surrounds them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from hwbench.errors import OutputParseError

OWN_OPERATOR, DELEGATED_OPERATOR = 2, 8
"""Kinds of entries, by TensorFlow Lite's `Profiler::EventType`."""
MICROSECOND_S = 1e-6
MISSING_S = 0.5 * MICROSECOND_S
"""What a time of XNNPACK lacks on average: its durations are cut off to whole microseconds.

One that reads 0 is taken for half of one too. Those of TensorFlow Lite's own kernels are
differences of two times that are cut off, which lack nothing on average.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One operator that LiteRT executed.

    Attributes:
        tag: What LiteRT calls it: `CONV_2D`, or `Convolution (NHWC, F32) IGEMM` of XNNPACK.
        index: Its place among the operators of the file; None for those of XNNPACK.
        samples_s: Seconds in each inference.
    """

    tag: str
    index: int | None
    samples_s: tuple[float, ...]

    @property
    def is_delegated(self) -> bool:
        """Whether XNNPACK ran it."""
        return self.index is None

    @property
    def is_below_grain(self) -> bool:
        """Whether it took less than the microsecond in which XNNPACK's times are counted."""
        return self.is_delegated and median(self.samples_s) <= MISSING_S


def read_profile(data: bytes, runs: int) -> tuple[Row, ...]:
    """Read a profile that the runner wrote.

    Args:
        data: The file.
        runs: Inferences that were asked for; those before them, of which the first allocates, do
            not count.

    Raises:
        OutputParseError: It is none, has fewer inferences, or they executed different operators.
    """
    try:
        lines = [json.loads(line) for line in data.decode().splitlines()[-runs:]]
        inferences = [list(map(_read_entry, filter(_is_operator, line))) for line in lines]
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        raise OutputParseError(f"LiteRT's profile cannot be read ({error})") from error
    if len(inferences) != runs:
        raise OutputParseError(
            f"LiteRT's profile has {len(inferences)} inferences where {runs} were asked for"
        )
    names = [[entry[:2] for entry in inference] for inference in inferences]
    if any(other != names[0] for other in names[1:]):
        raise OutputParseError(
            "LiteRT executed other operators from one inference to the next, so their times cannot"
            " be told apart; measure it without layers"
        )
    rows = []
    for position, (tag, index) in enumerate(names[0]):
        times_s = tuple(inference[position][2] for inference in inferences)
        rows.append(Row(tag, index, times_s))
    return tuple(rows)


def limit_short_rows(rows: Sequence[Row], latency_s: float) -> tuple[Row, ...]:
    """Let rows that are too short for the profiler not add up to more than there was time for.

    Args:
        rows: All rows of a profile.
        latency_s: Seconds of the whole network without the profiler.

    Returns:
        The rows; each that read 0 has half a microsecond, or its share of what the others leave
        where that is less.
    """
    short = sum(row.is_below_grain for row in rows)
    if not short:
        return tuple(rows)
    others_s = sum(median(row.samples_s) for row in rows if not row.is_below_grain)
    share_s = min(MISSING_S, max(0.0, latency_s - others_s) / short)
    limited = []
    for row in rows:
        samples_s = row.samples_s
        if row.is_below_grain:
            samples_s = tuple(min(value_s, share_s) for value_s in samples_s)
        limited.append(Row(row.tag, row.index, samples_s))
    return tuple(limited)


def _is_operator(entry: Sequence[object]) -> bool:
    """Whether an entry is an operator of the main graph; those of others are inside of one."""
    _, kind, _, subgraph, _ = entry
    return kind == DELEGATED_OPERATOR or (kind == OWN_OPERATOR and subgraph == 0)


def _read_entry(entry: Sequence[object]) -> tuple[str, int | None, float]:
    """Read the tag of an entry, its index if it has one, and its seconds."""
    tag, kind, index, _, microseconds = entry
    if not (isinstance(tag, str) and isinstance(index, int) and isinstance(microseconds, int)):
        raise TypeError(f"an entry is {str(entry)[:80]}")
    if microseconds < 0:
        raise ValueError(f"an entry took {microseconds} microseconds")
    seconds = microseconds * MICROSECOND_S
    if kind == OWN_OPERATOR:
        return tag, index, seconds
    return tag, None, seconds + MISSING_S
