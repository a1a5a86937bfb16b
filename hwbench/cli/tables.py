"""`hwbench table`: lookup tables of layer latencies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.delivery import deliver, report
from hwbench.cli.options import FailOnOption, Keeping, Output, Protocol, Source, StoreOption, VerboseOption, options, share
from hwbench.cli.rules import hits, parse_rule

table_app = typer.Typer(
    help="Latency of every layer that pruning a model can produce.", epilog="Example: hwbench table build zoo:mobilenet_v1"
)

BUILD_FIELDS = ("cross_validated_rmspe",)
GRADE_FIELDS = ("mean_error", "p95_error", "rmspe", "within_5", "within_10", "rank", "coverage")

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="A path (.onnx, .pt, .pt2), zoo:NAME, or module:factory. Else zoo:mobilenet_v1.", show_default=False
    ),
]
TableOption = Annotated[
    str | None,
    typer.Option("--table", metavar="ID", help="Address of a device, for its newest table, or the beginning of an id."),
]


@table_app.callback(invoke_without_command=True)
def _tables(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@table_app.command(epilog="Example: hwbench table build zoo:mobilenet_v1 --device cpu --widths auto")
@options
def build(
    *,
    source: Source,
    how: Protocol,
    keeping: Keeping,
    output: Output,
    model: ModelArgument = None,
    widths: Annotated[str, typer.Option(metavar="STEP", help="Pruned widths are multiples of it; auto finds it first.")] = "8",
    lower: Annotated[float, typer.Option(parser=share, metavar="SHARE", help="Smallest share of a width.")] = 0.2,
    validation: Annotated[int, typer.Option(min=0, help="Held-out networks that grade the table.")] = 10,
    forget: Annotated[bool, typer.Option("--forget", help="Leave out what was measured on the device before.")] = False,
    fail_on: FailOnOption = None,
) -> int:
    """Build the table of a model; killed, the same command goes on where it stopped. Takes 60 s if --budget is not given.

    Fields of --fail-on: cross_validated_rmspe, mean_error, p95_error, rmspe, within_5, within_10, rank, coverage.
    """
    rules = [parse_rule(text, BUILD_FIELDS + GRADE_FIELDS) for text in fail_on or ()]
    from hwbench.cli.table_progress import TableProgress
    from hwbench.measurement import Settings
    from hwbench.render import tables
    from hwbench.workflows.build_table import DEFAULT_BUDGET_S, DEFAULT_MODEL, build_table

    model = model or DEFAULT_MODEL
    with TableProgress(model, keeping) as watch:
        outcome = build_table(
            model,
            device=how.device,
            widths=widths,
            lower=lower,
            settings=how.settings(Settings(budget_s=DEFAULT_BUDGET_S)),
            validation=validation,
            forget=forget,
            watch=watch,
            **source.arguments(),
            **keeping.arguments(),
        )
    document = tables.built_document(outcome)
    deliver(output, tables.built_view(outcome), document)
    return report(hits(rules, document | (document["grade"] or {})), 1)


@table_app.command(epilog="Example: hwbench table validate zoo:mobilenet_v1 --device cpu --networks 40")
@options
def validate(
    *,
    source: Source,
    how: Protocol,
    keeping: Keeping,
    output: Output,
    model: ModelArgument = None,
    table: TableOption = None,
    networks: Annotated[int, typer.Option(min=1, help="Held-out networks.")] = 40,
    fail_on: FailOnOption = None,
) -> int:
    """Predict random pruned networks that the table has not seen, and measure them end to end.

    Fields of --fail-on: mean_error, p95_error, rmspe, within_5, within_10, rank, coverage.
    """
    rules = [parse_rule(text, GRADE_FIELDS) for text in fail_on or ()]
    from hwbench.cli.table_progress import TableProgress
    from hwbench.measurement import Settings
    from hwbench.render import tables
    from hwbench.workflows.build_table import DEFAULT_MODEL, validate_table

    model = model or DEFAULT_MODEL
    with TableProgress(model, keeping) as watch:
        outcome = validate_table(
            model,
            table=table,
            device=how.device,
            settings=how.settings(Settings()),
            networks=networks,
            watch=watch,
            **source.arguments(),
            **keeping.arguments(),
        )
    document = tables.built_document(outcome)
    deliver(output, tables.built_view(outcome), document)
    return report(hits(rules, document["grade"]), 1)


@table_app.command(epilog="Example: hwbench table show cpu")
@options
def show(
    output: Output,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Address of a device, or the beginning of an id.")] = "cpu",
    store: StoreOption = None,
) -> int:
    """Show a table: its grades, channel steps, layers and where it came from; its JSON is the whole table."""
    from hwbench.lookup_tables.keeping import find_table
    from hwbench.render import tables
    from hwbench.store import open_store

    with open_store(store) as opened:
        found = find_table(opened, table)
    return deliver(output, tables.table_view(found), tables.table_document(found))


@table_app.command(epilog="Example: hwbench table predict pruned.onnx --table cpu")
@options
def predict(
    *,
    source: Source,
    output: Output,
    model: ModelArgument = None,
    table: TableOption = None,
    extrapolate: Annotated[bool, typer.Option("--extrapolate", help="Answer outside the measured range too.")] = False,
    store: StoreOption = None,
) -> int:
    """Predict the latency of a model without its device."""
    from hwbench.render import tables
    from hwbench.workflows.build_table import DEFAULT_MODEL, predict_latency

    model = model or DEFAULT_MODEL
    prediction, parts = predict_latency(model, table=table or "cpu", extrapolate=extrapolate, store=store, **source.arguments())
    return deliver(output, tables.prediction_view(model, prediction, parts), tables.prediction_document(model, prediction, parts))


@table_app.command(epilog="Example: hwbench table plot cpu --out cpu.png")
@options
def plot(
    *,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Address of a device, or the beginning of an id.")] = "cpu",
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="A .png, .pdf or .svg file.")] = "table.png",
    store: StoreOption = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Draw latency against width for the heaviest layers of a table."""
    from hwbench.lookup_tables.keeping import find_table
    from hwbench.render.table_plots import plot_table
    from hwbench.store import open_store

    with open_store(store) as opened:
        found = find_table(opened, table)
    plot_table(found, Path(out))
    typer.echo(f"written to {out}")
    return 0
