"""Tuning the result of a search: by labels, by the original's answers, or by its features."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hwbench.errors import MeasurementError
from hwbench.search.context import BATCH
from hwbench.workflows.search.plan import TUNE_EPOCHS

if TYPE_CHECKING:
    from hwbench.pruning import Pruned
    from hwbench.search.context import SearchContext
    from hwbench.search.data import Images
    from hwbench.search.method import Method
    from hwbench.search.training import Loss
    from hwbench.workflows.search.plan import Plan


def tune_result(
    context: SearchContext,
    method: Method[Any],
    plan: Plan,
    pruned: Pruned,
    *,
    say: Callable[[str], None],
    left_s: float | None = None,
) -> str:
    """Train the result in place: by features on whatever images there are, else on labelled ones.

    Args:
        context: The network.
        method: The search that found the result.
        plan: What was asked for.
        pruned: The result.
        say: Called with what is done.
        left_s: Seconds left for a search whose tuning is counted in steps; None for as long as they
            take.

    Returns:
        How it was tuned, one of `TUNINGS`.
    """
    from hwbench.search import training

    kind = plan.tune or method.tuning
    if kind == "none" or (kind != "features" and not context.has_labels):
        return "none"
    images, loss = context.training_images(), _make_loss(context, plan, kind)
    steps = _count_steps(context, method, plan, images=images, loss=loss, left_s=left_s)
    if not steps:
        return "none"
    say("tuning the result")
    schedule = training.Schedule(steps, batch=BATCH, seed=plan.seed)
    with method.while_tuning(context, pruned.module):
        try:
            training.train_stably(pruned.module, images, loss, schedule)
        except MeasurementError as error:
            context.add_finding("not_tuned", f"the result was left as it is: {error}")
            return "none"
    return kind


def _make_loss(context: SearchContext, plan: Plan, kind: str) -> Loss:
    from hwbench.search.training import Distillation, cross_entropy

    if kind == "features":
        return context.feature_distance()
    if kind == "kd":
        return Distillation(context.module, temperature=plan.temperature)
    return cross_entropy


def _count_steps(
    context: SearchContext,
    method: Method[Any],
    plan: Plan,
    *,
    images: Images,
    loss: Loss,
    left_s: float | None,
) -> int:
    """Batches that the result is tuned on."""
    from hwbench.search import training

    if plan.tune_steps is not None:
        return plan.tune_steps
    if plan.tune_epochs is None and method.tuning_steps is not None:
        if left_s is None:
            return method.tuning_steps
        network = copy.deepcopy(context.module)

        def train_on_trial(steps: int) -> None:
            training.train_stably(network, images, loss, training.Schedule(steps))

        return training.fitting_steps(left_s, method.tuning_steps, train_on_trial)
    epochs = TUNE_EPOCHS if plan.tune_epochs is None else plan.tune_epochs
    return epochs * math.ceil(len(images) / BATCH)
