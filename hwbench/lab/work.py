"""What a user asks of a lab: a profile, a comparison, a table, a search.

Arguments and records are those of the same work on this computer (`hwbench.workflows.workplace`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hwbench.lab.client import open_lab
from hwbench.lab.meter import LabMeter
from hwbench.lookup_tables import Plan
from hwbench.lookup_tables.making.validate import add_grade
from hwbench.lookup_tables.repository import save_table
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.comparing import compare_measured
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.network.widths import DEFAULT_LOWER, DEFAULT_STEP
from hwbench.network.workload import Workload
from hwbench.records.comparison import Comparison
from hwbench.records.measurement import Measurement, Settings
from hwbench.store import open_store
from hwbench.workflows.build_table import (
    AUTO,
    BuiltTable,
    TableCallback,
    width_step,
)
from hwbench.workflows.compare import load_pair
from hwbench.workflows.defaults import DEFAULT_MODEL, GRADING_NETWORKS, TABLE_BUDGET_S
from hwbench.workflows.profile import DEFAULT_SETTINGS
from hwbench.workflows.recording import recording

if TYPE_CHECKING:
    from torch import nn

    from hwbench.workflows.search.plan import Plan as SearchPlan
    from hwbench.workflows.search.result import SearchResult


class LabWorkplace:
    """Measures in a lab; the methods do what the functions of `hwbench` of the same name do here.

    Args:
        address: The address of the lab.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def profile(
        self,
        model: str | Path | nn.Module = DEFAULT_MODEL,
        *,
        device: str = "cpu",
        settings: Settings | None = None,
        store: str | None = None,
        save: bool = True,
        callback: MeasuringCallback | None = None,
        **options: Unpack[ModelOptions],
    ) -> Measurement:
        """Measure one model on any device of a lab that is meant by `device`.

        All else is as in `hwbench.profile`.

        Args:
            model: The model, as `hwbench.profile` takes it.
            device: The selector of the devices: `android:*`, `soc=Tensor G3`.
            settings: How to measure.
            store: The SQLAlchemy URL of the store.
            save: Whether to keep the record.
            callback: Called when the record is there.
            options: How the model is read, see `load_workload`.

        Raises:
            HwbenchError: The lab cannot be reached, or whatever profiling here raises.
        """
        settings = settings or DEFAULT_SETTINGS
        workload = load_workload(model, seed=settings.seed, **options)
        (record,) = self._measure(
            device, [workload], settings, store=store, save=save, callback=callback
        )
        return record

    def compare(
        self,
        baseline: str | Path | nn.Module,
        candidate: str | Path | nn.Module,
        *,
        device: str = "cpu",
        candidate_precision: str | None = None,
        candidate_arch: str | None = None,
        settings: Settings | None = None,
        store: str | None = None,
        save: bool = True,
        callback: MeasuringCallback | None = None,
        **options: Unpack[ModelOptions],
    ) -> Comparison:
        """Measure two models interleaved on any device of a lab that is meant by `device`.

        All else is as in `hwbench.compare`.

        Args:
            baseline: The reference, as `hwbench.profile` takes a model.
            candidate: The new model.
            device: The selector of the devices: `android:*`, `soc=Tensor G3`.
            candidate_precision: The precision of the candidate, if it differs.
            candidate_arch: `package.module:factory` that builds the network of the candidate's bare
                state_dict, if it differs.
            settings: How to measure.
            store: The SQLAlchemy URL of the store.
            save: Whether to keep both records.
            callback: Called when the records are there.
            options: How both models are read, see `load_workload`.

        Raises:
            HwbenchError: The lab cannot be reached, or whatever comparing here raises.
        """
        settings = settings or Settings()
        pair = load_pair(
            baseline, candidate, candidate_precision, candidate_arch, seed=settings.seed, **options
        )
        records = self._measure(device, pair, settings, store=store, save=save, callback=callback)
        return compare_measured(*records)

    def build_table(
        self,
        model: str | Path | nn.Module = DEFAULT_MODEL,
        *,
        device: str = "cpu",
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
        """Build a table with all devices of one kind in a lab that are meant by `device`.

        All else is as in `hwbench.build_table`.

        Args:
            model: The model, as `hwbench.profile` takes it.
            device: The selector of the devices: `android:*`, `soc=Tensor G3`. The table is found
                under it.
            widths: The channel step, of which pruned widths are multiples; `auto` finds that of the
                devices first.
            lower: The smallest share of a width that pruning may keep.
            settings: How to measure; `budget_s` is for the whole build.
            validation: The number of held-out networks to grade the table with; 0 for none.
            forget: Whether all that was measured for tables on this kind before is left out.
            store: The SQLAlchemy URL of the store.
            save: Whether to keep networks and table; without it a killed build begins anew.
            callback: Called while the work goes on, to show or store how far it is.
            options: How the model is read, see `load_workload`.

        Raises:
            UsageError: The devices are of several kinds.
            HwbenchError: The lab cannot be reached, or whatever building here raises.
        """
        settings = settings or Settings(budget_s=TABLE_BUDGET_S)
        callback = callback or TableCallback()
        workload = load_workload(model, seed=settings.seed, **options)
        fixed = None if widths == AUTO else width_step(widths)
        with (
            open_lab(self.address) as opened,
            opened.crew(device, f"table of {workload.name}", of_one_kind=True) as crew,
            open_store(store) if save else nullcontext() as opened_store,
        ):
            meter = LabMeter(crew)
            plan = Plan(step=fixed or meter.channel_step(workload, settings), lower=lower)
            build = meter.table(
                workload, settings, plan, opened_store, callback.measured, forget=forget
            )
            fitted = build.run()
            table, outcome = fitted.table, None
            if validation:
                outcome = build.grade(table, validation, callback=callback.validated)
                table = add_grade(table, outcome)
            table_id = None
            if opened_store is not None:
                table_id = save_table(opened_store, table, outcome)
            return BuiltTable(table_id, table, outcome, fitted.rmspe)

    def run_search(
        self,
        model: str | Path | nn.Module,
        plan: SearchPlan,
        *,
        device: str | None = None,
        **options: Any,
    ) -> SearchResult:
        """Search with latencies of devices of a lab, which are of one kind.

        All of them build the lookup table; one measures the result, or what the blocks of a network
        cost. Candidates are evaluated on this computer, by `jobs` processes: networks are code, and
        no host runs a client's code. All else is as in `hwbench.run_search`.

        Args:
            model: The model, as `hwbench.run_search` takes it.
            plan: What to search for.
            device: The selector of the devices: `android:*`, `soc=Tensor G3`; None for those called
                `cpu`.
            options: All else that `hwbench.run_search` takes.

        Raises:
            UsageError: The devices are of several kinds, or the budget cannot be reached.
            HwbenchError: The lab cannot be reached, or whatever searching here raises.
        """
        from hwbench.workflows.search.run import run_search as search

        with (
            open_lab(self.address) as opened,
            opened.crew(device or "cpu", f"search in {model}", of_one_kind=True) as crew,
        ):
            return search(model, plan, device=LabMeter(crew), **options)

    def _measure(
        self,
        device: str,
        workloads: Sequence[Workload],
        settings: Settings,
        *,
        store: str | None,
        save: bool,
        callback: MeasuringCallback | None,
    ) -> tuple[Measurement, ...]:
        """Measure workloads interleaved on one device of the lab."""
        title = " and ".join(workload.name for workload in workloads)
        with (
            open_lab(self.address) as opened,
            opened.crew(device, f"measuring {title}") as crew,
            recording(store, save=save, callback=callback) as recorder,
        ):
            return LabMeter(crew).measure(workloads, settings, recorder)
