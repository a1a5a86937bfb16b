"""`hwbench history`: how the latency of a model changed over time."""

from __future__ import annotations

from typing import Annotated

import typer

from hwbench.cli.delivery import deliver, report
from hwbench.cli.options import FailOnOption, MinEffectOption, Output, StoreOption, options
from hwbench.cli.rules import hits, parse_rule

HISTORY_FIELDS = ("slowdown",)


@options
def history_command(
    *,
    output: Output,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="The name that the model was measured under, or its SHA-256."
        ),
    ],
    device: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Only what was measured on this device.")
    ] = None,
    min_effect: MinEffectOption = None,
    fail_on: FailOnOption = None,
    store: StoreOption = None,
) -> int:
    """Show how the latency of a model changed over time, and what changed with it.

    A change is shown if it lasts, if it is sure beside the scatter of the measurements, and if it
    is at least --min-effect. What may explain it is what the records hold: model, runtime, kernel,
    governor, commits.

    --fail-on accepts the field slowdown: latency after the last change over that before it, 1
    without a change; the largest of all devices.
    """
    rules = [parse_rule(text, HISTORY_FIELDS) for text in fail_on or ()]
    from hwbench.render import history as render
    from hwbench.workflows.history import DEFAULT_MIN_EFFECT, read_history

    history = read_history(
        model,
        device=device,
        min_effect=DEFAULT_MIN_EFFECT if min_effect is None else min_effect,
        store=store,
    )
    document = render.history_document(history)
    deliver(output, render.history_view(history), document)
    left_out = report([str(record) for record in history.damaged], 2)
    return report(hits(rules, document), 1) or left_out
