"""hwbench: how fast is this network on that device, and what would a smaller one gain?

    model file -> layers -> measure on the device -> lookup table -> search -> pruned model ->
    compare

Where to look: `workflows` (what a user asks for, one file each), `measuring` (the measuring core),
`stats` (intervals and verdicts), `devices` (drivers; `devices/base.py` says how to write one),
`network` (what is run: graphs and their layers, what can be pruned, and in `network/intake` the
safe loading of models), `lookup_tables` (latency without measuring), `pruning` and `search` (a
smaller network within a budget), `records` (what is kept and named), `store`, `render` and `cli`.

    import hwbench
    print(hwbench.profile("zoo:resnet18").median_s)
    print(hwbench.compare(model, pruned, example_inputs=(x,)).speedup)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hwbench.version import __version__ as __version__

if TYPE_CHECKING:
    from hwbench.devices import list_devices, open_device
    from hwbench.devices.shared.lock import wait_for_devices
    from hwbench.errors import HwbenchError
    from hwbench.lookup_tables import LookupTable
    from hwbench.lookup_tables.structure_latency import StructureLatency
    from hwbench.network.intake import load_workload
    from hwbench.network.prunable import PrunableNetwork
    from hwbench.records.ceilings import Ceilings
    from hwbench.records.comparison import Comparison
    from hwbench.records.measurement import Measurement, Settings
    from hwbench.records.quantization import Quantization
    from hwbench.stats import Verdict
    from hwbench.store import open_store
    from hwbench.workflows.build_table import build_table
    from hwbench.workflows.candidate_meter import CandidateMeter, Ranking, Reading, meter
    from hwbench.workflows.ceilings import measure_ceilings
    from hwbench.workflows.compare import compare
    from hwbench.workflows.doctor import doctor
    from hwbench.workflows.history import History, read_history
    from hwbench.workflows.matrix import Matrix, MatrixCell, MatrixColumn, measure_matrix
    from hwbench.workflows.predict import ModelPrediction, open_table, predict
    from hwbench.workflows.profile import profile
    from hwbench.workflows.quantize import quantize
    from hwbench.workflows.search.run import run_front, run_search
    from hwbench.workflows.selftest import selftest

__all__ = [
    "CandidateMeter",
    "Ceilings",
    "Comparison",
    "History",
    "HwbenchError",
    "LookupTable",
    "Matrix",
    "MatrixCell",
    "MatrixColumn",
    "Measurement",
    "ModelPrediction",
    "PrunableNetwork",
    "Quantization",
    "Ranking",
    "Reading",
    "Settings",
    "StructureLatency",
    "Verdict",
    "build_table",
    "compare",
    "doctor",
    "list_devices",
    "load_workload",
    "measure_ceilings",
    "measure_matrix",
    "meter",
    "open_device",
    "open_store",
    "open_table",
    "predict",
    "profile",
    "quantize",
    "read_history",
    "run_front",
    "run_search",
    "selftest",
    "wait_for_devices",
]

# Resolved on first use, so that `import hwbench` stays instant.
_HOME = {
    "CandidateMeter": "hwbench.workflows.candidate_meter",
    "Ceilings": "hwbench.records.ceilings",
    "Comparison": "hwbench.records.comparison",
    "History": "hwbench.workflows.history",
    "HwbenchError": "hwbench.errors",
    "LookupTable": "hwbench.lookup_tables",
    "Matrix": "hwbench.workflows.matrix",
    "MatrixCell": "hwbench.workflows.matrix",
    "MatrixColumn": "hwbench.workflows.matrix",
    "Measurement": "hwbench.records.measurement",
    "ModelPrediction": "hwbench.workflows.predict",
    "PrunableNetwork": "hwbench.network.prunable",
    "Quantization": "hwbench.records.quantization",
    "Ranking": "hwbench.workflows.candidate_meter",
    "Reading": "hwbench.workflows.candidate_meter",
    "Settings": "hwbench.records.measurement",
    "StructureLatency": "hwbench.lookup_tables.structure_latency",
    "Verdict": "hwbench.stats",
    "build_table": "hwbench.workflows.build_table",
    "compare": "hwbench.workflows.compare",
    "doctor": "hwbench.workflows.doctor",
    "list_devices": "hwbench.devices",
    "load_workload": "hwbench.network.intake",
    "measure_ceilings": "hwbench.workflows.ceilings",
    "measure_matrix": "hwbench.workflows.matrix",
    "meter": "hwbench.workflows.candidate_meter",
    "open_device": "hwbench.devices",
    "open_store": "hwbench.store",
    "open_table": "hwbench.workflows.predict",
    "predict": "hwbench.workflows.predict",
    "profile": "hwbench.workflows.profile",
    "quantize": "hwbench.workflows.quantize",
    "read_history": "hwbench.workflows.history",
    "run_front": "hwbench.workflows.search.run",
    "run_search": "hwbench.workflows.search.run",
    "selftest": "hwbench.workflows.selftest",
    "wait_for_devices": "hwbench.devices.shared.lock",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hwbench' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
