"""The network of a search: read, trained where it comes untrained, and made ready to be pruned."""

from __future__ import annotations

import base64
import copy
import io
import json
import logging
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hwbench.errors import Argument, SchemaError, UsageError
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.network.intake.checkpoints import find_first_layer
from hwbench.network.intake.failures import FAILURES, reason
from hwbench.network.intake.modules import load_module
from hwbench.network.prunable import PrunableNetwork
from hwbench.records.findings import Finding
from hwbench.search.context import BATCH, Subject
from hwbench.workflows.search.checkpoints import FileCheckpoint
from hwbench.workflows.search.original import (
    check_answers,
    choose_preprocessing,
    describe_assumed,
    describe_fresh_weights,
    has_fresh_weights,
)
from hwbench.workflows.search.tuning import describe_lowered

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.network.workload import Workload
    from hwbench.search.data import Data
    from hwbench.search.training import Schedule
    from hwbench.search.tuning import Progress
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

    What comes trained is given pictures as it was trained with: as the plan says, or as it answers
    best.

    Args:
        model: `zoo:NAME`, `package.module:factory`, a pickled module, or an nn.Module.
        plan: Of the search.
        options: How the model is read.

    Raises:
        UsageError: The model cannot be pruned, the images do not fit it, or it answers them no
            better than by guessing.
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
    inputs = _input_options(options, from_zoo=from_zoo)
    workload, findings = _load_workload(model if from_zoo else module, name, plan, inputs)
    workload = replace(workload, name=name)
    example = _example_inputs(workload, plan.seed)
    ready = _ReadyImages()
    vocabulary = find_vocabulary(module, example)
    if plan.data is not None:
        if len(example) > 1:
            raise UsageError(
                f"{name} takes {len(example)} inputs, and data gives one; make a network that takes"
                " one (module:factory)"
            )
        data = load_data(
            plan.data,
            workload.inputs[0].shape[1:],
            seed=plan.seed,
            preprocessing=plan.preprocessing(),
            dtype=example[0].dtype,
            vocabulary=vocabulary,
        )
        if data.classes and plan.evaluate is None:
            _check_classes(module, example, data, name)
        ready.data, ready.trained = data, from_zoo and plan.weights is None and data.classes > 0
        if not ready.trained:
            ready = _prepare_images(module, data, plan, name, trained=False)
    if ready.data is None or not ready.data.classes:
        is_fresh = (from_zoo and plan.weights is None) or has_fresh_weights(module)
        ready.add(describe_fresh_weights(name) if is_fresh else None)
    return Subject(
        name=name,
        prunable=Prunable(module, example, name=name),
        workload=workload,
        network=PrunableNetwork(workload),
        example=example,
        source=_describe_source(model, options),
        data=ready.data,
        trained=ready.trained,
        findings=(*findings, *ready.findings),
        facts=ready.facts,
        vocabulary=vocabulary,
    )


