"""Making a module again from the structure of the file that it was saved in whole.

Only classes of torch.nn are made, and those of a script that the user has named; objects of any
other class that hang on a module become plain namespaces. So no pickle is run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hwbench.errors import SchemaError
from hwbench.network.intake import pickles
from hwbench.network.intake.structures import (
    ITEM_BYTES,
    Content,
    Instance,
    TensorRecord,
    make_tensor,
)

if TYPE_CHECKING:
    from torch import nn

_FUNCTIONS = ("torch._C._nn.gelu", "torch.nn.functional.relu", "torch.nn.functional.gelu")
_WRAPPERS = {"torch.nn.parallel.data_parallel.DataParallel"}
"""Classes of torch that are no layers, but around them."""
_MAX_DEPTH = 300


def is_known(name: str) -> bool:
    """Tell whether a class or function that a module names is one of torch.nn's."""
    return (
        pickles.is_module_class(name)
        or name in _FUNCTIONS
        or name in _WRAPPERS
        or name.removeprefix("torch.") in ITEM_BYTES
        or name in {"torch.device", "torch.serialization._get_layout"}
    )


def rebuild_module(
    module: Instance, content: Content, name: str, classes: Mapping[str, Any]
) -> nn.Module:
    """Make a module of torch.nn classes again.

    Args:
        module: The module in the structure of its file.
        content: The file.
        name: The name of the file, for messages.
        classes: Further classes and functions by name, which the user has named.

    Raises:
        SchemaError: The structure is not one that such a module has.
    """
    import torch

    rebuilder = _Rebuilder(content, classes)
    try:
        made = rebuilder.make(module, 0)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SchemaError(
            f"{name} cannot be put together with this version of torch ({cause}); save the model"
            " anew"
        ) from error
    if not isinstance(made, torch.nn.Module):
        raise SchemaError(f"{name} holds a {module.kind[:80]}; expected a module")
    return made


class _Rebuilder:
    """Makes the objects of one file, each once."""

    def __init__(self, content: Content, classes: Mapping[str, Any]) -> None:
        import torch

        self._content = content
        self._made: dict[int, Any] = {}
        self._named: dict[str, Any] = dict(classes)
        for kind in vars(torch.nn).values():
            if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
                self._named[f"{kind.__module__}.{kind.__qualname__}"] = kind
        projection = torch.nn.modules.linear.NonDynamicallyQuantizableLinear
        self._named[f"{projection.__module__}.{projection.__qualname__}"] = projection
        for function in (torch.nn.functional.relu, torch.nn.functional.gelu):
            self._named[f"torch.nn.functional.{function.__name__}"] = function
        self._named["torch._C._nn.gelu"] = torch.nn.functional.gelu

    def make(self, value: Any, depth: int) -> Any:
        """Make what a value of the structure stands for."""
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, TensorRecord):
            made: Any = make_tensor(value, self._content)
        elif isinstance(value, Instance):
            return self._make_instance(value, depth)
        elif isinstance(value, type) and issubclass(value, Instance):
            made = self._find_name(value.kind)
        elif isinstance(value, Mapping):
            # An ordered dictionary also does for a plain one, and modules expect it for hooks.
            made = OrderedDict()
            self._made[id(value)] = made
            for key, entry in value.items():
                made[key] = self.make(entry, depth + 1)
        elif isinstance(value, list | tuple | set):
            made = type(value)(self.make(entry, depth + 1) for entry in value)
        else:
            return value
        self._made[id(value)] = made
        return made

    def _find_name(self, kind: str) -> Any:
        import torch

        if kind.removeprefix("torch.") in ITEM_BYTES:
            return getattr(torch, kind.removeprefix("torch."))
        return self._named.get(kind)

    def _make_instance(self, value: Instance, depth: int) -> Any:
        import torch

        if value.kind == "torch.device":
            return torch.device("cpu")
        kind = self._named.get(value.kind)
        if not isinstance(kind, type):
            if pickles.is_module_class(value.kind):
                raise ValueError(f"there is no {value.kind}")
            made: Any = SimpleNamespace()
            self._made[id(value)] = made
            if isinstance(value.state, Mapping):
                vars(made).update(self._make_state(value.state, depth))
            return made
        made = object.__new__(kind)
        self._made[id(value)] = made
        state = self._make_state(value.state, depth)
        for key, tensor in state.get("_parameters", {}).items():
            if tensor is not None:
                state["_parameters"][key] = self._make_parameter(value, key, tensor)
        if isinstance(made, torch.nn.Module) or hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            vars(made).update(state)
        return made

    def _make_state(self, state: Any, depth: int) -> dict[str, Any]:
        if not isinstance(state, Mapping):
            raise TypeError("an object without attributes")
        return {str(key): self.make(entry, depth + 1) for key, entry in state.items()}

    def _make_parameter(self, owner: Instance, key: str, tensor: Any) -> Any:
        """Make a parameter; one that two modules share is made once."""
        import torch

        record = owner.state["_parameters"][key]
        made = self._made.get(id(record))
        if not isinstance(made, torch.nn.Parameter):
            made = torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
            self._made[id(record)] = made
        return made
