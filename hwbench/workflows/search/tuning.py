"""Tuning the result of a search: by labels, by the original's answers, or by its features.

Whether it is better for it is asked of images that neither the search nor the tuning saw, and the
better network is delivered.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from hwbench.errors import MeasurementError
from hwbench.records.findings import Finding
from hwbench.search.context import BATCH, SYNTHETIC_IMAGES
from hwbench.workflows.search.checkpoints import FileCheckpoint
from hwbench.workflows.search.plan import TUNE_EPOCHS

if TYPE_CHECKING:
    from torch import nn

    from hwbench.pruning import Pruned
    from hwbench.search.context import SearchContext
    from hwbench.search.data import Images
    from hwbench.search.method import Method
    from hwbench.search.training import Loss, Schedule
    from hwbench.search.tuning import Guard, Progress
    from hwbench.workflows.search.plan import Plan

DECIDING_SHARE = 0.2
"""Share of the test images that decide between the result before and after it was tuned."""
NOISE = 0.01
"""Differences in quality up to which a rate of tuning is not taken for one that does harm."""
QUICK_IMAGES = 512
"""Images that tell whether tuning goes badly wrong."""
RUINED, FAR = 0.5, 3.0
"""A network is ruined that lost half of its quality, or is three times as far from the original."""


@dataclass(frozen=True)
class Tuned:
    """What became of tuning.

    Attributes:
        how: How the result was tuned, one of `TUNINGS`; `none` where that was taken back.
        reported: Images to report accuracies on, as nothing was decided by them; None without.
        before: Accuracy on these before tuning; None where it was not tuned, or nothing tells.
    """

    how: str
    reported: Images | None
    before: float | None = None


def tune_result(
    context: SearchContext,
    method: Method[Any],
    plan: Plan,
    pruned: Pruned,
    *,
    say: Callable[[str], None],
    report: Callable[[Progress], None] = lambda _: None,
    left_s: float | None = None,
    decide_once: Callable[[Callable[[], int]], int] = lambda decide: decide(),
    key: str | None = None,
) -> Tuned:
    """Train the result in place: by features on whatever images there are, else on labelled ones.

    Where that makes it worse, it is taken back.

    Args:
        context: The network.
        method: The search that found the result.
        plan: What was asked for.
        pruned: The result.
        say: Called with what is done.
        report: Called after each step of training.
        left_s: Seconds that are left for tuning and for testing the result; None for as long as
            they take.
        decide_once: Calls a function that decides on a number; a search that was killed and goes on
            is given the number that was decided at first.
        key: Identity of the search, by which a training that was killed is found again; None to
            keep nothing of it.
    """
    from hwbench.search.training import accuracy
    from hwbench.search.tuning import Tuning

    kind = plan.tune or method.tuning
    data = context.data
    test = data.test if data is not None and data.classes else None
    if kind == "none" or (kind != "features" and test is None):
        return Tuned("none", test)
    images, loss = context.training_images(), _make_loss(context, plan, kind, pruned)
    schedule = _make_schedule(method, plan, len(images))
    if not schedule.steps:
        return Tuned("none", test)
    say("tuning the result")
    before = copy.deepcopy(pruned.module)
    begun_s = time.monotonic()
    guard = _make_guard(context, loss, before)
    asked, deadline_s = schedule.steps, None
    if left_s is not None:
        first_look_s = time.monotonic() - begun_s
        checks_s = _looks_after(len(_unseen_images(context, "validation")), test) * first_look_s

        def count_steps() -> int:
            return _count_fitting_steps(pruned, images, loss, schedule, left_s - checks_s)

        schedule = replace(schedule, steps=min(asked, decide_once(count_steps)))
        deadline_s = begun_s + left_s - checks_s
    tuning = Tuning(
        pruned.module,
        images,
        loss,
        schedule,
        guard=guard,
        checkpoint=None if key is None else _find_checkpoint(key, pruned, kind, schedule),
        report=report,
        deadline_s=deadline_s,
    )
    with method.while_tuning(context, pruned.module):
        try:
            tuning.run()
        except MeasurementError as error:
            context.add_finding("not_tuned", f"the result was left as it is: {error}")
            return Tuned("none", test)
    if deadline_s is not None and tuning.step < asked:
        text = (
            f"the result was tuned for {tuning.step} steps, not {asked}, to keep to the time there"
            " is; allow the search more"
        )
        context.findings.append(Finding("fewer_steps", text))
    lowered = describe_lowered("the result", tuning.rates)
    if lowered is not None:
        context.findings.append(lowered)
    reported, deciding = (None, None) if test is None else _divide(test, plan.seed)
    judge = _make_judge(context, loss, deciding or _unseen_images(context, "test"))
    worth_before, worth_after = judge.worth(before), judge.worth(pruned.module)
    if worth_after < worth_before:
        pruned.module.load_state_dict(before.state_dict())
        text = f"tuning made the result worse ({judge.compare(worth_before, worth_after)}), so it"
        context.add_finding("tuning_undone", f"{text} is delivered as it was before")
        return Tuned("none", reported)
    return Tuned(kind, reported, None if reported is None else accuracy(before, reported))


def describe_lowered(network: str, rates: Sequence[float]) -> Finding | None:
    """Say that learning rates did harm, if there were any.

    Args:
        network: What was trained, for people.
        rates: The rates that were given up.
    """
    if not rates:
        return None
    tried = ", ".join(f"{rate:g}" for rate in rates)
    text = f"training {network} diverged at a rate of {tried}, so a tenth of the last was taken"
    return Finding("rate_lowered", text)


@dataclass(frozen=True)
class _Judge:
    """Tells what a network is worth, by images that it did not learn from.

    Attributes:
        worth: Gives that of a network; more is better.
        noise: Differences in it that mean nothing.
        ruined: What a network is ruined below, in the worth that it had before.
        compare: Says two of them for people, that before tuning first.
    """

    worth: Callable[[nn.Module], float]
    noise: float
    ruined: float
    compare: Callable[[float, float], str]


def _make_guard(context: SearchContext, loss: Loss, before: nn.Module) -> Guard:
    """What tells whether tuning does harm: by the images that steered the search.

    Args:
        context: The network.
        loss: What tuning makes small.
        before: The network before that.
    """
    from hwbench.search.tuning import Guard

    images = _unseen_images(context, "validation")
    few = images.few(min(QUICK_IMAGES, len(images)), context.seed)
    quick, thorough = _make_judge(context, loss, few), _make_judge(context, loss, images)
    ruined = quick.ruined * quick.worth(before)
    least = thorough.worth(before) - thorough.noise
    return Guard(
        is_ruined=lambda module: not quick.worth(module) >= ruined,
        is_worse=lambda module: not thorough.worth(module) >= least,
    )


def _make_judge(context: SearchContext, loss: Loss, images: Images) -> _Judge:
    """By accuracy where there are labels, else by the user's function, else by the loss."""
    from hwbench.search.data import imported
    from hwbench.search.training import accuracy, distance

    if context.has_labels:
        return _Judge(
            lambda module: accuracy(module, images),
            NOISE,
            RUINED,
            lambda before, after: (
                f"accuracy {before:.1%} before and {after:.1%} after, on {len(images)} images that"
                " it did not see"
            ),
        )
    if context.evaluate is not None:
        evaluate, name = imported(context.evaluate), context.evaluate
        return _Judge(
            lambda module: float(evaluate(module)),
            NOISE,
            RUINED,
            lambda before, after: f"{name} gives {before:.3g} before and {after:.3g} after",
        )
    return _Judge(
        lambda module: -distance(module, images, loss),
        0.0,
        FAR,
        lambda before, after: (
            f"its features are {-before:.3g} from the original's before and {-after:.3g} after, on"
            f" {len(images)} images that it did not see"
        ),
    )