def train_subject(
    subject: Subject,
    plan: Plan,
    store: Store | None,
    say: Callable[[str], None],
    *,
    limit_s: float | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Subject:
    """Train the original in place, on its images, if it comes from the zoo and so untrained.

    Args:
        subject: The network, whose weights nothing has looked at yet.
        plan: Of the search.
        store: Where trained networks are kept; None to train anew.
        say: Called with what is done.
        limit_s: Seconds that training may take; None for as long as it takes.
        report: Called after each step of training.

    Returns:
        The network, trained.

    Raises:
        UsageError: It would take longer, or the network answers its images no better than by
            guessing.
        MeasurementError: It does not learn at any rate.
    """
    module, data = subject.prunable.module, subject.data
    if not subject.trained or data is None:
        return subject
    say(f"training the original on {data.name}")
    lowered = train_original(
        module, data, plan, store, subject.name, limit_s=limit_s, report=report
    )
    ready = _prepare_images(module, data, plan, subject.name, trained=True)
    ready.add(lowered)
    return replace(
        subject,
        data=ready.data,
        findings=(*subject.findings, *ready.findings),
        facts=ready.facts,
    )


def _describe_source(model: str | Path | nn.Module, options: ModelOptions) -> dict[str, Any]:
    """What loads the network again, wherever; nothing for a module in memory."""
    if not isinstance(model, str | Path):
        return {}
    path = Path(model)
    return {
        "model": str(path.resolve() if path.is_file() else model),
        "arch": options.get("arch"),
        "main": [str(Path(script).resolve()) for script in options.get("main", ())],
    }


@dataclass
class _ReadyImages:
    """Images as the network expects them.

    Attributes:
        data: The images; None without.
        trained: Whether the network was trained on them here.
        findings: What to know of them and of the network.
        facts: What shapes their inputs and does not stand in the plan.
    """

    data: Data | None = None
    trained: bool = False
    findings: list[Finding] = field(default_factory=list)
    facts: tuple[str, ...] = ()

    def add(self, finding: Finding | None) -> None:
        """Note a finding, if there is one."""
        if finding is not None:
            self.findings.append(finding)


def _prepare_images(
    module: nn.Module, data: Data, plan: Plan, name: str, *, trained: bool
) -> _ReadyImages:
    """Normalise pictures as the network expects them, and see that it is worth a search.

    Args:
        module: The network, trained.
        data: The images.
        plan: Of the search.
        name: Name of the network.
        trained: Whether the network was trained on these images here.
    """
    ready = _ReadyImages(data, trained)
    is_judged = data.classes > 0 and plan.evaluate is None
    is_open = plan.preprocessing() is None and data.preprocessing is not None and not trained
    if is_open and is_judged:
        ready.data, finding = choose_preprocessing(module, data, plan.seed)
        ready.add(finding)
        chosen = ready.data.preprocessing
        if chosen is not None and chosen != data.preprocessing:
            ready.facts = (json.dumps(chosen.to_dict(), sort_keys=True),)
    elif is_open:
        ready.add(describe_assumed(data))
    if is_judged:
        ready.add(
            check_answers(
                module,
                ready.data or data,
                name,
                plan.seed,
                accept=plan.accept_untrained,
                trained_here=trained,
            )
        )
    return ready


def _load_workload(
    model: str | Path | nn.Module, name: str, plan: Plan, inputs: ModelOptions
) -> tuple[Workload, list[Finding]]:
    """Read the network as a graph, by the shape of the images where it does not tell its own.

    Args:
        model: The network.
        name: Its name.
        plan: Of the search.
        inputs: What is known of its inputs.

    Raises:
        UsageError: Nothing tells the shape.
    """
    from torch import nn

    from hwbench.search.data import find_picture_shape

    try:
        return load_workload(model, seed=plan.seed, **inputs), []
    except UsageError as error:
        does_not_tell = any(getattr(remedy, "name", "") == "inputs" for remedy in error.remedies)
        if plan.data is None or not does_not_tell or not isinstance(model, nn.Module):
            raise
        shape = find_picture_shape(plan.data)
        if shape is None:
            raise UsageError(
                f"{name} does not say the shape of its input, and neither do the images of"
                f" {plan.data}, which differ in size",
                *error.remedies,
            ) from error
        first = find_first_layer(model.state_dict())
        channels = shape[0] if first is None or first[1].ndim != 4 else first[1].shape[1]
        text = f"1x{channels}x{shape[1]}x{shape[2]}"
        finding = Finding(
            "input_of_images", f"the input {text} was not given: it is that of the images"
        )
        completed = inputs.copy()
        completed["inputs"] = (text,)
        return load_workload(model, seed=plan.seed, **completed), [finding]


def _input_options(options: ModelOptions, *, from_zoo: bool) -> ModelOptions:
    """The options that shape the inputs of the network."""
    kept: ModelOptions = {"inputs": options.get("inputs", ()), "batch": options.get("batch")}
    if not from_zoo and options.get("example_inputs") is not None:
        kept = {"example_inputs": options["example_inputs"]}
    return kept


def _example_inputs(workload: Workload, seed: int) -> tuple[Tensor, ...]:
    """Inputs of the network: those it came with, else random ones; ids and masks are 0 or 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for spec in workload.inputs:
        kind = getattr(torch, spec.dtype)
        if spec.name in workload.values:
            inputs.append(torch.tensor(workload.values[spec.name]).to(kind))
        elif kind.is_floating_point:
            inputs.append(torch.randn(spec.shape, generator=generator).to(kind))
        else:
            inputs.append(torch.randint(2, spec.shape, generator=generator).to(kind))
    return tuple(inputs)


def find_vocabulary(module: nn.Module, example: tuple[Tensor, ...]) -> int | None:
    """Find how many ids a network knows, by the embeddings that look its first input up.

    Args:
        module: The network.
        example: Inputs of it.

    Returns:
        The rows of the smallest such table; None where the network takes no ids, or none of its
        modules is such a table.
    """
    import torch
    from torch import nn

    ids = example[0]
    if ids.dtype.is_floating_point:
        return None
    rows: list[int] = []

    def note(table: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(table, nn.Embedding) and torch.equal(inputs[0].cpu(), ids):
            rows.append(table.num_embeddings)

    network = copy.deepcopy(module).eval()
    for part in network.modules():
        if isinstance(part, nn.Embedding):
            part.register_forward_pre_hook(note)
    with torch.no_grad():
        network(*example)
    return min(rows, default=None)


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
    report: Callable[[Progress], None] = lambda _: None,
) -> Finding | None:
    """Train an untrained network in place, or take the weights that an earlier search kept.

    Args:
        module: The network.
        data: What to train it on.
        plan: How.
        store: Where trained networks are kept; None to train anew.
        name: Name of the network.
        limit_s: Seconds that training may take; None for as long as it takes.
        report: Called after each step.

    Returns:
        That the rate had to be lowered; None where it had not.

    Raises:
        UsageError: Training would take longer than `limit_s`.
        MeasurementError: It does not learn at any rate.
    """
    import torch

    from hwbench.pruning import fingerprint
    from hwbench.search.training import Schedule, cross_entropy
    from hwbench.search.tuning import Tuning

    facts = [
        name,
        fingerprint(module),
        data.name,
        str(len(data.train)),
        str(plan.train_epochs),
        str(plan.seed),
    ]
    preprocessing = plan.preprocessing()
    if preprocessing is not None:
        facts.append(json.dumps(preprocessing.to_dict(), sort_keys=True))
    if plan.train_with.drop_defaults():
        facts.append(json.dumps(plan.train_with.drop_defaults(), sort_keys=True))
    key = sha256("\n".join(facts).encode()).hexdigest()
    if store is not None and _take_kept_weights(module, key, store):
        return None
    schedule = Schedule(0, rate=TRAIN_RATE, batch=BATCH, shift=2, seed=plan.seed)
    schedule = schedule.adjusted(plan.train_with).lasting(plan.train_epochs, len(data.train))
    if limit_s is not None:
        _check_training_time(module, data, schedule, limit_s)
    checkpoint = None if store is None else FileCheckpoint([RECORD, key])
    training = Tuning(
        module,
        data.train,
        cross_entropy,
        schedule,
        checkpoint=checkpoint,
        report=report,
    )
    training.run(forget=False)
    if store is not None:
        written = io.BytesIO()
        torch.save(module.state_dict(), written)
        store.save_record(
            RECORD,
            {"key": key, "model": name, "state": base64.b64encode(written.getvalue()).decode()},
        )
    if checkpoint is not None:
        checkpoint.remove()
    return describe_lowered("the original", training.rates)


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
