"""Numbers of records as the report writes them: value, text in its unit, interval, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.records.comparison import Comparison
from hwbench.records.measurement import Measurement
from hwbench.render.units import (
    confidence,
    confidence_s,
    count,
    ends_or_early,
    interval,
    macs,
    moment,
    percent,
    plural,
    seconds,
    size,
    times,
)
from hwbench.render.views import describe_start
from hwbench.report.commands import profile_command
from hwbench.report.nouns import Number, Source
from hwbench.stats import is_telling

if TYPE_CHECKING:
    from hwbench.records.layer_key import LayerKey

ABSURD = 1000
"""A value this many times off the middle one is not drawn beside the others."""
SHA_DIGITS = 8
"""Digits of a SHA-256 that tell two networks of one name apart."""
DIGITS = 5
"""Significant digits of what is only drawn: a picture has no more."""


def source_of(*records: Measurement, command: str | None = None) -> Source:
    """Provenance of one measurement, or of several that were interleaved.

    Args:
        records: The measurements.
        command: What repeats them; None for the command that measures the first alone.
    """
    first = records[0]
    return Source(
        records=tuple(record.id for record in records),
        device=first.device.address,
        target=first.device.target,
        runtime=first.device.runtime,
        date=moment(first.started_utc),
        command=command or profile_command(first),
    )


def latency_number(record: Measurement, source: Source | None = None) -> Number:
    """A measured latency; a dash where no sample was taken."""
    if not record.series:
        return Number(None, "-", "no sample was taken", source)
    latency = record.series.latency()
    note = f"{interval_text(latency.ci, latency.estimate)}, {plural(latency.sessions, 'session')}"
    return Number(latency.estimate, seconds(latency.estimate), note, source)


def start_number(record: Measurement, quantity: str) -> Number:
    """One quantity of the starts of sessions; a dash where the device does not tell."""
    estimate = record.start(quantity)
    if estimate is None:
        return Number(None, "-", "this device does not tell")
    ends = "too early for a 95 % interval"
    if is_telling(estimate.ci):
        ends = f"±{percent(estimate.half_width)} at 95 %"
    note = f"{ends}, {plural(estimate.sessions, 'session')}, files in the page cache"
    return Number(estimate.estimate, describe_start(quantity, estimate), note)


def speedup_number(comparison: Comparison, source: Source | None = None) -> Number:
    """A measured speed-up; a dash where the two are incomparable."""
    ratio, speedup = comparison.ratio, comparison.speedup
    if ratio is None or speedup is None:
        return Number(None, "-", "not comparable", source)
    ci, verdict_ci = comparison.speedup_ci or (0.0, 0.0), comparison.verdict_ci or (0.0, 0.0)
    rests = ends_or_early(verdict_ci, interval(verdict_ci, speedup))
    sessions = plural(ratio.sessions, "session")
    note = (
        f"{confidence(ci, speedup)}, {sessions}; the 99.6 % interval that the verdict rests on:"
        f" {rests}"
    )
    return Number(speedup, times(speedup), note, source)


def interval_text(ci_s: tuple[float, float], value_s: float) -> str:
    """The 95 % interval of a latency, named as such, or that it is too early for one."""
    return confidence_s(ci_s, value_s)


def whole_number(value: int, note: str = "") -> Number:
    """A number that is written with all its digits."""
    return Number(value, str(value), note)


def seconds_number(value_s: float | None, note: str = "", *, sign: bool = False) -> Number:
    """Seconds without an interval of their own."""
    return Number(value_s, seconds(value_s, sign=sign), note)


def count_number(value: float | None, note: str = "") -> Number:
    """A count that is known exactly."""
    return Number(value, count(value), note)


def macs_number(value: int | None) -> Number:
    """Multiply-accumulates of a network, which may be unknown."""
    return Number(value, macs(value))


def size_number(value_bytes: int | None) -> Number:
    """Bytes."""
    return Number(value_bytes, size(value_bytes))


def share_number(share: float | None, note: str = "", *, sign: bool = False) -> Number:
    """A share of something."""
    return Number(share, percent(share, sign=sign), note)


def times_number(ratio: float | None, note: str = "") -> Number:
    """A ratio."""
    return Number(ratio, times(ratio), note)


def layer_macs(key: LayerKey | None) -> int | None:
    """Multiply-accumulates of one layer; None where none are counted."""
    return None if key is None else key.macs or None


def thin_out(samples_s: Sequence[float], most: int) -> list[float]:
    """Thin samples to `most` (>= 2), sorted and evenly by rank with both ends: enough to draw."""
    ordered = np.sort(samples_s)
    if len(ordered) > most:
        ranks = np.linspace(0, len(ordered) - 1, most).round().astype(int)
        ordered = ordered[ranks]
    return round_digits(ordered)


def round_digits(values: Any) -> list[float]:
    """Values of shape (n,) with as many digits as a picture shows."""
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values, np.float64).tolist()]


def sample_set(record: Measurement, most: int, name: str = "") -> Mapping[str, Any]:
    """One set of samples for the picture of distributions, with session medians and interval."""
    latency = record.series.latency()
    return {
        "name": name,
        "samples": thin_out(record.series.samples_s, most),
        "sessions": round_digits(list(session_medians(record).values())),
        "estimate": latency.estimate,
        "ci": latency.ci if is_telling(latency.ci) else (None, None),
        "text": f"{seconds(latency.estimate)}, {interval_text(latency.ci, latency.estimate)}",
    }


def interval_row(
    name: str, value: float, ci: tuple[float, float], text: str, page: str = ""
) -> Mapping[str, Any]:
    """One row for the picture of intervals: a dot at the value, a line from end to end.

    Where it is too early for an interval, the line has no ends.
    """
    low, high = ci if is_telling(ci) else (None, None)
    return {"name": name, "value": value, "low": low, "high": high, "text": text, "page": page}


def leave_out_absurd(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], str]:
    """Rows of a logarithmic picture without those that would leave no room for the others.

    Returns:
        The other rows, and what to say of those left out; empty for none.
    """
    if not rows:
        return [], ""
    middle = float(np.median([row["value"] for row in rows]))
    kept = [row for row in rows if middle / ABSURD <= row["value"] <= middle * ABSURD]
    left_out = len(rows) - len(kept)
    if not left_out:
        return kept, ""
    return kept, (
        f" {plural(left_out, 'value')} more than {ABSURD:,} times off the middle one"
        f" {'is' if left_out == 1 else 'are'} in the table alone."
    )


def tell_apart(records: Sequence[Measurement]) -> list[str]:
    """Names of models; where different networks share one, with the begin of their SHA-256."""
    networks: dict[str, set[str]] = {}
    for record in records:
        networks.setdefault(record.model, set()).add(record.model_sha256)
    names = []
    for record in records:
        name = record.model
        if len(networks[name]) > 1:
            name += f" ({record.model_sha256[:SHA_DIGITS]})"
        names.append(name)
    return names


def session_medians(record: Measurement) -> dict[int, float]:
    """Median latency of each session, seconds."""
    series = record.series
    by_session: dict[int, list[float]] = {}
    for session, sample_s in zip(series.session, series.samples_s, strict=True):
        by_session.setdefault(session, []).append(sample_s)
    return {session: float(np.median(samples_s)) for session, samples_s in by_session.items()}
