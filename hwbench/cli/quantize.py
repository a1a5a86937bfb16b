"""`hwbench quantize`: a network in int8, with what it gains and what it costs."""

from __future__ import annotations

from typing import Annotated

import typer

from hwbench.cli.delivery import deliver, report_verdict
from hwbench.cli.lab import workplace
from hwbench.cli.options import (
    BatchedModel,
    EvaluateOption,
    FailOnOption,
    Keeping,
    LabOption,
    MinEffectOption,
    NoLayersOption,
    Output,
    Protocol,
    options,
    share,
    writable,
)
from hwbench.cli.rules import hits, parse_rule
from hwbench.errors import UsageError

QUANTIZE_FIELDS = ("speedup", "accuracy_drop", "agreement")


@options
def quantize_command(
    *,
    source: BatchedModel,
    how: Protocol,
    keeping: Keeping,
    output: Output,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The network in fp32: a file (.onnx, .pt, .pt2, .safetensors), zoo:NAME, or"
            " package.module:factory.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Images to find the ranges of activations on, and to evaluate by: a folder with"
            " one sub-folder per class, or with train and test; fashion-mnist; digits; or"
            " package.module:factory of torch datasets.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The ONNX file to write; the name of MODEL with .int8.onnx if not given. The"
            " recipe lies beside it, as .json.",
            callback=writable,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            parser=share,
            metavar="SHARE",
            help="The accuracy that int8 may cost, or what --evaluate gives; 1% if not given.",
        ),
    ] = None,
    evaluate: EvaluateOption = None,
    lab: LabOption = None,
    no_layers: NoLayersOption = False,
    min_effect: MinEffectOption = None,
    fail_on: FailOnOption = None,
) -> int:
    """Quantise a network to int8 on your images, and measure what that gains and costs.

    Layers that int8 makes slower, and layers that alone make much of the error of the outputs, are
    left in fp32 where that is faster or more accurate. --budget is for all of the work but reading
    and what --evaluate takes; 60 if not given.

    Exit codes as of compare. --fail-on accepts the fields speedup, accuracy_drop and agreement;
    shares also in percent, as in "accuracy_drop>1%".
    """
    rules = [parse_rule(text, QUANTIZE_FIELDS) for text in fail_on or ()]
    if how.tail:
        raise UsageError(
            "quantize times means of several inferences; measure what it wrote with compare --tail"
        )
    from hwbench.cli.progress import show_measuring
    from hwbench.render import quantizing
    from hwbench.workflows.quantize import DEFAULT_SETTINGS, MAX_DROP

    settings = how.settings(DEFAULT_SETTINGS, layers=not no_layers, min_effect=min_effect)
    with show_measuring(model, keeping) as progress:
        outcome = workplace(lab).quantize(
            model,
            data=data,
            evaluate=evaluate,
            device=how.device,
            max_drop=MAX_DROP if max_drop is None else max_drop,
            out=out,
            settings=settings,
            callback=progress,
            **source.arguments(),
            **keeping.arguments(),
        )
    document = quantizing.quantize_document(outcome)
    broken = hits(rules, document["comparison"])
    saved = not keeping.no_save
    deliver(output, quantizing.quantize_view(outcome, saved=saved, broken_rules=broken), document)
    return report_verdict(outcome.comparison, broken)
