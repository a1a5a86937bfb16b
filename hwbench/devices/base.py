"""Device, the target of every measurement, and how to write a driver for a new one.

A driver is one file with one subclass of `Device` and one line in `hwbench.devices.DRIVERS` (or, in
another package, one entry point in the group `hwbench.devices`). It implements the underscored
methods; this class does what all drivers share: opening twice, using a closed or broken device,
sessions that were released, the lock of the target, exact sample counts, impossible samples. A
driver:

1. never averages, filters, warms up, retries, sleeps or converts precision: `_run` returns exactly
   the samples asked for;
2. raises `DeviceUnavailableError` from `_open` with what is missing and the command that would mend
   it;
3. raises `WorkloadError` (`BuildError`, `UnsupportedLayerError`) from `_prepare` when the model is
   at fault: the device stays usable; any `DeviceError` later means that the device itself failed:
   the object is broken from then on;
4. takes the lock of its target in `_open` (`_lock_target`), so that nothing else is measured there;
5. proves itself by subclassing `hwbench.devices.contract.DeviceContract` in its tests.

Optional abilities are protocols below; a driver has one by having its methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from hwbench.devices.shared.lock import DeviceLock
from hwbench.errors import (
    Argument,
    DeviceError,
    DeviceUnavailableError,
    MeasurementError,
    UnsupportedLayerError,
    UsageError,
    WorkloadError,
)
from hwbench.network.workload import LARGE_ONNX, ONNX, TFLITE, Workload
from hwbench.records.comparison import ChangeExplanation
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding
from hwbench.records.layer_key import LayerKey
from hwbench.records.measurement import Settings

T = TypeVar("T")

_FORMAT_ADVICE = {
    ONNX: "convert the network it was made from, and give that file",
    LARGE_ONNX: "over 2 GiB of weights can be measured on the device cpu alone; save it in half"
    " precision, or cut it into parts",
    TFLITE: "measure it on the device litert or, on a phone, android:SERIAL,runtime=litert; or give"
    " the network that it was made from",
}
"""What to do with a model of a format that a device does not run."""


@dataclass(frozen=True, slots=True)
class Found:
    """One target that a driver sees, or the reason why it sees none.

    Attributes:
        address: Address to open it by, with the driver's name.
        description: Hardware and runtime, for people.
        ready: Whether it can be opened now.
        hint: What is missing and the command that mends it; of a ready one, how far its driver is
            proven, or empty.
    """

    address: str
    description: str
    ready: bool
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that `hwbench doctor` checked on a device.

    Attributes:
        code: Stable name (`governor`, `load`).
        ok: Whether it is as it should be.
        text: The state that was found.
        remedy: The command or action that mends it; empty when ok.
    """

    code: str
    ok: bool
    text: str
    remedy: str = ""


@dataclass(eq=False)
class Prepared:
    """A workload made ready on a device: one session. `handle` belongs to the driver alone.

    Attributes:
        workload: The workload that was prepared.
        settings: The settings it was prepared with.
        handle: The driver's own object; never touched from outside.
        findings: Reasons to distrust that preparing revealed (an operator fell back to another
            provider, ...).
        load_s: Seconds that the runtime took to make the session from the model file; None where
            the driver does not time it.
        first_run_s: Seconds of the first inference, which allocates; None likewise.
    """

    workload: Workload
    settings: Settings
    handle: Any = field(repr=False)
    findings: tuple[Finding, ...] = ()
    load_s: float | None = None
    first_run_s: float | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """Latencies of the rounds of one `run`, in the order asked for.

    Attributes:
        values_s: Mean latency in seconds of one inference in each round.
        clock: Name of the clock (`perf_counter`, `CLOCK_MONOTONIC on device`, `cuda_event`).
        findings: Reasons to distrust the samples (throttled, ...).
    """

    values_s: tuple[float, ...]
    clock: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerRow:
    """Raw times of one row of the runtime's own profile, joined to the network.

    Attributes:
        name: Module path of the layer; for a row the runtime inserted, that of the layer whose
            output it converts plus its kind.
        op: Operator.
        key: Layer identity; None for inserted rows.
        implementation: Kernel or layout the runtime chose.
        samples_s: Seconds in each profiled inference, with the profiler's cost still in them.
        nodes: Profiled runtime nodes in this row (each carries the profiler's cost once).
        calls: Calls per inference.
    """

    name: str
    op: str
    key: LayerKey | None
    implementation: str
    samples_s: tuple[float, ...]
    nodes: int = 1
    calls: int = 1


