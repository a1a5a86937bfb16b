"""What was measured on, and the state it was in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Identity of a device: what was measured on.

    Attributes:
        address: How it was reached (`cpu`, `android:SERIAL`).
        target: The hardware, for people (`AMD EPYC 9354, 2 cores`).
        target_id: Stable name of the hardware and its mode; equal for two runs on the same device.
        runtime: Inference engine and version (`onnxruntime 1.32.0`).
        details: Further facts, as text.
    """

    address: str
    target: str
    target_id: str
    runtime: str
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Conditions:
    """State of the device at one moment; None where the device does not tell.

    Attributes:
        at_utc: ISO 8601 time in UTC.
        frequency_hz: Current frequency of each core (or of the GPU), where known.
        governor: Frequency governor.
        temperature_c: Hottest relevant sensor.
        load_1m: Runnable processes, 1 minute average.
        battery: Charge from 0 to 1.
        charging: Whether it is being charged.
        throttled: Whether the device says that it is slowing itself down.
        details: Further facts, as text.
    """

    at_utc: str
    frequency_hz: tuple[float, ...] | None = None
    governor: str | None = None
    temperature_c: float | None = None
    load_1m: float | None = None
    battery: float | None = None
    charging: bool | None = None
    throttled: bool | None = None
    details: tuple[tuple[str, str], ...] = ()
