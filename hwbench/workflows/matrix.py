"""`hwbench matrix`: many models on many devices, each beside the baseline of its column."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from hwbench.devices import list_devices
from hwbench.errors import (
    Call,
    DeviceError,
    HwbenchError,
    MeasurementError,
    UsageError,
    WorkloadError,
    error_from_dict,
    error_to_dict,
)
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.comparing import compare_measured
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.records.codec import from_plain, to_plain
from hwbench.records.measurement import Measurement, Settings
from hwbench.records.outputs import Likeness
from hwbench.store import DamagedRecord, Store, open_store
from hwbench.workflows.compare import check_same_inputs
from hwbench.workflows.likeness import find_likeness
from hwbench.workflows.meter import Meter, open_meter
from hwbench.workflows.recording import record_into

if TYPE_CHECKING:
    from hwbench.network.workload import Workload
    from hwbench.records.comparison import Comparison

RUN, CELL = "matrix_run", "matrix_cell"
"""Kinds of the store's records: that a matrix was begun, and what came of one of its cells."""
DEFAULT_SETTINGS = Settings(budget_s=10, layers=False, stop_at_difference=False)
"""For each cell, whose ratio is read beside others; layers are a case for a comparison."""


@dataclass(frozen=True, slots=True)
class MatrixColumn:
    """What the models of one column have in common.

    Attributes:
        device: The address of the device.
        precision: The precision asked for.
        threads: Threads of the runtime.
        batch: The batch size; None for that of the models.
    """

    device: str
    precision: str = "fp32"
    threads: int = 1
    batch: int | None = None


@dataclass(frozen=True)
class MatrixCell:
    """One model in one column: a measurement, or why there is none.

    Attributes:
        model: As it was given.
        column: Where it was measured.
        record: Its measurement; None where it cannot be read or run.
        comparison: With the baseline of the column, measured interleaved; None for the baseline
            itself, and where either cannot run.
        error: Why there is no measurement; None where there is one.
    """

    model: str
    column: MatrixColumn
    record: Measurement | None = None
    comparison: Comparison | None = None
    error: HwbenchError | None = None


@dataclass(frozen=True)
class Matrix:
    """Models by columns.

    Attributes:
        models: The rows; the first one is the baseline.
        columns: In the order of measuring.
        cells: Column by column, in each the models in order.
        resumed: Cells that an earlier, interrupted run had measured.
    """

    models: tuple[str, ...]
    columns: tuple[MatrixColumn, ...]
    cells: tuple[MatrixCell, ...]
    resumed: int = 0

    def __repr__(self) -> str:
        failed = sum(cell.error is not None for cell in self.cells)
        size = f"{len(self.models)} models x {len(self.columns)} columns"
        return f"<Matrix {size}, {failed} cells failed>"

    def quality_of(self, cell: MatrixCell) -> float | None:
        """How well the model of a cell does on the data; None where that is not known.

        That of the first model is known from the others of its column.
        """
        for other in self.cells:
            comparison = other.comparison
            if other.column != cell.column or comparison is None:
                continue
            quality = comparison.likeness.quality
            if quality is not None and other is cell:
                return quality.candidate
            if quality is not None and cell.model == self.models[0]:
                return quality.baseline
        return None


class MatrixCallback(MeasuringCallback):
    """Called while a matrix is measured; the methods of this base class do nothing."""

    def cell_started(self, number: int, total: int, model: str, column: MatrixColumn) -> None:
        """A cell begins, the first one with number 0."""


