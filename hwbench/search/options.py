"""Options of a search: the fields of a frozen dataclass, each described once by `option`.

The options of `hwbench search NAME`, the checks of Python arguments and the reference in the
documentation are all made of these descriptions::

    @dataclass(frozen=True)
    class MyOptions(WidthOptions):
        restarts: int = option("How often the search starts anew.", default=3, least=1)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Self

from hwbench.errors import UsageError

IMPORTANCES = ("l1", "l2", "batch-norm", "activations", "taylor", "random")
"""How the channels that stay can be chosen, see `hwbench.pruning.importance`."""
BY_IMAGES = ("activations", "taylor")
"""Those of them that images tell."""
_KEY = "hwbench.option"


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """What people and tools need to know of one option besides its type and its default.

    Attributes:
        help: What the value is, in one or two sentences.
        choices: The values it can take; empty for any.
        least: The smallest number allowed.
        most: The largest number allowed.
        is_share: Whether it is a share above 0 and below 1, which people may write as `20%`.
        noun: What a value is called in messages; the option's name if empty.
        on_command_line: Whether the command line has it; otherwise only Python does.
        command_default: What the command line passes where the user gives no value; None for the
            field's own default.
    """

    help: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    is_share: bool = False
    noun: str = ""
    on_command_line: bool = True
    command_default: Any = None


def option(help_text: str, *, default: Any, **more: Any) -> Any:
    """A field of an options class.

    Args:
        help_text: What the value is.
        default: Its default.
        more: Other attributes of `OptionInfo`.
    """
    return field(default=default, metadata={_KEY: OptionInfo(help_text, **more)})


def option_infos(options: type[SearchOptions]) -> dict[str, OptionInfo]:
    """Descriptions of all options of a class, by name, its own before those it inherits."""
    return {
        entry.name: entry.metadata.get(_KEY, OptionInfo()) for entry in _own_fields_first(options)
    }


def option_defaults(options: type[SearchOptions]) -> dict[str, Any]:
    """Defaults of all options of a class, by name, its own before those it inherits."""
    return {entry.name: entry.default for entry in _own_fields_first(options)}


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search; this base has none.

    Raises:
        UsageError: A value is not among those its description allows.
    """

    def __post_init__(self) -> None:
        for name, info in option_infos(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                _check_value(name, value, info)

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Self:
        """Options as a record has them, beside much else; those it lacks take their defaults."""
        return cls(**{name: data[name] for name in option_infos(cls) if name in data})


@dataclass(frozen=True)
class WidthOptions(SearchOptions):
    """Options that every search over the widths of a network has.

    Attributes:
        step: Widths are multiples of it; None for the channel step of the device.
        baselines: Whether the search is held against hand-made policies and random search.
        importance: Which channels stay, one of `IMPORTANCES`; None for the search's own choice.
        reconstruct: Whether layers are re-fitted by least squares before a network is evaluated;
            None for the search's own choice.
        trial_epochs: Epochs that every candidate is trained for before it is evaluated; None for
            the search's own number.
    """

    step: int | None = option(
        "Widths are multiples of this number; by default the channel step of the device.",
        default=None,
        least=1,
    )
    baselines: bool = option(
        "Leave out the hand-made policies and the random search.", default=True
    )
    importance: str | None = option(
        "Which channels stay: those of the largest weights (l1, l2) or scales of batch"
        " normalization (batch-norm), those with the largest values on training images"
        " (activations), those without which the loss would change most, to first order (taylor),"
        " or some at random (random). By default l1; ABCPruner draws them at random.",
        default=None,
        choices=IMPORTANCES,
    )
    reconstruct: bool | None = option(
        "Whether layers are re-fitted by least squares.", default=None, on_command_line=False
    )
    trial_epochs: float | None = option(
        "Epochs that each network is trained for before it is evaluated.",
        default=None,
        least=0,
        on_command_line=False,
    )


def _own_fields_first(options: type[SearchOptions]) -> list[Field[Any]]:
    """Fields of a dataclass, those that the class itself declares before inherited ones."""
    known = {entry.name: entry for entry in fields(options)}
    own = [name for name in vars(options).get("__annotations__", {}) if name in known]
    return [known[name] for name in dict.fromkeys([*own, *known])]


def _check_value(name: str, value: Any, info: OptionInfo) -> None:
    if info.choices and value not in info.choices:
        known = ", ".join(info.choices)
        raise UsageError(f"unknown {info.noun or name} {value!r}; expected one of {known}")
    if info.is_share and not 0 < value < 1:
        raise UsageError(f"{name} is {value}; expected a share above 0 and below 1")
    if info.least is not None and value < info.least:
        raise UsageError(f"{name} is {value}; expected at least {info.least:g}")
    if info.most is not None and value > info.most:
        raise UsageError(f"{name} is {value}; expected at most {info.most:g}")
