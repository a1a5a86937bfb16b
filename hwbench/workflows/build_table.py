"""`hwbench table build`, `validate` and `recalibrate`.

A lookup table of a model's pruned versions, and how good it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hwbench.devices import open_device
from hwbench.devices.base import Device
from hwbench.errors import UsageError
from hwbench.lookup_tables import LookupTable, Plan, Progress, Validation
from hwbench.lookup_tables import validate as validate_on
from hwbench.lookup_tables.making.networks import Effort
from hwbench.lookup_tables.making.recalibrate import recalibrate
from hwbench.lookup_tables.making.validate import add_grade
from hwbench.lookup_tables.repository import check_table, find_table, save_table
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.network.layers import keyed_layers_of
from hwbench.network.widths import DEFAULT_LOWER, DEFAULT_STEP
from hwbench.records.measurement import Settings
from hwbench.store import Store, open_store
from hwbench.workflows.defaults import (
    DEFAULT_MODEL,
    GRADING_NETWORKS,
    RECALIBRATION_NETWORKS,
    TABLE_BUDGET_S,
    VALIDATION_NETWORKS,
)
from hwbench.workflows.meter import Meter, in_format, open_meter

if TYPE_CHECKING:
    from torch import nn

    from hwbench.network.workload import Workload

logger = logging.getLogger(__name__)

GRADING_S, GRADING_SESSIONS = 15.0, 2
"""Seconds that grading a new table may take at least, and the sessions of each network in it."""
AUTO = "auto"
"""Widths that keep to the channel step of the device."""


class TableCallback:
    """Called while a table is built or validated; the methods of this base class do nothing."""

    def measured(self, progress: Progress) -> None:
        """One more network was measured for the table."""

    def validated(self, done: int, total: int) -> None:
        """One more measurement of the validation is done."""


@dataclass(frozen=True)
class BuiltTable:
    """Outcome of a build or of a validation.

    Attributes:
        id: Of the table in the store; None if it was not kept.
        table: The table, graded.
        validation: Held-out networks; None if there was none.
        cross_validated: Error (RMSPE) on the networks of the build, each left out in turn; None for
            a validation alone.
    """

    id: str | None
    table: LookupTable
    validation: Validation | None
    cross_validated: float | None

    def __repr__(self) -> str:
        return f"<BuiltTable {self.table!r}, id {self.id}>"


def build_table(
    model: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    device: str | Meter = "cpu",
    widths: int | str = DEFAULT_STEP,
    lower: float = DEFAULT_LOWER,
    settings: Settings | None = None,
    validation: int = GRADING_NETWORKS,
    forget: bool = False,
    store: str | None = None,
    save: bool = True,
    callback: TableCallback | None = None,
    **options: Unpack[ModelOptions],
) -> BuiltTable:
    """Build the lookup table of everything that pruning a model can produce, and grade it.

    Goes on where a killed build stopped.

    Args:
        model: What `hwbench.profile` takes.
        device: Address of the device, or another `Meter`.
        widths: Pruned widths are multiples of this; `auto` finds the device's channel step first.
        lower: Smallest share of a width that pruning may keep.
        settings: How to measure; `budget_s` is for the whole build.
        validation: Held-out networks to grade it with; 0 for none.
        forget: Leave out all that was measured for tables on the device before.
        store: SQLAlchemy URL of the store.
        save: Whether to keep networks and table; without it a killed build begins anew.
        callback: Called while the work goes on, to show or store how far it is.
        options: How the model is read, see `load_workload`.

    Raises:
        HwbenchError: The model cannot be read, or the device cannot run it; the message says what
            to do.
    """
    settings, callback = (
        settings or Settings(budget_s=TABLE_BUDGET_S),
        callback or TableCallback(),
    )
    workload = load_workload(model, seed=settings.seed, **options)
    fixed = None if widths == AUTO else width_step(widths)
    with open_meter(device) as meter, open_store(store) if save else nullcontext() as kept:
        workload = meter.accept(workload, settings)
        plan = Plan(step=fixed or meter.channel_step(workload, settings), lower=lower)
        build = meter.begin_table(workload, settings, plan, kept, callback.measured, forget=forget)
        fitted = build.run()
        table, outcome = fitted.table, None
        limit_s = max(GRADING_S, settings.budget_s / 3)
        networks = count_graded(table, workload, limit_s, validation)
        if networks:
            outcome = build.grade(table, networks, callback=callback.validated)
            table = add_grade(table, outcome)
        table_id = None if kept is None else save_table(kept, table, outcome)
        return BuiltTable(table_id, table, outcome, fitted.rmspe)


def validate_table(
    model: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    table: LookupTable | str | None = None,
    device: str = "cpu",
    settings: Settings | None = None,
    networks: int = VALIDATION_NETWORKS,
    store: str | None = None,
    save: bool = True,
    callback: TableCallback | None = None,
    **options: Unpack[ModelOptions],
) -> BuiltTable:
    """Grade a table on random pruned networks that it has not seen.

    They are measured end to end beside the unpruned one.

    Args:
        model: What `hwbench.profile` takes.
        table: A table, the beginning of its id, or None for the newest of the device.
        device: Address of the device.
        settings: How to measure.
        networks: Held-out networks.
        store: SQLAlchemy URL of the store.
        save: Whether to keep the graded table.
        callback: Called while the work goes on, to show or store how far it is.
        options: How the model is read, see `load_workload`.

    Raises:
        StaleTableError: The table was made for another device, runtime or number of threads.
        MissingEntryError: It does not know a layer of the model.
        HwbenchError: The model cannot be read, or the device cannot run it; the message says what
            to do.
    """
    settings, callback = settings or Settings(), callback or TableCallback()
    workload = load_workload(model, seed=settings.seed, **options)
    with _open_with_table(table, device, settings, store) as (kept, opened, found):
        graded, outcome = found, None
        workload = in_format(workload, opened, settings)
        if networks:
            outcome = validate_on(
                opened, found, workload, settings, networks=networks, callback=callback.validated
            )
            graded = add_grade(found, outcome)
        table_id = save_table(kept, graded, outcome) if save else None
        return BuiltTable(table_id, graded, outcome, None)


def recalibrate_table(
    model: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    table: LookupTable | str | None = None,
    device: str = "cpu",
    settings: Settings | None = None,
    networks: int = RECALIBRATION_NETWORKS,
    store: str | None = None,
    save: bool = True,
    callback: TableCallback | None = None,
    **options: Unpack[ModelOptions],
) -> BuiltTable:
    """Scale a table to what a few random pruned networks take now.

    After a reboot, this takes seconds where a new build takes a minute.

    Args:
        model: What `hwbench.profile` takes; the table must answer for it.
        table: A table, the beginning of its id, or None for the newest of the device.
        device: Address of the device.
        settings: How to measure.
        networks: Pruned networks to measure.
        store: SQLAlchemy URL of the store.
        save: Whether to keep the scaled table.
        callback: Called while the work goes on, to show or store how far it is.
        options: How the model is read, see `load_workload`.

    Raises:
        StaleTableError: The table was made for another device, runtime or number of threads.
        MissingEntryError: It does not know a layer of the model.
        HwbenchError: The model cannot be read, or the device cannot run it; the message says what
            to do.
    """
    settings, callback = settings or Settings(), callback or TableCallback()
    workload = load_workload(model, seed=settings.seed, **options)
    with _open_with_table(table, device, settings, store) as (kept, opened, found):
        workload = in_format(workload, opened, settings)
        fresh, outcome = recalibrate(
            opened, found, workload, settings, networks=networks, callback=callback.validated
        )
        return BuiltTable(save_table(kept, fresh, outcome) if save else None, fresh, outcome, None)


@contextmanager
def _open_with_table(
    table: LookupTable | str | None, device: str, settings: Settings, store: str | None
) -> Iterator[tuple[Store, Device, LookupTable]]:
    """The opened store and device, and the table, which is the device's own."""
    with open_store(store) as kept, open_device(device) as opened:
        info = opened.info()
        found = (
            table
            if isinstance(table, LookupTable)
            else find_table(kept, table or device, info.target_id)
        )
        check_table(found, info, settings.threads)
        yield kept, opened, found


def count_graded(table: LookupTable, workload: Workload, limit_s: float, networks: int) -> int:
    """Held-out networks that can be measured in the time which grading a table may take.

    Args:
        table: The table.
        workload: The unpruned model.
        limit_s: Seconds that grading may take.
        networks: The most that are measured.
    """
    if not networks:
        return 0
    latency_s = table.predict([layer.key for layer in keyed_layers_of(workload)]).latency_s
    fitting = int(limit_s / (GRADING_SESSIONS * Effort(runs=1).cost_s(latency_s)))
    if fitting < networks:
        logger.warning(
            "the table is graded on %d held-out networks, not %d, as an inference takes %.2g s;"
            " validate it with more",
            fitting,
            networks,
            latency_s,
        )
    return min(networks, fitting)


def width_step(widths: int | str) -> int:
    """The step that widths are multiples of.

    Raises:
        UsageError: It is none.
    """
    try:
        step = int(widths)
    except ValueError as error:
        raise UsageError(
            f"widths {widths!r} are no step; give a whole number (8, 16) or {AUTO}"
        ) from error
    if step < 1:
        raise UsageError(
            f"widths must be multiples of at least 1, not {step}; give 8, 16 or {AUTO}"
        )
    return step
