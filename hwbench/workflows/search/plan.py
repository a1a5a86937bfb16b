"""What a search is asked for: method, budget, images, effort.

Plain data, so that a killed search finds itself again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

from hwbench.errors import Argument, UsageError
from hwbench.search import SEARCHES, load_method, searches
from hwbench.search.limit import KINDS, Limit
from hwbench.search.method import Method
from hwbench.search.options import SearchOptions, option_defaults
from hwbench.search.training_settings import TrainingSettings

if TYPE_CHECKING:
    from hwbench.search.data import Preprocessing

__all__ = [
    "KINDS",
    "TEMPERATURE",
    "TRAIN_EPOCHS",
    "TUNE_EPOCHS",
    "TUNINGS",
    "Limit",
    "Plan",
    "plan_defaults",
    "recorded_method",
]

TUNINGS = ("none", "ce", "kd", "features")
"""How a result can be tuned.

By labels (cross-entropy), by the original's answers (knowledge distillation), by its features.
"""
TUNE_EPOCHS = 10
TRAIN_EPOCHS = 20
TEMPERATURE = 4.0
DEFAULT_OPTIONS = SearchOptions()
"""Stands for the defaults of whatever search is planned."""
AS_USUAL = TrainingSettings()
"""Trainings of which nothing was said."""
LATER = (
    "mean",
    "std",
    "scale",
    "transform",
    "accept_untrained",
    "train_with",
    "trial_with",
    "tune_with",
)
"""Arguments that plans did not have from the first version on.

