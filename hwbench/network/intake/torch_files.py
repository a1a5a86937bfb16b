"""Reading files of torch, and exporting them to ONNX.

Even after the checks of `archives` a file reaches native readers that were not written for hostile
input, and TorchScript may loop for ever. So this is done in the workers of `reader_child`.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, SchemaError, UnsafeModelError, UsageError
from hwbench.network.intake import operators
from hwbench.network.intake.archives import HOW_TO_SAVE, TRUST, ModelFile
from hwbench.network.intake.torch_onnx import (
    FAILURES,
    Exported,
    export_module,
    export_program,
    reason,
)
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import nn

_WEIGHTS_KEYS = ("state_dict", "model_state_dict", "model", "net")
"""Where training checkpoints keep the weights."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """How a model is to be read.

    Attributes:
        name: The name of the model, for messages.
        inputs: The shapes from the user, by name or in order; they win over those in the file.
        batch: The leading dimension of every input, or None.
        arch: `module:factory` that builds the network for a file with weights alone.
        trust_pickle: Whether pickles may run code.
        seed: The seed of random inputs and weights.
    """

    name: str
    inputs: tuple[TensorSpec, ...] = ()
    batch: int | None = None
    arch: str | None = None
    trust_pickle: bool = False
    seed: int = 0


def export_file(file: ModelFile, request: ReadRequest) -> Exported:
    """Let torch read a checked file, and export it. Only for a process that may be lost.

    Args:
        file: The file, as `archives.inspect` gives it.
        request: How it is to be read.

    Raises:
        UsageError: Input shapes or the architecture are missing or do not fit.
        SchemaError: torch cannot read the file.
        UnsafeModelError: torch's weights-only reader refuses the file.
        WorkloadError: The network cannot be run or exported.
        MemoryError: It needs more memory than this process may take.
    """
    if not request.trust_pickle:
        # Parts of a `.pt2` are pickles too, which torch.export.load would run without this.
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        return _convert_payload(file.kind, file.payload, file.inputs, request)
    except MemoryError:
        raise
    except (*FAILURES, pickle.UnpicklingError, EOFError) as error:
        raise SchemaError(
            f"{request.name}: torch cannot read it ({reason(error)}); save the model anew"
        ) from error


def rehearse(file: ModelFile, name: str) -> None:
    """Let torch read a checked file, and throw away what comes of it.

    Args:
        file: The file, as `archives.inspect` gives it.
        name: Its name, for messages.

    Raises:
        SchemaError: torch cannot read the file.
        UnsafeModelError: torch's weights-only reader refuses the file.
        MemoryError: It needs more memory than this process may take.
    """
    import torch

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        if file.kind == "program":
            torch.export.load(io.BytesIO(file.payload))
        elif file.kind == "pickle":
            unpickle(file.payload, name, trust=False)
    except MemoryError:
        raise
    except (*FAILURES, pickle.UnpicklingError, EOFError) as error:
        raise SchemaError(
            f"{name}: torch cannot read it ({reason(error)}); save the model anew"
        ) from error


def _convert_payload(
    kind: str, payload: bytes, file_inputs: tuple[TensorSpec, ...], request: ReadRequest
) -> Exported:
    import torch

    if kind == "program":
        program = torch.export.load(io.BytesIO(payload))
        operators.check_program(program, request.name)
        return export_program(program, request.inputs, request.batch, request.name, request.seed)
    if kind == "script":
        script = _load_script(payload, request.name)
        shapes = choose_input_shapes(request, file_inputs)
        return export_module(script, shapes, request.name, request.seed)
    content = unpickle(payload, request.name, trust=request.trust_pickle)
    if not isinstance(content, torch.nn.Module):
        content = build_architecture(content, request)
    shapes = choose_input_shapes(request, ())
    return export_module(content, shapes, request.name, request.seed)


def _load_script(payload: bytes, name: str) -> nn.Module:
    """Load TorchScript as `torch.jit.load` does, with its operators checked before one runs.

    Loading itself runs none: `archives` refuses the only methods that it would call.
    """
    import torch

    # torch.jit.load does the same, and keeps the compiled unit to itself.
    native: Any = torch._C  # noqa: SLF001
    unit = native.CompilationUnit()
    restores_shapes = False
    loaded = native.import_ir_module_from_buffer(
        unit, payload, torch.device("cpu"), {}, restores_shapes
    )
    operators.check_script(unit, name)
    module: nn.Module = torch.jit._recursive.wrap_cpp_module(loaded)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return module


def choose_input_shapes(
    request: ReadRequest, file_inputs: Sequence[TensorSpec]
) -> tuple[TensorSpec, ...]:
    """Choose the shapes to run at: the user's, else those that the model itself says.

    Args:
        request: What the user asked for; its batch replaces the leading dimension of every shape.
        file_inputs: The shapes that the model says; empty if it says none. Their element types hold
            for the user's shapes as well.

    Raises:
        UsageError: There are no shapes.
    """
    if not (request.inputs or file_inputs):
        raise UsageError(
            f"{request.name} does not say the shape of its input",
            Argument("inputs", "1x3x224x224", purpose="give it"),
        )
    shapes = list(file_inputs)
    if request.inputs:
        dtypes = [spec.dtype for spec in file_inputs] + ["float32"] * len(request.inputs)
        shapes = [
            replace(spec, dtype=dtype) for spec, dtype in zip(request.inputs, dtypes, strict=False)
        ]
    if request.batch is not None:
        shapes = [replace(spec, shape=(request.batch, *spec.shape[1:])) for spec in shapes]
    return tuple(shapes)


def unpickle(payload: bytes, name: str, *, trust: bool) -> Any:
    """Read a pickle of torch: a module of torch.nn classes, or weights.

    Args:
        payload: The file.
        name: The name of the file, for messages.
        trust: Whether the pickle may run code.

    Raises:
        UnsafeModelError: The file holds anything else, and is not trusted.
    """
    import torch

    if trust:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=False)
    # Besides tensors, torch's weights-only reader builds what it is told is safe: the classes of
    # torch.nn, whose construction runs nothing of the file's, and what instances of them refer to.
    classes = [value for value in vars(torch.nn).values() if isinstance(value, type)]
    modules = [kind for kind in classes if issubclass(kind, torch.nn.Module)]
    others: list[Callable[..., Any]] = [
        torch.nn.modules.linear.NonDynamicallyQuantizableLinear,
        torch.nn.functional.relu,
        torch.nn.functional.gelu,
    ]
    try:
        with torch.serialization.safe_globals([*modules, *others]):
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message has the cause between two paragraphs of advice.
        _, _, text = str(error).partition("WeightsUnpickler error:")
        text, _, _ = text.partition("Check the documentation")
        cause = " ".join(text.split())
        raise UnsafeModelError(
            f"{name}: torch's weights-only reader refuses it ({cause[:200] or 'damaged'})"
            f"; {HOW_TO_SAVE}",
            TRUST,
        ) from error


def build_architecture(content: Any, request: ReadRequest) -> nn.Module:
    """Build the network of the architecture asked for, with the weights of a file.

    Args:
        content: What was read from the file: a state dict, or a checkpoint with one.
        request: What the user asked for.

    Raises:
        SchemaError: The file holds no weights.
        UsageError: No architecture was asked for, or the weights do not fit it.
    """
    weights = _find_weights(content, request.name)
    if request.arch is None:
        summary = f"{len(weights)} tensors, first {next(iter(weights))!r}"
        raise UsageError(
            f"{request.name} holds weights alone ({summary})",
            Argument("arch", purpose="say what builds the network"),
        )
    module = call_factory(request.arch)
    load_weights(module, weights, request.name, request.arch)
    return module


def load_weights(module: nn.Module, content: Any, name: str, arch: str) -> None:
    """Put the weights that a file holds into a network, in place.

    Args:
        module: The network.
        content: What was read from the file: a state dict, or a checkpoint with one.
        name: The name of the file, for messages.
        arch: The name of the network, for messages.

    Raises:
        SchemaError: The file holds no weights.
        UsageError: The weights do not fit.
    """
    weights = _find_weights(content, name)
    try:
        module.load_state_dict(weights)
    except FAILURES as error:
        text = " ".join(str(error).split())
        raise UsageError(f"the weights of {name} do not fit {arch}: {text[:300]}") from error


def _find_weights(content: Any, name: str) -> dict[str, Any]:
    """Find the state dict in what a file holds: all of it, or one entry of a checkpoint."""
    import torch

    if isinstance(content, Mapping):
        for key in _WEIGHTS_KEYS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        raise SchemaError(
            f"{name} holds a {type(content).__name__}; expected a module or a state_dict"
        )
    return dict(content)


def call_factory(text: str) -> nn.Module:
    """Import `package.module:factory` and call it; a module that stands there is taken as it is.

    Args:
        text: The module and the attribute in it. The current folder is searched last.

    Raises:
        UsageError: The module cannot be imported, or no nn.Module comes of it.
    """
    import torch

    module_name, _, attribute = text.partition(":")
    current = str(Path.cwd())
    is_new = current not in sys.path
    if is_new:
        sys.path.append(current)
    try:
        module: Any = import_module(module_name)
        for part in attribute.split("."):
            module = getattr(module, part)
        if callable(module) and not isinstance(module, torch.nn.Module):
            module = module()
    except FAILURES as error:
        raise UsageError(
            f"{text} cannot be called to build a network: {reason(error)}; expected"
            " package.module:factory"
        ) from error
    finally:
        if is_new:
            sys.path.remove(current)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{text} made a {type(module).__name__}; expected a torch.nn.Module")
    return module