def measure_matrix(
    models: Sequence[str | Path],
    *,
    devices: Sequence[str] = ("cpu",),
    precisions: Sequence[str] = ("fp32",),
    threads: Sequence[int] = (1,),
    batches: Sequence[int | None] = (None,),
    settings: Settings | None = None,
    forget: bool = False,
    store: str | None = None,
    save: bool = True,
    data: str | Path | None = None,
    evaluate: str | None = None,
    callback: MatrixCallback | None = None,
    open_device: Callable[[str], AbstractContextManager[Meter]] | None = None,
    **options: Unpack[ModelOptions],
) -> Matrix:
    """Measure models on devices, in precisions, with numbers of threads and in batches.

    Every cell is measured interleaved with the first model, the baseline. What cannot run is a cell
    with an error. A matrix that was interrupted goes on with the same arguments, and measures no
    cell twice. Each model also runs once beside the baseline on the same inputs, in each precision:
    `different_outputs` is a finding of its comparisons.

    Args:
        models: What `hwbench.profile` takes, by name; the first one is the baseline.
        devices: Addresses; `android:*` stands for every such device that is ready.
        precisions: Precisions to measure in.
        threads: Numbers of threads.
        batches: Batch sizes; None for that of the models.
        settings: How to measure; the budget is that of each cell.
        forget: Begin anew, also where an earlier run was interrupted.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to keep the records; without it an interrupted matrix begins anew.
        data: Images to evaluate every model on, beside the baseline, as `hwbench.compare` takes
            them.
        evaluate: Name of a function that evaluates a model in place of its accuracy.
        callback: Called while the work goes on.
        open_device: Opens the device of an address, elsewhere than on this computer.
        options: How the models are read, see `load_workload`.

    Raises:
        UsageError: There are no models, no device has such an address, or the models do not take
            the images.
    """
    if not models:
        raise UsageError("no models for a matrix; name the baseline first, then the others")
    names = tuple(dict.fromkeys(map(str, models)))
    if open_device is None:
        devices, open_device = find_devices(devices), open_meter
    combinations = itertools.product(devices, precisions, threads, batches)
    columns = tuple(dict.fromkeys(MatrixColumn(*combination) for combination in combinations))
    settings = settings or DEFAULT_SETTINGS
    callback = callback or MatrixCallback()
    with open_store(store) if save else nullcontext() as kept:
        judge = _Judge(settings, None if data is None else str(data), evaluate)
        work = _Work(names, columns, settings, options, kept, store, callback, open_device, judge)
        return work.run(forget=forget)


def find_devices(addresses: Sequence[str]) -> list[str]:
    """Addresses; one with an asterisk stands for every such device that is ready.

    Raises:
        UsageError: No device that is ready has such an address.
    """
    found: list[str] = []
    for address in addresses:
        if "*" not in address:
            found.append(address)
            continue
        ready = [target.address for target in list_devices() if target.ready]
        matching = [target for target in ready if fnmatchcase(target, address)]
        if not matching:
            raise UsageError(
                f"no device that is ready has an address like {address!r}",
                Call("list_devices", purpose="see"),
            )
        found += matching
    return found


@dataclass
class _Work:
    """A matrix in progress; the attributes are those of `measure_matrix`.

    `store` is open, and None where nothing is kept; `url` is where it is.
    """

    models: tuple[str, ...]
    columns: tuple[MatrixColumn, ...]
    settings: Settings
    options: ModelOptions
    store: Store | None
    url: str | None
    callback: MatrixCallback
    open_device: Callable[[str], AbstractContextManager[Meter]]
    judge: _Judge

    def run(self, *, forget: bool) -> Matrix:
        """Measure what is not measured yet."""
        plan = {"models": self.models, "columns": [asdict(column) for column in self.columns]}
        journal = _Journal(self.store, self._key(), plan)
        if not forget:
            journal.resume(len(self.models) * len(self.columns))
        resumed = len(journal.cells)
        cells: list[MatrixCell] = []
        for device, columns in itertools.groupby(self.columns, lambda column: column.device):
            with _Bench(device, self.open_device) as bench:
                for column in columns:
                    self._measure_column(bench, column, journal, cells)
        return Matrix(self.models, self.columns, tuple(cells), resumed)

    def _key(self) -> str:
        """Identity of the matrix: all that was asked for, files of models by their content."""
        facts = {
            "models": [_identify(model) for model in self.models],
            "columns": [asdict(column) for column in self.columns],
            "settings": asdict(self.settings),
            "options": repr(sorted(self.options.items())),
        }
        if self.judge.is_asked:
            facts["judge"] = [self.judge.data, self.judge.evaluate]
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _measure_column(
        self, bench: _Bench, column: MatrixColumn, journal: _Journal, cells: list[MatrixCell]
    ) -> None:
        """Append the cells of one column, those of an earlier run as they are."""
        total = len(self.models) * len(self.columns)
        baseline: Workload | None = None
        runs = False
        for place, model in enumerate(self.models):
            cell = journal.find(len(cells), model, column)
            if cell is not None:
                self.judge.learn(cell)
            else:
                self.callback.cell_started(len(cells), total, model, column)
                if runs and baseline is None:
                    baseline = load_workload(self.models[0], **self._options_of(column))
                cell = self._measure_cell(bench, model, column, baseline)
                journal.note(len(cells), cell)
            if place == 0:
                runs = cell.record is not None
            cells.append(cell)

    def _measure_cell(
        self, bench: _Bench, model: str, column: MatrixColumn, baseline: Workload | None
    ) -> MatrixCell:
        """A model beside the baseline; by itself where that is None."""
        settings = replace(self.settings, threads=column.threads)
        likeness = None
        try:
            workload = load_workload(model, **self._options_of(column))
            if baseline is not None:
                check_same_inputs(baseline, workload)
        except HwbenchError as error:
            return MatrixCell(model, column, error=error)
        try:
            if baseline is not None:
                likeness = self.judge.find(baseline, workload, model, column)
        except WorkloadError as error:
            return MatrixCell(model, column, error=error)
        callback = record_into(self.store, self.callback, likeness, url=self.url)
        together = [workload] if baseline is None else [baseline, workload]
        try:
            records = bench.measure(together, settings, callback)
        except (DeviceError, MeasurementError, WorkloadError) as error:
            return MatrixCell(model, column, error=error)
        return _make_cell(model, column, records, likeness)

    def _options_of(self, column: MatrixColumn) -> dict[str, Any]:
        changed: dict[str, Any] = dict(self.options)
        changed |= {"precision": column.precision, "seed": self.settings.seed}
        if column.batch is not None:
            changed["batch"] = column.batch
        return changed


