"""torch modules, TorchScript modules and exported programs to ONNX, checked against what torch computes.

Modules and TorchScript go through torch's tracing exporter: it keeps weight names and module
scopes, reads TorchScript files, and takes a tenth of the time of the other (0.5 s against 4 s for
MobileNet-V1). Exported programs, and modules that cannot be traced, go through the exporter built
on torch.export.
"""

from __future__ import annotations

import copy
import inspect
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UsageError, WorkloadError
from hwbench.network.intake import onnx_files, onnx_normalise
from hwbench.network.ort import onnxruntime
from hwbench.records.findings import Finding
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor, nn

OPSET = 18
"""ONNX operator set of every export: the native one of both exporters, so no converter rewrites the graph."""
EXPORT_TOLERANCE = 1e-3
"""Largest difference to torch over torch's largest output.

Fp32 reassociation stays two orders of magnitude below.
"""
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError,
    NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What running or exporting someone's module may raise."""


_RUNTIME_ERRORS = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NotImplemented",
    "RuntimeException",
)


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX model made from torch, self-contained and tidy, and what was noticed on the way."""

    onnx: bytes
    findings: tuple[Finding, ...] = ()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's warnings and log lines from the user's terminal: none of them is about what the user asked for.

    Its tracing exporter (2.13) prints the graph of a failure past Python on standard output, so
    that is closed meanwhile.
    """
    sys.stdout.flush()
    before, screen, nowhere = (
        logging.root.manager.disable,
        os.dup(1),
        os.open(os.devnull, os.O_WRONLY),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        os.dup2(nowhere, 1)
        try:
            yield
        finally:
            os.dup2(screen, 1)
            logging.disable(before)
            os.close(screen)
            os.close(nowhere)


def export_module(
    module: nn.Module, inputs: Sequence[TensorSpec | Tensor], name: str, seed: int = 0
) -> Exported:
    """Export a module or TorchScript module at fixed input shapes, in eval mode and fp32.

    The module is left as it was.

    Args:
        module: On any device, in any mode.
        inputs: One per argument of `forward`: tensors, or shapes (by name, or in order) to draw
            random ones for.
        name: For messages.
        seed: Of random inputs.

    Raises:
        UsageError: Inputs that the module does not take.
        WorkloadError: It cannot be run or exported.
    """
    import torch

    with quiet():
        try:
            own, findings = _prepared(module)
            names = _argument_names(own)
            args = _arguments(inputs, names, name, seed)
            with torch.no_grad():
                expected = own(*args)
        except FAILURES as error:
            raise WorkloadError(
                f"{name} does not run on inputs {_text(inputs)}: {reason(error)}"
            ) from error
        model = _export(own, args, names, name)
    return _finish(model, args, expected, name, findings)


def export_program(
    program: Any, inputs: Sequence[TensorSpec], batch: int | None, name: str, seed: int = 0
) -> Exported:
    """Export a `torch.export.ExportedProgram`.

    Its open dimensions are fixed by `inputs` or `batch`.

    Raises:
        UsageError: An input dimension stays open.
        WorkloadError: It cannot be exported.
    """
    import torch

    if any(_is_training(node) for node in program.graph.nodes):
        raise WorkloadError(
            f"{name} was exported in training mode; call .eval() on the module and export it again"
        )
    with quiet():
        try:
            model = _by_torch_export(program, None)
        except FAILURES as error:
            raise WorkloadError(
                f"{name}: torch cannot export the program to ONNX: {reason(error)}"
            ) from error
        specs = onnx_files.fix_inputs(model, inputs, batch, name)
        onnx_normalise.tidy(model, name, exported=True)
        args = _arguments(specs, [spec.name for spec in specs], name, seed)
        try:
            with torch.no_grad():
                expected = program.module()(*args)
        except FAILURES as error:
            raise WorkloadError(
                f"{name} does not run on inputs {_text(specs)}: {reason(error)}"
            ) from error
    return _finish(model, args, expected, name, ())


def _is_training(node: Any) -> bool:
    """Whether an operator of an exported program is a batch norm or dropout of a module in training mode."""
    import torch

    aten = torch.ops.aten
    switches = {
        aten.batch_norm.default: 5,
        aten.dropout.default: 2,
        aten.feature_dropout.default: 2,
    }  # position of `training`
    position = switches.get(node.target) if node.op == "call_function" else None
    return position is not None and len(node.args) > position and node.args[position] is True


def _prepared(module: nn.Module) -> tuple[nn.Module, tuple[Finding, ...]]:
    """A copy on the CPU, in eval mode, its floating-point parts in fp32."""
    own = copy.deepcopy(module).cpu()
    if hasattr(own, "training"):  # a frozen TorchScript module has no modes
        own.eval()
    found = {
        str(t.dtype).removeprefix("torch.")
        for t in own.state_dict().values()
        if t.is_floating_point()
    } - {"float32"}
    if not found:
        return own, ()
    text = (
        f"the module's {', '.join(sorted(found))} weights were converted to float32, and that is"
        " what is measured"
    )
    return own.float(), (Finding("converted_to_fp32", text),)


def _text(inputs: Sequence[TensorSpec | Tensor]) -> str:
    return ", ".join("x".join(map(str, given.shape)) for given in inputs) or "none"


def _argument_names(module: nn.Module) -> list[str]:
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        forward: Any = module.forward
        return [argument.name for argument in forward.schema.arguments[1:]]
    kinds = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return [
        parameter.name
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in kinds
    ]


def _arguments(
    inputs: Sequence[TensorSpec | Tensor], names: Sequence[str], name: str, seed: int
) -> tuple[Tensor, ...]:
    """Tensors in the order of the arguments, drawn at random where only the shape is given."""
    import torch

    random = np.random.default_rng(seed)
    by_name: dict[str, Tensor] = {}
    for position, given in enumerate(inputs):
        if isinstance(given, torch.Tensor):
            tensor = given.detach().cpu()
            tensor = tensor.float() if tensor.is_floating_point() else tensor
        else:
            tensor = torch.from_numpy(onnx_files.random_input(given, random))
        key = (given.name if isinstance(given, TensorSpec) else "") or (
            names[position] if position < len(names) else str(position)
        )
        by_name[key] = tensor
    order = [known for known in names if known in by_name] or list(by_name)
    if set(order) != set(by_name) or order != list(names[: len(order)]):
        raise UsageError(
            f"{name} takes the inputs {', '.join(names)}; given were {', '.join(by_name)}"
        )
    return tuple(by_name[key] for key in order)


def _export(
    module: nn.Module, args: tuple[Tensor, ...], names: Sequence[str], name: str
) -> ModelProto:
    """By tracing; a module that cannot be traced goes through torch.export."""
    import onnx
    import torch

    try:
        buffer: Any = io.BytesIO()
        torch.onnx.export(
            module,
            args,
            buffer,
            dynamo=False,
            input_names=list(names[: len(args)]),
            training=torch.onnx.TrainingMode.PRESERVE,  # eval mode would rename the weights that batch norm is folded into
            opset_version=OPSET,
            verbose=False,
        )
        model = onnx.load_model_from_string(buffer.getvalue())
    except FAILURES as traced:
        if isinstance(module, torch.jit.ScriptModule):
            raise WorkloadError(
                f"{name}: torch cannot export this TorchScript to ONNX: {reason(traced)}"
            ) from traced
        try:
            model = _by_torch_export(module, args)
        except FAILURES as error:
            raise WorkloadError(
                f"{name}: torch cannot export it to ONNX: {reason(error)}"
            ) from error
    onnx_normalise.tidy(model, name, exported=True)
    return model


def _by_torch_export(module: Any, args: tuple[Tensor, ...] | None) -> ModelProto:
    import torch

    exported = torch.onnx.export(module, args, dynamo=True, opset_version=OPSET, verbose=False)  # type: ignore[arg-type]
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model: ModelProto = exported.model_proto
    return model


def _finish(
    model: ModelProto,
    args: tuple[Tensor, ...],
    expected: Any,
    name: str,
    findings: tuple[Finding, ...],
) -> Exported:
    """Serialise, and compare with torch's outputs."""
    data = onnx_files.serialise(model, name)
    error = _relative_error(data, args, expected, name)
    if error > EXPORT_TOLERANCE:
        text = (
            f"the ONNX export differs from torch by {error:.2g} of the largest output; at most"
            f" {EXPORT_TOLERANCE:g} was expected"
        )
        findings += (Finding("export_differs", text),)
    return Exported(data, findings)


def _relative_error(data: bytes, args: tuple[Tensor, ...], expected: Any, name: str) -> float:
    """Largest difference between ONNX Runtime and torch over torch's largest output.

    Infinite where shapes or NaNs differ.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    state = ort.capi.onnxruntime_pybind11_state
    refusals = tuple(getattr(state, kind) for kind in _RUNTIME_ERRORS)
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        outputs = session.run(
            None,
            {
                known.name: arg.numpy()
                for known, arg in zip(session.get_inputs(), args, strict=True)
            },
        )
    except (*refusals, RuntimeError, ValueError, KeyError) as error:
        raise WorkloadError(
            f"{name}: ONNX Runtime cannot run the export: {reason(error)}"
        ) from error
    references = [tensor.detach().numpy() for tensor in _tensors(expected)]
    if len(references) != len(outputs):
        return float("inf")
    return max(
        (_difference(np.asarray(out), ref) for out, ref in zip(outputs, references, strict=True)),
        default=0.0,
    )


def _difference(out: NDArray[Any], reference: NDArray[Any]) -> float:
    if out.shape != reference.shape:
        return float("inf")
    ours, theirs = out.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
        return float("inf")
    scale = float(np.abs(theirs[finite]).max(initial=0.0)) or 1.0
    worst = float(np.abs(ours[finite] - theirs[finite]).max(initial=0.0)) / scale
    return worst if np.isfinite(worst) else float("inf")


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a module's output, in the order in which the exporters flatten it."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def reason(error: BaseException) -> str:
    """One line for people: the first line of what went wrong at the bottom of a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
