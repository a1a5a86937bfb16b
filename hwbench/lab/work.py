"""What a user asks of a lab: a profile, a comparison, a table; arguments and records are those of the same things done here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hwbench.comparison import Comparison
from hwbench.comparison import compare as compare_records
from hwbench.errors import MeasurementError
from hwbench.lab.client import RayCrew, open_lab
from hwbench.lab.tables import Request, TableBuild
from hwbench.lab.tasks import Task, TaskKind, described, digest, result_of
from hwbench.lookup_tables import Plan
from hwbench.lookup_tables.keeping import save_table
from hwbench.lookup_tables.steps import grid_step
from hwbench.lookup_tables.validate import graded
from hwbench.measurement import Measurement, Settings
from hwbench.model_files import ModelOptions, load_workload
from hwbench.profiling import Watch
from hwbench.store import open_store
from hwbench.workflows.build_table import (
    AUTO,
    DEFAULT_BUDGET_S,
    DEFAULT_LOWER,
    DEFAULT_MODEL,
    DEFAULT_WIDTHS,
    QUICK_NETWORKS,
    BuiltTable,
    TableWatch,
    width_step,
)
from hwbench.workflows.compare import load_pair
from hwbench.workflows.profile import DEFAULT_SETTINGS
from hwbench.workload import Workload

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

SLOW, SLOW_S = 4.0, 300.0
"""A measurement hangs after so many times its budget, and these seconds: it may wait for a device to cool."""


def profile(
    lab: str,
    model: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    device: str = "cpu",
    settings: Settings | None = None,
    store: str | None = None,
    save: bool = True,
    watch: Watch | None = None,
    **options: Unpack[ModelOptions],
) -> Measurement:
    """Measure one model on any device of a lab that is meant by `device`; else as `hwbench.profile`.

    Args:
        lab: Address of the lab.
        model: What `hwbench.profile` takes.
        device: Which devices: `android:*`, `soc=Tensor G3`.
        settings: How to measure.
        store: SQLAlchemy URL of the store.
        save: Whether to keep the record.
        watch: Told when it is there.
        options: How the model is read, see `load_workload`.

    Raises:
        HwbenchError: The lab cannot be reached, or whatever profiling here raises.
    """
    settings = settings or DEFAULT_SETTINGS
    workload = load_workload(model, seed=settings.seed, **options)
    (record,) = _measured(lab, device, [workload], settings, store=store, save=save, watch=watch)
    return record


def compare(
    lab: str,
    baseline: str | Path | nn.Module,
    candidate: str | Path | nn.Module,
    *,
    device: str = "cpu",
    candidate_precision: str | None = None,
    candidate_arch: str | None = None,
    settings: Settings | None = None,
    store: str | None = None,
    save: bool = True,
    watch: Watch | None = None,
    **options: Unpack[ModelOptions],
) -> Comparison:
    """Measure two models interleaved on any device of a lab that is meant by `device`; else as `hwbench.compare`.

    Args:
        lab: Address of the lab.
        baseline: The reference; what `hwbench.profile` takes.
        candidate: The new one; what `hwbench.profile` takes.
        device: Which devices: `android:*`, `soc=Tensor G3`.
        candidate_precision: Precision of the candidate if it differs.
        candidate_arch: What builds the network of the candidate's bare state_dict, if it differs.
        settings: How to measure.
        store: SQLAlchemy URL of the store.
        save: Whether to keep both records.
        watch: Told when they are there.
        options: How both models are read, see `load_workload`.

    Raises:
        HwbenchError: The lab cannot be reached, or whatever comparing here raises.
    """
    settings = settings or Settings()
    pair = load_pair(baseline, candidate, candidate_precision, candidate_arch, seed=settings.seed, **options)
    return compare_records(*_measured(lab, device, pair, settings, store=store, save=save, watch=watch))


def build_table(
    lab: str,
    model: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    device: str = "cpu",
    widths: int | str = DEFAULT_WIDTHS,
    lower: float = DEFAULT_LOWER,
    settings: Settings | None = None,
    validation: int = QUICK_NETWORKS,
    forget: bool = False,
    store: str | None = None,
    save: bool = True,
    watch: TableWatch | None = None,
    **options: Unpack[ModelOptions],
) -> BuiltTable:
    """Build a table with all devices of a lab that are meant by `device`, which are of one kind; else as `hwbench.build_table`.

    Args:
        lab: Address of the lab.
        model: What `hwbench.profile` takes.
        device: Which devices: `android:*`, `soc=Tensor G3`; the table is found under these words.
        widths: Pruned widths are multiples of this; `auto` finds the devices' channel step first.
        lower: Smallest share of a width that pruning may keep.
        settings: How to measure; `budget_s` is for the whole build.
        validation: Held-out networks to grade it with; 0 for none.
        forget: Leave out all that was measured for tables on this kind before.
        store: SQLAlchemy URL of the store.
        save: Whether to keep networks and table; without it a killed build begins anew.
        watch: Told about progress.
        options: How the model is read, see `load_workload`.

    Raises:
        UsageError: The devices are of several kinds.
        HwbenchError: The lab cannot be reached, or whatever building here raises.
    """
    settings, watch = settings or Settings(budget_s=DEFAULT_BUDGET_S), watch or TableWatch()
    workload = load_workload(model, seed=settings.seed, **options)
    fixed = None if widths == AUTO else width_step(widths)
    with (
        open_lab(lab) as opened,
        opened.crew(device, f"table of {workload.name}", of_one_kind=True) as crew,
        open_store(store) if save else nullcontext() as kept,
    ):
        plan = Plan(step=fixed or _grid_step(crew, workload, settings), lower=lower)
        build = TableBuild(crew, Request(workload, settings, plan), kept, forget=forget, watch=watch.measured)
        fitted = build.run()
        outcome = build.grade(fitted.table, validation, watch=watch.validated) if validation else None
        table = fitted.table if outcome is None else graded(fitted.table, outcome)
        return BuiltTable(None if kept is None else save_table(kept, table, outcome), table, outcome, fitted.rmspe)


def _measured(
    lab: str,
    device: str,
    workloads: Sequence[Workload],
    settings: Settings,
    *,
    store: str | None,
    save: bool,
    watch: Watch | None,
) -> list[Measurement]:
    """Records of workloads measured interleaved on one device of the lab."""
    title = " and ".join(workload.name for workload in workloads)
    descriptions = tuple(described(workload) for workload in workloads)
    task = Task("measure", TaskKind.MEASURE, descriptions, settings, SLOW * settings.budget_s + SLOW_S)
    job = digest("measure", descriptions, asdict(settings), device)
    with open_lab(lab) as opened, opened.crew(device, f"measuring {title}") as crew:
        logger.info("waiting in the queue of the lab at %s", lab)
        records: list[Measurement] = []
        for _, outcome in crew.carry_out(job, [task], *workloads):
            records = [Measurement.from_dict(record) for record in result_of(outcome)["records"]]
            if [record.model_sha256 for record in records] != [workload.sha256 for workload in workloads]:
                raise MeasurementError(f"{outcome['by']} measured other models than it was asked to; update hwbench there")
            if save:
                with open_store(store) as kept:
                    for record in records:
                        kept.save(record)
        if watch is not None:
            watch.finished(records)
        return records


def _grid_step(crew: RayCrew, workload: Workload, settings: Settings) -> int:
    """Channel step of the kind, asked of one device."""
    task = Task("steps", TaskKind.STEPS, (described(workload),), settings, SLOW_S)
    job = digest("steps", crew.info.target_id, crew.info.runtime, workload.sha256, settings.threads)
    for _, outcome in crew.carry_out(job, [task], workload):
        return grid_step(result_of(outcome)["steps"])
    raise MeasurementError("the lab did not tell the channel step; give --widths 8")