def _unseen_images(context: SearchContext, part: str) -> Images:
    """Images of a set that is not trained on; of noise where there are none, each set another.

    Args:
        context: The network.
        part: `validation` or `test`.
    """
    if context.data is not None:
        images: Images = getattr(context.data, part)
        return images
    seed = context.seed + 1 + ("validation", "test").index(part)
    return context.draw_images(SYNTHETIC_IMAGES, seed)


def _divide(test: Images, seed: int) -> tuple[Images, Images]:
    """Test images to report by, and those to decide by; the same ones where there are too few."""
    reported, deciding = test.split(DECIDING_SHARE, seed)
    if not len(deciding):
        return test, test
    return reported, deciding


def _find_checkpoint(key: str, pruned: Pruned, kind: str, schedule: Schedule) -> FileCheckpoint:
    """Where the state of this tuning is kept, and found again."""
    return FileCheckpoint([key, pruned.recipe.to_json(), kind, json.dumps(asdict(schedule))])


def _make_loss(context: SearchContext, plan: Plan, kind: str, pruned: Pruned) -> Loss:
    from hwbench.search.training import Distillation, cross_entropy

    if kind == "features":
        return context.feature_distance(pruned)
    if kind == "kd":
        return Distillation(context.module, temperature=plan.temperature)
    return cross_entropy


def _make_schedule(method: Method[Any], plan: Plan, images: int) -> Schedule:
    """How the result is tuned on so many images, if there is time enough."""
    from hwbench.search.training import Schedule

    usual = Schedule(0, batch=BATCH, seed=plan.seed).adjusted(plan.tune_with)
    if plan.tune_steps is not None:
        return replace(usual, steps=plan.tune_steps)
    if plan.tune_epochs is not None or method.tuning_steps is None:
        epochs = TUNE_EPOCHS if plan.tune_epochs is None else plan.tune_epochs
        return usual.lasting(epochs, images)
    return replace(usual, steps=method.tuning_steps)


def _looks_after(validation: int, test: Images | None) -> float:
    """What the network is looked at from then on takes, in times of the first look at it.

    That is on all validation images and some of them again. Some of them follow after each part of
    tuning, all of them in the end, and the test images three times, before tuning included.

    Args:
        validation: Number of validation images.
        test: The test images; None without labels.
    """
    from hwbench.search.tuning import CHECKS

    few = min(QUICK_IMAGES, validation)
    tested = validation if test is None else 3 * len(test)
    return (CHECKS * few + validation + tested) / (few + validation)


def _count_fitting_steps(
    pruned: Pruned, images: Images, loss: Loss, schedule: Schedule, limit_s: float
) -> int:
    """Steps of tuning that fit into a time, told by a few on a copy of the network."""
    from hwbench.search import training

    network = copy.deepcopy(pruned.module)

    def train_on_trial(steps: int) -> None:
        training.train_stably(network, images, loss, replace(schedule, steps=steps))

    return training.fitting_steps(limit_s, schedule.steps, train_on_trial)
