"""`hwbench table predict`: latencies that lookup tables tell, without a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hwbench.errors import HwbenchError
from hwbench.lookup_tables import LayerPrediction, LookupTable
from hwbench.lookup_tables.exchange.portable import SUFFIX, read_table
from hwbench.lookup_tables.repository import find_table
from hwbench.network.graph import Layer
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.network.layers import keyed_layers_of
from hwbench.store import open_store
from hwbench.workflows.defaults import DEFAULT_MODEL
from hwbench.workflows.meter import in_format_of_table

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from hwbench.network.workload import Workload


@dataclass(frozen=True)
class ModelPrediction:
    """What a table says of a model.

    Attributes:
        model: The model, as it was given.
        table: The table: the address of its device, or the name it was imported under.
        latency_s: Expected latency in seconds of one inference.
        ci_s: Its 95 % prediction interval for one session, seconds.
        layers: Each layer of the model in order.
        names: What the layers are called: module paths.
    """

    model: str
    table: str
    latency_s: float
    ci_s: tuple[float, float]
    layers: tuple[LayerPrediction, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """The layers: `name`, `key`, `latency_s`, `sd`, `origin`, as in `LayerPrediction`."""
        import pandas as pd

        rows = [
            (name, str(layer.key), layer.latency_s, layer.sd, layer.origin)
            for name, layer in zip(self.names, self.layers, strict=True)
        ]
        return pd.DataFrame(rows, columns=["name", "key", "latency_s", "sd", "origin"])


@dataclass(frozen=True)
class PredictedCell:
    """One model asked of one table: a prediction, or why there is none.

    Attributes:
        model: The model, as it was given.
        table: The table, as it was given.
        prediction: What the table says; None where it cannot answer.
        error: Why it cannot answer, or why model or table cannot be read.
    """

    model: str
    table: str
    prediction: ModelPrediction | None = None
    error: HwbenchError | None = None


def open_table(
    table: str | Path = "cpu", *, extrapolate: bool = False, store: str | None = None
) -> LookupTable:
    """Find a lookup table, to ask it often.

    Args:
        table: The address of the device whose newest table to take, a name it was imported under,
            the beginning of its id, `pixel1`, which hwbench brings along, or a file of
            `hwbench table export`.
        extrapolate: Whether it answers outside the measured range too, with a wider interval.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.

    Raises:
        UsageError: There is no such table.
        SchemaError: It is damaged.
    """
    if Path(table).suffix == SUFFIX:
        opened = read_table(Path(table))
    else:
        with open_store(store) as kept:
            opened = find_table(kept, str(table))
    return opened.extrapolating() if extrapolate else opened


def predict(
    model: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    table: LookupTable | str | Path = "cpu",
    extrapolate: bool = False,
    store: str | None = None,
    **options: Unpack[ModelOptions],
) -> ModelPrediction:
    """Predict the latency of a model, as it is, with a lookup table.

    Args:
        model: What `hwbench.profile` takes.
        table: A table, or what `hwbench.open_table` takes.
        extrapolate: Answer outside the measured range too, with a wider interval.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        options: How the model is read, see `load_workload`.

    Raises:
        MissingEntryError: The table does not know a layer of the model.
        HwbenchError: There is no such table, or the model cannot be read; the message says what to
            do.
    """
    if not isinstance(table, LookupTable):
        table = open_table(table, extrapolate=extrapolate, store=store)
    elif extrapolate:
        table = table.extrapolating()
    workload = in_format_of_table(load_workload(model, **options), table)
    return _predict(workload.name, keyed_layers_of(workload), table)


def predict_each(
    models: Sequence[str],
    tables: Sequence[str],
    *,
    extrapolate: bool = False,
    store: str | None = None,
    **options: Unpack[ModelOptions],
) -> tuple[PredictedCell, ...]:
    """Ask every table for every model; what cannot be answered ends nothing else.

    Args:
        models: What `hwbench.profile` takes.
        tables: What `hwbench.open_table` takes.
        extrapolate: Answer outside the measured range too, with a wider interval.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        options: How the models are read, see `load_workload`.

    Returns:
        One cell for each pair, model by model; what was named twice is asked once.
    """
    opened: dict[str, LookupTable | HwbenchError] = {}
    for name in dict.fromkeys(tables):
        try:
            opened[name] = open_table(name, extrapolate=extrapolate, store=store)
        except HwbenchError as error:
            opened[name] = error
    cells: list[PredictedCell] = []
    for model in dict.fromkeys(models):
        try:
            workload = load_workload(model, **options)
        except HwbenchError as error:
            cells += [PredictedCell(model, name, error=error) for name in opened]
            continue
        layers_of_format: dict[str, tuple[Layer, ...]] = {}
        for name, table in opened.items():
            cells.append(_ask(model, workload, name, table, layers_of_format))
    return tuple(cells)


def _ask(
    model: str,
    workload: Workload,
    name: str,
    table: LookupTable | HwbenchError,
    layers_of_format: dict[str, tuple[Layer, ...]],
) -> PredictedCell:
    """Ask one table; the layers of a format are read for the first table that needs them."""
    if isinstance(table, HwbenchError):
        return PredictedCell(model, name, error=table)
    try:
        fitted = in_format_of_table(workload, table)
        if fitted.format not in layers_of_format:
            layers_of_format[fitted.format] = keyed_layers_of(fitted)
        return PredictedCell(model, name, _predict(model, layers_of_format[fitted.format], table))
    except HwbenchError as error:
        return PredictedCell(model, name, error=error)


def _predict(model: str, parts: Sequence[Layer], table: LookupTable) -> ModelPrediction:
    names = tuple(layer.name for layer in parts)
    predicted = table.layers([layer.key for layer in parts], names, model)
    whole = table.total(predicted)
    address = table.provenance.device.address
    return ModelPrediction(model, address, whole.latency_s, whole.ci_s, predicted, names)
