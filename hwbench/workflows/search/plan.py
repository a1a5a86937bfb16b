"""What a search is asked for: method, budget, objective, effort.

Plain data, so that a killed search finds itself again.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from hwbench.errors import UsageError
from hwbench.search import EXPLORATIONS, SEARCHES

KINDS = ("latency", "macs", "params", "size")
"""What a budget can be of."""
REWARDS = ("error", "macs", "params", "latency")
"""AMC's; all but the first know a cost."""
TUNINGS = ("none", "ce", "kd", "features")
"""None.

By labels (cross-entropy), by the original's answers (knowledge distillation), by its features.
"""
TUNE_EPOCHS = 10
TUNE_STEPS = 2000
"""PRACTISE's iterations for the network in the end (Wang and Wu 2023, section 4)."""
IMPORTANCES = ("l1", "l2", "random")
_UNITS = {
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "size": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9},
}
_LIMIT = re.compile(r"(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*(?P<unit>%|[a-zA-Z]*)")


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget as the user wrote it: a share of the original's cost, or an amount.

    Attributes:
        kind: One of `KINDS`.
        share: Of the original, in (0, 1]; None for an amount.
        amount: Seconds, operations, parameters or bytes; None for a share.
    """

    kind: str
    share: float | None = None
    amount: float | None = None

    @classmethod
    def parse(cls, kind: str, text: str | float) -> Limit:
        """Read `0.5` or `50%` (of the original), `12ms`, `285M`, `4MB`.

        Raises:
            UsageError: It is none of these.
        """
        match = _LIMIT.fullmatch(str(text).strip())
        units = _UNITS[kind]
        example = {"latency": "12ms", "macs": "285M", "params": "2M", "size": "4MB"}[kind]
        expected = f"expected a share of the original (0.5, 50%) or an amount ({example})"
        if match is None:
            raise UsageError(f"{kind} budget {text!r} cannot be read; {expected}")
        number, unit = float(match["number"]), match["unit"].lower()
        if unit == "%" or (not unit and number <= 1):
            share = number / 100 if unit == "%" else number
            if not 0 < share <= 1:
                raise UsageError(
                    f"{kind} budget {text!r} is no share above 0 and up to 1; {expected}"
                )
            return cls(kind, share=share)
        if unit not in units or not number > 0:
            raise UsageError(
                f"{kind} budget {text!r} has no unit of {kind} ({', '.join(filter(None, units))});"
                f" {expected}"
            )
        return cls(kind, amount=number * units[unit])

    def of(self, original: float) -> float:
        """The amount, where the original costs `original`."""
        return self.amount if self.amount is not None else (self.share or 1.0) * original


@dataclass(frozen=True, slots=True)
class Plan:
    """A search, without the network, the device and the places it uses.

    Attributes:
        method: One of `SEARCHES`.
        limit: The budget; None for AMC with a reward that knows the cost.
        trials: Candidates to evaluate; None for the method's own number.
        budget_s: Seconds the search may take, with training and tables; None for no limit.
        seed: Of everything random.
        step: Channel step of the grid; None for that of the device.
        lower: Least share of a width.
        reward: One of `REWARDS`.
        single_weights: AMC prunes single weights, not channels.
        explore: Where AMC's agent explores at first: `nearby` uniform pruning, or `everywhere`, as
            published.
        baselines: Whether AMC and ABCPruner are held against hand-made policies and random search.
        alpha: ABCPruner's largest share of a width.
        sources: Its food sources.
        cycles: Its cycles.
        patience: Failures after which it gives up a source.
        data: Images: a folder, `module:factory` of a dataset, or `digits`; None for none.
        images: Use that many training images only; None for all.
        evaluate: `module:function` that judges a network instead of its accuracy.
        weights: File with weights of the original; None to take them as they come.
        importance: Which channels stay: `l1`, `l2`, `random`; None for the method's own.
        reconstruct: Whether layers are re-fitted by least squares before a network is judged; None
            for the method's own.
        train_epochs: Of the original, where it comes untrained.
        trial_epochs: Of each candidate before it is judged; None for the method's own.
        adaptor_steps: PRACTISE's iterations for the score of one block.
        tune: Training of the result, one of `TUNINGS`; None for the method's own.
        tune_epochs: Of the result; None for `TUNE_EPOCHS`, and for `TUNE_STEPS` batches of
            PRACTISE, whose images are few.
        tune_steps: Batches instead of epochs.
        temperature: Of knowledge distillation.
    """

    method: str
    limit: Limit | None = None
    trials: int | None = None
    budget_s: float | None = None
    seed: int = 0
    step: int | None = None
    lower: float = 0.2
    reward: str = "error"
    single_weights: bool = False
    explore: str = EXPLORATIONS[0]
    baselines: bool = True
    alpha: float = 0.7
    sources: int = 10
    cycles: int = 10
    patience: int = 5
    data: str | None = None
    images: int | None = None
    evaluate: str | None = None
    weights: str | None = None
    importance: str | None = None
    reconstruct: bool | None = None
    train_epochs: int = 20
    trial_epochs: float | None = None
    adaptor_steps: int = 1000
    tune: str | None = None
    tune_epochs: int | None = None
    tune_steps: int | None = None
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if self.method not in SEARCHES:
            raise UsageError(
                f"unknown search {self.method!r}; expected one of {', '.join(SEARCHES)}"
            )
        if self.limit is None and (self.method != "amc" or self.reward == "error"):
            raise UsageError(
                "the search needs a budget: --latency 0.5, or --macs, --params or --size"
            )
        if self.trials is not None and self.trials < 1:
            raise UsageError(f"{self.trials} trials were asked for; expected at least 1")
        if self.single_weights and (
            self.method != "amc" or self.limit is None or self.limit.kind != "size"
        ):
            raise UsageError(
                "single weights are pruned by amc, for a size budget only: no ordinary runtime gets"
                " faster by it"
            )
        if self.method == "practise" and self.limit is not None and self.limit.kind != "latency":
            raise UsageError(
                f"practise drops blocks for latency; give --latency instead of --{self.limit.kind}"
            )
        self._check_choices()

    def _check_choices(self) -> None:
        """Refuse, before anything is trained or measured, what would only be noticed after it."""
        choices = (
            ("tuning", self.tune, TUNINGS),
            ("reward", self.reward, REWARDS),
            ("exploration", self.explore, EXPLORATIONS),
            ("importance", self.importance, IMPORTANCES),
        )
        for what, given, known in choices:
            if given is not None and given not in known:
                raise UsageError(f"unknown {what} {given!r}; expected one of {', '.join(known)}")
        if self.tune in {"ce", "kd"} and self.data is None:
            raise UsageError(
                f"tuning by {self.tune!r} learns from labelled images; give --data, or --tune"
                " features"
            )
        if not self.temperature > 0:
            raise UsageError(
                f"a temperature of {self.temperature:g} was given; expected a number above 0"
            )
        if self.tune_epochs is not None and self.tune_steps is not None:
            raise UsageError("epochs and steps of tuning were given; give one of them")

    def key(self, *facts: str) -> str:
        """Identity of the search of these `facts` (network, table): a killed one is found by it.

        How long it may go on is no part of it, so that a search can be given more time.
        """
        fields: dict[str, Any] = {
            name: value for name, value in asdict(self).items() if name != "budget_s"
        }
        return sha256(json.dumps([fields, *facts], sort_keys=True).encode()).hexdigest()