@dataclass(frozen=True, slots=True)
class LayerSamples:
    """What a driver's layer profiler saw.

    Attributes:
        rows: The rows in execution order.
        whole_s: Latency in seconds of the whole network in each profiled inference.
        reference_s: Latencies in seconds of the same network without profiler, from inferences that
            took turns with the profiled ones. Rows are used relative to these, so that drift
            between timing and profiling cancels. Empty if there are none.
        node_cost_s: Seconds of the profiler's own cost inside each node's time, as measured on this
            device; may be 0.
        rest_cause: What the whole contains beyond its rows, in words.
        grain_s: Grain of the profiler's clock in seconds (1e-6 where it counts whole microseconds);
            0 if negligible.
        findings: Reasons to distrust the rows (fall-backs, reorders and the like).
    """

    rows: tuple[LayerRow, ...]
    whole_s: tuple[float, ...]
    reference_s: tuple[float, ...]
    node_cost_s: float
    rest_cause: str
    grain_s: float = 0.0
    findings: tuple[Finding, ...] = ()


class Device(ABC):
    """A target with a runtime.

    Use as a context manager; not safe for use by several threads at once.

    Args:
        address: Address within the driver, after the colon (`SERIAL` of `android:SERIAL`); empty if
            there is none.
    """

    name: ClassVar[str]
    """The driver's name: the part of an address before the colon."""
    precisions: ClassVar[frozenset[str]] = frozenset({"fp32"})
    """Precisions of a workload that the runtime executes as such."""
    formats: ClassVar[frozenset[str]] = frozenset({ONNX})
    """Formats of a workload's artifact that the runtime reads."""

    def __init__(self, address: str = "") -> None:
        self.address = f"{self.name}:{address}" if address else self.name
        self._state = "closed"
        self._live: set[Prepared] = set()
        """The sessions that may be run. A driver takes those out that ended without a release."""
        self._at_close = ExitStack()
        """What ends with the device, after `_close`: the last thing entered ends first."""
        self._locked: set[str] = set()
        """Targets that this device has locked, or that those beside it have."""

    @classmethod
    def at(cls, address: str) -> Device:
        """Make the closed device at an address within the driver.

        A driver whose targets have several runtimes chooses its class for one here. The default has
        this class alone.
        """
        return cls(address)

    @classmethod
    @abstractmethod
    def discover(cls) -> list[Found]:
        """List the targets of this kind within reach.

        If there is none, the list has one unready `Found` that says what is missing.

        Never raises.
        """

    @abstractmethod
    def _open(self) -> None: ...

    def _close(self) -> None:  # noqa: B027 - a driver may have nothing to release
        """Release everything that is not in `_at_close`.

        It is also called after an `_open` that failed, and for a broken device.

        Never raises for a device that is gone. The default has nothing to release.
        """

    @abstractmethod
    def _info(self) -> DeviceInfo: ...

    @abstractmethod
    def _conditions(self) -> Conditions: ...

    @abstractmethod
    def _prepare(self, workload: Workload, settings: Settings) -> Prepared: ...

    def _release(self, prepared: Prepared) -> None:  # noqa: B027 - Python may free it
        """Free a session, which is not in `_live` any more. The default leaves that to Python."""

    @abstractmethod
    def _run(self, order: Sequence[Prepared], loops: int) -> Samples: ...

    @classmethod
    def explain_change(cls, baseline: str, candidate: str) -> ChangeExplanation | None:  # noqa: ARG003
        """Explain what it means that a layer runs in another way than before.

        This is a method of the driver and not of an opened device, so that stored records are
        explained too. The default has no explanation.

        Args:
            baseline: How the layer ran, as `LayerRow.implementation` has it.
            candidate: How it runs now.

        Returns:
            The explanation; None if the change needs none.
        """
        return None

    @property
    def locked_targets(self) -> frozenset[str]:
        """Targets that nobody else measures on until the device is closed."""
        return frozenset(self._locked)

    @property
    def usable(self) -> bool:
        """Whether the device is open and has not failed."""
        return self._state == "open"

    def open(self, beside: Device | None = None) -> Self:
        """Connect and check.

        Args:
            beside: Another opened device of this measurement, which may have locked the target
                already: the two take turns.

        Raises:
            DeviceUnavailableError: The device cannot be opened; says what is missing and how to get
                it.
        """
        if self._state != "closed":
            raise UsageError(f"device {self.address} is already {self._state}")
        if beside is not None:
            self._locked |= beside.locked_targets
        try:
            self._open()
        except BaseException:
            self._release_everything()
            raise
        self._state = "open"
        return self

    def close(self) -> None:
        """Release the device and everything prepared on it; closing twice is fine."""
        if self._state != "closed":
            self._state = "closed"
            self._release_everything()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def info(self) -> DeviceInfo:
        """Read the identity of the opened device."""
        return self._guard(self._info)

    def conditions(self) -> Conditions:
        """Read the state of the device now."""
        return self._guard(self._conditions)

    def prepare(self, workload: Workload, settings: Settings) -> Prepared:
        """Do all that is not latency (compile, push, load) and return a fresh session.

        Raises:
            BuildError: The runtime refuses the model.
            UnsupportedLayerError: The runtime has no kernel for a layer, or not in this precision.
            WorkloadError: The runtime does not read files of the workload's format.
        """
        if workload.format not in self.formats:
            known = ", ".join(sorted(self.formats))
            advice = _FORMAT_ADVICE.get(workload.format, "convert it")
            raise WorkloadError(
                f"{self.address} does not run {workload.format} files such as {workload.name}; it"
                f" runs {known}: {advice}"
            )
        if workload.precision not in self.precisions:
            known = ", ".join(sorted(self.precisions))
            raise UnsupportedLayerError(
                f"{self.address} does not run {workload.precision}; it runs {known}",
                Argument("precision", change="another"),
            )
        try:
            prepared = self._guard(lambda: self._prepare(workload, settings))
        except WorkloadError as error:
            if workload.name in error.message:
                raise
            raise type(error)(f"{workload.name}: {error.message}", *error.remedies) from error
        start_s = [value for value in (prepared.load_s, prepared.first_run_s) if value is not None]
        self._require_latencies(start_s, len(start_s))
        self._live.add(prepared)
        return prepared

    def release(self, prepared: Prepared) -> None:
        """Free a session; it must not be run again. Releasing it twice is fine."""

        def release_live() -> None:
            if prepared in self._live:
                self._live.remove(prepared)
                self._release(prepared)

        self._guard(release_live)

    def run(self, order: Sequence[Prepared], loops: int = 1) -> Samples:
        """Run one round for each entry of `order`, in that order.

        Args:
            order: The session of each round.
            loops: Inferences in each round, back to back.

        Returns:
            Exactly `len(order)` samples, seconds per inference.

        Raises:
            UsageError: A session was released, or is another device's.
            MeasurementError: The driver returned another number of samples, or one that is not
                positive and finite.
        """
        if loops < 1:
            raise UsageError(f"loops must be at least 1, not {loops}")

        def run_live() -> Samples:
            self._require_live(order)
            return self._run(order, loops)

        samples = self._guard(run_live)
        self._require_latencies(samples.values_s, len(order))
        return samples

    def profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Time the layers of `runs` inferences, in a session of their own.

        The timed session is never profiled.

        Raises:
            UsageError: The driver has no `_profile_layers` (see `ProfilesLayers`), or the session
                was released.
            MeasurementError: The driver returned another number of samples, or an impossible one.
        """
        if not isinstance(self, ProfilesLayers):
            raise UsageError(f"device {self.address} does not profile layers")
        if runs < 1:
            raise UsageError(f"at least 1 inference must be profiled, not {runs}")

        def profile_live() -> LayerSamples:
            self._require_live([prepared])
            return self._profile_layers(prepared, runs)

        profile: LayerSamples = self._guard(profile_live)
        self._require_latencies(profile.whole_s, runs)
        self._require_latencies(profile.reference_s, len(profile.reference_s))
        for row in profile.rows:
            # A row may read 0 seconds: the clocks of profilers are coarse.
            self._require_latencies(row.samples_s, runs, or_zero=True)
        self._require_latencies([profile.node_cost_s, profile.grain_s], 2, or_zero=True)
        return profile

    def draw_inputs(self, prepared: Prepared, seed: int, exponent: int = 0) -> None:
        """Give a session other random inputs than those it was prepared with.

        Args:
            prepared: The session.
            seed: Of the values; that of its settings, with no exponent, gives the first ones again.
            exponent: Floats are multiplied by 2 to the power of this.

        Raises:
            UsageError: The driver has no `_draw_inputs` (see `DrawsInputs`), or the session was
                released.
        """
        if not isinstance(self, DrawsInputs):
            raise UsageError(f"device {self.address} draws no inputs after preparing")

        def draw_live() -> None:
            self._require_live([prepared])
            self._draw_inputs(prepared, seed, exponent)

        self._guard(draw_live)

    def doctor(self, threads: int = 1) -> list[Advice]:
        """Check what would spoil a measurement with so many threads on the opened device."""
        return self._guard(lambda: self._doctor(threads))

    def _doctor(self, threads: int) -> list[Advice]:  # noqa: ARG002 - a driver may need it
        """Check what would spoil a measurement. The default checks nothing."""
        return []

    def _lock_target(self, target: str) -> None:
        """Take the lock of a target until the device is closed; for use in `_open`.

        Args:
            target: Name of the hardware, the same for every driver that measures on it (the UUID of
                a GPU): two measurements on it at once would disturb each other, whatever their
                runtimes.

        Raises:
            DeviceUnavailableError: Another process measures there; with its id.
        """
        if target not in self._locked:
            self._at_close.enter_context(DeviceLock(target))
            self._locked.add(target)

    def _release_everything(self) -> None:
        try:
            self._close()
        finally:
            self._live.clear()
            self._locked.clear()
            self._at_close.close()

    def _require_live(self, sessions: Iterable[Prepared]) -> None:
        if not self._live.issuperset(sessions):
            raise UsageError(
                f"{self.address} was asked to run a session that was released or is another"
                " device's"
            )

    def _require_latencies(
        self, values_s: Sequence[float], count: int, *, or_zero: bool = False
    ) -> None:
        if len(values_s) != count:
            raise MeasurementError(
                f"{self.address} returned {len(values_s)} samples where {count} were asked for"
            )
        for value_s in values_s:
            possible = value_s >= 0 if or_zero else value_s > 0
            if not (possible and isfinite(value_s)):
                raise MeasurementError(
                    f"{self.address} returned a latency that is not a positive finite number of"
                    f" seconds: {value_s}"
                )

    def _guard(self, action: Callable[[], T]) -> T:
        """Do something on an open device.

        A `DeviceError` means that the device itself failed. What it would do afterwards is unknown,
        so it is broken from then on, and must be opened anew.
        """
        if self._state == "closed":
            raise DeviceUnavailableError(
                f"device {self.address} is not open; use it in a with block"
            )
        if self._state == "broken":
            raise DeviceUnavailableError(f"device {self.address} failed earlier; open it anew")
        try:
            return action()
        except DeviceError:
            self._state = "broken"
            raise


@runtime_checkable
class ProfilesLayers(Protocol):
    """The device can time the layers of a network in place.

    A driver has the ability by having `_profile_layers`; `Device` has the other method.
    """

    def profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Time the layers of `runs` inferences, in a session of their own."""
        ...

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        """Do what `profile_layers` needs of the driver."""
        ...


