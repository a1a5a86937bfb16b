"""The context of a search: its network, images and latencies, put together for its method."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hwbench.search.context import SearchContext, Subject
from hwbench.search.objective import NetworkQuality

if TYPE_CHECKING:
    from hwbench.search.base import Objective
    from hwbench.search.method import Method
    from hwbench.workflows.search.latency import Latencies
    from hwbench.workflows.search.plan import Plan


def make_context(subject: Subject, plan: Plan, latencies: Latencies) -> SearchContext:
    """What the method of a search is handed.

    Args:
        subject: The network.
        plan: What was asked for.
        latencies: What is known of its latencies.
    """
    return SearchContext(
        subject,
        limit=plan.limit,
        source=latencies.source,
        blocks=latencies.blocks,
        step=latencies.step,
        seed=plan.seed,
        images=plan.images,
        evaluate=plan.evaluate,
        trial_with=plan.trial_with,
        findings=[*subject.findings, *latencies.findings],
    )


def make_objective(context: SearchContext, method: Method[Any]) -> Objective:
    """What evaluates candidates: the user's function, else accuracy, else what the method says.

    Objectives are pickled for other processes, so they are made of functions of modules and of
    methods of objects, never of functions inside functions.
    """
    prune, distance = partial(method.prune, context), partial(method.distance, context)
    if context.evaluate is not None:
        from hwbench.search.data import imported

        return NetworkQuality(
            context.prices,
            context.module,
            prune,
            imported(context.evaluate),
            name=context.evaluate,
            distance=distance,
        )
    if context.has_labels:
        return NetworkQuality(
            context.prices, context.module, prune, context.accuracy, distance=distance
        )
    return method.objective_without_labels(context)
