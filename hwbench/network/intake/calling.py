"""Arguments of `forward` in whatever containers people hand them over, and its outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UsageError
from hwbench.network.intake import onnx_files
from hwbench.network.intake.input_texts import InputRequest
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

_CONSTANTS = (int, float, bool, complex, str, type(None))


@dataclass(frozen=True)
class Arguments:
    """What a module is called with.

    Attributes:
        positional: Positional arguments: tensors, constants, and containers of them.
        keywords: Keyword arguments.
        positional_names: A name for each positional argument.
    """

    positional: tuple[Any, ...]
    keywords: dict[str, Any]
    positional_names: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether all arguments are positional tensors."""
        import torch

        are_tensors = [isinstance(value, torch.Tensor) for value in self.positional]
        return not self.keywords and all(are_tensors)

    def named_tensors(self) -> list[tuple[str, Tensor]]:
        """The tensors with names for them, in order: `ids`, `batch.image`, `images.0`."""
        pairs = [*zip(self.positional_names, self.positional, strict=True), *self.keywords.items()]
        named: list[tuple[str, Tensor]] = []
        for name, value in pairs:
            named += _named_leaves(name, value)
        return named

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors in order."""
        return tuple(tensor for _, tensor in self.named_tensors())

    def names(self) -> list[str]:
        """The names of the tensors, in order."""
        return [name for name, _ in self.named_tensors()]

    def describe(self) -> str:
        """The shapes for people: `1x3x224x224, 1x10`."""
        shapes = ["x".join(map(str, tensor.shape)) or "scalar" for tensor in self.tensors()]
        return ", ".join(shapes) or "none"


def _named_leaves(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _named_leaves(f"{name}.{key}", entry)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _named_leaves(f"{name}.{index}", entry)


def arrange_arguments(module: nn.Module, inputs: Any, model_name: str, seed: int) -> Arguments:
    """Bring inputs into the order of the arguments of `forward`.

    Args:
        module: The module that is to be called.
        inputs: What `torch_onnx.export_module` takes.
        model_name: The name of the model, for messages.
        seed: The seed of tensors that are drawn.

    Raises:
        UsageError: The module does not take these inputs, or one of them is of no such kind.
    """
    import torch

    random = np.random.default_rng(seed)
    if isinstance(inputs, torch.Tensor | np.ndarray):
        inputs = (inputs,)
    signature = _read_signature(module)
    if isinstance(inputs, Mapping):
        keywords = {}
        for key, value in inputs.items():
            keywords[str(key)] = _convert(value, random, model_name)
        _check_names(signature, keywords, model_name)
        return Arguments((), keywords, ())
    if not isinstance(inputs, Sequence) or isinstance(inputs, str | bytes):
        raise UsageError(
            f"example inputs of {model_name} are a {type(inputs).__name__}; expected a tensor, or a"
            " tuple or mapping of them"
        )
    by_name: dict[str, Any] = {}
    for position, entry in enumerate(inputs):
        name = entry.name if isinstance(entry, TensorSpec | InputRequest) else ""
        if not name:
            name = signature.name_of(position)
        if name in by_name:
            raise UsageError(f"{model_name}: the input {name} is given twice")
        by_name[name] = _convert(entry, random, model_name)
    _check_names(signature, by_name, model_name)
    return _order(signature, by_name, len(inputs), model_name)


@dataclass(frozen=True)
class _Signature:
    """The arguments of `forward`.

    Attributes:
        positional: Names of arguments that may be given by position.
        required: Names of those without a default, in order.
        keyword_only: Names of arguments that must be given by name.
        takes_more: Whether any number of further ones may be given by position.
        takes_any_name: Whether arguments of any name may be given.
    """

    positional: tuple[str, ...]
    required: tuple[str, ...]
    keyword_only: tuple[str, ...]
    takes_more: bool = False
    takes_any_name: bool = False

    def name_of(self, position: int) -> str:
        """Name the argument that takes the input at a position."""
        names = self.positional
        if not self.takes_more:
            names += self.keyword_only
        return names[position] if position < len(names) else f"input{position}"

    def listing(self) -> str:
        """The names of all arguments, for people."""
        return ", ".join((*self.positional, *self.keyword_only)) or "none"


def _read_signature(module: nn.Module) -> _Signature:
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        forward: Any = module.forward
        arguments = forward.schema.arguments[1:]
        required = [argument.name for argument in arguments if not argument.has_default_value()]
        return _Signature(tuple(entry.name for entry in arguments), tuple(required), ())
    kinds = inspect.Parameter
    positional, required, keyword_only = [], [], []
    takes_more = takes_any_name = False
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is kinds.VAR_POSITIONAL:
            takes_more = True
        elif parameter.kind is kinds.VAR_KEYWORD:
            takes_any_name = True
        else:
            if parameter.kind is kinds.KEYWORD_ONLY:
                keyword_only.append(parameter.name)
            else:
                positional.append(parameter.name)
            if parameter.default is kinds.empty:
                required.append(parameter.name)
    return _Signature(
        tuple(positional), tuple(required), tuple(keyword_only), takes_more, takes_any_name
    )


def name_inputs(script: Any, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Name the inputs that TorchScript was traced with, which its file holds in order."""
    arguments = script.forward.schema.arguments[1:]
    if len(arguments) != len(inputs):
        return tuple(inputs)
    return tuple(
        replace(spec, name=entry.name) for spec, entry in zip(inputs, arguments, strict=True)
    )


