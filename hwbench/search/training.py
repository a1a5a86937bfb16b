"""Training a network: from scratch, or a pruned one by labels or by its original.

    tune(module, data.train, cross_entropy, Schedule(steps=500, rate=0.1))
    tune(pruned, data.train, Distillation(original), Schedule(steps=500))
    tune(pruned, few_images, FeatureDistance(original, feature_layer(original, x)),
    Schedule(steps=2000))

`Training` does the same so that it can be interrupted, kept and gone on with.

Everything random comes from the schedule's seed; torch's global state is left as it was. A network
learns where it is.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwbench.errors import MeasurementError, UsageError
from hwbench.network.intake.factories import parse_factory
from hwbench.search.data import Images, imported
from hwbench.search.training_settings import TrainingSettings

RATES = 3
"""Learning rates that `train_stably` tries, each a tenth of the one before."""
STEPS_TRIED = 5
"""Steps on trial that tell how long one takes."""
FEWEST_STEPS = 10
"""Steps that are taken however little time is left."""
_POOLING = (
    nn.Identity,
    nn.Dropout,
    nn.Flatten,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
)


class Loss(Protocol):
    """What is made small: of a network, images (n, c, h, w) and labels (n,), a scalar."""

    needs_labels: bool

    def __call__(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """Stochastic gradient descent with steps.

    The defaults are PRACTISE's (Wang and Wu 2023, section 4; its public code): momentum 0.9, weight
    decay 1e-4, rate 0.02, a tenth of it after 40 % and again after 80 % of the steps, batches of
    64.

    Attributes:
        steps: Batches in all.
        rate: Learning rate at the start.
        batch: Images per batch.
        momentum: Nesterov's is not used.
        weight_decay: Also of biases and normalization.
        curve: How the rate falls: by `steps`, or along half a `cosine` to 0 (Loshchilov and Hutter
            2017, arXiv 1608.03983, equation 5, without restarts).
        milestones: Shares of the steps after which it is multiplied by `decay`, where it falls so.
        decay: The factor.
        shift: Images are moved at random by up to this many pixels, and filled with zeros.
        mirror: Images are mirrored at random, left to right.
        augment: What is done to each image (c, h, w) after that: `module:function`, or
            `module:factory(LITERALS)`; None for nothing.
        seed: Of order, shifts, mirroring and dropout.
    """

    steps: int
    rate: float = 0.02
    batch: int = 64
    momentum: float = 0.9
    weight_decay: float = 1e-4
    curve: str = "steps"
    milestones: tuple[float, ...] = (0.4, 0.8)
    decay: float = 0.1
    shift: int = 0
    mirror: bool = False
    augment: str | None = None
    seed: int = 0

    def adjusted(self, settings: TrainingSettings) -> Schedule:
        """The same schedule with what users said of it; the steps stay."""
        given = settings.drop_defaults()
        if "schedule" in given:
            given["curve"] = given.pop("schedule")
        return replace(self, **given)

    def lasting(self, epochs: int, images: int) -> Schedule:
        """The same schedule for so many epochs of so many images; last batches may be smaller."""
        return replace(self, steps=epochs * math.ceil(images / self.batch))

    def lasting_about(self, epochs: float, images: int) -> Schedule:
        """The same schedule for as many batches as have the images of so many epochs."""
        return replace(self, steps=math.ceil(epochs * images / self.batch))

    def rate_at(self, step: int) -> float:
        """Learning rate of one step, counted from 0."""
        if self.curve == "cosine":
            return self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.rate * self.decay ** sum(
            step >= share * self.steps for share in self.milestones
        )


class CrossEntropy:
    """Cross-entropy of the labels."""

    needs_labels = True

    def __call__(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch."""
        return functional.cross_entropy(logits_of(module(images)), labels)


