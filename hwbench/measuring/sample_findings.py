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
DRIFT = 0.02
"""Change over the measurement that is worth a word, if it is also unlikely to be chance (p < 1 %)."""


def of_samples(record: Measurement) -> tuple[Finding, ...]:
    """Everything about the samples of `record` that a reader should know before believing its median."""
    return (*_amount(record), *_shape(record), *_conditions(record), *_closure(record))


def _amount(record: Measurement) -> list[Finding]:
    sessions = len(set(record.session))
    if sessions >= record.settings.min_sessions:
        return []
    text = (
        f"{sessions} of at least {record.settings.min_sessions} sessions fit into"
        f" {record.settings.budget_s:g} s; allow a longer time"
    )
    return [Finding("too_few_samples", text)]


def _shape(record: Measurement) -> list[Finding]:
    found = []
    change, p_value = stats.drift(record.samples_s, record.session)
    if abs(change) > DRIFT and p_value < 0.01:
        found.append(
            Finding("drift", f"latency changed by {change:+.1%} from the first to the last session")
        )
    modes = stats.modes(record.samples_s)
    if modes is not None:
        low, high, share = modes
        text = (
            f"two modes {high / low - 1:.1%} apart, {share:.0%} of the samples in the slower one;"
            " the median hides one of them"
        )
        found.append(Finding("bimodal", text))
    spread = stats.spread(record.samples_s, record.session)
    if spread > NOISY:
        found.append(
            Finding(
                "noisy_host", f"rounds inside a session spread by {spread:.1%}; see: hwbench doctor"
            )
        )
    count, longest_s = stats.spikes(record.samples_s)
    share = count / len(record.samples_s)
    if share > 0.01:
        text = (
            f"{share:.1%} of the rounds are far longer than the rest, up to"
            f" x{longest_s / record.median_s:.1f} the median"
        )
        found.append(Finding("spikes", text))
    return found


def _conditions(record: Measurement) -> list[Finding]:
    if record.after.throttled and not any(
        finding.code == "throttled" for finding in record.findings
    ):
        return [
            Finding(
                "throttled",
                "the device was slowing itself down at the end; let it cool and measure again",
            )
        ]
    return []


def _closure(record: Measurement) -> list[Finding]:
    if record.closure is None or abs(record.closure - 1) <= CLOSES:
        return []
    text = (
        f"the layers add up to {record.closure:.0%} of the latency; believe their shares with care,"
        " or measure again in quiet"
    )
    return [Finding("layers_do_not_close", text)]
