"""The network of a search: read, trained where it comes untrained, and made ready to be pruned."""

from __future__ import annotations

import base64
import copy
import io
import logging
import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hwbench.errors import Argument, SchemaError, UsageError
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.network.intake.failures import FAILURES, reason
from hwbench.network.intake.modules import load_module
from hwbench.network.prunable import PrunableNetwork
from hwbench.search.context import BATCH, Subject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.network.workload import Workload
    from hwbench.search.data import Data
    from hwbench.search.training import Schedule
    from hwbench.store import DamagedRecord, Store
    from hwbench.workflows.search.plan import Plan

logger = logging.getLogger(__name__)

RECORD = "trained_network"
TRAIN_RATE = 0.05
"""Learning rate of an original that is trained from scratch."""


def read_subject(
    model: str | Path | nn.Module,
    plan: Plan,
    **options: Unpack[ModelOptions],
) -> Subject:
    """Read a network and its images; `train_subject` trains it if it comes untrained.

    Args:
        model: `zoo:NAME`, `package.module:factory`, a pickled module, or an nn.Module.
        plan: Of the search.
        options: How the model is read.

    Raises:
        UsageError: The model cannot be pruned, or the images do not fit it.
        HwbenchError: It cannot be read or exported.
    """
    from hwbench.pruning import Prunable
    from hwbench.search.data import load_data

    if options.get("precision", "fp32") != "fp32":
        raise UsageError(
            "networks are pruned in fp32; compare measures the result in another precision",
            Argument("precision", change="no"),
        )
    name = str(model) if isinstance(model, str | Path) else type(model).__name__
    module = load_module(
        model,
        weights=plan.weights,
        arch=options.get("arch"),
        main=options.get("main", ()),
        trust_pickle=options.get("trust_pickle", False),
        seed=plan.seed,
    )
    from_zoo = isinstance(model, str) and model.startswith("zoo:")
    workload = load_workload(
        model if from_zoo else module, seed=plan.seed, **_input_options(options, from_zoo=from_zoo)
    )
    workload = replace(workload, name=name)
    example = _example_inputs(workload, plan.seed)
    data = None
    if plan.data is not None:
        data = load_data(plan.data, workload.inputs[0].shape[1:], seed=plan.seed)
        if data.classes and plan.evaluate is None:
            _check_classes(module, example, data, name)
    return Subject(
        name=name,
        prunable=Prunable(module, example, name=name),
        workload=workload,
        network=PrunableNetwork(workload),
        example=example,
        data=data,
        trained=from_zoo and data is not None and plan.weights is None and data.classes > 0,
    )


def train_subject(
    subject: Subject,
    plan: Plan,
    store: Store | None,
    say: Callable[[str], None],
    limit_s: float | None = None,
) -> Subject:
    """Train the original in place, on its images, if it comes from the zoo and so untrained.

    Args:
        subject: The network, whose weights nothing has looked at yet.
        plan: Of the search.
        store: Where trained networks are kept; None to train anew.
        say: Called with what is done.
        limit_s: Seconds that training may take; None for as long as it takes.

    Returns:
        The network, trained.

    Raises:
        UsageError: It would take longer.
    """
    if subject.trained and subject.data is not None:
        say(f"training the original on {subject.data.name}")
        train_original(
            subject.prunable.module, subject.data, plan, store, subject.name, limit_s=limit_s
        )
    return subject


def _input_options(options: ModelOptions, *, from_zoo: bool) -> ModelOptions:
    """The options that shape the inputs of the network."""
    kept: ModelOptions = {"inputs": options.get("inputs", ()), "batch": options.get("batch")}
    if not from_zoo and options.get("example_inputs") is not None:
        kept = {"example_inputs": options["example_inputs"]}
    return kept