@runtime_checkable
class DrawsInputs(Protocol):
    """The device can give a prepared workload other random inputs.

    A driver has the ability by having `_draw_inputs`; `Device` has the other method.
    """

    def draw_inputs(self, prepared: Prepared, seed: int, exponent: int) -> None:
        """Give a session other random inputs."""
        ...

    def _draw_inputs(self, prepared: Prepared, seed: int, exponent: int) -> None:
        """Do what `draw_inputs` needs of the driver."""
        ...


@runtime_checkable
class MovesTime(Protocol):
    """The device has a clock of its own (a simulation).

    Time-bounded loops must use it instead of the host's.
    """

    def time_s(self) -> float:
        """Read the device's clock, in seconds."""
        ...

    def idle(self, seconds: float) -> None:
        """Let that much of the device's time pass without load."""
        ...


@runtime_checkable
class ReportsMemory(Protocol):
    """The device can tell the memory that a workload alone needs."""

    def measures_memory(self) -> bool:
        """Whether a session in a process of its own (`isolate`) would tell, where one does not."""
        ...

    def peak_memory_bytes(self, prepared: Prepared) -> int | None:
        """Read the most memory that a session needed at once.

        That is the resident memory of the process that runs it alone, or what its runtime counts
        for it, as on a GPU.

        Returns:
            Bytes; None if the session shares its process, and nothing counts for it.
        """
        ...


@runtime_checkable
class Prepares(Protocol):
    """The target needs things put on it first, and can be cleaned of them.

    The device is closed, before and after.
    """

    def setup(self, files: Mapping[str, Path] | None = None) -> None:
        """Put everything there that the target needs.

        Args:
            files: Files that the user supplies, by the driver's names for them.
        """
        ...

    def clean(self) -> None:
        """Remove everything hwbench ever put there."""
        ...
