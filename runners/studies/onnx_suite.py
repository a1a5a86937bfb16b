"""The tests of the ONNX project through hwbench: which are measured, on the suite's own inputs.

Models come from the onnx package (its test data, and the tests of operators that it generates) and
from Debian's package libonnx-testdata where that is installed. A model counts if ONNX Runtime loads
it and runs it on the suite's inputs.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hwbench.devices import open_device
from hwbench.devices.ort.cpu import CpuOrt
from hwbench.errors import HwbenchError, OutputParseError
from hwbench.network.intake import load_workload
from hwbench.network.ort import onnxruntime
from hwbench.records.measurement import Settings
from runners.studies._results import RESULTS, save_study

JOURNAL = RESULTS / "onnx_suite" / "models.csv"
"""One row a model; a study that was stopped goes on from it."""
DEBIAN = Path("/usr/share/libonnx-testdata/data")
RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike"}
    | {"RandomUniform", "RandomUniformLike"}
)
"""Operators that give other values each time."""
MEASURED = "measured"
DRAWN = "measured; draws random numbers"
CONSTANT = "measured; nothing of it runs, the runtime computes it while loading"
NO_ROW, DIFFERS = "no row of a layer", "outputs differ from the reference"
COUNTED = frozenset({MEASURED, DRAWN, CONSTANT, NO_ROW, DIFFERS, "refused"})


@dataclass(frozen=True)
class Case:
    """One test: a model with inputs and outputs, arrays or anything else that ONNX has."""

    name: str
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any]


def list_cases() -> Iterator[Case]:
    """List the tests of the onnx package, then those of Debian's that it has no more."""
    from onnx.backend.test import case

    seen = set()
    folders = [Path(case.__file__).parents[1] / "data", DEBIAN]
    for folder in folders:
        for path in sorted(folder.rglob("model.onnx")):
            name = f"{'debian' if folder == DEBIAN else 'onnx'} {path.parent.name}"
            sets = sorted(path.parent.glob("test_data_set_*"))
            if name not in seen and sets:
                seen.add(name)
                inputs, outputs = (_read_set(sets[0], kind) for kind in ("input", "output"))
                yield Case(name, onnx.load(path), inputs, outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        for test in collect_testcases(None):
            if test.model is not None and test.data_sets:
                fed, expected = test.data_sets[0]
                yield Case(f"generated {test.name}", test.model, list(fed), list(expected))


def _read_set(folder: Path, kind: str) -> list[Any]:
    """Read the tensors of one set; None for what is no tensor."""
    values: list[Any] = []
    for number in range(len(list(folder.glob(f"{kind}_*.pb")))):
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString((folder / f"{kind}_{number}.pb").read_bytes())
            values.append(numpy_helper.to_array(tensor))
        except (OSError, TypeError, ValueError, onnx.checker.ValidationError):
            values.append(None)
    return values


def _run(data: bytes, feeds: dict[str, NDArray[Any]]) -> list[Any]:
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime().InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def _are_equal(found: list[Any], expected: list[Any]) -> bool:
    """Whether outputs are those of the reference, as far as those are arrays."""
    for one, other in zip(found, expected, strict=False):
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
            if other.dtype.kind not in "fiub":
                if one.tolist() != other.tolist():
                    return False
            elif not np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True):
                return False
    return True


class Bench:
    """The CPU, opened anew where a model ended it."""

    def __init__(self) -> None:
        self._device: CpuOrt | None = None

    def measure(self, workload: Any) -> int:
        """Run and profile a workload, and count the rows of its layers; -1 if nothing runs."""
        if self._device is None:
            device = open_device("cpu")
            if not isinstance(device, CpuOrt):
                raise TypeError("cpu is not ONNX Runtime")
            self._device = device
            device.open()
        try:
            prepared = self._device.prepare(workload, Settings())
            self._device.run([prepared], 1)
            try:
                rows = len(self._device.profile_layers(prepared, 3).rows)
            except OutputParseError as error:
                if "holds" not in str(error):
                    raise
                rows = -1
            self._device.release(prepared)
        except HwbenchError:
            with suppress(HwbenchError):
                self._device.close()
            self._device = None
            raise
        return rows


