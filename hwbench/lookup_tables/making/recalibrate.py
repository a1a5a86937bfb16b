"""A table brought up to date after a reboot or a driver update.

A few networks are measured whole, instead of a new build.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from hwbench.devices.base import Device
from hwbench.lookup_tables.making.validate import Validation, add_grade, validate
from hwbench.lookup_tables.metadata import Entry, Source
from hwbench.lookup_tables.table import LookupTable
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings


def recalibrate(
    device: Device,
    table: LookupTable,
    workload: Workload,
    settings: Settings,
    *,
    networks: int,
    callback: Callable[[int, int], None] | None = None,
) -> tuple[LookupTable, Validation]:
    """Scale a table to what random pruned networks take now.

    What a reboot changes (frequency limits, memory layout, another host of a virtual machine) it
    changes for all layers alike, to first order; how well one factor does is in the returned
    validation, and in the widths of the intervals.

    Args:
        device: The opened device of the table.
        table: The table.
        workload: A model the table answers for, unpruned.
        settings: Threads, isolation and seed.
        networks: Pruned networks to measure.
        callback: Called with the number of measurements done and the number of all.

    Returns:
        The scaled table, and the networks it was scaled with, predicted by it.

    Raises:
        MissingEntryError: The table cannot answer for the model.
        UsageError: Fewer than 1 network.
        DeviceError: The device failed.
    """
    outcome = validate(
        device, table, workload, settings, networks=networks, sessions=1, callback=callback
    )
    # Trials are in seconds of the table's own time; drift is what those seconds have become.
    off = float(
        np.median(
            [math.log(trial.measured_s / trial.prediction.latency_s) for trial in outcome.trials]
        )
    )
    factor = outcome.drift * math.exp(off)
    known = any(
        source.architecture == outcome.structure.architecture for source in table.provenance.sources
    )
    scaled = scale(table, factor, outcome.drift if known else factor)
    predictions = [scaled.predict(outcome.structure.keys(trial.widths)) for trial in outcome.trials]
    trials = tuple(
        replace(
            trial,
            prediction=prediction,
            sessions_s=tuple(value_s * outcome.drift for value_s in trial.sessions_s),
        )
        for trial, prediction in zip(outcome.trials, predictions, strict=True)
    )
    found = replace(outcome, trials=trials)
    return add_grade(scaled, found), found


def scale(table: LookupTable, factor: float, drift: float) -> LookupTable:
    """A table whose latencies are `factor` times as long.

    Those of the unpruned networks are `drift` times as long.
    """
    entries = {
        key: Entry(entry.latency_s * factor, entry.sd, entry.samples)
        for key, entry in table.entries.items()
    }
    old, made = table.calibration, table.provenance
    calibration = replace(
        old, per_layer_s=old.per_layer_s * factor, reference_s=old.reference_s * factor
    )
    sources: tuple[Source, ...] = tuple(
        replace(source, latency_s=source.latency_s * drift) for source in made.sources
    )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    note = f"{made.note}; recalibrated from {made.created_utc}".removeprefix("; ")
    provenance = replace(made, sources=sources, created_utc=created, note=note)
    return LookupTable(
        entries, replace(table.metadata, provenance=provenance, calibration=calibration, grades=())
    )
