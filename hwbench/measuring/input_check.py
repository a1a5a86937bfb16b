"""Whether the latency of a network depends on the values of its inputs.

A branch or a loop over the data, or numbers so small that a processor computes them slowly, make
the latency of one random input no answer for another. So several random inputs are timed once, in
one and the same session. A first look at all of them picks the fastest and the slowest. Only where
these differ are the two timed against each other, in fresh pairs: a choice and its test never rest
on the same samples, so that noise does not look like a dependence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hwbench import stats
from hwbench.records.findings import Finding

DIFFERS = 0.05
"""Least relative difference that is looked into, and that is told."""
LOOKS, PAIRS = 2, 8
"""Rounds of the first look at each input; pairs that confirm a difference."""
ALPHA = 1e-3
"""Probability that a difference is told where there is none, if the first look found one."""
CODE = "latency_depends_on_input"


@dataclass(frozen=True, slots=True)
class RandomInput:
    """One way to draw the inputs of a network.

    Attributes:
        offset: Added to the seed of the measurement.
        exponent: Floats are multiplied by 2 to the power of this.
    """

    offset: int = 0
    exponent: int = 0

    def __str__(self) -> str:
        if self.exponent:
            return f"values up to {2.0**self.exponent:.2g}"
        return f"values up to 1 of seed +{self.offset}"


INPUTS = (
    RandomInput(),
    RandomInput(1),
    RandomInput(2),
    RandomInput(3),
    RandomInput(exponent=8),
    RandomInput(exponent=-20),
)
"""The measurement's own inputs, others like them, some as large as the bytes of an image, and some
as small as the signals that decay in a network."""
FEWEST_INFERENCES = 2 * len(INPUTS) * LOOKS
"""Inferences of a first look: one of each round comes first and does not count."""


def check_inputs(
    time_input: Callable[[RandomInput], float], random: np.random.Generator, *, may_confirm: bool
) -> Finding | None:
    """Compare the latencies of random inputs.

    Args:
        time_input: Draws such inputs, and gives the latency with them in seconds.
        random: Of the order.
        may_confirm: Whether there is time to look into a difference.

    Returns:
        What is told; None where the latencies do not differ, or not surely.
    """
    looks_s = np.empty((LOOKS, len(INPUTS)))
    for look in range(LOOKS):
        for index in random.permutation(len(INPUTS)).tolist():
            looks_s[look, index] = time_input(INPUTS[index])
    # Other programs only ever add time.
    least_s = looks_s.min(axis=0)
    fast, slow = int(least_s.argmin()), int(least_s.argmax())
    if not may_confirm or least_s[slow] <= (1 + DIFFERS) * least_s[fast]:
        return None
    logs = []
    pairs_s = np.empty((PAIRS, 2))
    for pair in range(PAIRS):
        for place in random.permutation(2).tolist():
            pairs_s[pair, place] = time_input(INPUTS[(fast, slow)[place]])
        logs.append(math.log(pairs_s[pair, 1] / pairs_s[pair, 0]))
    if not is_longer(logs):
        return None
    fast_s, slow_s = np.median(pairs_s, axis=0).tolist()
    text = (
        f"the latency depends on the values of the inputs: {slow_s / fast_s:.2f} times as long with"
        f" {INPUTS[slow]} as with {INPUTS[fast]}; it holds for inputs like those measured alone"
    )
    return Finding(CODE, text)


def is_longer(logs: Sequence[float]) -> bool:
    """Whether log ratios are surely and noticeably above 0, by a one-sided t test."""
    values = np.asarray(logs)
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if math.exp(float(np.median(values))) <= 1 + DIFFERS:
        return False
    if deviation == 0:
        return True
    return stats.t_upper_p(mean / (deviation / math.sqrt(len(values))), len(values) - 1) < ALPHA