def examine(case: Case, bench: Bench, folder: Path) -> tuple[str, str]:
    """Say what becomes of one test: a kind, and details."""
    constants = {tensor.name for tensor in case.model.graph.initializer}
    names = [value.name for value in case.model.graph.input if value.name not in constants]
    given = dict(zip(names, case.inputs, strict=False))
    if any(not isinstance(value, np.ndarray) for value in given.values()):
        return "inputs are no tensors", ""
    data = case.model.SerializeToString()
    try:
        plain = _run(data, given)
    except Exception as error:  # noqa: BLE001 - whatever the runtime says is its answer
        return "ONNX Runtime does not load or run it", " ".join(str(error).split())[:160]
    if any(value.dtype.kind in "OUS" for value in given.values()):
        return "inputs are text", ""
    path = folder / "model.onnx"
    path.write_bytes(data)
    try:
        workload = load_workload(path, values=given)
        rows = bench.measure(workload)
    except HwbenchError as error:
        return "refused", f"{type(error).__name__}: {error}"[:300]
    found = _run(workload.onnx, {spec.name: given[spec.name] for spec in workload.inputs})
    return _judge(case, plain, found, rows)


def _judge(case: Case, plain: list[Any], found: list[Any], rows: int) -> tuple[str, str]:
    """Judge what was measured, by its outputs and by how many rows it has."""
    if any(node.op_type in RANDOM for node in case.model.graph.node):
        return DRAWN, ""
    if not _are_equal(found, case.outputs):
        # Where the runtime itself differs from the reference, the model read must not add to it.
        same = _are_equal(found, plain)
        return (MEASURED, "as ONNX Runtime's, which differ") if same else (DIFFERS, "")
    return {-1: CONSTANT, 0: NO_ROW}.get(rows, MEASURED), ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--every", type=int, default=1, help="take one model of so many")
    options = parser.parse_args()
    import time

    end_s = time.monotonic() + options.seconds
    JOURNAL.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {}
    if JOURNAL.exists():
        with JOURNAL.open(newline="") as file:
            rows = {row[0]: row for row in csv.reader(file) if len(row) == 3}
    bench = Bench()
    with tempfile.TemporaryDirectory() as folder, JOURNAL.open("a", newline="") as file:
        for number, case in enumerate(list_cases()):
            if case.name in rows or number % options.every:
                continue
            if time.monotonic() > end_s:
                break
            rows[case.name] = [case.name, *examine(case, bench, Path(folder))]
            csv.writer(file).writerow(rows[case.name])
            file.flush()
    command = "python -m runners.studies.onnx_suite"
    if options.every > 1:
        command += f" --every {options.every}"
    _save(list(rows.values()), command)


def _save(rows: list[list[str]], command: str) -> None:
    kinds = Counter(row[1] for row in rows)
    counted = sum(kinds[kind] for kind in COUNTED)
    good = kinds[MEASURED] + kinds[DRAWN] + kinds[CONSTANT]
    save_study(
        "onnx_suite",
        question="Is whatever ONNX Runtime runs of the ONNX project's own tests measured?",
        rows=[{"what became of it": kind, "models": count} for kind, count in kinds.most_common()],
        command=command,
        answer=f"{good} of {counted} models with tensors of numbers as inputs are"
        f" ({good / max(counted, 1):.1%}), of {len(rows)} in all.",
        notes="Measured means: read with the suite's inputs as values, run and profiled by the CPU"
        " driver, a row of a layer, and the outputs of the model that was read equal the"
        " reference's (relative 1e-3). `models.csv` has a row for each, with the reason.",
    )


if __name__ == "__main__":
    main()
