"""The commands: parse, one workflow, render, exit code.

Workflows are imported when a command runs, so that help is instant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import hwbench
from hwbench.cli.cache import cache_app
from hwbench.cli.delivery import deliver, report, report_verdict, write_file, write_json
from hwbench.cli.devices import devices_app
from hwbench.cli.export import export_command
from hwbench.cli.history import history_command
from hwbench.cli.lab import lab_app, workplace
from hwbench.cli.matrix import matrix_command
from hwbench.cli.options import (
    CandidatePrecisionOption,
    DataOption,
    DeviceOption,
    EvaluateOption,
    FailOnOption,
    JunitOption,
    Keeping,
    LabOption,
    MinEffectOption,
    ModelSource,
    NoLayersOption,
    Output,
    Protocol,
    SustainOption,
    ThreadsOption,
    duration,
    options,
)
from hwbench.cli.quantize import quantize_command
from hwbench.cli.report import report_command
from hwbench.cli.rules import Rule, hits, parse_rule
from hwbench.cli.search import search_app
from hwbench.cli.store import store_app
from hwbench.cli.tables import table_app
from hwbench.cli.tflite import Tflite
from hwbench.errors import Argument, IncomparableError, UsageError

if TYPE_CHECKING:
    from hwbench.records.comparison import Comparison

ORDER = ["profile", "compare", "matrix", "table", "search", "quantize", "history"]
ORDER += ["report", "store", "export", "devices", "doctor", "selftest", "cache", "lab"]
"""The commands as `hwbench --help` lists them: what everybody uses first."""


class _Commands(TyperGroup):
    """The group of all commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in the order of `ORDER`."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    cls=_Commands,
    help="How fast is this network on that device, and what would a smaller one gain?",
    epilog="Example: hwbench compare resnet18.onnx pruned.onnx",
)
app.add_typer(cache_app, name="cache")
app.add_typer(devices_app, name="devices")
app.add_typer(lab_app, name="lab")
app.add_typer(table_app, name="table")
app.add_typer(search_app, name="search")
app.add_typer(store_app, name="store")
app.command(
    "matrix", epilog="Example: hwbench matrix a.onnx b.onnx --precision fp32,int8 --threads 1,2"
)(matrix_command)
app.command("export", epilog="Example: hwbench export 3f9c1a --to chrome-trace -o layers.json")(
    export_command
)
app.command("history", epilog='Example: hwbench history net.onnx --fail-on "slowdown>1.03"')(
    history_command
)
app.command(
    "quantize", epilog="Example: hwbench quantize net.onnx --data photos/ --out net.int8.onnx"
)(quantize_command)
app.command("report", epilog="Example: hwbench report --since 7d -o report.html")(report_command)

