"""Lookup tables: latency of every layer that pruning a model can produce, on one device, and of whole networks with an interval.

`table` is the record and its answers, `surface` the latency of one layer family over channel counts
(`kinds`: what families tell each other), `widths` the fast path for searches; `build` measures
(`networks`, `proposals`, `fit`), `validate` says how good a table is, `recalibrate` follows a
device that has changed. `repository` finds tables in the store,
`portable` is the file they travel in, `imports` makes tables of what other tools measured
(`reading`, `join`, `foreign`).
"""

from __future__ import annotations

from hwbench.lookup_tables.making.build import Plan, Progress, build
from hwbench.lookup_tables.making.recalibrate import recalibrate
from hwbench.lookup_tables.making.validate import Validation, validate
from hwbench.lookup_tables.records import Calibration, Entry, Grade, Metadata, Provenance, Source
from hwbench.lookup_tables.table import LayerPrediction, LookupTable

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
    "recalibrate",
    "validate",
]
