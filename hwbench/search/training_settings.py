"""How networks are trained, as far as users say: the original, candidates, and the result.

What is not said is as usual, which differs between the three. Epochs and steps are said apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

from hwbench.errors import UsageError

SCHEDULES = ("steps", "cosine")
"""How the learning rate falls: by steps to a tenth, or along half a cosine to 0."""
SETTINGS = ("rate", "schedule", "batch", "weight_decay", "shift", "mirror", "augment")
"""Names of the settings."""
_TRUE, _FALSE = ("yes", "true", "1"), ("no", "false", "0")


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Settings of a training; None for what is usual there.

    Attributes:
        rate: Learning rate at the start.
        schedule: How it falls, one of `SCHEDULES`.
        batch: Images per batch.
        weight_decay: Weight decay.
        shift: Images are moved at random by up to this many pixels, and filled with zeros.
        mirror: Whether images are mirrored at random, left to right.
        augment: `module:function` or `module:factory(LITERALS)` of what is done to each image
            (c, h, w) after that, such as a transform of torchvision.

    Raises:
        UsageError: A value is impossible.
    """

    rate: float | None = None
    schedule: str | None = None
    batch: int | None = None
    weight_decay: float | None = None
    shift: int | None = None
    mirror: bool | None = None
    augment: str | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise UsageError(f"a learning rate of {self.rate:g} was given; expected one above 0")
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise UsageError(
                f"unknown schedule {self.schedule!r}; expected one of {', '.join(SCHEDULES)}"
            )
        if self.batch is not None and self.batch < 2:
            # Batch normalization has no spread of a single image.
            raise UsageError(f"a batch of {self.batch} was given; expected at least 2 images")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise UsageError(
                f"a weight decay of {self.weight_decay:g} was given; expected 0 or more"
            )
        if self.shift is not None and self.shift < 0:
            raise UsageError(f"a shift of {self.shift} pixels was given; expected 0 or more")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read settings as people write them, such as `rate=0.1,schedule=cosine,mirror=yes`.

        Raises:
            UsageError: There is no such setting, or a value cannot be read.
        """
        kinds = (float, str, int, float, int, _read_bool, str)
        readers: dict[str, Callable[[str], Any]] = dict(zip(SETTINGS, kinds, strict=True))
        given: dict[str, Any] = {}
        for part in _split(text):
            name, equals, value = part.partition("=")
            name = name.strip().replace("-", "_")
            if not equals or name not in readers:
                raise UsageError(
                    f"{part.strip()!r} is no setting of training; expected NAME=VALUE with one of"
                    f" {', '.join(readers)}"
                )
            try:
                given[name] = readers[name](value.strip())
            except ValueError as error:
                raise UsageError(f"{name} is {value.strip()!r}, which cannot be read") from error
        return cls(**given)

    def __str__(self) -> str:
        """As `parse` reads them."""
        words = []
        for name, value in self.drop_defaults().items():
            text = {True: "yes", False: "no"}[value] if name == "mirror" else str(value)
            words.append(f"{name}={text}")
        return ",".join(words)

    def drop_defaults(self) -> dict[str, Any]:
        """The settings without those that are left as usual, by name."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _read_bool(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def _split(text: str) -> list[str]:
    """The parts between commas; those in brackets and quotes do not count."""
    parts, depth, quote, begun = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[begun:place])
            begun = place + 1
    return [*parts, text[begun:]]