START_FIELDS = ("load_s", "first_run_s", "peak_memory_bytes")
TAIL_FIELDS = ("p50_s", "p90_s", "p95_s", "p99_s", "worst_s")
PROFILE_FIELDS = ("median_s", "macs", "params", "closure", *START_FIELDS, *TAIL_FIELDS, "slowdown")
LIKENESS_FIELDS = ("accuracy_drop", "agreement")
RATIO_FIELDS = ("speedup", "macs_ratio", "params_ratio")
CANDIDATE_MEDIAN = "candidate_median_s"
COMPARE_FIELDS = (
    *RATIO_FIELDS,
    CANDIDATE_MEDIAN,
    *LIKENESS_FIELDS,
    *START_FIELDS,
    *TAIL_FIELDS,
    "steady_speedup",
)
LOAD_FIELDS = ("slowdown", "steady_speedup")
SELFTEST_FIELDS = ("false_verdicts", "noise_floor")
RECORD_ID = re.compile(r"[0-9a-f]{6,32}")
"""What the id of a stored measurement, or the beginning of it, looks like."""
MODEL_HELP = (
    "A file (.onnx, .pt, .pt2, .safetensors, .tflite), a folder of Hugging Face, zoo:NAME, or"
    " package.module:factory."
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"hwbench {hwbench.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    _help_alone(context)


def _help_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog="Example: hwbench doctor --device cpu --ceilings")
@options
def doctor(
    *,
    output: Output,
    keeping: Keeping,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 1,
    ceilings: Annotated[
        bool,
        typer.Option(
            "--ceilings",
            help="Also measure the most multiply-accumulates and bytes a second that it can do, in"
            " each precision. profile then says how far each layer is from them.",
        ),
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="SECONDS",
            help="The time that measuring the ceilings should take; 40 if not given.",
        ),
    ] = None,
) -> int:
    """Check a device for what would spoil measurements, and say how to fix it."""
    from hwbench.cli.progress import show_measuring
    from hwbench.render import documents, views
    from hwbench.workflows.ceilings import DEFAULT_BUDGET_S, measure_ceilings

    if budget is not None and not ceilings:
        raise UsageError("--budget is the time that measuring ceilings takes; add --ceilings")
    diagnosis, measured = hwbench.doctor(device, threads), None
    if ceilings:
        with show_measuring(device, keeping):
            measured = measure_ceilings(
                device,
                threads=threads,
                budget_s=DEFAULT_BUDGET_S if budget is None else budget,
                **keeping.arguments(),
            )
    view = views.doctor_view(diagnosis, measured)
    return deliver(output, view, documents.doctor_document(diagnosis, measured))


@app.command(epilog="Example: hwbench profile zoo:resnet18 --device cpu --json resnet18.json")
@options
def profile(
    *,
    source: ModelSource,
    how: Protocol,
    tflite: Tflite,
    keeping: Keeping,
    output: Output,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help=f"{MODEL_HELP} zoo:mobilenet_v1 if not given.", show_default=False
        ),
    ] = None,
    lab: LabOption = None,
    no_layers: NoLayersOption = False,
    sustain: SustainOption = None,
    fail_on: FailOnOption = None,
) -> int:
    """Measure the latency of one model, end to end and layer by layer.

    --fail-on accepts the fields median_s, macs, params, closure, load_s, first_run_s,
    peak_memory_bytes, with --tail p50_s, p90_s, p95_s, p99_s and worst_s, and with --sustain
    slowdown.
    """
    fields = tuple(field for field in PROFILE_FIELDS if field != "closure" or not no_layers)
    rules = [parse_rule(text, fields) for text in fail_on or ()]
    _check_tail_rules(rules, how)
    _check_load_rules(rules, sustain)
    from hwbench.cli.progress import show_measuring
    from hwbench.render import documents, views
    from hwbench.workflows.ceilings import find_ceilings
    from hwbench.workflows.defaults import DEFAULT_MODEL
    from hwbench.workflows.profile import DEFAULT_SETTINGS

    model = model or DEFAULT_MODEL
    settings = how.settings(DEFAULT_SETTINGS, layers=not no_layers, sustain=sustain)
    with show_measuring(model, keeping) as progress:
        if tflite.measures(model, how.device):
            if sustain is not None:
                raise UsageError(
                    f"{model} is measured by TensorFlow Lite's own program, which runs for as long"
                    " as it likes; leave out --sustain"
                )
            if lab is not None:
                raise UsageError(
                    f"{model} is measured by TensorFlow Lite's own program, which no lab runs;"
                    " leave out --lab"
                )
            record = tflite.profile(
                model, source, how, keeping=keeping, settings=settings, callback=progress
            )
        else:
            record = workplace(lab).profile(
                model,
                device=how.device,
                settings=settings,
                callback=progress,
                **source.arguments(),
                **keeping.arguments(),
            )
    ceilings = find_ceilings(keeping.store, record)
    document = documents.profile_document(record, ceilings)
    view = views.profile_view(record, saved=not keeping.no_save, ceilings=ceilings)
    deliver(output, view, document)
    return report(hits(rules, document), 1)