@dataclass
class _Judge:
    """What models compute beside their baseline, found out once for each model and precision.

    Devices, threads and batches change little of that.

    Attributes:
        settings: How the models are measured.
        data: Images to evaluate on; None for none.
        evaluate: What evaluates in place of accuracy; None for nothing.
    """

    settings: Settings
    data: str | None
    evaluate: str | None
    _known: dict[tuple[str, str], Likeness] = field(default_factory=dict)

    @property
    def is_asked(self) -> bool:
        """Whether there is anything to evaluate by, beside the outputs."""
        return self.data is not None or self.evaluate is not None

    def find(
        self, baseline: Workload, candidate: Workload, model: str, column: MatrixColumn
    ) -> Likeness:
        """How far a model computes the same as the baseline of its column, and how well both do."""
        key = model, column.precision
        if key not in self._known:
            self._known[key] = find_likeness(
                baseline, candidate, self.settings, self.data, self.evaluate
            )
        return self._known[key]

    def learn(self, cell: MatrixCell) -> None:
        """Take over what an earlier run found out, if the cell has it."""
        if cell.comparison is not None and cell.comparison.likeness != Likeness():
            key = cell.model, cell.column.precision
            self._known.setdefault(key, cell.comparison.likeness)


class _Bench:
    """One device, opened when it is first needed, and anew after it failed.

    Args:
        address: Of the device.
        open_device: Opens it.
    """

    def __init__(
        self, address: str, open_device: Callable[[str], AbstractContextManager[Meter]]
    ) -> None:
        self._address, self._open_device = address, open_device
        self._opened = ExitStack()
        self._meter: Meter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def measure(
        self, workloads: Sequence[Workload], settings: Settings, callback: MeasuringCallback
    ) -> tuple[Measurement, ...]:
        """Measure workloads interleaved; see `Meter.measure`."""
        if self._meter is None:
            self._meter = self._opened.enter_context(self._open_device(self._address))
        try:
            return self._meter.measure(workloads, settings, callback)
        except DeviceError:  # what the device would do now is unknown
            self._meter = None
            self._opened.close()
            raise


class _Journal:
    """Which cells of a matrix are measured, in the store; in vain without one.

    Args:
        store: Where records are kept; None for nowhere.
        key: Identity of the matrix.
        plan: Its models and columns, for whoever reads it from the store later.
    """

    def __init__(self, store: Store | None, key: str, plan: Mapping[str, Any]) -> None:
        self._store, self._key, self._plan = store, key, plan
        self._run = ""
        self.cells: dict[int, Mapping[str, Any]] = {}

    def resume(self, total: int) -> None:
        """Take over the newest run of the same matrix, unless it was complete."""
        if self._store is None:
            return
        for run in self._store.records(RUN, holding=self._key, damaged=[]):
            self._run, self.cells = run, {}
            for data in self._store.records(CELL, holding=run, damaged=[]).values():
                self.cells[int(data["number"])] = data
        if len(self.cells) >= total:
            self._run, self.cells = "", {}

    def find(self, number: int, model: str, column: MatrixColumn) -> MatrixCell | None:
        """A cell that is measured already, if it can still be read."""
        data = self.cells.get(number)
        if data is None or self._store is None:
            return None
        if data["error"] is not None:
            return MatrixCell(model, column, error=error_from_dict(data["error"]))
        try:
            records = tuple(self._store.read_measurements(data["measurements"]))
            likeness = _read_likeness(data)
        except HwbenchError:  # deleted or damaged since
            return None
        return _make_cell(model, column, records, likeness)

    def note(self, number: int, cell: MatrixCell) -> None:
        """Keep what came of a cell, so that it is not measured again.

        A device that failed may be there again next time, so that is not kept.
        """
        if self._store is None or isinstance(cell.error, DeviceError):
            return
        if not self._run:
            self._run = self._store.save_record(RUN, {"key": self._key, **self._plan})
        error = None if cell.error is None else error_to_dict(cell.error)
        records = [] if cell.record is None else [cell.record]
        if cell.comparison is not None:
            records = [cell.comparison.baseline, cell.comparison.candidate]
        facts = {
            "run": self._run,
            "number": number,
            "measurements": [record.id for record in records],
            "error": error,
        }
        if cell.comparison is not None:
            facts["likeness"] = to_plain(cell.comparison.likeness)
        self._store.save_record(CELL, facts)


