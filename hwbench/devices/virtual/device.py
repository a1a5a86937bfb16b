"""A simulated device: latencies follow a known law, noise and faults are chosen.

Time is virtual, so nothing waits: a minute of measuring takes milliseconds, and rules of statistics
can be tried thousands of times against a truth that is known. The address has options:
`virtual:noise=white+drift,seed=3,step=8,fault=lost@100`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from hwbench.devices.base import Device, Found, LayerRow, LayerSamples, Prepared, Samples
from hwbench.devices.shared.address import Option, read_address, whole_number
from hwbench.devices.virtual.noise import (
    KINDS,
    Bimodal,
    Clock,
    Drift,
    Noise,
    SessionOffset,
    Spikes,
    Thermostat,
    Throttling,
    White,
)
from hwbench.errors import (
    BuildError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    UsageError,
    WorkloadError,
)
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import Settings

if TYPE_CHECKING:
    from hwbench.devices.virtual.noise import Floats
    from hwbench.network.graph import Layer

__all__ = [
    "Bimodal", "Drift", "Fault", "Law", "Noise", "SessionOffset", "Spikes", "Throttling",
    "Virtual", "White",
]  # fmt: skip

PREPARE_S = 0.05
"""Virtual seconds of preparing a session.

ONNX Runtime takes this for a network of 4 M parameters.
"""
LOAD_S, FIRST_RUN_FACTOR = 0.02, 3.0
"""Virtual seconds that the runtime takes to make a session, and by how much its first inference is
longer than the others; each varies from session to session (`START_SD`, of the logarithm)."""
START_SD = 0.1
COLD_C, HEAT_C = 30.0, 50.0
"""Temperature of a cold device that throttles, and by how much it is hotter at its limit."""
NODE_COST_S = 1e-6
"""Virtual seconds that the layer profiler adds to each layer it times."""
_ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Law:
    """Latency of a layer from its key.

    It is overhead + multiply-accumulates / rate + bytes moved / bandwidth.

    The kernels are blocked: input and output channels are computed in full channel steps, so 17
    channels cost as much as 32. A depthwise layer is blocked over its output alone. Narrower
    elements move fewer bytes and fill vectors with more values: both rates are those of fp32 and
    scale with the element's size.

    Attributes:
        macs_per_s: Multiply-accumulates per second.
        bytes_per_s: Bandwidth, bytes per second.
        layer_overhead_s: Fixed seconds per layer.
        network_overhead_s: Fixed seconds per inference.
        channel_step: Channels of one block.
    """

    macs_per_s: float = 50e9
    bytes_per_s: float = 20e9
    layer_overhead_s: float = 5e-6
    network_overhead_s: float = 20e-6
    channel_step: int = 16

    def layer_s(self, key: LayerKey) -> float:
        """Compute the seconds that one layer takes."""
        macs, weights = self._count_work(key)
        elements = weights + math.prod(key.output) + sum(math.prod(shape) for shape in key.inputs)
        size = _ELEMENT_BYTES.get(key.precision, 4)
        return (
            self.layer_overhead_s
            + macs * (size / 4) / self.macs_per_s
            + elements * size / self.bytes_per_s
        )

    def network_s(self, keys: Sequence[LayerKey]) -> float:
        """Compute the seconds that the network made of these layers takes, without noise."""
        return self.network_overhead_s + sum(map(self.layer_s, keys))

    def _count_work(self, key: LayerKey) -> tuple[int, int]:
        """Count multiply-accumulates in full blocks, and weights as they are stored.

        The key's own multiply-accumulates are weights times positions of the output. A weight has a
        place for each pair of input and output channels, so rounding the channels up to full blocks
        rounds the weights, and through them the multiply-accumulates.
        """
        weights = key.weights
        if not weights:
            return 0, 0
        axis = -1 if key.op == "Linear" else 1
        channels_in, channels_out = key.inputs[0][axis], key.output[axis]
        blocked = weights // channels_out * self._round_up_to_block(channels_out)
        if key.groups == 1:
            blocked = blocked // channels_in * self._round_up_to_block(channels_in)
        positions = key.macs // weights
        return positions * blocked, weights

    def _round_up_to_block(self, channels: int) -> int:
        return -(-channels // self.channel_step) * self.channel_step


_FAULTS = {
    "open": "the device refuses to open",
    "build": "it refuses to build any model",
    "lost": "it goes away",
    "timeout": "it stops answering",
    "miscount": "it returns one sample too few",
    "nan": "it returns a latency that is not a number",
    "zero": "it returns a latency of 0",
    "throttled": "it says that it is throttled",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure on request.

    Attributes:
        kind: `open`, `build`, `lost`, `timeout`, `miscount`, `nan`, `zero` or `throttled`.
        after_rounds: Rounds that go well before it strikes; of no meaning to `open` and `build`.

    Raises:
        UsageError: There is no such kind.
    """

    kind: str
    after_rounds: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _FAULTS:
            raise UsageError(
                f"unknown fault {self.kind!r} of the virtual device; known: {', '.join(_FAULTS)}"
            )


