"""`hwbench table`: lookup tables of layer latencies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.delivery import deliver, report
from hwbench.cli.lab import workplace
from hwbench.cli.options import (
    FailOnOption,
    Keeping,
    LabOption,
    ModelSource,
    Output,
    Protocol,
    StoreOption,
    VerboseOption,
    options,
    share,
    writable,
)
from hwbench.cli.rules import Rule, hits, parse_rule
from hwbench.network.widths import DEFAULT_LOWER, DEFAULT_STEP
from hwbench.workflows.defaults import (
    DEFAULT_MODEL,
    GRADING_NETWORKS,
    RECALIBRATION_NETWORKS,
    TABLE_BUDGET_S,
    VALIDATION_NETWORKS,
)

if TYPE_CHECKING:
    from hwbench.workflows.build_table import BuiltTable

table_app = typer.Typer(
    help=(
        "Build and use lookup tables. A table knows the latency of every layer that pruning a model"
        " can produce on one device, so it predicts pruned models without measuring them."
    ),
    epilog="Example: hwbench table build zoo:mobilenet_v1",
)

BUILD_FIELDS = ("cross_validated_rmspe",)
GRADE_FIELDS = ("mean_error", "p95_error", "rmspe", "within_5", "within_10", "rank", "coverage")

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help=(
            "The model: a path (.onnx, .pt, .pt2), zoo:NAME, or module:factory."
            f" Without one: {DEFAULT_MODEL}."
        ),
        show_default=False,
    ),
]
TableArgument = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help=(
            "The table: the address of its device, the name it was imported under, the beginning of"
            " its id, or pixel1, which hwbench brings along."
        ),
    ),
]
FORMATS = ("tflite-log", "ort-profile", "trtexec", "ofa-yaml")
PlotOption = Annotated[
    str | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw predicted against measured latencies into this .png, .pdf or .svg file.",
        callback=writable,
    ),
]
TableOption = Annotated[
    str | None,
    typer.Option(
        "--table",
        metavar="ID",
        help=(
            "The table to use, as hwbench table list shows it. Without one: the newest table of the"
            " device."
        ),
    ),
]


@table_app.callback(invoke_without_command=True)
def _tables(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@table_app.command(
    epilog="Example: hwbench table build zoo:mobilenet_v1 --device cpu --widths auto"
)
@options
def build(
    *,
    source: ModelSource,
    how: Protocol,
    keeping: Keeping,
    output: Output,
    model: ModelArgument = None,
    lab: LabOption = None,
    widths: Annotated[
        str,
        typer.Option(
            metavar="STEP",
            help=(
                "Pruned widths are multiples of this number. With auto, the channel step of the"
                " device is measured first and used."
            ),
        ),
    ] = str(DEFAULT_STEP),
    lower: Annotated[
        float,
        typer.Option(
            parser=share,
            metavar="SHARE",
            help="The smallest share of its channels that a layer keeps: 0.2 or 20%.",
        ),
    ] = DEFAULT_LOWER,
    validation: Annotated[
        int,
        typer.Option(
            min=0,
            help=(
                "After the build, predict and measure this many other pruned networks, to say how"
                " good the table is."
            ),
        ),
    ] = GRADING_NETWORKS,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Start anew: use nothing that was measured on the device before."
        ),
    ] = False,
    picture: PlotOption = None,
    fail_on: FailOnOption = None,
) -> int:
    """Measure pruned versions of a model on a device, and build its lookup table from them.

    Building takes about a minute, or what --budget says. After an interruption, the same command
    goes on where it stopped.

    Fields of --fail-on: cross_validated_rmspe, mean_error, p95_error, rmspe, within_5, within_10,
    rank, coverage.
    """
    rules = [parse_rule(text, BUILD_FIELDS + GRADE_FIELDS) for text in fail_on or ()]
    from hwbench.cli.table_progress import show_table
    from hwbench.records.measurement import Settings

    model = model or DEFAULT_MODEL
    with show_table(model, keeping) as progress:
        outcome = workplace(lab).build_table(
            model,
            device=how.device,
            widths=widths,
            lower=lower,
            settings=how.settings(Settings(budget_s=TABLE_BUDGET_S)),
            validation=validation,
            forget=forget,
            callback=progress,
            **source.arguments(),
            **keeping.arguments(),
        )
    return _show_outcome(output, outcome, rules, picture)


@table_app.command(
    epilog="Example: hwbench table validate zoo:mobilenet_v1 --device cpu --networks 40"
)
@options
def validate(
    *,
    source: ModelSource,
    how: Protocol,
    keeping: Keeping,
    output: Output,
    model: ModelArgument = None,
    table: TableOption = None,
    networks: Annotated[
        int, typer.Option(min=1, help="How many pruned networks to predict and measure.")
    ] = VALIDATION_NETWORKS,
    picture: PlotOption = None,
    fail_on: FailOnOption = None,
) -> int:
    """Find out how good a table is: predict pruned networks it has not seen, and measure them.

    The networks are drawn at random and measured end to end. The table keeps the grade.

    Fields of --fail-on: mean_error, p95_error, rmspe, within_5, within_10, rank, coverage.
    """
    from hwbench.workflows.build_table import validate_table

    rules = [parse_rule(text, GRADE_FIELDS) for text in fail_on or ()]
    outcome = _measure_with_table(
        validate_table, model, table, networks, source=source, how=how, keeping=keeping
    )
    return _show_outcome(output, outcome, rules, picture)


@table_app.command(epilog="Example: hwbench table recalibrate zoo:mobilenet_v1 --device cpu")
@options
def recalibrate(
    *,
    source: ModelSource,
    how: Protocol,
    keeping: Keeping,
    output: Output,
    model: ModelArgument = None,
    table: TableOption = None,
    networks: Annotated[
        int, typer.Option(min=1, help="How many pruned networks to measure for it.")
    ] = RECALIBRATION_NETWORKS,
    picture: PlotOption = None,
    fail_on: FailOnOption = None,
) -> int:
    """Bring a table up to date after a reboot or an update of the driver.

    A few random pruned networks are measured, and the whole table is scaled to what they take now.
    That takes seconds, where a new build takes a minute.

    Fields of --fail-on: mean_error, p95_error, rmspe, within_5, within_10, rank, coverage.
    """
    from hwbench.workflows.build_table import recalibrate_table

    rules = [parse_rule(text, GRADE_FIELDS) for text in fail_on or ()]
    outcome = _measure_with_table(
        recalibrate_table, model, table, networks, source=source, how=how, keeping=keeping
    )
    return _show_outcome(output, outcome, rules, picture)


def _measure_with_table(
    workflow: Callable[..., BuiltTable],
    model: str | None,
    table: str | None,
    networks: int,
    *,
    source: ModelSource,
    how: Protocol,
    keeping: Keeping,
) -> BuiltTable:
    """Measure held-out networks of a model with a table that exists."""
    from hwbench.cli.table_progress import show_table
    from hwbench.records.measurement import Settings

    model = model or DEFAULT_MODEL
    with show_table(model, keeping) as progress:
        return workflow(
            model,
            table=table,
            device=how.device,
            settings=how.settings(Settings()),
            networks=networks,
            callback=progress,
            **source.arguments(),
            **keeping.arguments(),
        )


def _show_outcome(
    output: Output, outcome: BuiltTable, rules: list[Rule], picture: str | None
) -> int:
    """Show what came of a build or a validation, draw it if asked, and check the rules."""
    from hwbench.render import tables
    from hwbench.render.table_plots import plot_validation

    if picture is not None and outcome.validation is not None:
        plot_validation(outcome.validation, Path(picture))
    document = tables.built_document(outcome)
    deliver(output, tables.built_view(outcome), document)
    return report(hits(rules, document | (document["grade"] or {})), 1)


@table_app.command("list", epilog="Example: hwbench table list")
@options
def table_list(output: Output, store: StoreOption = None) -> int:
    """List the tables in the store, oldest first, and those that hwbench brings along."""
    from hwbench.lookup_tables.repository import list_tables
    from hwbench.render import tables
    from hwbench.store import DamagedRecord, open_store

    damaged: list[DamagedRecord] = []
    with open_store(store) as opened:
        listed = list_tables(opened, damaged)
    deliver(output, tables.list_view(listed), tables.list_document(listed))
    return report([str(record) for record in damaged], 2)


@table_app.command(epilog="Example: hwbench table show pixel1")
@options
def show(
    output: Output,
    table: TableArgument = "cpu",
    store: StoreOption = None,
) -> int:
    """Show how good a table is, its channel steps, its layers and where it came from.

    With --json, the file holds the whole table.
    """
    from hwbench.lookup_tables.repository import find_table
    from hwbench.render import tables
    from hwbench.store import open_store

    with open_store(store) as opened:
        shown = find_table(opened, table)
    return deliver(output, tables.table_view(shown), tables.table_document(shown))


@table_app.command(epilog="Example: hwbench table predict a.onnx b.onnx --table cpu --table pixel1")
@options
def predict(
    *,
    source: ModelSource,
    output: Output,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help=(
                "The models: paths (.onnx, .pt, .pt2), zoo:NAME, or module:factory."
                f" Without one: {DEFAULT_MODEL}."
            ),
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            metavar="TABLE",
            help=(
                "A table to ask: the address of its device, its name or id, or a file of hwbench"
                " table export. Repeatable. Without one: cpu."
            ),
        ),
    ] = None,
    extrapolate: Annotated[
        bool,
        typer.Option(
            "--extrapolate",
            help="Also predict layers outside the measured range, with a wider interval.",
        ),
    ] = False,
    store: StoreOption = None,
) -> int:
    """Predict the latency of models with lookup tables, without the devices.

    For one model and one table, the layers are shown too. For several, what cannot be predicted is
    named below the others, and the exit code is 2.
    """
    from hwbench.render import tables
    from hwbench.workflows.predict import predict as predict_one
    from hwbench.workflows.predict import predict_each

    models, names = models or [DEFAULT_MODEL], table or ["cpu"]
    asked = {"extrapolate": extrapolate, "store": store, **source.arguments()}
    if len(models) == len(names) == 1:
        prediction = predict_one(models[0], table=names[0], **asked)
        view = tables.prediction_view(prediction)
        return deliver(output, view, tables.prediction_document(prediction))
    cells = predict_each(models, names, **asked)
    deliver(output, tables.predictions_view(cells), tables.predictions_document(cells))
    failed = sum(cell.error is not None for cell in cells)
    if not failed:
        return 0
    return report([f"{failed} of {len(cells)} predictions could not be made"], 2)


@table_app.command("export", epilog="Example: hwbench table export cpu --out cpu.hwtable")
@options
def table_export(
    *,
    output: Output,
    table: TableArgument = "cpu",
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The file to write. Without it: a file named after the device.",
            callback=writable,
            show_default=False,
        ),
    ] = None,
    store: StoreOption = None,
) -> int:
    """Write a table into one small file, which hwbench table import reads on any computer."""
    from hwbench.render import tables
    from hwbench.render.blocks import Line
    from hwbench.workflows.table_files import export_table

    outcome = export_table(table, out=out, store=store)
    hint = Line(f"hwbench table import {outcome.path}", "dim")
    view = [*tables.exported_view(outcome), hint]
    return deliver(output, view, tables.exported_document(outcome))


@table_app.command(
    "import",
    epilog=(
        "Example: hwbench table import tflite-log run1.txt run2.txt --model pruned.onnx --name"
        " phone"
    ),
)
@options
def table_import(
    *,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[FORMAT] FILE",
            help=(
                "One table that was exported, or all files about one network from another tool."
                f" FORMAT says what they are ({', '.join(FORMATS)}); without it, their"
                " content does."
            ),
        ),
    ],
    source: ModelSource,
    output: Output,
    keeping: Keeping,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="The model that was measured, for files that hold no shapes.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="The name to find the table by. Without it: the name of the folder of the files.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="The hardware that other tools' files are from, for people."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, help="Threads of the runtime, where the files do not tell them."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="ADDRESS",
            help="Refuse the table unless it was made for this device.",
        ),
    ] = None,
) -> int:
    """Read a table that was exported, or what another tool measured of one network.

    Networks that are imported under one name make up one table: each import adds one.
    """
    from hwbench.render import tables
    from hwbench.render.blocks import Line
    from hwbench.workflows.table_files import import_table

    given = files[0] if files[0] in FORMATS and len(files) > 1 else None
    outcome = import_table(
        files[1:] if given else files,
        format=given,
        model=model,
        name=name,
        target=target,
        threads=threads,
        device=device,
        **source.arguments(),
        **keeping.arguments(),
    )
    hint = Line(f"hwbench table predict MODEL --table {outcome.name}", "dim")
    view = [*tables.imported_view(outcome), hint]
    return deliver(output, view, tables.imported_document(outcome))


@table_app.command(epilog="Example: hwbench table plot pixel1 --out pixel1.png")
@options
def plot(
    *,
    table: TableArgument = "cpu",
    out: Annotated[
        str,
        typer.Option("--out", metavar="FILE", help="The .png, .pdf or .svg file to draw into."),
    ] = "table.png",
    store: StoreOption = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Draw latency against width for the layers of a table that take longest."""
    from hwbench.lookup_tables.repository import find_table
    from hwbench.render.table_plots import plot_table
    from hwbench.store import open_store

    with open_store(store) as opened:
        shown = find_table(opened, table)
    plot_table(shown, Path(out))
    typer.echo(f"written to {out}")
    return 0