def _read_likeness(data: Mapping[str, Any]) -> Likeness | None:
    """How far the networks of a cell compute the same, as kept with it."""
    if data.get("likeness") is None:
        return None
    return from_plain(Likeness, data["likeness"], "record of a cell")


def _make_cell(
    model: str,
    column: MatrixColumn,
    records: Sequence[Measurement],
    likeness: Likeness | None = None,
) -> MatrixCell:
    """The cell of a model that was measured alone, or after the baseline."""
    if len(records) == 1:
        return MatrixCell(model, column, records[0])
    baseline, candidate = records
    return MatrixCell(
        model, column, candidate, compare_measured(baseline, candidate, likeness=likeness)
    )


def _identify(model: str) -> str:
    """What a model is: the content of a file, else its name."""
    path = Path(model)
    if not path.is_file():
        return model
    with path.open("rb") as file:
        return f"{model} {file_digest(file, 'sha256').hexdigest()}"


@dataclass(frozen=True)
class KeptMatrix:
    """A matrix as a store has it.

    Attributes:
        id: Of its record.
        matrix: What of it is measured; cells that are not, or no longer kept, are absent.
    """

    id: str
    matrix: Matrix


def read_matrices(
    store: Store,
    known: Mapping[str, Measurement],
    damaged: MutableSequence[DamagedRecord] | None = None,
) -> tuple[KeptMatrix, ...]:
    """Read the matrices of a store, the oldest first; of those that were repeated, the last.

    Args:
        store: An open store.
        known: The measurements to make cells of, by id.
        damaged: Where to name records that cannot be read, which are then left out. With None, the
            first one is an error.
    """
    cells: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run, number, data in store.read_records(CELL, _read_cell, damaged=damaged).values():
        cells.setdefault(run, {})[number] = data
    newest: dict[str, KeptMatrix] = {}
    for run, (key, models, columns) in store.read_records(RUN, _read_run, damaged=damaged).items():
        made = []
        for number, data in sorted(cells.get(run, {}).items()):
            place, row = divmod(number, max(1, len(models)))
            if place < len(columns):
                cell = _read_kept_cell(models[row], columns[place], data, known)
                made += [] if cell is None else [cell]
        if any(cell.record is not None for cell in made):
            newest.pop(key, None)
            newest[key] = KeptMatrix(run, Matrix(models, columns, tuple(made)))
    return tuple(newest.values())


def _read_run(data: Mapping[str, Any]) -> tuple[str, tuple[str, ...], tuple[MatrixColumn, ...]]:
    """Key, models and columns; none of them in records of versions that did not keep them."""
    columns = tuple(MatrixColumn(**column) for column in data.get("columns", ()))
    return str(data["key"]), tuple(map(str, data.get("models", ()))), columns


def _read_cell(data: Mapping[str, Any]) -> tuple[str, int, Mapping[str, Any]]:
    """Run and number of a cell, and its record, of which all is checked."""
    checked = {
        "measurements": list(map(str, data["measurements"])),
        "error": None if data["error"] is None else error_from_dict(data["error"]),
        "likeness": _read_likeness(data),
    }
    return str(data["run"]), int(data["number"]), checked


def _read_kept_cell(
    model: str, column: MatrixColumn, data: Mapping[str, Any], known: Mapping[str, Measurement]
) -> MatrixCell | None:
    """A cell; None where its measurements are not among those that are known."""
    if data["error"] is not None:
        return MatrixCell(model, column, error=data["error"])
    records = [known[record] for record in data["measurements"] if record in known]
    if not records or len(records) < len(data["measurements"]):
        return None
    return _make_cell(model, column, records, data["likeness"])
