"""Fakes that are as strict as NVIDIA's own modules: names, argument names, counts and types come
from the real docstrings.

A call that the real binding would refuse is refused here with the same kind of error, for whichever
version is loaded.
"""

from __future__ import annotations

import functools
import inspect
import keyword
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_SIGNATURE = re.compile(r"^(?:\d+\. )?(\w*)\((.*)\) -> (.+)$", re.MULTILINE)
_INTEGERS = {"int", "SupportsInt", "SupportsIndex", "capsule"}


def _split(arguments: str) -> list[str]:
    """Arguments of a signature; commas inside brackets do not part them."""
    parts, depth, current = [], 0, ""
    for character in arguments:
        depth += (character in "([<") - (character in ")]>")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [*parts, current.strip()] if current.strip() else parts


@functools.cache
def signatures(text: str) -> tuple[inspect.Signature, ...]:
    """Every overload that pybind11 wrote into a docstring."""
    found = []
    for _, arguments, result in _SIGNATURE.findall(text):
        if arguments.startswith("*args"):
            continue
        parameters = []
        for argument in _split(arguments):
            head, _, default = argument.partition(" = ")
            name, _, kind = head.partition(": ")
            parameters.append(
                inspect.Parameter(
                    f"{name}_" if keyword.iskeyword(name) else name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    annotation=kind.rpartition(".")[2],
                    default=default or inspect.Parameter.empty,
                )
            )
        found.append(inspect.Signature(parameters, return_annotation=result.rpartition(".")[2]))
    return tuple(found)


def fits(value: Any, kind: str, module: ModuleType) -> bool:
    """Whether pybind11 would convert `value` to the type it calls `kind`."""
    if kind in _INTEGERS:
        return hasattr(value, "__int__") and not isinstance(value, str | float | bytes)
    if kind in {"float", "SupportsFloat"}:
        return hasattr(value, "__float__") and not isinstance(value, str)
    if kind in {"str", "bool", "tuple", "list"}:
        return type(value).__name__ == kind
    if kind.lower() == "buffer":
        return isinstance(value, bytes | bytearray | memoryview)
    if isinstance(value, Strict):
        return value.real.__name__ == kind
    real = getattr(module, kind, None)
    return isinstance(real, type) and isinstance(value, real)


def bind(
    text: str, arguments: Sequence[Any], named: dict[str, Any], module: ModuleType, what: str
) -> dict[str, Any]:
    """Arguments by name, if one overload takes them.

    Raises:
        TypeError: None does, as pybind11 would say.
    """
    reasons = []
    overloads = signatures(text)
    if not overloads:
        raise AssertionError(f"{what} has no signature in its docstring: {text[:200]!r}")
    for signature in overloads:
        try:
            bound = signature.bind(*arguments, **named).arguments
        except TypeError as error:
            reasons.append(str(error))
            continue
        kinds = {name: signature.parameters[name].annotation for name in bound}
        bad = [
            name
            for name, value in bound.items()
            if name not in {"self", "arg0"} and not fits(value, kinds[name], module)
        ]
        if not bad:
            return dict(bound)
        reasons.append(f"wrong types for {bad}")
    raise TypeError(
        f"{what}(): incompatible function arguments {arguments[1:]!r} {named!r}: {reasons}"
    )


class Strict:
    """Base of fakes: subclasses are named after the real class and define what its methods return,
    under the same names.

    A method that the real class lacks cannot be called, nor one that the fake does not play.
    Properties are read and set as the real class allows; `state` keeps them.
    """

    module: ModuleType
    """The real bindings; set once before any fake is made."""

    def __init__(self, **state: Any) -> None:
        object.__setattr__(self, "state", state)

    @property
    def real(self) -> type:
        return getattr(Strict.module, type(self).__name__)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in {"state", "real", "module"}:
            return object.__getattribute__(self, name)
        real = self.real
        original = getattr(real, name)  # AttributeError, as the real one would raise
        if isinstance(original, property):
            state = object.__getattribute__(self, "state")
            return state[name] if name in state else object.__getattribute__(self, f"_get_{name}")()
        play = object.__getattribute__(self, f"_{name}")

        def call(*arguments: Any, **named: Any) -> Any:
            bound = bind(
                original.__doc__,
                [self, *arguments],
                named,
                Strict.module,
                f"{real.__name__}.{name}",
            )
            return play(*[value for key, value in bound.items() if key != "self"])

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        original = getattr(self.real, name)
        if not isinstance(original, property) or original.fset is None:
            raise AttributeError(f"can't set attribute {name!r} of {self.real.__name__}")
        bind(
            original.fset.__doc__, [self, value], {}, Strict.module, f"{self.real.__name__}.{name}"
        )
        self.state[name] = value


def construct(kind: type[Strict], *arguments: Any, **named: Any) -> Strict:
    """Make a fake as the real constructor would: arguments checked, then handed to `_start`."""
    fake = kind()
    real = getattr(Strict.module, kind.__name__)
    bound = bind(real.__init__.__doc__, [fake, *arguments], named, Strict.module, kind.__name__)
    fake._start(*[value for key, value in bound.items() if key != "self"])
    return fake
