"""Tables that hwbench brings along: searches need no phone to begin with.

They are made from published logs when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from hwbench.lookup_tables.exchange.foreign_files import TfliteLog
from hwbench.lookup_tables.exchange.foreign_reader import read_tflite
from hwbench.lookup_tables.exchange.foreign_table import ForeignNetwork, table_of
from hwbench.lookup_tables.exchange.join_by_order import PIXEL1, pixel1_logs
from hwbench.lookup_tables.table import LookupTable
from hwbench.network.intake import load_workload

PIXEL1_NAME, PIXEL1_TARGET = "pixel1", "Google Pixel 1"
PIXEL1_NOTE = (
    "logs of TensorFlow Lite's benchmark_model, float32, one thread, NNAPI off, published with the"
    " AMC models in github.com/mit-han-lab/amc-models (MIT licence, copyright MIT HAN Lab)"
)


@cache
def pixel1_networks() -> tuple[ForeignNetwork, ...]:
    """The networks that were logged on a Google Pixel 1, in the order of `PIXEL1`."""
    return tuple(_read(model, pixel1_logs(model)) for model in PIXEL1)


@cache
def pixel1() -> LookupTable:
    """MobileNet-V1 with 1001 classes on a Google Pixel 1.

    It is made from nine published logs of three networks.
    """
    return table_of(pixel1_networks(), PIXEL1_NAME, note=PIXEL1_NOTE)


def _read(model: str, logs: tuple[TfliteLog, ...]) -> ForeignNetwork:
    return read_tflite(logs, load_workload(model), target=PIXEL1_TARGET)


SHIPPED: Mapping[str, Callable[[], LookupTable]] = {PIXEL1_NAME: pixel1}
NETWORKS: Mapping[str, Callable[[], tuple[ForeignNetwork, ...]]] = {PIXEL1_NAME: pixel1_networks}
"""What they are made of, to which imports under the same name add."""


def target_of(name: str) -> str:
    """Hardware of the table of that name, where hwbench brings it along; else the name."""
    return NETWORKS[name]()[0].target if name in NETWORKS else name