def list_values(script: Any) -> list[str]:
    """List the arguments of TorchScript that are no tensors."""
    arguments = script.forward.schema.arguments[1:]
    return [entry.name for entry in arguments if str(entry.type) != "Tensor"]


def _check_names(signature: _Signature, given: Mapping[str, Any], model_name: str) -> None:
    known = {*signature.positional, *signature.keyword_only}
    unknown = [name for name in given if name not in known]
    if unknown and not signature.takes_any_name and not signature.takes_more:
        raise UsageError(
            f"{model_name} takes the inputs {signature.listing()}; given were {', '.join(given)}"
        )
    missing = [name for name in signature.required if name not in given]
    if missing:
        raise UsageError(
            f"{model_name} takes the inputs {signature.listing()}, of which {', '.join(missing)}"
            f" {'is' if len(missing) == 1 else 'are'} missing; given were"
            f" {', '.join(given) or 'none'}"
        )


def _order(
    signature: _Signature, by_name: Mapping[str, Any], count: int, model_name: str
) -> Arguments:
    """Give arguments by position as far as none is left out before them, the others by name."""
    positional: list[Any] = []
    names: list[str] = []
    for name in signature.positional:
        if name not in by_name:
            break
        positional.append(by_name[name])
        names.append(name)
    keywords = {}
    for name, value in by_name.items():
        if name in names:
            continue
        if signature.takes_more and name not in (*signature.positional, *signature.keyword_only):
            positional.append(value)
            names.append(name)
        else:
            keywords[name] = value
    if len(positional) + len(keywords) != count:
        raise UsageError(f"{model_name} takes the inputs {signature.listing()}; {count} were given")
    return Arguments(tuple(positional), keywords, tuple(names))


def _convert(value: Any, random: np.random.Generator, model_name: str) -> Any:
    """Make tensors of shapes and arrays, all of them on the CPU and in fp32 or whole numbers."""
    import torch

    if isinstance(value, InputRequest):
        value = value.spec
    if isinstance(value, TensorSpec):
        # torch computes in fp32; NumPy has no bfloat16 to draw.
        dtype = "float32" if value.dtype == "bfloat16" else value.dtype
        value = onnx_files.random_input(TensorSpec(value.name, value.shape, dtype), random)
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "fiub":
            raise UsageError(f"{model_name}: an input array holds {value.dtype}; expected numbers")
        value = torch.from_numpy(np.array(value))
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        return tensor.float() if tensor.is_floating_point() else tensor
    if isinstance(value, Mapping | list | tuple):
        return _rebuild_container(value, lambda entry: _convert(entry, random, model_name))
    if isinstance(value, _CONSTANTS):
        return value
    raise UsageError(
        f"{model_name}: an input is a {type(value).__name__}; expected tensors, arrays, numbers, or"
        " lists, tuples and mappings of them"
    )


def _rebuild_container(value: Any, change: Callable[[Any], Any]) -> Any:
    """Make a container of the same kind of what its entries are changed to."""
    if isinstance(value, Mapping):
        changed = {}
        for key, entry in value.items():
            changed[key] = change(entry)
        return changed
    entries = [change(entry) for entry in value]
    if hasattr(value, "_fields"):  # a named tuple
        return type(value)(*entries)
    return type(value)(entries)


def iterate_tensors(value: Any) -> Iterator[Tensor]:
    """Walk over the tensors of a module's output, in the order in which exporters flatten it."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from iterate_tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from iterate_tensors(entry)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from iterate_tensors(getattr(value, field.name))


def is_plain_output(value: Any) -> bool:
    """Tell whether an output is a tensor, or a sequence of tensors, which exporters take."""
    import torch

    if isinstance(value, torch.Tensor):
        return True
    return type(value) in {list, tuple} and all(isinstance(entry, torch.Tensor) for entry in value)


def flatten_forward(module: nn.Module, arguments: Arguments) -> None:
    """Have a module take its tensors one by one and return them so, in place.

    The method is replaced on the module itself, so that its layers keep their names.

    Args:
        module: A copy that nobody else uses.
        arguments: What it is called with; what is no tensor is kept for every call.
    """
    forward = module.forward

    def forward_flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        waiting = iter(tensors)
        positional = [_refill(value, waiting) for value in arguments.positional]
        keywords = {}
        for name, value in arguments.keywords.items():
            keywords[name] = _refill(value, waiting)
        return tuple(iterate_tensors(forward(*positional, **keywords)))

    module.forward = forward_flat


def _refill(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Put the next tensors into the place of those in a value."""
    import torch

    if isinstance(value, torch.Tensor):
        return next(tensors)
    if isinstance(value, Mapping | list | tuple):
        return _rebuild_container(value, lambda entry: _refill(entry, tensors))
    return value
