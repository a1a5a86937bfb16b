"""Lookup tables: latency of every layer that pruning a model can produce, on one device, and of whole networks with an interval.

`table` is the record and its answers, `surface` the latency of one layer family over channel counts, `widths` the fast path for
searches; `build` measures (`networks`, `proposals`, `fit`), `validate` says how good a table is.
"""

from __future__ import annotations

from hwbench.lookup_tables.build import Plan, Progress, build
from hwbench.lookup_tables.records import Calibration, Entry, Grade, Metadata, Provenance, Source
from hwbench.lookup_tables.table import LayerPrediction, LookupTable
from hwbench.lookup_tables.validate import Validation, validate

__all__ = [
    "Calibration",
    "Entry",
    "Grade",
    "LayerPrediction",
    "LookupTable",
    "Metadata",
    "Plan",
    "Progress",
    "Provenance",
    "Source",
    "Validation",
    "build",
    "validate",
]
