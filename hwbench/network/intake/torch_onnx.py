"""Exporting torch modules, TorchScript and exported programs to ONNX, checked against torch.

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
"""ONNX operator set of every export.

It is the native one of both exporters, so that no converter rewrites the graph.
"""
EXPORT_TOLERANCE = 1e-3
"""Largest accepted difference to torch, over torch's largest output.

Fp32 reassociation stays two orders of magnitude below.
"""
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError,
    NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What running or exporting someone's module may raise."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A self-contained ONNX model in normal form, and what was noticed on the way to it.

    Attributes:
        onnx: The model, serialised.
        findings: What a reader of its latency should know.
    """

    onnx: bytes
    findings: tuple[Finding, ...] = ()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's warnings and log lines from the user's terminal.

    None of them is about what the user asked for. The tracing exporter (2.13) prints the graph of a
    failure past Python on standard output, so the file descriptor itself leads nowhere meanwhile.
    """
    sys.stdout.flush()
    log_level = logging.root.manager.disable
    real_stdout = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        os.dup2(null, 1)
        try:
            yield
        finally:
            os.dup2(real_stdout, 1)
            logging.disable(log_level)
            os.close(real_stdout)
            os.close(null)


def export_module(
    module: nn.Module,
    inputs: Sequence[TensorSpec | Tensor],
    name: str,
    seed: int = 0,
    *,
    fold_norms: bool = True,
) -> Exported:
    """Export a module or TorchScript module at fixed input shapes, in eval mode and fp32.

    Args:
        module: The module, on any device and in any mode. It is left as it was.
        inputs: One entry per argument of `forward`: a tensor, or a shape (by name, or in order) to
            draw a random one for.
        name: The name of the model, for messages.
        seed: The seed of random inputs.
        fold_norms: Whether batch normalization is folded into convolutions.

    Raises:
        UsageError: The module does not take these inputs.
        WorkloadError: The module cannot be run or exported.
    """
    import torch

    with quiet():
        try:
            own, findings = _copy_in_fp32(module)
            names = _list_argument_names(own)
            args = _make_arguments(inputs, names, name, seed)
            with torch.no_grad():
                expected = own(*args)
        except FAILURES as error:
            raise WorkloadError(
                f"{name} does not run on inputs {_shapes_text(inputs)}: {reason(error)}"
            ) from error
        model = _export_traced(own, args, names, name, fold_norms=fold_norms)
    return _finish_export(model, args, expected, name, findings)


def export_program(
    program: Any, inputs: Sequence[TensorSpec], batch: int | None, name: str, seed: int = 0
) -> Exported:
    """Export a `torch.export.ExportedProgram`.

    Args:
        program: The program.
        inputs: The shapes of its inputs, by name or in order; they fix its open dimensions.
        batch: The size of open leading dimensions, or None.
        name: The name of the model, for messages.
        seed: The seed of random inputs.

    Raises:
        UsageError: A dimension of an input stays open.
        WorkloadError: The program cannot be exported.
    """
    import torch

    if any(_is_training(node) for node in program.graph.nodes):
        raise WorkloadError(
            f"{name} was exported in training mode; call .eval() on the module and export it again"
        )
    with quiet():
        try:
            model = _export_by_torch_export(program, None)
        except FAILURES as error:
            raise WorkloadError(
                f"{name}: torch cannot export the program to ONNX: {reason(error)}"
            ) from error
        specs = onnx_files.fix_inputs(model, inputs, batch, name)
        onnx_normalise.normalise_graph(model, name, exported=True)
        args = _make_arguments(specs, [spec.name for spec in specs], name, seed)
        try:
            with torch.no_grad():
                expected = program.module()(*args)
        except FAILURES as error:
            raise WorkloadError(
                f"{name} does not run on inputs {_shapes_text(specs)}: {reason(error)}"
            ) from error
    return _finish_export(model, args, expected, name, ())


def _is_training(node: Any) -> bool:
    """Tell whether an operator is a batch norm or dropout that was exported in training mode."""
    import torch

    aten = torch.ops.aten
    training_positions = {
        aten.batch_norm.default: 5,
        aten.dropout.default: 2,
        aten.feature_dropout.default: 2,
    }
    if node.op != "call_function" or node.target not in training_positions:
        return False
    position = training_positions[node.target]
    return len(node.args) > position and node.args[position] is True


def _copy_in_fp32(module: nn.Module) -> tuple[nn.Module, tuple[Finding, ...]]:
    """Copy a module to the CPU, in eval mode, its floating-point parts in fp32."""
    own = copy.deepcopy(module).cpu()
    if hasattr(own, "training"):  # a frozen TorchScript module has no modes
        own.eval()
    dtypes = set()
    for tensor in own.state_dict().values():
        if tensor.is_floating_point():
            dtypes.add(str(tensor.dtype).removeprefix("torch."))
    dtypes.discard("float32")
    if not dtypes:
        return own, ()
    text = (
        f"the module's {', '.join(sorted(dtypes))} weights were converted to float32, and that is"
        " what is measured"
    )
    return own.float(), (Finding("converted_to_fp32", text),)


def _shapes_text(inputs: Sequence[TensorSpec | Tensor]) -> str:
    """Write the shapes of inputs for people: `1x3x224x224, 1x10`."""
    return ", ".join("x".join(map(str, tensor.shape)) for tensor in inputs) or "none"


def _list_argument_names(module: nn.Module) -> list[str]:
    """List the names of the positional arguments of `forward`."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        forward: Any = module.forward
        return [argument.name for argument in forward.schema.arguments[1:]]
    kinds = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    parameters = inspect.signature(module.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _make_arguments(
    inputs: Sequence[TensorSpec | Tensor], names: Sequence[str], model_name: str, seed: int
) -> tuple[Tensor, ...]:
    """Put tensors in the order of the arguments, drawn at random where only the shape is given.

    Args:
        inputs: Tensors, or shapes by name or in order.
        names: The names of all arguments, in order; the last ones may be left out.
        model_name: The name of the model, for messages.
        seed: The seed of random tensors.
    """
    import torch

    random = np.random.default_rng(seed)
    by_name: dict[str, Tensor] = {}
    for position, entry in enumerate(inputs):
        name = ""
        if isinstance(entry, torch.Tensor):
            tensor = entry.detach().cpu()
            if tensor.is_floating_point():
                tensor = tensor.float()
        else:
            tensor = torch.from_numpy(onnx_files.random_input(entry, random))
            name = entry.name
        if not name:
            name = names[position] if position < len(names) else str(position)
        by_name[name] = tensor
    order = [name for name in names if name in by_name] or list(by_name)
    if set(order) != set(by_name) or order != list(names[: len(order)]):
        raise UsageError(
            f"{model_name} takes the inputs {', '.join(names)}; given were {', '.join(by_name)}"
        )
    return tuple(by_name[name] for name in order)


def _export_traced(
    module: nn.Module,
    args: tuple[Tensor, ...],
    names: Sequence[str],
    name: str,
    *,
    fold_norms: bool,
) -> ModelProto:
    """Export a module by tracing; one that cannot be traced goes through torch.export."""
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
            # Eval mode would rename the weights that batch norm is folded into.
            training=torch.onnx.TrainingMode.PRESERVE,
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
            model = _export_by_torch_export(module, args)
        except FAILURES as error:
            raise WorkloadError(
                f"{name}: torch cannot export it to ONNX: {reason(error)}"
            ) from error
    onnx_normalise.normalise_graph(model, name, exported=True, fold_norms=fold_norms)
    return model


def _export_by_torch_export(module: Any, args: tuple[Tensor, ...] | None) -> ModelProto:
    import torch

    exported = torch.onnx.export(module, args, dynamo=True, opset_version=OPSET, verbose=False)  # type: ignore[arg-type]
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model: ModelProto = exported.model_proto
    return model


def _finish_export(
    model: ModelProto,
    args: tuple[Tensor, ...],
    expected: Any,
    name: str,
    findings: tuple[Finding, ...],
) -> Exported:
    """Serialise an exported model, and compare what it computes with torch's outputs."""
    data = onnx_files.serialise(model, name)
    outputs = _run_export(data, args, name)
    error = _relative_error(outputs, [tensor.detach().numpy() for tensor in _tensors(expected)])
    if error > EXPORT_TOLERANCE:
        text = (
            f"the ONNX export differs from torch by {error:.2g} of the largest output; at most"
            f" {EXPORT_TOLERANCE:g} was expected"
        )
        findings += (Finding("export_differs", text),)
    return Exported(data, findings)


def _run_export(data: bytes, args: tuple[Tensor, ...], name: str) -> list[NDArray[Any]]:
    """Run an exported model through ONNX Runtime."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # ONNX Runtime's own errors have no common base, and are not those of Python.
    errors = ort.capi.onnxruntime_pybind11_state
    refusals = (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NotImplemented,
        errors.RuntimeException,
    )
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feeds = {}
        for graph_input, tensor in zip(session.get_inputs(), args, strict=True):
            feeds[graph_input.name] = tensor.numpy()
        return [np.asarray(output) for output in session.run(None, feeds)]
    except (*refusals, RuntimeError, ValueError, KeyError) as error:
        raise WorkloadError(
            f"{name}: ONNX Runtime cannot run the export: {reason(error)}"
        ) from error


def _relative_error(outputs: Sequence[NDArray[Any]], references: Sequence[NDArray[Any]]) -> float:
    """Find the largest difference of outputs, each over the largest value of its reference.

    It is infinite where numbers, shapes or NaNs of outputs differ.
    """
    if len(outputs) != len(references):
        return float("inf")
    largest = 0.0
    for output, reference in zip(outputs, references, strict=True):
        largest = max(largest, _relative_error_of_one(output, reference))
    return largest


def _relative_error_of_one(output: NDArray[Any], reference: NDArray[Any]) -> float:
    if output.shape != reference.shape:
        return float("inf")
    output, reference = output.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(reference)
    if not np.array_equal(output[~finite], reference[~finite], equal_nan=True):
        return float("inf")
    scale = float(np.abs(reference[finite]).max(initial=0.0)) or 1.0
    worst = float(np.abs(output[finite] - reference[finite]).max(initial=0.0)) / scale
    if not np.isfinite(worst):
        return float("inf")
    return worst


def _tensors(value: Any) -> Iterator[Tensor]:
    """Walk over the tensors of a module's output, in the order in which exporters flatten it."""
    import torch

    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)


def reason(error: BaseException) -> str:
    """Say in one line what went wrong: the first line of the error at the bottom of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours of terminals
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return f"{type(error).__name__}: {lines[0][:300]}"
