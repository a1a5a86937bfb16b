"""Finding: a reason to distrust a number, or a fact that explains it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason to distrust a number, or a fact that explains it, as data.

    Attributes:
        code: Stable name in snake_case (`drift`, `macs_without_gain`); tools select by it.
        text: One sentence for people, with the values that led to it.
    """

    code: str
    text: str


CONVERTED = "converted"
"""Code of the finding that a network was converted to another format, images channels last."""
_FIRST = (
    "incomparable",
    "impossible",
    "not_interleaved",
    "provider_fell_back",
    "not_delegated",
    "partly_delegated",
    "different_outputs",
    "export_differs",
    "exported_in_training",
    "throttled",
    "power_capped",
    "foreign_processes",
    "latency_depends_on_input",
    "macs_without_gain",
    "fell_off_layout",
    "fall_back",
    "zeros_left_dense",
    "precision_differs",
    "layers_do_not_explain",
    "too_few_samples",
)
"""Findings that a reader should see first: what makes the answer worthless, then what explains it,
then whether there is too little to rest it on."""
_LATER = (
    "drift",
    "not_settled",
    "noisy_host",
    "bimodal",
    "spikes",
    "layers_do_not_close",
    "layers_unknown",
    "macs_not_compared",
    "outputs_not_compared",
)
"""Noise, of which several findings come together, and what could not be found out."""
_LAST = ("below_resolution", "below_grain", "reorders", "fused_layers", "random_weights")
"""Details that change no conclusion."""


def order_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by how much they matter; those that matter alike keep their order."""
    ranks = {code: rank for rank, code in enumerate(_FIRST)}
    middle = len(ranks)
    for codes in (_LATER, _LAST):
        ranks |= {code: len(ranks) + 1 + rank for rank, code in enumerate(codes)}
    return tuple(sorted(findings, key=lambda finding: ranks.get(finding.code, middle)))
