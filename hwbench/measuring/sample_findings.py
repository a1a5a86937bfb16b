"""Reasons to distrust a measurement, found in its samples and conditions."""

from __future__ import annotations

from hwbench import stats
from hwbench.records.findings import Finding
from hwbench.records.measurement import Measurement

NOISY = 0.05
"""Spread inside a session above which the host is called noisy; an idle machine stays below 2 %."""
CLOSES = 0.05
"""Difference between the layers' sum and the latency above which the layers are doubted.

The aim is 2 %.
"""
FEW_ROUNDS = 4
"""Rounds of a session below which their number is said where there are too few sessions."""
DRIFT = 0.02
"""Change over the measurement that is worth a word if it is no chance (p < 1 %)."""
SPIKY = 0.01
"""Share of rounds that may be far longer than the rest before it is said."""


def find_sample_faults(record: Measurement, *, has_enough: bool = False) -> tuple[Finding, ...]:
    """What a reader should know of a record's samples before believing its median.

    Args:
        record: The record, without these findings.
        has_enough: Whether measuring stopped since it knew enough, so that few sessions are no
            fault.
    """
    checks = (
        _check_drift,
        _check_modes,
        _check_spread,
        _check_spikes,
        _check_throttling,
        _check_closure,
    )
    findings = [check(record) for check in checks]
    if not has_enough:
        findings.insert(0, _check_amount(record))
    return tuple(finding for finding in findings if finding is not None)


def _check_amount(record: Measurement) -> Finding | None:
    sessions, least = record.series.sessions, record.settings.min_sessions
    if sessions >= least:
        return None
    rounds = len(record.series)
    few = ""
    if rounds < FEW_ROUNDS * sessions:
        few = f", with {rounds} round{'' if rounds == 1 else 's'} in all,"
    text = (
        f"{sessions} of at least {least} sessions{few} fit into {record.settings.budget_s:g} s;"
        " allow a longer time"
    )
    return Finding("too_few_samples", text)


def _check_drift(record: Measurement) -> Finding | None:
    change, p_value = stats.drift(record.series.samples_s, record.series.session, DRIFT)
    if abs(change) <= DRIFT or p_value >= 0.01:
        return None
    return Finding("drift", f"latency changed by {change:+.1%} from the first to the last session")


def _check_modes(record: Measurement) -> Finding | None:
    modes = stats.modes(record.series.samples_s)
    if modes is None:
        return None
    low_s, high_s, share = modes
    text = (
        f"two modes {high_s / low_s - 1:.1%} apart, {share:.0%} of the samples in the slower one;"
        " the median hides one of them"
    )
    return Finding("bimodal", text)


def _check_spread(record: Measurement) -> Finding | None:
    spread = stats.spread(record.series.samples_s, record.series.session)
    if spread <= NOISY:
        return None
    text = f"rounds inside a session spread by {spread:.1%}; see: hwbench doctor"
    return Finding("noisy_host", text)


def _check_spikes(record: Measurement) -> Finding | None:
    count, longest_s = stats.spikes(record.series.samples_s)
    share = count / len(record.series)
    if share <= SPIKY:
        return None
    text = (
        f"{share:.1%} of the rounds are far longer than the rest, up to"
        f" x{longest_s / record.median_s:.1f} the median"
    )
    return Finding("spikes", text)


def _check_throttling(record: Measurement) -> Finding | None:
    is_known = any(finding.code == "throttled" for finding in record.findings)
    if not record.after.throttled or is_known:
        return None
    text = "the device was slowing itself down at the end; let it cool and measure again"
    return Finding("throttled", text)


def _check_closure(record: Measurement) -> Finding | None:
    if record.closure is None or abs(record.closure - 1) <= CLOSES:
        return None
    text = (
        f"the layers add up to {record.closure:.0%} of the latency; believe their shares with care,"
        " or measure again in quiet"
    )
    return Finding("layers_do_not_close", text)