@app.command(epilog='Example: hwbench compare resnet18.pt2 pruned.pt2 --fail-on "speedup<1.3"')
@options
def compare(
    *,
    source: ModelSource,
    how: Protocol,
    keeping: Keeping,
    output: Output,
    baseline: Annotated[
        str,
        typer.Argument(metavar="BASELINE", help=f"{MODEL_HELP} Or the id of a stored measurement."),
    ],
    candidate: Annotated[
        str | None,
        typer.Argument(
            metavar="CANDIDATE",
            help="The model that should be faster, given like BASELINE. With --against, the only"
            " one.",
            show_default=False,
        ),
    ] = None,
    candidate_device: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The --device of the candidate, if it differs: another runtime here.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="TAG",
            help="The baseline is the model that hwbench store tag kept under this name. It is"
            " measured again, beside the candidate.",
        ),
    ] = None,
    candidate_precision: CandidatePrecisionOption = None,
    data: DataOption = None,
    evaluate: EvaluateOption = None,
    candidate_arch: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FACTORY", help="The --arch of the candidate, if it differs."),
    ] = None,
    lab: LabOption = None,
    no_layers: NoLayersOption = False,
    sustain: SustainOption = None,
    all_layers: Annotated[
        bool,
        typer.Option("--all-layers", help="Show every layer, not only those that differ most."),
    ] = False,
    min_effect: MinEffectOption = None,
    fail_on: FailOnOption = None,
    junit: JunitOption = None,
) -> int:
    """Measure two models interleaved: how much faster the candidate is, and why.

    Two ids of stored measurements are compared as they are; unless they were interleaved, there is
    no verdict.

    Exit codes: 0 for FASTER or SAME, 1 for SLOWER or if a rule holds, 2 for INCOMPARABLE, 5 for
    UNRESOLVED. --fail-on accepts the fields speedup, macs_ratio, params_ratio, candidate_median_s,
    accuracy_drop and agreement, of the candidate load_s, first_run_s, peak_memory_bytes, with
    --tail p50_s, p90_s, p95_s, p99_s and worst_s, and with --sustain steady_speedup; shares also in
    percent, as in "accuracy_drop>1%".
    """
    rules = [parse_rule(text, COMPARE_FIELDS) for text in fail_on or ()]
    _check_tail_rules(rules, how)
    _check_load_rules(rules, sustain)
    for rule in rules:
        if rule.field == "accuracy_drop" and data is None and evaluate is None:
            raise UsageError(f"--fail-on {rule} needs images to evaluate both models on: --data")
    from hwbench.cli.progress import show_measuring
    from hwbench.render import documents
    from hwbench.workflows.compare import compare_records
    from hwbench.workflows.tags import load_tagged

    if against is None and candidate is not None and _are_records(baseline, candidate):
        outcome = compare_records(baseline, candidate, store=keeping.store)
        return _show_comparison(
            output, outcome, rules, all_layers=all_layers, saved=True, junit=junit
        )
    reference, name = _choose_sides(baseline, candidate, against)
    settings = how.settings(
        hwbench.Settings(), layers=not no_layers, min_effect=min_effect, sustain=sustain
    )
    if any(rule.field in {"speedup", CANDIDATE_MEDIAN} for rule in rules):
        # Whether it is faster at all is known long before its speed is known to a limit.
        settings = replace(settings, stop_at_difference=False)
    try:
        with show_measuring(f"{reference} and {name}", keeping) as progress:
            outcome = workplace(lab).compare(
                reference if against is None else load_tagged(against, store=keeping.store),
                name,
                device=how.device,
                candidate_device=candidate_device,
                candidate_precision=(
                    None if candidate_precision is None else candidate_precision.value
                ),
                candidate_arch=candidate_arch,
                data=data,
                evaluate=evaluate,
                settings=settings,
                callback=progress,
                **source.arguments(),
                **keeping.arguments(),
            )
    except IncomparableError as error:
        write_json(output, documents.incomparable_document(error))
        raise
    saved = not keeping.no_save
    return _show_comparison(output, outcome, rules, all_layers=all_layers, saved=saved, junit=junit)


