"""A matrix of models by devices: every cell beside its baseline, failures as cells, resumed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import hwbench
from hwbench.devices.virtual.device import Virtual
from hwbench.errors import (
    DeviceUnavailableError,
    IncomparableError,
    UnsupportedLayerError,
    UsageError,
)
from hwbench.measuring.agreement import check_outputs
from hwbench.records.measurement import Settings
from hwbench.workflows.matrix import MatrixCallback, MatrixColumn, read_matrices
from tests.support.models import conv_net

pytestmark = pytest.mark.slow

DEVICE = "virtual:step=1"
SETTINGS = Settings(budget_s=1, layers=False)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWBENCH_STORE", str(tmp_path / "store.db"))
    for name, width in {"base": 64, "half": 32, "small": 16}.items():
        (tmp_path / f"{name}.onnx").write_bytes(conv_net((64, width)))
    (tmp_path / "other.onnx").write_bytes(conv_net((64, 64), size=8))
    return tmp_path


class Cells(MatrixCallback):
    """Notes which cells are measured, and is interrupted at one of them."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.numbers: list[int] = []
        self._interrupted_at = interrupted_at

    def cell_started(self, number: int, total: int, model: str, column: MatrixColumn) -> None:
        if number == self._interrupted_at:
            raise KeyboardInterrupt
        self.numbers.append(number)


def measure(*models: str, **options: object) -> hwbench.Matrix:
    options = {"devices": [DEVICE], "settings": SETTINGS} | options
    return hwbench.measure_matrix(models, **options)


def test_every_cell_is_paired_with_the_baseline_of_its_column(nets):
    matrix = measure("base.onnx", "half.onnx", precisions=["fp32", "int8"], threads=[1, 2, 1])
    assert [(column.precision, column.threads) for column in matrix.columns] == [
        ("fp32", 1),
        ("fp32", 2),
        ("int8", 1),
        ("int8", 2),
    ]
    assert len(matrix.cells) == 8
    for cell in matrix.cells:
        assert cell.error is None
        assert cell.record.settings.threads == cell.column.threads
        assert cell.record.precision == cell.column.precision
        if cell.model == "base.onnx":
            assert cell.comparison is None
        else:
            assert cell.comparison.baseline.model == "base.onnx"
            assert cell.comparison.baseline.precision == cell.column.precision
            assert cell.comparison.speedup > 1.2


def test_outputs_are_compared_once_for_each_model_and_precision(nets, monkeypatch):
    """`same.onnx` has the baseline's weights, `half.onnx` others."""
    (nets / "same.onnx").write_bytes((nets / "base.onnx").read_bytes())
    checked = []

    def check(baseline, candidate, seed, budget_s):
        checked.append((candidate.name, candidate.precision))
        return check_outputs(baseline, candidate, seed, budget_s)

    monkeypatch.setattr("hwbench.workflows.likeness.check_outputs", check)
    matrix = measure(
        "base.onnx", "same.onnx", "half.onnx", precisions=["fp32", "fp16"], threads=[1, 2]
    )
    names = ("same.onnx", "half.onnx")
    assert [(Path(name).name, precision) for name, precision in checked] == [
        (name, precision) for precision in ("fp32", "fp16") for name in names
    ]
    for cell in matrix.cells:
        if cell.comparison is not None:
            codes = {finding.code for finding in cell.comparison.findings}
            assert ("different_outputs" in codes) == (cell.model == "half.onnx")
            assert cell.comparison.likeness.quality is None
    with hwbench.open_store() as store:
        known = {summary.id: store.get(summary.id) for summary in store.list()}
        (kept,) = read_matrices(store, known)
    assert [cell.comparison and cell.comparison.likeness for cell in kept.matrix.cells] == [
        cell.comparison and cell.comparison.likeness for cell in matrix.cells
    ]


def test_what_an_interrupted_matrix_knew_of_outputs_is_not_looked_at_again(nets, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        measure("base.onnx", "half.onnx", threads=[1, 2], callback=Cells(interrupted_at=2))

    def refuse(*_):
        raise AssertionError("outputs are known")

    monkeypatch.setattr("hwbench.workflows.likeness.check_outputs", refuse)
    matrix = measure("base.onnx", "half.onnx", threads=[1, 2])
    assert matrix.resumed == 2
    assert "different_outputs" in {f.code for f in matrix.cells[3].comparison.findings}


def test_batches_are_columns_too(nets):
    model = onnx.load("base.onnx")
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, "open.onnx")
    matrix = measure("open.onnx", batches=[1, 4])
    assert [cell.record.batch for cell in matrix.cells] == [1, 4]


