"""What a user asks of a lab: a profile, a comparison, a network in int8, a table, a search.

Arguments and records are those of the same work on this computer (`hwbench.workflows.workplace`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.lab.client import open_lab
from hwbench.lab.meter import LabMeter
from hwbench.network.workload import Workload
from hwbench.workflows.build_table import BuiltTable, build_table
from hwbench.workflows.compare import compare
from hwbench.workflows.defaults import DEFAULT_MODEL
from hwbench.workflows.profile import profile

if TYPE_CHECKING:
    from torch import nn

    from hwbench.records.comparison import Comparison
    from hwbench.records.measurement import Measurement
    from hwbench.records.quantization import Quantization
    from hwbench.search.limit import Limit
    from hwbench.workflows.search.front import Front
    from hwbench.workflows.search.plan import Plan
    from hwbench.workflows.search.result import SearchResult


class LabWorkplace:
    """Measures in a lab; the methods do what the functions of `hwbench` of the same name do here.

    Their `device` selects among the devices of the lab: `android:*`, `soc=Tensor G3`. All else is
    as in the function, whose other arguments are taken and handed on. Whatever the function raises
    is raised, and beside it a DeviceError where the lab cannot be reached, and a UsageError where
    no device is meant, or devices of several kinds where one kind is needed.

    Args:
        address: The address of the lab.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def profile(
        self, model: str | Path | nn.Module = DEFAULT_MODEL, *, device: str = "cpu", **options: Any
    ) -> Measurement:
        """Measure one model on any of the devices."""
        with self.open_meter(device, f"measuring {_name_of(model)}") as meter:
            return profile(model, device=meter, **options)

    def compare(
        self,
        baseline: str | Path | nn.Module | Workload,
        candidate: str | Path | nn.Module,
        *,
        device: str = "cpu",
        **options: Any,
    ) -> Comparison:
        """Measure two models interleaved on any of the devices, and compare them."""
        title = f"measuring {_name_of(baseline)} and {_name_of(candidate)}"
        with self.open_meter(device, title) as meter:
            return compare(baseline, candidate, device=meter, **options)

    def quantize(
        self,
        model: str | Path | nn.Module,
        *,
        data: str | Path,
        device: str = "cpu",
        **options: Any,
    ) -> Quantization:
        """Quantise a model to int8, and measure it on any of the devices, which are of one kind.

        Images and `evaluate` stay on this computer.
        """
        from hwbench.workflows.quantize import quantize

        title = f"quantising {_name_of(model)}"
        with self.open_meter(device, title, of_one_kind=True) as meter:
            return quantize(model, data=data, device=meter, **options)

    def build_table(
        self, model: str | Path | nn.Module = DEFAULT_MODEL, *, device: str = "cpu", **options: Any
    ) -> BuiltTable:
        """Build a table with all of the devices, which are of one kind; `device` is its address."""
        title = f"table of {_name_of(model)}"
        with self.open_meter(device, title, of_one_kind=True) as meter:
            return build_table(model, device=meter, **options)

    def run_search(
        self,
        model: str | Path | nn.Module,
        plan: Plan,
        *,
        device: str | None = None,
        **options: Any,
    ) -> SearchResult:
        """Search with latencies of the devices, which are of one kind; None for those called `cpu`.

        All of them build the lookup table; one measures the result, or what the blocks of a network
        cost. Candidates are evaluated on this computer, by `jobs` processes: networks are code, and
        no host runs a client's code.
        """
        from hwbench.workflows.search.run import run_search

        with self._open_for_search(model, device) as meter:
            return run_search(model, plan, device=meter, **options)

    def run_front(
        self,
        model: str | Path | nn.Module,
        plan: Plan,
        limits: Sequence[Limit],
        *,
        device: str | None = None,
        **options: Any,
    ) -> Front:
        """Search for networks within several budgets; the devices do what `run_search` says."""
        from hwbench.workflows.search.run import run_front

        with self._open_for_search(model, device) as meter:
            return run_front(model, plan, limits, device=meter, **options)

    @contextmanager
    def _open_for_search(
        self, model: str | Path | nn.Module, device: str | None
    ) -> Iterator[LabMeter]:
        """Gather devices of one kind for a search."""
        title = f"search in {_name_of(model)}"
        with self.open_meter(device or "cpu", title, of_one_kind=True) as meter:
            yield meter

    @contextmanager
    def open_meter(
        self, device: str, title: str = "measuring", *, of_one_kind: bool = False
    ) -> Iterator[LabMeter]:
        """Gather devices of the lab for some work."""
        with (
            open_lab(self.address) as lab,
            lab.crew(device, title, of_one_kind=of_one_kind) as crew,
        ):
            yield LabMeter(crew)


def _name_of(model: str | Path | nn.Module | Workload) -> str:
    """Name a model for people."""
    if isinstance(model, Workload):
        return model.name
    return str(model) if isinstance(model, str | Path) else type(model).__name__
