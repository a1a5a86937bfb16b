"""Values for the inputs of a workload: those of a file, of a range, or indices that it can take."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UsageError
from hwbench.network.intake.input_texts import InputRequest
from hwbench.network.workload import TFLITE, Workload
from hwbench.records.findings import Finding
from hwbench.records.tensors import TensorSpec
from hwbench.records.untrusted import require_file

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

_PASSING = {"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose"}
"""Operators that hand the values of their first input on."""
_UNNAMED = "arr_"
"""What NumPy calls arrays that were saved without names, before their number."""


def read_values(source: Any) -> dict[str, NDArray[Any]]:
    """Read values of inputs.

    Args:
        source: The path of a file by numpy.savez (names, or arrays in order) or numpy.save (the
            first input), or a mapping of names to arrays.

    Returns:
        Arrays by name; those without one as `arr_0`, `arr_1`, ..

    Raises:
        UsageError: There is no such file, or it holds something else than arrays of numbers.
    """
    if isinstance(source, Mapping):
        loaded: Any = source
    elif isinstance(source, str | Path):
        try:
            require_file(Path(source), "one by numpy.savez(FILE, NAME=ARRAY, ..)")
            loaded = np.load(source, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                loaded = {f"{_UNNAMED}0": loaded}
            loaded = dict(loaded)
        except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
            cause = " ".join(str(error).split())[:200]
            raise UsageError(
                f"cannot read values of inputs from {source} ({cause}); expected a file by"
                " numpy.savez(FILE, NAME=ARRAY, ..)"
            ) from error
    else:
        raise UsageError(
            f"values of inputs are a {type(source).__name__}; expected the path of an .npz file or"
            " a mapping of names to arrays"
        )
    values = {}
    for name, array in loaded.items():
        entries = np.asarray(array)
        if entries.dtype.kind not in "fiub":
            raise UsageError(
                f"the values of input {str(name)[:80]!r} are {entries.dtype}; expected numbers"
            )
        values[str(name)] = entries
    return values


def requests_of(values: Mapping[str, NDArray[Any]]) -> tuple[InputRequest, ...]:
    """Give the inputs that values are for: their shapes and types are those asked for."""
    requests = []
    for name, array in values.items():
        dtype = "float32" if array.dtype.kind == "f" else array.dtype.name
        asked_name = "" if _is_unnamed(name) else name
        requests.append(InputRequest(asked_name, array.shape, dtype))
    return tuple(requests)


def _is_unnamed(name: str) -> bool:
    return name.startswith(_UNNAMED) and name.removeprefix(_UNNAMED).isdecimal()


def add_values(
    workload: Workload,
    requests: Sequence[InputRequest],
    given: Mapping[str, NDArray[Any]],
    seed: int,
) -> Workload:
    """Give a workload the values that were asked for, and indices where it looks rows up.

    Args:
        workload: The workload.
        requests: The inputs as they were asked for.
        given: Values by name, from `read_values`.
        seed: The seed of values that are drawn.

    Raises:
        UsageError: Values are for no input, or of another shape or type than it has.
    """
    values: dict[str, NDArray[Any]] = {}
    for spec, array in _match(workload.inputs, given, workload.name):
        values[spec.name] = _convert(array, spec, workload.name)
    random = np.random.default_rng(seed)
    ranged = {entry.name: entry for entry in requests if entry.low is not None}
    unnamed = [entry for entry in requests if not entry.name]
    for position, spec in enumerate(workload.inputs):
        entry = ranged.get(spec.name)
        if entry is None and position < len(unnamed):
            entry = unnamed[position]
        if entry is None or spec.name in values:
            continue
        if entry.low is not None and entry.high is not None:
            values[spec.name] = _draw(spec, entry.low, entry.high, random, workload.name)
    findings = list(workload.findings)
    indices = [
        spec for spec in workload.inputs
        if spec.name not in values and spec.dtype in {"int32", "int64"}
    ]  # fmt: skip
    if indices and workload.format != TFLITE:
        rows = _count_rows(workload)
        for spec in indices:
            if spec.name in rows:
                count, table = rows[spec.name]
                values[spec.name] = _draw(spec, 0, count, random, workload.name)
                findings.append(
                    Finding(
                        "indices_drawn",
                        f"the values of {spec.name} are drawn from 0 to {count - 1}, the rows of"
                        f" {table}",
                    )
                )
    if not values:
        return workload
    return replace(workload, values=values, findings=tuple(findings))


def _match(
    inputs: Sequence[TensorSpec], given: Mapping[str, NDArray[Any]], name: str
) -> list[tuple[TensorSpec, NDArray[Any]]]:
    """Match values with inputs: by name, and nameless ones with the others in order."""
    by_name = {spec.name: spec for spec in inputs}
    others = [spec for spec in inputs if spec.name not in given]
    pairs = []
    for key, array in given.items():
        spec = by_name.get(key)
        if spec is None and _is_unnamed(key) and others:
            spec = others.pop(0)
        if spec is None:
            raise UsageError(
                f"{name} takes the inputs {', '.join(by_name)}; values were given for {key[:80]!r}"
            )
        pairs.append((spec, array))
    return pairs


def _convert(array: NDArray[Any], spec: TensorSpec, name: str) -> NDArray[Any]:
    """Bring values into the type of their input."""
    if array.shape != spec.shape:
        raise UsageError(
            f"{name}: the values of {spec.name} have the shape {array.shape}, the input"
            f" {spec.shape}"
        )
    if spec.dtype == "bfloat16":
        return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    kind = np.dtype(spec.dtype)
    converted = array.astype(kind)
    if kind.kind != "f" and not np.array_equal(converted, array):
        raise UsageError(f"{name}: the values of {spec.name} do not fit into {spec.dtype}")
    return converted


def _draw(
    spec: TensorSpec, low: float, high: float, random: np.random.Generator, name: str
) -> NDArray[Any]:
    """Draw values from a range whose end is left out."""
    if spec.dtype == "bfloat16" or np.dtype(spec.dtype).kind == "f":
        return _convert(random.uniform(low, high, spec.shape), spec, name)
    first, end = math.ceil(low), math.ceil(high)
    kind = np.dtype(spec.dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else None
    smallest, largest = (0, 1) if limits is None else (int(limits.min), int(limits.max))
    if not smallest <= first < end <= largest + 1:
        raise UsageError(
            f"{name}: {spec.name} holds {spec.dtype}, which has no whole number from {low:g} up to"
            f" {high:g}"
        )
    return np.asarray(random.integers(first, end, spec.shape, dtype=np.int64)).astype(kind)


def _count_rows(workload: Workload) -> dict[str, tuple[int, str]]:
    """Find the inputs that look rows up in tables: the fewest rows, and the name of that table."""
    import onnx

    model: ModelProto = onnx.load_model_from_string(workload.onnx_graph)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    source = {spec.name: spec.name for spec in workload.inputs}
    rows: dict[str, tuple[int, str]] = {}
    for node in model.graph.node:
        if node.op_type in _PASSING and node.input and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        if node.op_type == "Gather" and len(node.input) == 2 and node.input[1] in source:
            table = shapes.get(node.input[0], ())
            axis = next((attr.i for attr in node.attribute if attr.name == "axis"), 0)
            name = source[node.input[1]]
            if len(table) > 1 and -len(table) <= axis < len(table) and table[axis] > 1:
                count = min(table[axis], rows.get(name, (table[axis], ""))[0])
                rows[name] = (count, node.input[0])
    return rows
