"""Where measuring is done: on this computer, or in a lab (`hwbench.lab.work`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack

if TYPE_CHECKING:
    from torch import nn

    from hwbench.measuring.callback import MeasuringCallback
    from hwbench.network.intake import ModelOptions
    from hwbench.network.workload import Workload
    from hwbench.records.comparison import Comparison
    from hwbench.records.measurement import Measurement, Settings
    from hwbench.records.quantization import Quantization
    from hwbench.search.limit import Limit
    from hwbench.workflows.build_table import BuiltTable, TableCallback
    from hwbench.workflows.meter import Meter
    from hwbench.workflows.search.front import Front
    from hwbench.workflows.search.plan import Plan
    from hwbench.workflows.search.result import SearchResult


class Workplace(Protocol):
    """Whoever measures for a command; the methods take what the functions of `hwbench` take."""

    def profile(
        self,
        model: str | Path | nn.Module,
        *,
        device: str,
        settings: Settings,
        store: str | None,
        save: bool,
        callback: MeasuringCallback,
        **options: Unpack[ModelOptions],
    ) -> Measurement:
        """Measure one model, end to end and layer by layer; see `hwbench.profile`."""
        ...

    def compare(
        self,
        baseline: str | Path | nn.Module | Workload,
        candidate: str | Path | nn.Module,
        *,
        device: str,
        candidate_device: str | None,
        candidate_precision: str | None,
        candidate_arch: str | None,
        data: str | None,
        evaluate: str | None,
        settings: Settings,
        store: str | None,
        save: bool,
        callback: MeasuringCallback,
        **options: Unpack[ModelOptions],
    ) -> Comparison:
        """Measure two models interleaved and compare them; see `hwbench.compare`."""
        ...

    def quantize(
        self,
        model: str | Path | nn.Module,
        *,
        data: str,
        evaluate: str | None,
        device: str,
        max_drop: float,
        out: str | None,
        settings: Settings,
        store: str | None,
        save: bool,
        callback: MeasuringCallback,
        **options: Unpack[ModelOptions],
    ) -> Quantization:
        """Quantise a model to int8, and measure it; see `hwbench.quantize`."""
        ...

    def build_table(
        self,
        model: str | Path | nn.Module,
        *,
        device: str,
        widths: int | str,
        lower: float,
        settings: Settings,
        validation: int,
        forget: bool,
        store: str | None,
        save: bool,
        callback: TableCallback,
        **options: Unpack[ModelOptions],
    ) -> BuiltTable:
        """Build and grade the lookup table of a model; see `hwbench.build_table`."""
        ...

    def run_search(
        self, model: str | Path | nn.Module, plan: Plan, *, device: str | None, **options: Any
    ) -> SearchResult:
        """Search for a smaller network; see `hwbench.run_search`."""
        ...

    def run_front(
        self,
        model: str | Path | nn.Module,
        plan: Plan,
        limits: Sequence[Limit],
        *,
        device: str | None,
        **options: Any,
    ) -> Front:
        """Search for smaller networks within several budgets; see `hwbench.run_front`."""
        ...

    def open_meter(self, device: str) -> AbstractContextManager[Meter]:
        """Open what measures at an address."""
        ...


class ThisComputer:
    """Measures on a device that is reached from here."""

    def profile(self, model: str | Path | nn.Module, **options: Any) -> Measurement:
        """See `hwbench.profile`."""
        from hwbench.workflows.profile import profile

        return profile(model, **options)

    def compare(
        self,
        baseline: str | Path | nn.Module | Workload,
        candidate: str | Path | nn.Module,
        **options: Any,
    ) -> Comparison:
        """See `hwbench.compare`."""
        from hwbench.workflows.compare import compare

        return compare(baseline, candidate, **options)

    def quantize(self, model: str | Path | nn.Module, **options: Any) -> Quantization:
        """See `hwbench.quantize`."""
        from hwbench.workflows.quantize import quantize

        return quantize(model, **options)

    def build_table(self, model: str | Path | nn.Module, **options: Any) -> BuiltTable:
        """See `hwbench.build_table`."""
        from hwbench.workflows.build_table import build_table

        return build_table(model, **options)

    def run_search(
        self,
        model: str | Path | nn.Module,
        plan: Plan,
        *,
        device: str | None = None,
        **options: Any,
    ) -> SearchResult:
        """See `hwbench.run_search`."""
        from hwbench.workflows.search.run import run_search

        return run_search(model, plan, device=device, **options)

    def run_front(
        self,
        model: str | Path | nn.Module,
        plan: Plan,
        limits: Sequence[Limit],
        *,
        device: str | None = None,
        **options: Any,
    ) -> Front:
        """See `hwbench.run_front`."""
        from hwbench.workflows.search.run import run_front

        return run_front(model, plan, limits, device=device, **options)

    def open_meter(self, device: str) -> AbstractContextManager[Meter]:
        """See `workflows.meter.open_meter`."""
        from hwbench.workflows.meter import open_meter

        return open_meter(device)