class Distillation:
    """Knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2).

    `share * T^2 * KL(teacher / T, student / T) + (1 - share) * cross-entropy`: the factor keeps the
    gradients' size at any T.

    Args:
        teacher: The unpruned network; it is run in eval mode.
        temperature: T, softens both distributions.
        share: Of the teacher's part; at 1 labels are not needed.
    """

    def __init__(self, teacher: nn.Module, *, temperature: float = 4.0, share: float = 0.9) -> None:
        if temperature <= 0 or not 0 <= share <= 1:
            raise UsageError(
                "distillation takes a temperature above 0 and a share from 0 to 1, not"
                f" {temperature:g} and {share:g}"
            )
        self.teacher = _frozen(teacher)
        self.temperature, self.share, self.needs_labels = temperature, share, share < 1

    def __call__(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch."""
        with torch.no_grad():
            wanted = functional.log_softmax(logits_of(self.teacher(images)) / self.temperature, 1)
        logits = logits_of(module(images))
        answer = functional.log_softmax(logits / self.temperature, 1)
        soft = (
            functional.kl_div(answer, wanted, log_target=True, reduction="batchmean")
            * self.temperature**2
        )
        if self.share == 1:
            return soft
        hard = functional.cross_entropy(logits, labels)
        return self.share * soft + (1 - self.share) * hard


class FeatureDistance:
    """Mean squared distance of one layer's output to that of the unpruned network; needs no labels.

    It is PRACTISE's loss (Wang and Wu 2023, equation 3).

    Args:
        teacher: The unpruned network; it is run in eval mode.
        layer: Path of a module that both networks have; see `feature_layer`.
        channels: Those of its output that the smaller network still has; None for all.
    """

    needs_labels = False

    def __init__(self, teacher: nn.Module, layer: str, channels: Tensor | None = None) -> None:
        self.teacher, self.layer, self.channels = _frozen(teacher), layer, channels

    def __call__(
        self,
        module: nn.Module,
        images: Tensor,
        labels: Tensor,  # noqa: ARG002 - all losses are called alike
    ) -> Tensor:
        """The mean over the batch and the features."""
        with torch.no_grad():
            wanted = features(self.teacher, self.layer, images)
            if self.channels is not None:
                # Maps are (n, c, h, w), tokens (n, t, c).
                wanted = wanted.index_select(1 if wanted.ndim >= 4 else -1, self.channels)
        return functional.mse_loss(features(module, self.layer, images), wanted)


cross_entropy = CrossEntropy()


def tune(
    module: nn.Module,
    images: Images,
    loss: Loss,
    schedule: Schedule,
    *,
    parameters: Iterable[nn.Parameter] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train a network in place.

    Args:
        module: Its mode is restored in the end.
        images: To learn from.
        loss: `cross_entropy`, a `Distillation` or a `FeatureDistance`.
        schedule: How.
        parameters: To train these alone, all else frozen and in eval mode (as adaptors are); all by
            default, in train mode.
        progress: Called after each step with its number, from 1, and its loss.

    Returns:
        Loss of every step.

    Raises:
        UsageError: There are no images, or no labels where the loss needs them.
        MeasurementError: The loss is no longer finite.
    """
    training = Training(module, images, loss, schedule, parameters=parameters)
    training.advance(schedule.steps, progress)
    return training.losses


class Training:
    """A training that can be interrupted after any step, kept, and gone on with to the same end.

    Args:
        module: The network, which is trained in place; its mode is restored after every advance.
        images: To learn from.
        loss: What is made small.
        schedule: How.
        parameters: To train these alone, see `tune`.

    Attributes:
        step: Number of steps that were taken.
        losses: Loss of every step that was taken by this object.

    Raises:
        UsageError: There are no images, or no labels where the loss needs them.
    """

    def __init__(
        self,
        module: nn.Module,
        images: Images,
        loss: Loss,
        schedule: Schedule,
        *,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> None:
        if not len(images) or (loss.needs_labels and images.labels is None):
            raise UsageError(
                f"{len(images)} images {'without labels ' * (images.labels is None)}given; training"
                " needs labelled images"
            )
        self._module, self._images, self._loss, self._schedule = module, images, loss, schedule
        self._trains_all = parameters is None
        self._parameters = list(module.parameters() if parameters is None else parameters)
        self._device = self._parameters[0].device
        self._optimizer = torch.optim.SGD(
            self._parameters, schedule.rate, schedule.momentum, weight_decay=schedule.weight_decay
        )
        self._augment = None if schedule.augment is None else _find_augment(schedule.augment)
        self._generator = torch.Generator().manual_seed(schedule.seed)
        self._epoch_state = self._generator.get_state()
        self._order: list[int] = []
        self._place = 0
        self._global_states: list[Tensor] | None = None
        self.step = 0
        self.losses: list[float] = []

    @property
    def is_finished(self) -> bool:
        """Whether all steps were taken."""
        return self.step >= self._schedule.steps

    def advance(self, steps: int, progress: Callable[[int, float], None] | None = None) -> None:
        """Take so many steps more, or as many as are left.

        Args:
            steps: Number of steps.
            progress: Called after each step with its number, from 1, and its loss.

        Raises:
            MeasurementError: The loss is no longer finite.
        """
        gpus = _gpus(self._device)
        with (
            _modes(self._module, train=self._trains_all, only=self._parameters),
            torch.random.fork_rng(gpus),
        ):
            if self._global_states is None:
                torch.manual_seed(self._schedule.seed)
            else:
                _set_global_states(self._global_states, gpus)
            for _ in range(min(steps, self._schedule.steps - self.step)):
                self._take_step()
                if progress is not None:
                    self._global_states = _global_states(gpus)
                    progress(self.step, self.losses[-1])
            self._global_states = _global_states(gpus)

    def state(self) -> dict[str, Any]:
        """All that going on needs, of tensors and plain types."""
        return {
            "step": self.step,
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epoch_state": self._epoch_state,
            "place": self._place,
            "random_state": self._generator.get_state(),
            "global_states": self._global_states,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state` gave, of the same training."""
        self._module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["epoch_state"])
        self._epoch_state = state["epoch_state"]
        self._order = self._images.shuffled(self._generator)
        self._place = state["place"]
        self._generator.set_state(state["random_state"])
        self._global_states = state["global_states"]
        self.step = state["step"]

    def _take_step(self) -> None:
        batch, labels = self._next_batch()
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate_at(self.step)
        batch = _augmented(batch, self._schedule, self._generator)
        if self._augment is not None:
            batch = torch.stack([self._augment(image) for image in batch])
        value = self._loss(self._module, batch.to(self._device), labels.to(self._device))
        self._optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.step += 1
        self.losses.append(float(value.detach()))
        if not math.isfinite(self.losses[-1]):
            raise MeasurementError(
                f"training diverged at step {self.step} of {self._schedule.steps}; lower the rate"
                f" of {self._schedule.rate:g}"
            )

    def _next_batch(self) -> tuple[Tensor, Tensor]:
        """The next images of the epoch, in an order drawn at its beginning."""
        if self._place >= len(self._order):
            self._epoch_state = self._generator.get_state()
            self._order = self._images.shuffled(self._generator)
            self._place = 0
        chosen = self._order[self._place : self._place + self._schedule.batch]
        self._place += len(chosen)
        return self._images.batch(chosen)


def train_stably(
    module: nn.Module,
    images: Images,
    loss: Loss,
    schedule: Schedule,
    parameters: Sequence[nn.Parameter] | None = None,
) -> None:
    """Train a network in place, and where that diverges begin again with a tenth of the rate.

    Args:
        module: The network.
        images: To learn from.
        loss: What is made small.
        schedule: How, with the first rate to try of `RATES`.
        parameters: To train these alone; all by default.

    Raises:
        MeasurementError: It diverged at every rate; the network is as it was.
    """
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    for retry in range(RATES):
        slower = replace(schedule, rate=schedule.rate / 10**retry)
        try:
            tune(module, images, loss, slower, parameters=parameters)
        except MeasurementError:
            module.load_state_dict(before)
            if retry == RATES - 1:
                raise
        else:
            return


def fitting_steps(limit_s: float, most: int, train: Callable[[int], object]) -> int:
    """Steps of training that fit into a time, told by how long a few of them take.

    The first step is timed apart, as it also pays for what is done once.

    Args:
        limit_s: Seconds.
        most: The most steps; the fewest are `FEWEST_STEPS`.
        train: Trains for so many steps, on trial.
    """

    def seconds_of(steps: int) -> float:
        begun = time.perf_counter()
        train(steps)
        return time.perf_counter() - begun

    first_s = seconds_of(1)
    tried_s = seconds_of(1 + STEPS_TRIED)
    # On a busy machine the first step can take as long as the others together.
    least_s = tried_s / (1 + STEPS_TRIED) / 10
    each_s = max((tried_s - first_s) / STEPS_TRIED, least_s, 1e-6)
    return min(most, max(FEWEST_STEPS, int((limit_s - first_s) / each_s)))


def accuracy(module: nn.Module, images: Images, *, batch: int = 256) -> float:
    """Share of images, 0 to 1, whose label the network answers; in eval mode, its mode is restored.

    Raises:
        UsageError: There are no labelled images.
    """
    if not len(images) or images.labels is None:
        raise UsageError(
            "accuracy needs labelled images: a folder with one sub-folder per class, or a dataset"
        )
    # What stands for a network of another runtime has no weights here.
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    right = 0
    with _modes(module, train=False), torch.no_grad():
        for inputs, labels in images.batches(batch):
            right += int((logits_of(module(inputs.to(device))).argmax(1).cpu() == labels).sum())
    return right / len(images)


def distance(module: nn.Module, images: Images, loss: Loss, *, batch: int = 64) -> float:
    """Mean of a loss over all images in eval mode, without training.

    Of a `FeatureDistance`, PRACTISE's recoverability.
    """
    device, total = next(module.parameters()).device, 0.0
    with _modes(module, train=False), torch.no_grad():
        for inputs, labels in images.batches(batch):
            total += float(loss(module, inputs.to(device), labels.to(device))) * len(inputs)
    return total / max(len(images), 1)


def logits_of(output: Any) -> Tensor:
    """The logits in whatever a classifier returns.

    That is a tensor, a tuple that starts with them, or a mapping that names them.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return logits_of(output.get("logits", next(iter(output.values()))))
    if hasattr(output, "logits"):
        return logits_of(output.logits)
    if isinstance(output, (tuple, list)) and output:
        return logits_of(output[0])
    raise UsageError(
        f"a classifier must return logits; this one returned a {type(output).__name__}"
    )


def features(module: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Output of the module at path `layer`."""
    caught: list[Tensor] = []

    def catch(_part: nn.Module, _inputs: Any, output: Any) -> None:
        caught.append(logits_of(output))

    handle = module.get_submodule(layer).register_forward_hook(catch)
    try:
        module(images)
    finally:
        handle.remove()
    return caught[-1]


def feature_layer(module: nn.Module, images: Tensor) -> str:
    """Path of the module that writes the last feature map before pooling, or the last tokens.

    Raises:
        UsageError: No module writes one.
    """
    finished: list[str] = []

    def note(path: str, part: nn.Module) -> Any:
        def hook(_part: nn.Module, _inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, Tensor) and value.ndim >= 3 and not isinstance(part, _POOLING):
                finished.append(path)

        return part.register_forward_hook(hook)

    handles = [note(path, part) for path, part in module.named_modules() if path]
    try:
        with _modes(module, train=False), torch.no_grad():
            module(images)
    finally:
        for handle in handles:
            handle.remove()
    if not finished:
        raise UsageError(
            f"{type(module).__name__} has no module that writes a feature map; name the layer to"
            " compare"
        )
    return finished[-1]


def _frozen(teacher: nn.Module) -> nn.Module:
    return copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False)


def _gpus(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []


def _global_states(gpus: Sequence[int]) -> list[Tensor]:
    """States of torch's own generators, the CPU's first, by which dropout and transforms draw."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in gpus)]


def _set_global_states(states: Sequence[Tensor], gpus: Sequence[int]) -> None:
    torch.set_rng_state(states[0])
    for gpu, state in zip(gpus, states[1:], strict=True):
        torch.cuda.set_rng_state(state, gpu)


@cache
def _find_augment(text: str) -> Callable[[Tensor], Tensor]:
    """What is done to an image: a function by its name, or what a call with literals makes.

    Raises:
        UsageError: It cannot be imported, or is nothing that can be called.
    """
    factory = parse_factory(text)
    found = imported(f"{factory.module}:{factory.attribute}")
    if factory.arguments is not None:
        try:
            found = found(*factory.arguments, **dict(factory.keywords))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{text} cannot be called: {error}") from error
    if not callable(found) or isinstance(found, type):
        raise UsageError(f"{text} is nothing that an image can be given to")
    augment: Callable[[Tensor], Tensor] = found
    return augment


def _augmented(batch: Tensor, schedule: Schedule, generator: torch.Generator) -> Tensor:
    if (schedule.mirror or schedule.shift) and batch.ndim != 4:
        raise UsageError(
            f"inputs of shape {'x'.join(map(str, batch.shape[1:]))} are no images, which alone can"
            " be shifted and mirrored; leave that out"
        )
    if schedule.mirror:
        flipped = torch.rand(len(batch), generator=generator) < 0.5
        batch = torch.where(flipped[:, None, None, None], batch.flip(3), batch)
    if schedule.shift:
        reach, (height, width) = schedule.shift, batch.shape[2:]
        padded = functional.pad(batch, [reach] * 4)
        corners = torch.randint(2 * reach + 1, (len(batch), 2), generator=generator)
        batch = torch.stack(
            [
                image[:, y : y + height, x : x + width]
                for image, (y, x) in zip(padded, corners, strict=True)
            ]
        )
    return batch


@contextmanager
def _modes(
    module: nn.Module, *, train: bool, only: Iterable[nn.Parameter] | None = None
) -> Iterator[None]:
    """Put a network into one mode, with these parameters alone to be learned.

    Bring back what was.
    """
    modes = {part: part.training for part in module.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.train(train)
    if only is not None:
        module.requires_grad_(requires_grad=False)
        for parameter in only:
            parameter.requires_grad_()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)
