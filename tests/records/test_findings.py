"""The order of findings: what matters comes first."""

from __future__ import annotations

from hwbench.records.findings import Finding, order_findings


def order(*codes: str) -> list[str]:
    return [finding.code for finding in order_findings(Finding(code, "") for code in codes)]


def test_noise_does_not_bury_what_explains():
    noise = ("bimodal", "spikes", "noisy_host", "drift")
    codes = order(*noise, "reorders", "macs_without_gain", "something_new", "different_outputs")
    assert codes[:3] == ["different_outputs", "macs_without_gain", "something_new"]
    assert set(codes[3:-1]) == set(noise)
    assert codes[-1] == "reorders"


def test_findings_that_matter_alike_keep_their_order():
    assert order("b", "a", "c") == ["b", "a", "c"]
    twice = order_findings([Finding("drift", "first"), Finding("drift", "second")])
    assert [finding.text for finding in twice] == ["first", "second"]
