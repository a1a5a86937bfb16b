"""Lookup tables: latency of every layer that pruning a model can produce, on one device.

- `table` is the record and its answers: layers, whole networks with an interval, and an error for
  what was never measured. `metadata` says where it came from, how layers add up and how good it is.
- `families` are layers that differ in their channel counts alone; `surface` is the latency of one
  family over these counts, `priors` what families of one kind tell each other.
- `structure_latency` is the fast path for searches, `advice` which widths to prefer, `repository`
  finds tables in the store.
- `making` measures: `build` chooses and measures pruned networks (`proposals`, `networks`,
  `journal`), `fit` makes a table of them, `validate` says how good it is, `recalibrate` follows a
  device that has changed, `channel_steps` finds the grid.
- `exchange` reads and writes files: `portable` is the file that tables travel in; `foreign_files`
  reads those of other tools, `foreign_reader` makes a `foreign_network` of them (`join_by_order`,
  `join_by_name`), `foreign_table` a table of these; `shipped` tables come along with hwbench.
"""

from __future__ import annotations

from hwbench.lookup_tables.making.build import Plan, Progress, build
from hwbench.lookup_tables.making.recalibrate import recalibrate
from hwbench.lookup_tables.making.validate import Validation, validate
from hwbench.lookup_tables.metadata import Calibration, Entry, Grade, Metadata, Provenance, Source
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
