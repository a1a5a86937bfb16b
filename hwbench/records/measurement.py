"""The record of a measurement: samples, device, settings, conditions, and what to distrust.

All records are frozen. Statistics are computed on request from the raw samples (`hwbench.stats`)
and never stored as the only copy. Latencies are in seconds of one inference at the workload's
batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from hwbench import stats
from hwbench.errors import SchemaError
from hwbench.records.codec import from_plain, to_plain
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.layer_key import LayerKey
from hwbench.records.series import Series
from hwbench.records.sustained import SustainedLoad
from hwbench.records.tensors import TensorSpec

MEASUREMENT_SCHEMA = 1

_FLAT_NAMES = {
    "series": {"samples_s": "samples_s", "session": "session", "block": "block"},
    "warm_up": {"samples_s": "warmup_s", "session": "warmup_session"},
}
"""Documents hold the parts of a series side by side with the other fields, under these names."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure.

    The first block must agree for two measurements to be comparable; the second is the protocol.

    Attributes:
        threads: Threads of the runtime, each pinned to a core of its own.
        isolate: Every workload of a session in a process of its own, which also tells its peak
            memory.
        budget_s: Wall-clock seconds the measurement may take once everything is prepared; one
            sample of each workload is taken in any case.
        min_sessions: Sessions (one `prepare` with a fresh runtime object) before a narrow interval
            is believed.
        max_sessions: Sessions after which it stops in any case.
        session_s: Seconds of timed rounds aimed at per session, over all workloads together.
        min_round_s: Inferences are looped within a round until it lasts this long, so that the
            clock's grain vanishes.
        target: Relative half-width of the 95 % interval at which measuring stops.
        stop_at_difference: Whether a comparison also stops as soon as every candidate is known to
            be faster or slower, however wide the interval still is. Turn it off where the speed-up
            has to be known to `target`.
        tail: Whether every sample is of a single inference, however short that is, so that rare
            long ones show; then nothing but the budget ends the measurement.
        min_effect: Smallest relative difference that matters; a smaller one is SAME.
        seed: Of the order of rounds and of random inputs.
        layers: Whether to take per-layer times as well, where the device can.
        sustain_s: Seconds of load without a pause that follow, beyond the budget; 0 for none.
    """

    threads: int = 1
    isolate: bool = False
    budget_s: float = 30.0
    min_sessions: int = 8
    max_sessions: int = 1000
    session_s: float = 0.6
    min_round_s: float = 500e-6
    target: float = 0.01
    stop_at_difference: bool = True
    tail: bool = False
    min_effect: float = 0.01
    seed: int = 0
    layers: bool = True
    sustain_s: float = 0.0


TAIL = {"p50_s": 0.5, "p90_s": 0.9, "p95_s": 0.95, "p99_s": 0.99}
"""Shares of inferences whose longest is told, by the names of the fields."""


@dataclass(frozen=True, slots=True)
class SessionStart:
    """What it took to make one session ready; None where the driver does not tell.

    Attributes:
        load_s: Seconds that the runtime took to create the session from the model file.
        first_run_s: Seconds of the first inference, which allocates.
        peak_memory_bytes: Peak memory of a process that ran the model alone.
    """

    load_s: float | None = None
    first_run_s: float | None = None
    peak_memory_bytes: int | None = None


START_QUANTITIES = ("load_s", "first_run_s", "peak_memory_bytes")
"""Fields of `SessionStart`."""


@dataclass(frozen=True, slots=True)
class LayerLatency:
    """Measured latency of one layer of one network.

    Attributes:
        name: Module path (`features.3.conv`).
        op: Operator of the layer, as its key says.
        key: Identity after fusion; None for a row the runtime inserted for itself and that has no
            layer.
        implementation: How the driver saw it executed: `nchwc16`, `nchw`, `reorder`, ...
        median_s: Median latency per call.
        calls: Calls per inference.
        ci_s: 95 % interval of `median_s` over sessions; None from a single one.
        is_bound: Whether `median_s` is no latency but the most it can be, as the layer is too short
            for the profiler.
    """

    name: str
    op: str
    key: LayerKey | None
    implementation: str
    median_s: float
    calls: int = 1
    ci_s: tuple[float, float] | None = None
    is_bound: bool = False

    @property
    def inference_s(self) -> float:
        """Latency of all its calls in one inference, seconds."""
        return self.median_s * self.calls

    @property
    def margin_s(self) -> float | None:
        """Half-width of the 95 % interval of `inference_s`, seconds; None where there is none."""
        if self.ci_s is None:
            return None
        low_s, high_s = self.ci_s
        return self.calls * (high_s - low_s) / 2


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """Per-layer latencies of one network, and what they leave unexplained.

    Attributes:
        layers: One row per layer of the network in order, plus the rows the runtime inserted.
        profiled_s: Median latency of the whole network while the profiler was on.
        node_cost_s: Profiler's own cost inside each node's time, measured; already taken off the
            rows.
        rest_cause: What the difference to the unprofiled latency consists of, in words.
    """

    layers: tuple[LayerLatency, ...]
    profiled_s: float
    node_cost_s: float
    rest_cause: str

    @property
    def layers_sum_s(self) -> float:
        """Sum over all rows, seconds of one inference."""
        return sum(layer.inference_s for layer in self.layers)


@dataclass(frozen=True)
class Measurement:
    """All raw samples of one workload on one device, and what one needs to believe or doubt them.

    Attributes:
        id: Unique name (UUID4, hexadecimal).
        group_id: Shared by interleaved measurements; the blocks of their series pair them.
        model: Name of the model as the user gave it.
        model_sha256: Identity of the ONNX model.
        inputs: Names, shapes and types of the inputs.
        batch: Inferences' batch; latencies are for the whole batch.
        precision: `fp32`, `fp16`, `int8` or another.
        macs: Multiply-accumulates per inference; None where they cannot be counted.
        params: Parameters.
        file_bytes: Size of the model file.
        peak_memory_bytes: Peak memory of a process that ran it alone, the largest seen; None where
            the device does not tell.
        device: The device.
        settings: How it was measured.
        clock: Name of the clock the samples came from.
        loops: Inferences in one sample (a sample is their mean latency).
        series: Every timed sample.
        warm_up: Samples of the warm-up, kept apart.
        before: Conditions before the first session.
        after: Conditions after the last session.
        findings: Reasons to distrust the record, and facts that explain it.
        profile: Per-layer latencies; None where not asked for or not to be had.
        started_utc: ISO 8601 time in UTC.
        hwbench_version: Version of hwbench that took it.
        commit: Git commit of the hwbench checkout, if it was one.
        complete: False while sessions are still being added (a killed run leaves it so).
        source_commit: Git commit of the folder that the measurement was started in, if it belonged
            to a repository: what the model was made of, as a rule.
        starts: What it took to make each session ready, in order.
        sustained: What became of the latency under load without a pause; None if there was none.
    """

    id: str
    group_id: str
    model: str
    model_sha256: str
    inputs: tuple[TensorSpec, ...]
    batch: int
    precision: str
    macs: int | None
    params: int
    file_bytes: int
    peak_memory_bytes: int | None
    device: DeviceInfo
    settings: Settings
    clock: str
    loops: int
    series: Series = field(repr=False)
    warm_up: Series = field(repr=False)
    before: Conditions
    after: Conditions
    findings: tuple[Finding, ...]
    profile: LayerProfile | None
    started_utc: str
    hwbench_version: str
    commit: str | None
    complete: bool
    source_commit: str | None = None
    starts: tuple[SessionStart, ...] = ()
    sustained: SustainedLoad | None = None

    @property
    def median_s(self) -> float:
        """Latency in seconds: geometric mean over sessions of the session medians."""
        return self.series.latency().estimate

    @property
    def median_ci_s(self) -> tuple[float, float]:
        """95 % interval of `median_s` in seconds, sessions being the unit of resampling."""
        return self.series.latency().ci

    def start(self, quantity: str) -> stats.Estimate | None:
        """One of `START_QUANTITIES` with its 95 % interval, sessions being the unit of resampling.

        It is for a warm start: a fresh process, but the model file and the runtime's libraries in
        the page cache. So the first session, which may have read them from the disk, is left out
        where there are others.

        Returns:
            The geometric mean over sessions; None where the device does not tell.
        """
        values = [value for value in self.start_values(quantity) if value is not None]
        if not values:
            return None
        return stats.estimate_of_sessions(np.log(values))

    def start_values(self, quantity: str) -> list[float | None]:
        """One of `START_QUANTITIES` for each session that counts."""
        values = [getattr(start, quantity) for start in self.starts]
        if not values and quantity == "peak_memory_bytes":
            values = [self.peak_memory_bytes]  # of a version that kept nothing for each session
        return values[1:] if len(values) > 1 else values

    @property
    def has_tail(self) -> bool:
        """Whether each sample is of one inference: a mean of several hides those that take long."""
        return self.loops == 1 and len(self.series) > 0

    def quantile(self, share: float) -> stats.Estimate | None:
        """Latency in seconds that a share of inferences does not exceed; None without a tail."""
        if not self.has_tail:
            return None
        return stats.quantile(self.series.samples_s, self.series.session, share)

    @property
    def worst_s(self) -> float | None:
        """The longest single inference, seconds; None without a tail."""
        return max(self.series.samples_s) if self.has_tail else None

    @property
    def closure(self) -> float | None:
        """Sum of the layers over the unprofiled latency; None without layers."""
        return None if self.profile is None else self.profile.layers_sum_s / self.median_s

    def __repr__(self) -> str:
        """The record in short; all of it is in `to_dict`."""
        what = f"{self.model} on {self.device.address}"
        if not self.series:
            return f"<Measurement {self.id[:12]} of {what}: no samples>"
        (low_s, high_s), sessions = self.median_ci_s, self.series.sessions
        latency = f"{self.median_s:.4g} s ({low_s:.4g} to {high_s:.4g}, {sessions} sessions)"
        return f"<Measurement {self.id[:12]} of {what}: {latency}>"

    def metrics(self) -> dict[str, float]:
        """What is known in numbers, flat, for `mlflow.log_metrics` or `wandb.log`.

        The names are `latency_s`, `latency_low_s` and `latency_high_s` (95 % interval), `sessions`,
        `samples`, `macs`, `params`, `file_bytes`, `peak_memory_bytes`, `closure`, and
        `layer_s/NAME` for the latency of each layer. What is not known is left out.
        """
        known: dict[str, float | None] = {
            "sessions": self.series.sessions,
            "samples": len(self.series),
            "macs": self.macs,
            "params": self.params,
            "file_bytes": self.file_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
        }
        if self.series:
            known["latency_s"] = self.median_s
            known["latency_low_s"], known["latency_high_s"] = self.median_ci_s
            known["closure"] = self.closure
        if self.profile is not None:
            for layer in self.profile.layers:
                known[f"layer_s/{layer.name}"] = layer.inference_s
        return {
            name: float(value)
            for name, value in known.items()
            if value is not None and math.isfinite(value)
        }

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON types, its series flat; layer keys become text."""
        data: dict[str, Any] = {}
        for name, value in to_plain(self).items():
            flat = _FLAT_NAMES.get(name)
            if flat is None:
                data[name] = value
            else:
                data |= {flat_name: value[field_name] for field_name, flat_name in flat.items()}
        data["schema"] = MEASUREMENT_SCHEMA
        # Earlier versions read what has no field they do not know.
        if self.source_commit is None:
            del data["source_commit"]
        if self.sustained is None:
            del data["sustained"]
            del data["settings"]["sustain_s"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a record from `to_dict`'s form, validating it.

        Raises:
            SchemaError: If fields are missing or unknown, of another schema, or do not fit
                together.
        """
        if data.get("schema") != MEASUREMENT_SCHEMA:
            raise SchemaError(
                f"measurement of schema {data.get('schema')!r}; this hwbench reads"
                f" {MEASUREMENT_SCHEMA}"
            )
        values = {name: value for name, value in data.items() if name != "schema"}
        for name, flat in _FLAT_NAMES.items():
            missing = [flat_name for flat_name in flat.values() if flat_name not in values]
            if missing:
                raise SchemaError(f"damaged measurement record: {', '.join(missing)} missing")
            values[name] = {
                field_name: values.pop(flat_name) for field_name, flat_name in flat.items()
            }
        record = from_plain(cls, values, "measurement record")
        record.check_numbers()
        return record

    def check_numbers(self) -> None:
        """Refuse numbers that no measurement can have.

        Raises:
            SchemaError: There is one.
        """
        if len(self.series.block) != len(self.series):
            raise SchemaError("damaged measurement record: samples and blocks differ in number")
        if not all(0 < sample_s < float("inf") for sample_s in self.series.samples_s):
            raise SchemaError(
                "damaged measurement record: a sample is not a positive finite number of seconds"
            )
        for start in self.starts:
            for quantity in START_QUANTITIES:
                value = getattr(start, quantity)
                if value is not None and not 0 < value < float("inf"):
                    raise SchemaError(
                        f"damaged measurement record: {quantity} is not a positive finite number"
                    )
        if self.sustained is not None:
            for window in self.sustained.windows:
                if not 0 < window.latency_s < float("inf"):
                    raise SchemaError(
                        "damaged measurement record: a latency under load is not a positive finite"
                        " number of seconds"
                    )
            if not self.sustained.windows:
                raise SchemaError("damaged measurement record: a load without windows")