LAW = Law()
NOISE: tuple[Noise, ...] = (White(), SessionOffset())
"""What a plain `virtual` has: a quiet machine."""


@dataclass(eq=False, slots=True)
class _Session:
    """One prepared workload: the law's latency, and factors of this session and of its inputs."""

    latency_s: float
    offset: float
    layers: tuple[Layer, ...]
    input_factor: float = 1.0

    @property
    def nominal_s(self) -> float:
        """Latency without noise, seconds."""
        return self.latency_s * self.offset * self.input_factor


class Virtual(Device):
    """A simulated device.

    Args:
        address: Options `noise=KIND+KIND` (or `none`), `seed=N`, `step=N` (channel step),
            `fault=KIND@ROUNDS`, separated by commas; they win over the arguments below.
        law: Where latencies come from.
        noise: What disturbs them; factors multiply. The parameters describe a round, however many
            inferences it loops.
        faults: What goes wrong.
        seed: Seed of all noise. Opening the device again repeats the noise.
        latencies_s: Latencies in seconds by SHA-256 of the model, in place of the law. The ONNX of
            such a model is never read, and it has no layers.
        inputs_matter: Tells by which factor random inputs of a seed and an exponent take longer
            than the law says; None if no inputs do.

    Raises:
        UsageError: An option is unknown or has an impossible value.
    """

    name = "virtual"
    precisions = frozenset(_ELEMENT_BYTES)

    def __init__(
        self,
        address: str = "",
        *,
        law: Law = LAW,
        noise: Sequence[Noise] = NOISE,
        faults: Sequence[Fault] = (),
        seed: int = 0,
        latencies_s: Mapping[str, float] | None = None,
        inputs_matter: Callable[[int, int], float] | None = None,
    ) -> None:
        super().__init__(address)
        _, options = read_address(self.name, address, OPTIONS, has_place=False)
        self.law = replace(law, channel_step=options["step"]) if "step" in options else law
        self._noise = tuple(options.get("noise", noise))
        self._faults = tuple(options.get("fault", faults))
        self._seed = int(options.get("seed", seed))
        self._latencies_s = dict(latencies_s or {})
        self._inputs_matter = inputs_matter or (lambda seed, exponent: 1.0)  # noqa: ARG005 - names
        self._start()

    def _start(self) -> None:
        """Start a fresh clock and fresh random streams.

        Each kind of noise has a stream of its own, so that adding a kind leaves the draws of the
        others as they were.
        """
        streams = np.random.SeedSequence(self._seed).spawn(len(self._noise) + 2)
        session_random, *noise_randoms, self._start_random = map(np.random.default_rng, streams)
        self._clock = Clock()
        self._random = session_random
        self._rounds = 0
        self._processes = [
            kind.start(random, self._clock)
            for kind, random in zip(self._noise, noise_randoms, strict=True)
        ]

    @classmethod
    def discover(cls) -> list[Found]:
        """Describe the one simulated device, which is always there."""
        return [
            Found(
                "virtual",
                "simulated device with a known latency law (virtual:noise=white+drift,seed=3)",
                ready=True,
            )
        ]

    def time_s(self) -> float:
        """Virtual seconds since the device was opened."""
        return self._clock.now_s

    def idle(self, seconds: float) -> None:
        """Let virtual time pass without load."""
        self._clock.idle(seconds)

    def _open(self) -> None:
        if self._strikes("open"):
            raise DeviceUnavailableError(
                "the virtual device refuses to open, as asked; leave out fault=open"
            )
        self._start()

    def _info(self) -> DeviceInfo:
        noise = " ".join(map(repr, self._noise)) or "none"
        target = f"simulated device, channel step {self.law.channel_step}"
        details = (("noise", noise), ("seed", str(self._seed)))
        return DeviceInfo(self.address, target, repr(self.law), "virtual law 1", details)

    def _conditions(self) -> Conditions:
        throttled = self._throttled()
        return Conditions(
            at_utc=datetime.now(UTC).isoformat(),
            temperature_c=self._temperature_c(),
            throttled=throttled,
        )

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        if self._strikes("build"):
            raise BuildError(
                f"the virtual device refuses to build {workload.name}, as asked; leave out"
                " fault=build"
            )
        self._clock.idle(PREPARE_S)
        layers: tuple[Layer, ...] = ()
        latency_s = self._latencies_s.get(workload.sha256)
        if latency_s is None:
            layers = _read_layers(workload)
            latency_s = self.law.network_s([layer.key for layer in layers])
        session = _Session(latency_s, self._draw_offset(), layers)
        session.input_factor = self._inputs_matter(settings.seed, 0)
        load_s, first_run_s = np.array([LOAD_S, FIRST_RUN_FACTOR * latency_s])
        load_factor, run_factor = self._start_random.lognormal(0.0, START_SD, 2)
        return Prepared(
            workload,
            settings,
            session,
            load_s=float(load_s * load_factor),
            first_run_s=float(first_run_s * run_factor),
        )

    def _draw_inputs(self, prepared: Prepared, seed: int, exponent: int) -> None:
        prepared.handle.input_factor = self._inputs_matter(seed, exponent)

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        sessions: list[_Session] = [prepared.handle for prepared in order]
        self._rounds += len(order)
        if self._strikes("lost"):
            raise DeviceLostError(
                f"{self.address} went away after {self._rounds - len(order)} rounds, as asked by a"
                " fault"
            )
        if self._strikes("timeout"):
            raise DeviceTimeoutError(f"{self.address} did not answer, as asked by a fault")
        nominal_s = np.array([session.nominal_s for session in sessions])
        values_s = nominal_s * self._noise_factors(nominal_s * loops)
        self._clock.load(float(values_s.sum()) * loops)
        findings: tuple[Finding, ...] = ()
        if self._throttled():
            findings = (Finding("throttled", f"{self.address} slowed itself down under load"),)
        return Samples(self._spoil_samples(values_s.tolist()), "virtual", findings)

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Time the layers of `runs` inferences in a session of its own.

        Raises:
            WorkloadError: The latency was given as a number, so there are no layers.
        """
        session: _Session = prepared.handle
        if not session.layers:
            raise WorkloadError(
                f"{prepared.workload.name} has a latency given as a number, so no layers; set"
                " layers=False"
            )
        self._clock.idle(PREPARE_S)
        offset = self._draw_offset() * session.input_factor
        layer_s = np.array([self.law.layer_s(layer.key) for layer in session.layers]) * offset
        # Each profiled inference takes turns with an unprofiled one, so that both have the same
        # drift: the first column of a turn is the unprofiled inference, the others are the layers.
        turn_s = np.concatenate([[session.nominal_s], layer_s])
        nominal_s = np.tile(turn_s, runs)
        turns_s = (nominal_s * self._noise_factors(nominal_s)).reshape(runs, -1)
        reference_s, values_s = turns_s[:, 0], turns_s[:, 1:] + NODE_COST_S
        whole_s = values_s.sum(axis=1) + self.law.network_overhead_s * offset
        self._clock.load(float(whole_s.sum() + reference_s.sum()))
        rows = tuple(
            LayerRow(layer.name, layer.op, layer.key, "simulated", tuple(column))
            for layer, column in zip(session.layers, values_s.T.tolist(), strict=True)
        )
        rest = "the fixed cost of an inference, which no layer has"
        return LayerSamples(
            rows, tuple(whole_s.tolist()), tuple(reference_s.tolist()), NODE_COST_S, rest
        )

    def _draw_offset(self) -> float:
        """Draw the factor of a new session: the product over all kinds of noise."""
        return math.prod((kind.session(self._random) for kind in self._noise), start=1.0)

    def _noise_factors(self, nominal_s: Floats) -> Floats:
        """Compute the joint factor of all noise for rounds that follow each other.

        A round starts when those before it would have ended without noise: the noise of a round
        then does not depend on that of others, and all rounds are computed at once.

        Args:
            nominal_s: Seconds that each round takes without noise, of shape (rounds,).
        """
        starts_s = self._clock.now_s + np.cumsum(nominal_s) - nominal_s
        factors = np.ones_like(nominal_s)
        if nominal_s.size:
            for process in self._processes:
                factors *= process(starts_s)
        return factors

    def _throttled(self) -> bool:
        # Every thermostat is asked, since each look brings its heat up to date.
        slow = [process.throttled for process in self._processes if isinstance(process, Thermostat)]
        return any(slow) or self._strikes("throttled")

    def _temperature_c(self) -> float | None:
        """Temperature of the hottest thermostat; None where there is none."""
        heats = [process.heat for process in self._processes if isinstance(process, Thermostat)]
        return COLD_C + HEAT_C * max(heats) if heats else None

    def _strikes(self, kind: str) -> bool:
        """Tell whether a fault of this kind is due."""
        at_once = kind in {"open", "build"}
        return any(
            fault.kind == kind and (at_once or self._rounds > fault.after_rounds)
            for fault in self._faults
        )

    def _spoil_samples(self, values_s: list[float]) -> tuple[float, ...]:
        """Spoil the last sample, or leave it out, where a fault asks for it."""
        for kind, impossible in (("nan", [math.nan]), ("zero", [0.0]), ("miscount", [])):
            if self._strikes(kind):
                values_s = values_s[:-1] + impossible
        return tuple(values_s)


_LAYERS: dict[str, tuple[Layer, ...]] = {}


def _read_layers(workload: Workload) -> tuple[Layer, ...]:
    """Read the layers of the model, once per process."""
    from hwbench.network.graph import layers, load

    if workload.sha256 not in _LAYERS:
        _LAYERS[workload.sha256] = layers(load(workload.onnx))
    return _LAYERS[workload.sha256]


def _read_noise(text: str) -> tuple[Noise, ...]:
    kinds = () if text == "none" else text.split("+")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UsageError(
            f"unknown noise {unknown[0]!r} of the virtual device; known: none, {', '.join(KINDS)}"
            " (joined by +)"
        )
    return tuple(KINDS[kind]() for kind in kinds)


def _read_fault(text: str) -> tuple[Fault, ...]:
    kind, _, rounds = text.partition("@")
    if rounds and not rounds.isdecimal():
        raise ValueError("KIND@ROUNDS, with a whole number of rounds")
    return (Fault(kind, int(rounds or 0)),)


OPTIONS = {
    "noise": Option("none|KIND+KIND", _read_noise),
    "seed": whole_number(0),
    "step": whole_number(1),
    "fault": Option("KIND@ROUNDS", _read_fault),
}
