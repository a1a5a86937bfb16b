"""Tables that hwbench brings along: searches need no phone to begin with.

They are made from published logs when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from hwbench.devices.android import tflite_log
from hwbench.errors import UsageError
from hwbench.lookup_tables.exchange.foreign_files import TfliteLog
from hwbench.lookup_tables.exchange.foreign_network import ForeignNetwork
from hwbench.lookup_tables.exchange.foreign_reader import read_tflite
from hwbench.lookup_tables.exchange.foreign_table import table_of
from hwbench.lookup_tables.table import LookupTable
from hwbench.network.intake import load_workload

PIXEL1 = {
    "zoo:mobilenet_v1@32-64-128-128-256-256-512-512-512-512-512-512-1024-1024,classes=1001": (
        "mobilenet"
    ),
    "zoo:mobilenet_v1@24-48-96-96-192-192-384-384-384-384-384-384-768-768,classes=1001": (
        "0.75mobilenet"
    ),
    "zoo:mobilenet_v1@24-48-96-80-192-200-328-352-368-360-328-400-736-752,classes=1001": "0.5flops",
}
"""Networks that were logged on a Google Pixel 1, and the name of their logs.

See data/pixel1/README.md.
"""
PIXEL1_REPEATS = 3
PIXEL1_NAME, PIXEL1_TARGET = "pixel1", "Google Pixel 1"
PIXEL1_NOTE = (
    "logs of TensorFlow Lite's benchmark_model, float32, one thread, NNAPI off, published with the"
    " AMC models in github.com/mit-han-lab/amc-models (MIT licence, copyright MIT HAN Lab) without"
    " a date"
)
PIXEL1_MADE_UTC = "2026-11-22T00:00:00+00:00"
"""When the table was added to hwbench; the logs do not say when they were taken."""


def pixel1_logs(model: str) -> tuple[TfliteLog, ...]:
    """The logs of one of the `PIXEL1` networks.

    Raises:
        UsageError: `model` is none of them.
    """
    if model not in PIXEL1:
        raise UsageError(f"no logs of {model!r} on a Pixel 1; expected one of {', '.join(PIXEL1)}")
    folder = Path(__file__).parents[1] / "data" / "pixel1"
    paths = [folder / f"{PIXEL1[model]}_run{number + 1}.txt" for number in range(PIXEL1_REPEATS)]
    return tuple(tflite_log.parse(path.read_text("ascii"), path.name) for path in paths)


@cache
def pixel1_networks() -> tuple[ForeignNetwork, ...]:
    """The networks that were logged on a Google Pixel 1, in the order of `PIXEL1`."""
    return tuple(_read(model, pixel1_logs(model)) for model in PIXEL1)


@cache
def pixel1() -> LookupTable:
    """MobileNet-V1 with 1001 classes on a Google Pixel 1.

    It is made from nine published logs of three networks.
    """
    return table_of(pixel1_networks(), PIXEL1_NAME, note=PIXEL1_NOTE, created_utc=PIXEL1_MADE_UTC)


def _read(model: str, logs: tuple[TfliteLog, ...]) -> ForeignNetwork:
    return read_tflite(logs, load_workload(model), target=PIXEL1_TARGET)


SHIPPED: Mapping[str, Callable[[], LookupTable]] = {PIXEL1_NAME: pixel1}
NETWORKS: Mapping[str, Callable[[], tuple[ForeignNetwork, ...]]] = {PIXEL1_NAME: pixel1_networks}
"""What they are made of, to which imports under the same name add."""


def target_of(name: str) -> str:
    """Hardware of the table of that name, where hwbench brings it along; else the name."""
    return NETWORKS[name]()[0].target if name in NETWORKS else name
