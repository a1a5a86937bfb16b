"""Leaving out whole residual blocks of a torch network, exactly: what remains computes what the block's shortcut carried.

A block that is a module of its own becomes a `Skip`. One that is written into its parent's
`forward`, as `x + self.mlp(x)`, loses its branch: the layers of the branch become `Vanish`, which
returns `NOTHING`, and adding nothing leaves `x` as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SKIP, VANISH = "skip", "vanish"


@dataclass(frozen=True, slots=True)
class Replacement:
    """One module that was replaced: its path, and by what (`skip`, `skip-tuple` or `vanish`)."""

    path: str
    by: str


class Skip(nn.Module):
    """Stands where a block was: hands its first input on, as the first of a tuple where the block returned one."""

    def __init__(self, *, in_tuple: bool = False) -> None:
        super().__init__()
        self.in_tuple = in_tuple

    def forward(self, x: Any, *_others: Any, **_named: Any) -> Any:
        """The first input."""
        return (x,) if self.in_tuple else x


class Nothing:
    """What is left of a branch: every function of it is nothing again, and adding it changes nothing."""

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        _types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of any of its functions that is given nothing."""
        if function in _ADDITIONS:
            others = [arg for arg in args if not isinstance(arg, Nothing)]
            return others[0] if others else NOTHING
        return NOTHING

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __add__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_named: NOTHING

    def __iter__(self) -> Iterator[Nothing]:
        """Unpacked as attention's answer is, which comes with its weights."""
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
        """Nothing."""
        return NOTHING


def replace_modules(module: nn.Module, replaced: Iterable[Replacement]) -> None:
    """Put the replacements into `module`, in place."""
    for item in replaced:
        module.set_submodule(
            item.path,
            Vanish() if item.by == VANISH else Skip(in_tuple=item.by != SKIP),
            strict=True,
        )