def _example_inputs(workload: Workload, seed: int) -> tuple[Tensor, ...]:
    """Random inputs of the network."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for spec in workload.inputs:
        kind = getattr(torch, spec.dtype)
        if not kind.is_floating_point:
            raise UsageError(
                f"input {spec.name} is {spec.dtype}; searches prune networks of images, whose"
                " inputs are float32"
            )
        inputs.append(torch.randn(spec.shape, generator=generator).to(kind))
    return tuple(inputs)


def _check_classes(module: nn.Module, example: tuple[Tensor, ...], data: Data, name: str) -> None:
    """Refuse images of more classes than the network can tell apart, before anything is trained."""
    import torch

    from hwbench.search.training import logits_of

    with torch.no_grad():
        outputs = logits_of(copy.deepcopy(module).eval()(*example)).shape[-1]
    if data.classes > outputs:
        raise UsageError(
            f"the images of {data.name} are of {data.classes} classes, but {name} tells {outputs}"
            f" apart; give a network with {data.classes} outputs (module:factory), or other images"
        )


def train_original(
    module: nn.Module,
    data: Data,
    plan: Plan,
    store: Store | None,
    name: str,
    *,
    limit_s: float | None = None,
) -> None:
    """Train an untrained network in place, or take the weights that an earlier search kept.

    Raises:
        UsageError: Training would take longer than `limit_s`.
    """
    import torch

    from hwbench.pruning import fingerprint
    from hwbench.search.training import Schedule, cross_entropy, tune

    facts = (
        name,
        fingerprint(module),
        data.name,
        str(len(data.train)),
        str(plan.train_epochs),
        str(plan.seed),
    )
    key = sha256("\n".join(facts).encode()).hexdigest()
    if store is not None and _take_kept_weights(module, key, store):
        return
    steps = plan.train_epochs * math.ceil(len(data.train) / BATCH)
    schedule = Schedule(steps, rate=TRAIN_RATE, batch=BATCH, shift=2, seed=plan.seed)
    if limit_s is not None:
        _check_training_time(module, data, schedule, limit_s)
    tune(module, data.train, cross_entropy, schedule)
    if store is not None:
        written = io.BytesIO()
        torch.save(module.state_dict(), written)
        store.save_record(
            RECORD,
            {"key": key, "model": name, "state": base64.b64encode(written.getvalue()).decode()},
        )


def _check_training_time(module: nn.Module, data: Data, schedule: Schedule, limit_s: float) -> None:
    """Refuse to train for longer than there is time, told by a few steps on trial."""
    from hwbench.search import training

    network = copy.deepcopy(module)

    def train_on_trial(steps: int) -> None:
        training.tune(network, data.train, training.cross_entropy, replace(schedule, steps=steps))

    train_on_trial(1)  # what is done once is not counted
    begun_s = time.perf_counter()
    train_on_trial(training.STEPS_TRIED)
    needed_s = (time.perf_counter() - begun_s) / training.STEPS_TRIED * schedule.steps
    if needed_s > limit_s:
        raise UsageError(
            f"training the original takes about {needed_s:.0f} s, and the search may spend"
            f" {limit_s:.0f} s on it",
            Argument("budget_s", change="a longer"),
            Argument("train_epochs", change="fewer"),
        )


def _take_kept_weights(module: nn.Module, key: str, store: Store) -> bool:
    """Give a network the weights that an earlier search kept of it; tell whether there are any.

    What is damaged is left out with a warning: training makes it again.
    """
    damaged: list[DamagedRecord] = []
    records = store.read_records(RECORD, _read_weights, key, damaged)
    for record in damaged:
        logger.warning("%s; the original is trained again", record)
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for record_id, (kept_key, weights) in records.items():
        if kept_key != key:
            continue
        # Checked before, as torch takes over what fits before it says what does not.
        if {name: tensor.shape for name, tensor in weights.items()} == own:
            module.load_state_dict(weights)
            return True
        logger.warning(
            "%s %s holds weights of another network; the original is trained again",
            RECORD,
            record_id,
        )
    return False


def _read_weights(data: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Read the key and the weights of a record; nothing in it is run."""
    import torch

    kept = io.BytesIO(base64.b64decode(data["state"], validate=True))
    try:
        weights = torch.load(kept, map_location="cpu", weights_only=True)
    except (*FAILURES, pickle.UnpicklingError, EOFError) as error:
        raise SchemaError(f"its weights cannot be read ({reason(error)})") from error
    if not isinstance(weights, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in weights.values()
    ):
        raise SchemaError("it holds no weights")
    return str(data["key"]), dict(weights)
