"""Imitated noise: what makes the latencies of a real device differ from a law, as seeded functions of virtual time.

Each kind is a frozen record of its parameters. Opening a device turns the record into a *process*,
which holds the random state and answers the factors by which rounds starting at given times are
longer. Processes depend on time and not on who asks, so workloads that are interleaved share their
drift, modes and throttling, as they do on hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Process = Callable[[Floats], Floats]
"""From the times (s) at which rounds start, ascending, to their factors.

Both of shape (rounds,).
"""


@dataclass(slots=True)
class Clock:
    """Virtual time: seconds since opening, and how many of them the device spent without load."""

    now_s: float = 0.0
    idle_s: float = 0.0

    def load(self, seconds: float) -> None:
        """Let time pass in which the device computes."""
        self.now_s += seconds

    def idle(self, seconds: float) -> None:
        """Let time pass in which the device rests."""
        self.now_s += seconds
        self.idle_s += seconds


@dataclass(frozen=True, slots=True)
class Noise:
    """Base of the kinds of noise; by itself it is silence."""

    def start(self, _random: Generator, _clock: Clock, /) -> Process:
        """The running process of this noise on a freshly opened device."""
        return np.ones_like

    def session(self, _random: Generator, /) -> float:
        """Factor of a freshly prepared session, for as long as it lives."""
        return 1.0


@dataclass(frozen=True, slots=True)
class White(Noise):
    """Independent log-normal scatter of every round: interrupts, caches, clock jitter.

    The median stays the law's.

    Attributes:
        sd: Standard deviation of the log latency of a round.
    """

    sd: float = 0.02

    def start(self, random: Generator, _clock: Clock, /) -> Process:
        """Independent draws; time plays no part."""
        return lambda starts_s: random.lognormal(0.0, self.sd, starts_s.shape)


@dataclass(frozen=True, slots=True)
class Drift(Noise):
    """Slow change that all rounds share: a case that warms up, a neighbour on the same machine that comes and goes.

    Attributes:
        per_minute: Relative growth per minute (0.05 is +5 %).
        swing: Relative amplitude of a sinusoidal change on top.
        period_s: Seconds of one such swing.
    """

    per_minute: float = 0.05
    swing: float = 0.02
    period_s: float = 20.0

    def start(self, random: Generator, _clock: Clock, /) -> Process:
        """A function of time alone but for the phase of the swing."""
        phase, growth, speed = (
            random.uniform(0, math.tau),
            math.log1p(self.per_minute) / 60,
            math.tau / self.period_s,
        )
        return lambda starts_s: (
            np.exp(growth * starts_s) * (1 + self.swing * np.sin(speed * starts_s + phase))
        )


@dataclass(frozen=True, slots=True)
class Bimodal(Noise):
    """Two modes between which the whole device switches at random times: frequency steps, a shared core, page colouring.

    Attributes:
        gap: How much longer the slow mode is (0.1 is 10 %); the fast mode is the law's.
        dwell_s: Mean seconds (exponential) until it switches.
    """

    gap: float = 0.1
    dwell_s: float = 0.5

    def start(self, random: Generator, _clock: Clock, /) -> Process:
        """Switching times are drawn ahead as far as asked, so that a time has one mode whoever asks for it."""
        first = int(random.integers(2))
        switches_s = np.array([random.exponential(self.dwell_s)])

        def factors(starts_s: Floats) -> Floats:
            nonlocal switches_s
            while switches_s[-1] <= starts_s[-1]:
                dwells_s = random.exponential(self.dwell_s, switches_s.size)
                switches_s = np.concatenate([switches_s, switches_s[-1] + np.cumsum(dwells_s)])
            slow = (np.searchsorted(switches_s, starts_s, side="right") + first) % 2
            return 1 + self.gap * slow.astype(np.float64)

        return factors


@dataclass(frozen=True, slots=True)
class Spikes(Noise):
    """Rare long rounds with a heavy (Pareto) tail: the process was descheduled, a page was swapped, a collector ran.

    Attributes:
        probability: Chance of each round to be hit.
        factor: Smallest factor of a hit round.
        tail: Pareto exponent of the excess; smaller is heavier, below 2 the variance is infinite.
    """

    probability: float = 0.01
    factor: float = 2.0
    tail: float = 1.5

    def start(self, random: Generator, _clock: Clock, /) -> Process:
        """Independent hits."""

        def factors(starts_s: Floats) -> Floats:
            hit = random.random(starts_s.shape) < self.probability
            return 1 + hit * (self.factor - 1) * (1 + random.pareto(self.tail, starts_s.shape))

        return factors


@dataclass(frozen=True, slots=True)
class Throttling(Noise):
    """A device without a fan: after enough load it slows down, and stays slow until it has rested.

    Attributes:
        after_s: Seconds of load that heat a cold device to its limit.
        factor: How much longer rounds take from then on.
        recovery_s: Seconds of rest that cool it from the limit; only then is it fast again.
    """

    after_s: float = 20.0
    factor: float = 1.3
    recovery_s: float = 30.0

    def start(self, _random: Generator, clock: Clock, /) -> Process:
        """A thermostat."""
        return Thermostat(self, clock)


class Thermostat:
    """Heat between 0 (cold) and 1 (the limit), and whether the device is slow because it reached the limit."""

    def __init__(self, law: Throttling, clock: Clock) -> None:
        self._law, self._clock = law, clock
        self._heat, self._slow, self._seen = 0.0, False, Clock()

    def __call__(self, starts_s: Floats) -> Floats:
        """Factors of rounds that follow each other without rest."""
        slow = self.throttled | (
            self._heat + (starts_s - self._clock.now_s) / self._law.after_s >= 1
        )
        return np.where(slow, self._law.factor, 1.0)

    @property
    def throttled(self) -> bool:
        """Whether the device is slow now."""
        idle_s = self._clock.idle_s - self._seen.idle_s
        load_s = self._clock.now_s - self._seen.now_s - idle_s
        self._seen = Clock(self._clock.now_s, self._clock.idle_s)
        self._heat = min(1.0, self._heat + load_s / self._law.after_s)
        self._slow = self._slow or self._heat >= 1
        self._heat = max(0.0, self._heat - idle_s / self._law.recovery_s)
        self._slow = self._slow and self._heat > 0
        return self._slow


@dataclass(frozen=True, slots=True)
class SessionOffset(Noise):
    """A log-normal factor of each prepared session, which never averages out inside it: where memory happened to be laid.

    Attributes:
        sd: Standard deviation of its logarithm; 0.5 % was seen between sessions of ONNX Runtime on
            a shared machine.
    """

    sd: float = 0.005

    def session(self, random: Generator, /) -> float:
        """One draw per session."""
        return float(random.lognormal(0.0, self.sd))


KINDS: dict[str, type[Noise]] = {
    "white": White,
    "drift": Drift,
    "bimodal": Bimodal,
    "spikes": Spikes,
    "throttling": Throttling,
    "session": SessionOffset,
}
"""Names for the command line."""