Where they are as usual, records and the identity of a search do without them, so that searches that
were killed before there were such arguments are found again.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """A search, without the network, the device and the places it uses.

    Attributes:
        method: Name of the search, see `hwbench.search.searches`.
        limit: The budget; None for a search that can do without.
        options: Options of that search; by default its defaults.
        trials: Candidates to evaluate; None for the search's own number.
        budget_s: Seconds the search may take, with training and tables; None for no limit.
        seed: Seed of everything random.
        data: Images: a folder, `fashion-mnist`, `digits`, or `module:factory` of a dataset; None
            for none.
        images: Number of training images to use; None for all.
        evaluate: `module:function` that evaluates a network in place of its accuracy.
        weights: File with weights of the original; None to take them as they come.
        train_epochs: Epochs that the original is trained for where it comes untrained.
        tune: Training of the result, one of `TUNINGS`; None for the search's own.
        tune_epochs: Epochs of that; None for the search's own.
        tune_steps: Batches of that, in place of epochs.
        temperature: Temperature of knowledge distillation.
        mean: What is taken off the pixels of pictures, one number or one for each channel; None for
            what suits the network.
        std: What pixels are divided by after that, likewise.
        scale: The value of a white pixel before that; 1 where only mean or std are given.
        transform: `module:function` that makes an input of a picture, in place of all three.
        accept_untrained: Whether to search although the original is no better than chance.
        train_with: How the original is trained where it comes untrained, as far as not as usual.
        trial_with: How candidates are trained, likewise, where the search trains them.
        tune_with: How the result is tuned, likewise.

    Raises:
        UsageError: There is no such search, or it cannot do what is asked for.
    """

    method: str
    limit: Limit | None = None
    options: SearchOptions = DEFAULT_OPTIONS
    trials: int | None = None
    budget_s: float | None = None
    seed: int = 0
    data: str | None = None
    images: int | None = None
    evaluate: str | None = None
    weights: str | None = None
    train_epochs: int = TRAIN_EPOCHS
    tune: str | None = None
    tune_epochs: int | None = None
    tune_steps: int | None = None
    temperature: float = TEMPERATURE
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    transform: str | None = None
    accept_untrained: bool = False
    train_with: TrainingSettings = AS_USUAL
    trial_with: TrainingSettings = AS_USUAL
    tune_with: TrainingSettings = AS_USUAL

    def __post_init__(self) -> None:
        wanted = load_method(self.method).options_type
        if type(self.options) is SearchOptions:
            object.__setattr__(self, "options", wanted())
        if not isinstance(self.options, wanted):
            raise UsageError(
                f"the options of a {type(self.options).__name__} were given to {self.method};"
                f" expected {wanted.__name__}"
            )
        method = self.make_method()
        method.check(self.limit)
        method.check_images(given=self.data is not None)
        self._check_numbers()
        self._check_tuning()
        self._check_preprocessing()

    @classmethod
    def of(cls, method: str, limit: Limit | None = None, **arguments: Any) -> Self:
        """A plan whose arguments and options of the search are given alike.

        Args:
            method: Name of the search.
            limit: The budget.
            arguments: Attributes of the plan, and options of the search.

        Raises:
            UsageError: The search has no such option.
        """
        options = load_method(method).options_type
        common, own = _divide(arguments, method, options)
        return cls(method, limit, options(**own), **common)

    def changed(self, **arguments: Any) -> Self:
        """The same plan with other arguments, or other options of the search.

        Raises:
            UsageError: The search has no such option.
        """
        common, own = _divide(arguments, self.method, type(self.options))
        return replace(self, options=replace(self.options, **own), **common)

    def make_method(self) -> Method[Any]:
        """The search that was asked for, with its options."""
        return load_method(self.method)(self.method, self.options)

    def preprocessing(self) -> Preprocessing | None:
        """How inputs are made of pictures; None where nothing was said about it.

        Raises:
            UsageError: It is impossible.
        """
        if self.mean is None and self.std is None and self.scale is None and self.transform is None:
            return None
        from hwbench.search.data import Preprocessing

        return Preprocessing(
            mean=(0.0,) if self.mean is None else tuple(self.mean),
            std=(1.0,) if self.std is None else tuple(self.std),
            scale=1.0 if self.scale is None else self.scale,
            transform=self.transform,
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, on one level: the options of the search stand beside the rest."""
        data = asdict(self)
        data.pop("options")
        defaults = plan_defaults()
        for name in LATER:
            if getattr(self, name) == defaults[name]:
                data.pop(name)
        if load_method(self.method).recorded_together:
            for other in map(load_method, SEARCHES):
                if other.recorded_together:
                    data |= option_defaults(other.options_type)
        return data | asdict(self.options)

    def key(self, *facts: str) -> str:
        """Identity of the search of these `facts` (network, table): a killed one is found by it.

        How long it may go on is no part of it, so that a search can be given more time; nor is
        whether an untrained original is accepted, as there is no such search where it is not.
        """
        data = self.to_dict()
        data.pop("budget_s")
        data.pop("accept_untrained", None)
        return sha256(json.dumps([data, *facts], sort_keys=True).encode()).hexdigest()

    def _check_numbers(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise UsageError(f"{self.trials} trials were asked for; expected at least 1")
        if not self.temperature > 0:
            raise UsageError(
                f"a temperature of {self.temperature:g} was given; expected a number above 0"
            )

    def _check_tuning(self) -> None:
        """Refuse, before anything is trained or measured, what would only be noticed after it."""
        if self.tune is not None and self.tune not in TUNINGS:
            raise UsageError(f"unknown tuning {self.tune!r}; expected one of {', '.join(TUNINGS)}")
        if self.tune in {"ce", "kd"} and self.data is None:
            raise UsageError(
                f"tuning by {self.tune!r} learns from labelled images, and none were given",
                Argument("data"),
                Argument("tune", "features"),
            )
        if self.tune_epochs is not None and self.tune_steps is not None:
            raise UsageError("epochs and steps of tuning were given; give one of them")

    def _check_preprocessing(self) -> None:
        preprocessing = self.preprocessing()
        if preprocessing is None:
            return
        if self.data is None:
            raise UsageError(
                "mean, std, scale and transform say how pictures are read, and none were given",
                Argument("data"),
            )
        numbers = (self.mean, self.std, self.scale)
        if self.transform is not None and any(number is not None for number in numbers):
            raise UsageError(
                "a transform makes inputs of pictures by itself; leave out mean, std and scale"
            )


def recorded_method(data: Mapping[str, Any]) -> Method[Any] | None:
    """The search of a plan as it was recorded.

    Args:
        data: What `Plan.to_dict` gave, perhaps in an earlier version.

    Returns:
        The search; None where it is of a package that is not installed, or that has changed.
    """
    name = str(data.get("method"))
    if name not in searches():
        return None
    try:
        method = load_method(name)
        return method(name, method.options_type.from_record(data))
    except UsageError:
        return None


def plan_defaults() -> dict[str, Any]:
    """Defaults of the arguments of a plan that every search has, by name."""
    return {
        entry.name: entry.default
        for entry in fields(Plan)
        if entry.name != "options" and entry.default is not MISSING
    }


def _divide(
    arguments: Mapping[str, Any], method: str, options: type[SearchOptions]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a plan, and those that are options of the search."""
    own_names = option_defaults(options)
    common_names = {entry.name for entry in fields(Plan)}
    unknown = [name for name in arguments if name not in own_names and name not in common_names]
    if unknown:
        known = ", ".join(own_names) or "none"
        raise UsageError(f"{method} has no option {unknown[0]!r}; its options are {known}")
    common = {name: value for name, value in arguments.items() if name not in own_names}
    own = {name: value for name, value in arguments.items() if name in own_names}
    return common, own
