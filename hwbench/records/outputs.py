"""How far two networks compute the same: outputs on the same inputs, and accuracy on the same data.

A candidate is normally a version of its baseline. How fast it is says nothing about a network that
computes something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwbench.records.findings import Finding

ACCURACY = "accuracy"
"""The measure of quality that is the share of samples whose class is right."""


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """How far the outputs of two networks agree on the same inputs.

    Attributes:
        inputs: What both were run on, in words: `8 random inputs`.
        runtime: What ran them, and where.
        relative_error: Root mean square of the difference over that of the baseline's output, of
            the output of floats where it is largest; None where there are none.
        correlation: Pearson's, of what the inputs change in the output where it is lowest: the mean
            over all inputs is taken off at each place. Of the values themselves where there are
            fewer than three inputs, or they hardly change anything. None also where one side is
            constant.
        agreement: Share of places at which both have the same class (the largest value of the
            first output along its second axis, or equal whole numbers); None where there are no
            classes.
        problems: What differs in kind, in words; empty for two versions of one network.
        output: Number of the output that `correlation` is of, from 1; None where there is only one,
            or no correlation.
    """

    inputs: str
    runtime: str
    relative_error: float | None
    correlation: float | None
    agreement: float | None
    problems: tuple[str, ...] = ()
    output: int | None = None

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio of the candidate's outputs in decibels.

        The baseline is the signal. None where it is not known; infinite for equal outputs.
        """
        if self.relative_error is None:
            return None
        return -20 * math.log10(self.relative_error) if self.relative_error > 0 else math.inf


@dataclass(frozen=True, slots=True)
class QualityChange:
    """How well two networks do on the same data, and how sure the difference is.

    Attributes:
        data: Where the data came from.
        samples: How many were evaluated.
        measure: What `baseline` and `candidate` are: `accuracy`, or the function that gave them.
        runtime: What ran the networks, and where.
        baseline: Quality of the baseline; None for data without labels.
        candidate: Quality of the candidate.
        drop: Baseline minus candidate.
        drop_ci: 95 % interval of `drop`, paired by sample; None where a function gave one number.
        agreement: Share of samples to which both give the same class; None where there are no
            classes.
        agreement_ci: Its 95 % interval.
    """

    data: str
    samples: int
    measure: str
    runtime: str
    baseline: float | None
    candidate: float | None
    drop: float | None
    drop_ci: tuple[float, float] | None
    agreement: float | None
    agreement_ci: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Likeness:
    """What was found out about two networks beside what they cost.

    Attributes:
        outputs: How far their outputs agree; None where that was not found out.
        quality: How well they do on data; None where none was given.
        findings: What is to be told of it.
    """

    outputs: OutputAgreement | None = None
    quality: QualityChange | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def accuracy_drop(self) -> float | None:
        """Quality of the baseline minus that of the candidate; None where it is not known."""
        return None if self.quality is None else self.quality.drop

    @property
    def agreement(self) -> float | None:
        """Share of samples with the same class in both, on data where there was some."""
        if self.quality is not None:
            return self.quality.agreement
        return None if self.outputs is None else self.outputs.agreement
