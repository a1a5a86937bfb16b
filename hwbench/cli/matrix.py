"""`hwbench matrix`: many models on many devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from hwbench.cli.delivery import deliver, report, write_file
from hwbench.cli.lab import workplace
from hwbench.cli.options import (
    BudgetOption,
    IsolateOption,
    JunitOption,
    Keeping,
    LabOption,
    MinEffectOption,
    ModelFiles,
    Output,
    Precision,
    SeedOption,
    options,
    writable,
)


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
    min_effect: MinEffectOption = None,
    lab: LabOption = None,
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
    junit: JunitOption = None,
) -> int:
    """Measure many models on many devices, each beside the first one.

    There is a column for each combination of device, precision, threads and batch. --budget is for
    each cell. What cannot run is a cell that says why. After an interruption, the same command goes
    on where it stopped.

    Exit codes: 0 if every cell was measured, else that of the worst error.
    """
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
            callback=progress,
            open_device=None if lab is None else workplace(lab).open_meter,
            **source.arguments(),
            **keeping.arguments(),
        )
    if csv is not None:
        write_file(csv, render.matrix_csv(matrix), "the CSV")
    if junit is not None:
        write_file(junit, matrix_junit(matrix), "the JUnit XML")
    deliver(output, render.matrix_view(matrix), render.matrix_document(matrix))
    errors = [cell.error for cell in matrix.cells if cell.error is not None]
    if not errors:
        return 0
    failed = f"{len(errors)} of {plural(len(matrix.cells), 'cell')} could not be measured"
    return report([failed], max(error.exit_code for error in errors))
