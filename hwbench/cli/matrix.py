"""`hwbench matrix`: many models on many devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.delivery import deliver, report, write_file
from hwbench.cli.lab import workplace
from hwbench.cli.options import (
    BudgetOption,
    DataOption,
    EvaluateOption,
    FailOnOption,
    IsolateOption,
    JunitOption,
    Keeping,
    LabOption,
    MinEffectOption,
    ModelFiles,
    Output,
    Precision,
    SeedOption,
    WaitOption,
    options,
    writable,
)
from hwbench.cli.rules import Rule, hits, parse_rule
from hwbench.errors import UsageError

if TYPE_CHECKING:
    from hwbench.workflows.matrix import Matrix

RELATIVE_FIELDS = ("speedup", "accuracy_drop", "agreement")
"""Fields that compare a model with the first one."""
MATRIX_FIELDS = ("latency_s", *RELATIVE_FIELDS)


def precisions(text: str) -> tuple[str, ...]:
    """Precisions separated by commas.

    Raises:
        typer.BadParameter: One of them is none.
    """
    names = tuple(part.strip() for part in text.split(","))
    known = [precision.value for precision in Precision]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}")
    return names


def counts(text: str) -> tuple[int, ...]:
    """Positive whole numbers separated by commas.

    Raises:
        typer.BadParameter: One of them is none.
    """
    numbers = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise typer.BadParameter(f"{part.strip()!r} is no positive whole number; write 1,2,4")
        numbers.append(int(part))
    return tuple(numbers)


@options
def matrix_command(
    *,
    source: ModelFiles,
    output: Output,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="The models, each a file, zoo:NAME or package.module:factory. The others are"
            " compared with the first one.",
        ),
    ],
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="ADDRESS",
            help="A device to measure on; 'android:*' stands for all of them that are ready."
            " Repeatable. cpu if not given.",
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="LIST", help="Precisions to measure in, such as fp32,int8.")
    ] = "fp32",
    threads: Annotated[
        str, typer.Option(metavar="LIST", help="Numbers of threads, such as 1,2.")
    ] = "1",
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Batch sizes, such as 1,8; that of the models if not given."
        ),
    ] = None,
    isolate: IsolateOption = False,
    budget: BudgetOption = None,
    seed: SeedOption = 0,
    wait: WaitOption = None,  # noqa: ARG001 - acts by its callback
    min_effect: MinEffectOption = None,
    lab: LabOption = None,
    data: DataOption = None,
    evaluate: EvaluateOption = None,
    keeping: Keeping,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Begin anew, also where an earlier run was interrupted."),
    ] = False,
    csv: Annotated[
        str | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Also write a line for each cell to this file.",
            callback=writable,
            rich_help_panel="Output",
        ),
    ] = None,
    fail_on: FailOnOption = None,
    junit: JunitOption = None,
) -> int:
    """Measure many models on many devices, each beside the first one.

    There is a column for each combination of device, precision, threads and batch. --budget is for
    each cell. What cannot run is a cell that says why. Each model also runs once beside the first
    one on the same inputs, and what computes something else is told. After an interruption, the
    same command goes on where it stopped.

    Exit codes: 0 if every cell was measured, else that of the worst error; 1 if a rule holds in a
    cell. --fail-on accepts the fields latency_s, speedup, accuracy_drop and agreement; only the
    first of them is asked of the first model.
    """
    rules = [parse_rule(text, MATRIX_FIELDS) for text in fail_on or ()]
    for rule in rules:
        if rule.field == "accuracy_drop" and data is None and evaluate is None:
            raise UsageError(f"--fail-on {rule} needs images to evaluate the models on: --data")
    from hwbench.cli.matrix_progress import show_cells
    from hwbench.render import matrix as render
    from hwbench.render.junit import matrix_junit
    from hwbench.render.units import plural
    from hwbench.workflows.matrix import DEFAULT_SETTINGS, measure_matrix

    settings = replace(
        DEFAULT_SETTINGS,
        isolate=isolate,
        budget_s=DEFAULT_SETTINGS.budget_s if budget is None else budget,
        seed=seed,
        min_effect=DEFAULT_SETTINGS.min_effect if min_effect is None else min_effect,
    )
    with show_cells(keeping) as progress:
        matrix = measure_matrix(
            models,
            devices=device or ["cpu"],
            precisions=precisions(precision),
            threads=counts(threads),
            batches=(None,) if batch is None else counts(batch),
            settings=settings,
            forget=forget,
            data=data,
            evaluate=evaluate,
            callback=progress,
            open_device=None if lab is None else workplace(lab).open_meter,
            **source.arguments(),
            **keeping.arguments(),
        )
    broken = _find_broken_rules(matrix, rules)
    if csv is not None:
        write_file(csv, render.matrix_csv(matrix), "the CSV")
    if junit is not None:
        write_file(junit, matrix_junit(matrix, broken), "the JUnit XML")
    lines = [
        f"{render.describe_cell(cell)}: {text}"
        for cell, texts in zip(matrix.cells, broken, strict=True)
        for text in texts
    ]
    deliver(output, render.matrix_view(matrix, lines), render.matrix_document(matrix))
    errors = [cell.error for cell in matrix.cells if cell.error is not None]
    if not errors:
        return report(lines, 1)
    failed = f"{len(errors)} of {plural(len(matrix.cells), 'cell')} could not be measured"
    return report([*lines, failed], max(error.exit_code for error in errors))


def _find_broken_rules(matrix: Matrix, rules: Sequence[Rule]) -> list[list[str]]:
    """What the rules refuse, cell by cell; cells that failed are refused already."""
    from hwbench.render.matrix import cell_document

    broken: list[list[str]] = []
    for cell in matrix.cells:
        asked = rules
        if cell.model == matrix.models[0]:
            asked = [rule for rule in rules if rule.field not in RELATIVE_FIELDS]
        values = cell_document(cell)
        values["accuracy_drop"] = values["quality_drop"]
        broken.append([] if cell.error is not None else hits(asked, values))
    return broken
