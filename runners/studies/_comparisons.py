"""One comparison on a device as a row of a study."""

from __future__ import annotations

import time
from dataclasses import replace

from hwbench.devices.base import Device
from hwbench.measuring.comparing import compare_measured
from hwbench.measuring.sessions import measure_interleaved
from hwbench.network.workload import Workload
from hwbench.records.measurement import Measurement, Settings


def one(
    device: Device, baseline: Workload, candidate: Workload, settings: Settings, seed: int
) -> dict[str, object]:
    """Speed-up, its 95 % interval, the verdict, what it took, and the raw samples under `raw`."""
    start = time.monotonic()
    found = compare_measured(
        *measure_interleaved(device, [baseline, candidate], replace(settings, seed=seed))
    )
    low, high = found.speedup_ci or (0.0, float("inf"))
    return {
        "seed": seed,
        "verdict": found.verdict.value,
        "speedup": round(found.speedup or 0.0, 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "sessions": found.baseline.series.sessions,
        "baseline_ms": round(found.baseline.median_s * 1e3, 4),
        "seconds": round(time.monotonic() - start, 1),
        "raw": {
            side: _raw(record)
            for side, record in (("baseline", found.baseline), ("candidate", found.candidate))
        },
    }


def _raw(record: Measurement) -> dict[str, object]:
    """Samples to a tenth of a microsecond, with their sessions."""
    return {
        "samples_s": [round(sample, 7) for sample in record.series.samples_s],
        "session": record.series.session,
    }
