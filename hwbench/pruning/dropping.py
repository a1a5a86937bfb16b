"""Leaving out whole residual blocks of a torch network: only what the shortcut carried remains.

A block that is a module of its own becomes a `Skip`. One that is written into its parent's
`forward`, as `x + self.mlp(x)`, loses its branch: the layers of the branch become `Vanish`, which
returns `NOTHING`, and adding nothing leaves `x` as it is. Both are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SKIP, SKIP_TUPLE, VANISH = "skip", "skip-tuple", "vanish"
"""By what a module may be replaced, see `Replacement`."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """One module that was replaced.

    Attributes:
        path: The path of the module.
        by: What stands there now: `skip` (a `Skip`), `skip-tuple` (a `Skip` in a tuple) or
            `vanish` (a `Vanish`).
    """

    path: str
    by: str


class Skip(nn.Module):
    """Stands where a block was and hands its first input on.

    Args:
        in_tuple: Whether the block returned a tuple, so that the input is handed on in one.
    """

    def __init__(self, *, in_tuple: bool = False) -> None:
        super().__init__()
        self.in_tuple = in_tuple

    def forward(self, x: Any, *_others: Any, **_named: Any) -> Any:
        """Return the first input."""
        if self.in_tuple:
            return (x,)
        return x


class Nothing:
    """What is left of a dropped branch.

    The layers of a branch are surrounded by code of the parent's `forward` (transposes, scalings,
    reshapes), which still runs. So every function of nothing is nothing again, whichever function
    it is, until it is added to the shortcut, where it changes nothing.
    """

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        _types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Stand in for any function of torch that has nothing among its arguments."""
        if function in _ADDITIONS:
            for arg in args:
                if not isinstance(arg, Nothing):
                    return arg
        return NOTHING

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __add__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_named: NOTHING

    def __iter__(self) -> Iterator[Nothing]:
        """Allow unpacking into two, as the output of attention is, which comes with its weights."""
        return iter((self, self))

    def __mul__(self, _other: Any) -> Nothing:
        return self

    __rmul__ = __truediv__ = __matmul__ = __rmatmul__ = __getitem__ = __mul__


NOTHING = Nothing()
_ADDITIONS = {
    torch.add,
    torch.Tensor.add,
    torch.Tensor.add_,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.__iadd__,
}


class Vanish(nn.Module):
    """Stands where a layer of a dropped branch was."""

    def forward(self, *_args: Any, **_named: Any) -> Nothing:
        """Return nothing, whatever goes in."""
        return NOTHING


def replace_modules(module: nn.Module, replaced: Iterable[Replacement]) -> None:
    """Put the replacements into `module`, in place."""
    for replacement in replaced:
        if replacement.by == VANISH:
            substitute: nn.Module = Vanish()
        else:
            substitute = Skip(in_tuple=replacement.by == SKIP_TUPLE)
        module.set_submodule(replacement.path, substitute, strict=True)