def test_what_cannot_run_is_a_cell(nets):
    matrix = measure(
        "base.onnx",
        "other.onnx",
        "absent.onnx",
        "half.onnx",
        devices=[DEVICE, "virtual:fault=open"],
        precisions=["fp32", "bf16"],
    )
    kinds = [type(cell.error) for cell in matrix.cells]
    assert kinds[:4] == [type(None), IncomparableError, UsageError, type(None)]
    assert kinds[4] is UnsupportedLayerError
    assert kinds[8] is kinds[11] is DeviceUnavailableError
    assert matrix.cells[4].record is None


def test_a_baseline_that_cannot_run_costs_only_the_ratios(nets):
    matrix = measure("absent.onnx", "half.onnx")
    assert matrix.cells[0].record is None
    assert matrix.cells[1].record.median_s > 0
    assert matrix.cells[1].comparison is None


def test_an_interrupted_matrix_goes_on_and_measures_no_cell_twice(nets):
    models, threads = ("base.onnx", "half.onnx", "absent.onnx"), [1, 2]
    with pytest.raises(KeyboardInterrupt):
        measure(*models, threads=threads, callback=Cells(interrupted_at=4))
    again = Cells()
    matrix = measure(*models, threads=threads, callback=again)
    assert again.numbers == [4, 5]
    assert matrix.resumed == 4
    assert isinstance(matrix.cells[2].error, UsageError)
    assert [cell.comparison is not None for cell in matrix.cells] == [False, True, False] * 2
    with hwbench.open_store() as store:
        assert len(store.list()) == 6


def test_a_matrix_that_was_completed_or_changed_begins_anew(nets):
    for change, measured in (
        ({}, [0, 1]),
        ({}, [0, 1]),
        ({"threads": [2]}, [0, 1]),
    ):
        cells = Cells()
        assert measure("base.onnx", "half.onnx", callback=cells, **change).resumed == 0
        assert cells.numbers == measured


@pytest.mark.parametrize("change", ["forget", "content", "nothing kept"])
def test_an_interrupted_matrix_is_forgotten(nets, change):
    save = change != "nothing kept"
    with pytest.raises(KeyboardInterrupt):
        measure("base.onnx", "half.onnx", callback=Cells(interrupted_at=1), save=save)
    if change == "content":
        (nets / "half.onnx").write_bytes(conv_net((64, 48)))
    cells = Cells()
    measure("base.onnx", "half.onnx", callback=cells, save=save, forget=change == "forget")
    assert cells.numbers == [0, 1]


def test_a_device_that_failed_is_tried_again(nets, monkeypatch):
    faulty = measure("base.onnx", "half.onnx", devices=["virtual:fault=lost@5"])
    assert [cell.record for cell in faulty.cells] == [None, None]
    cells = Cells()
    measure("base.onnx", "half.onnx", devices=["virtual:fault=lost@5"], callback=cells)
    assert cells.numbers == [0, 1]


def test_an_asterisk_stands_for_all_devices_that_are_ready(nets):
    matrix = measure("base.onnx", devices=["virt*"])
    assert [column.device for column in matrix.columns] == ["virtual"]
    with pytest.raises(UsageError, match="no device that is ready"):
        measure("base.onnx", devices=["absent*"])
    with pytest.raises(UsageError, match="unknown device"):
        measure("base.onnx", devices=["vrtual"])
    with pytest.raises(UsageError, match="no models"):
        measure()


def test_devices_elsewhere_are_opened_by_whoever_has_them(nets):
    from hwbench.workflows.meter import DeviceMeter

    asked = []

    class Elsewhere:
        def __enter__(self) -> DeviceMeter:
            return DeviceMeter(Virtual("step=1").open(), "elsewhere")

        def __exit__(self, *_: object) -> None:
            asked.append("closed")

    def open_device(address: str) -> Elsewhere:
        asked.append(address)
        return Elsewhere()

    matrix = measure("base.onnx", "half.onnx", devices=["lab*"], open_device=open_device)
    assert asked == ["lab*", "closed"]
    assert matrix.cells[1].comparison.speedup > 1
