"""Imitated noise: what makes the latencies of a real device differ from a law.

Noise is a seeded function of virtual time. Each kind is a frozen record of its parameters. Opening
a device turns the record into a *process*, which holds the random state and returns the factors by
which rounds that start at certain times are longer. Processes depend on time and not on who asks,
so workloads that are interleaved share their drift, modes and throttling, as they do on hardware.
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
"""Computes the factors of rounds from the ascending times (s) at which they start.

Times and factors are of shape (rounds,).
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
        """Start the process of this noise on a freshly opened device."""
        return np.ones_like

    def session(self, _random: Generator, /) -> float:
        """Draw the factor of a freshly prepared session, which holds as long as it lives."""
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
        """Start a process of independent draws, in which time plays no part."""
        return lambda starts_s: random.lognormal(0.0, self.sd, starts_s.shape)


@dataclass(frozen=True, slots=True)
class Drift(Noise):
    """Slow change that all rounds share.

    A case warms up, or a neighbour on the same machine comes and goes.

    Attributes:
        per_minute: Relative growth per minute (0.05 is +5 %).
        swing: Relative amplitude of a sinusoidal change on top.
        period_s: Seconds of one such swing.
    """

    per_minute: float = 0.05
    swing: float = 0.02
    period_s: float = 20.0

    def start(self, random: Generator, _clock: Clock, /) -> Process:
        """Start a function of time, of which only the phase of the swing is random."""
        phase = random.uniform(0, math.tau)
        growth_per_s = math.log1p(self.per_minute) / 60
        radians_per_s = math.tau / self.period_s

        def factors(starts_s: Floats) -> Floats:
            growth = np.exp(growth_per_s * starts_s)
            wave = 1 + self.swing * np.sin(radians_per_s * starts_s + phase)
            return np.asarray(growth * wave)

        return factors


@dataclass(frozen=True, slots=True)
class Bimodal(Noise):
    """Two modes between which the whole device switches at random times.

    Frequency steps, a shared core or page colouring do that on hardware.

    Attributes:
        gap: How much longer the slow mode is (0.1 is 10 %); the fast mode is the law's.
        dwell_s: Mean seconds (exponential) until it switches.
    """

    gap: float = 0.1
    dwell_s: float = 0.5

    def start(self, random: Generator, _clock: Clock, /) -> Process:
        """Start in a random mode.

        The times of switching are drawn ahead, as far as they are needed, and kept. So the mode at
        a time does not depend on which workload runs then.
        """
        first_mode = int(random.integers(2))
        switches_s = np.array([random.exponential(self.dwell_s)])

        def factors(starts_s: Floats) -> Floats:
            nonlocal switches_s
            while switches_s[-1] <= starts_s[-1]:
                dwells_s = random.exponential(self.dwell_s, switches_s.size)
                switches_s = np.concatenate([switches_s, switches_s[-1] + np.cumsum(dwells_s)])
            slow = (np.searchsorted(switches_s, starts_s, side="right") + first_mode) % 2
            return 1 + self.gap * slow.astype(np.float64)

        return factors


@dataclass(frozen=True, slots=True)
class Spikes(Noise):
    """Rare long rounds with a heavy (Pareto) tail.

    The process was descheduled, a page was swapped, or a collector ran.

    Attributes:
        probability: Chance of each round to be hit.
        factor: Smallest factor of a hit round.
        tail: Pareto exponent of the excess; smaller is heavier, below 2 the variance is infinite.
    """

    probability: float = 0.01
    factor: float = 2.0
    tail: float = 1.5

    def start(self, random: Generator, _clock: Clock, /) -> Process:
        """Start a process that hits rounds independently of each other."""

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
        """Start a thermostat."""
        return Thermostat(self, clock)


class Thermostat:
    """The heat of a device, and whether it is slow because it reached its limit.

    Args:
        law: How fast the device heats and cools.
        clock: Virtual time of the device.
    """

    def __init__(self, law: Throttling, clock: Clock) -> None:
        self._law = law
        self._clock = clock
        self._heat = 0.0  # from 0 (cold) to 1 (the limit)
        self._slow = False
        self._updated_at = Clock()  # the clock at the last update

    def __call__(self, starts_s: Floats) -> Floats:
        """Factors of rounds that follow each other without rest."""
        slow_before = self.throttled
        # The clock moves on only after these rounds, so the heat of each is worked out here.
        heat = self._heat + (starts_s - self._clock.now_s) / self._law.after_s
        return np.where(slow_before | (heat >= 1), self._law.factor, 1.0)

    @property
    def heat(self) -> float:
        """Heat at the last look, from 0 (cold) to 1 (the limit)."""
        return self._heat

    @property
    def throttled(self) -> bool:
        """Whether the device is slow now."""
        idle_s = self._clock.idle_s - self._updated_at.idle_s
        load_s = self._clock.now_s - self._updated_at.now_s - idle_s
        # Load and rest since the last update are taken as one stretch of each, load first: the
        # limit counts although the rest after it has cooled the device below it. Once slow, it
        # stays slow until it is cold (hysteresis).
        self._updated_at = Clock(self._clock.now_s, self._clock.idle_s)
        self._heat = min(1.0, self._heat + load_s / self._law.after_s)
        self._slow = self._slow or self._heat >= 1
        self._heat = max(0.0, self._heat - idle_s / self._law.recovery_s)
        self._slow = self._slow and self._heat > 0
        return self._slow


@dataclass(frozen=True, slots=True)
class SessionOffset(Noise):
    """A log-normal factor of each prepared session, which never averages out inside it.

    It imitates where the memory of a session happened to be laid.

    Attributes:
        sd: Standard deviation of its logarithm; 0.5 % was seen between sessions of ONNX Runtime on
            a shared machine.
    """

    sd: float = 0.005

    def session(self, random: Generator, /) -> float:
        """Draw the factor of one session."""
        return float(random.lognormal(0.0, self.sd))


KINDS: dict[str, type[Noise]] = {
    "white": White,
    "drift": Drift,
    "bimodal": Bimodal,
    "spikes": Spikes,
    "throttling": Throttling,
    "session": SessionOffset,
}
"""Kinds of noise by their names in an address."""