def _are_records(*names: str) -> bool:
    """Whether all of them look like ids of stored measurements, and are no files."""
    return all(RECORD_ID.fullmatch(name) and not Path(name).exists() for name in names)


def _choose_sides(baseline: str, candidate: str | None, against: str | None) -> tuple[str, str]:
    """Names of the baseline and of the candidate.

    Raises:
        UsageError: There are too many models, or too few.
    """
    if against is not None:
        if candidate is not None:
            raise UsageError(
                f"the baseline is what was tagged {against!r}, so one model is enough, not"
                f" {baseline} and {candidate}"
            )
        return against, baseline
    if candidate is None:
        raise UsageError(
            f"nothing to compare {baseline} with; name a CANDIDATE, or a tagged baseline",
            Argument("against", purpose="such as main"),
        )
    return baseline, candidate


def _show_comparison(
    output: Output,
    outcome: Comparison,
    rules: Sequence[Rule],
    *,
    all_layers: bool,
    saved: bool,
    junit: str | None,
) -> int:
    """Show a comparison, and check the rules."""
    from hwbench.render import comparing, documents
    from hwbench.render.junit import comparison_junit

    document = documents.compare_document(outcome)
    of_candidate = {field: document["candidate"][field] for field in START_FIELDS + TAIL_FIELDS}
    of_candidate[CANDIDATE_MEDIAN] = document["candidate"]["median_s"]
    broken = hits(rules, {**document, **of_candidate})
    view = comparing.compare_view(
        outcome, all_layers=all_layers, layers_hint="--all-layers", saved=saved, broken_rules=broken
    )
    if junit is not None:
        write_file(junit, comparison_junit(outcome, broken), "the JUnit XML")
    deliver(output, view, document)
    return report_verdict(outcome, broken)


@app.command(epilog="Example: hwbench selftest --device cpu --runs 10")
@options
def selftest(
    *,
    how: Protocol,
    output: Output,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The model to compare with itself; zoo:resnet20 if not given."
        ),
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="The number of comparisons; 5 if not given.")
    ] = None,
    min_effect: MinEffectOption = None,
    fail_on: FailOnOption = None,
) -> int:
    """Compare a model with itself, to learn the smallest difference that a device can show.

    Also counts false verdicts: differences that were found where there are none. --fail-on accepts
    the fields false_verdicts and noise_floor.
    """
    rules = [parse_rule(text, SELFTEST_FIELDS) for text in fail_on or ()]
    from hwbench.cli.progress import show_measuring
    from hwbench.render import documents, views
    from hwbench.workflows.selftest import DEFAULT_BUDGET_S, DEFAULT_MODEL, DEFAULT_RUNS

    model, runs = model or DEFAULT_MODEL, runs or DEFAULT_RUNS
    settings = how.settings(hwbench.Settings(budget_s=DEFAULT_BUDGET_S), min_effect=min_effect)
    with show_measuring(model, Keeping(no_save=True)) as progress:
        progress.say(f"comparison 1 of {runs}")
        outcome = hwbench.selftest(
            device=how.device,
            model=model,
            runs=runs,
            settings=settings,
            callback=progress,
            after_each=lambda done, _: progress.say(f"comparison {done + 1} of {runs}"),
        )
    document = documents.selftest_document(outcome)
    deliver(output, views.selftest_view(outcome), document)
    return report(hits(rules, document), 1)


def _check_tail_rules(rules: Sequence[Rule], how: Protocol) -> None:
    """Refuse a rule on single inferences where means of several may be timed.

    Raises:
        UsageError: There is one.
    """
    for rule in rules:
        if rule.field in TAIL_FIELDS and not how.tail:
            raise UsageError(f"--fail-on {rule} needs single inferences to be timed: --tail")


def _check_load_rules(rules: Sequence[Rule], sustain: float | None) -> None:
    """Refuse a rule on load without a pause where there is none.

    Raises:
        UsageError: There is one.
    """
    for rule in rules:
        if rule.field in LOAD_FIELDS and sustain is None:
            raise UsageError(f"--fail-on {rule} needs load without a pause: --sustain 10m")
