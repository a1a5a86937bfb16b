"""Exporting torch modules, TorchScript and exported programs to ONNX, checked against torch.

Modules and TorchScript go through torch's tracing exporter: it keeps weight names and module
scopes, reads TorchScript files, and takes a tenth of the time of the other (0.5 s against 4 s for
MobileNet-V1). Exported programs, and modules that cannot be traced, go through the exporter built
on torch.export.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UsageError, WorkloadError
from hwbench.network.intake import calling, onnx_files, onnx_inputs, onnx_normalise, plain_modules
from hwbench.network.intake.failures import FAILURES, reason
from hwbench.network.ort import model_errors, onnxruntime
from hwbench.network.weight_files import WeightFiles
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


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX model in normal form, and what was noticed on the way to it.

    Attributes:
        onnx: The model, serialised.
        findings: What a reader of its latency should know.
        tensors: What its nodes write, by the names that its file has for them.
        weights: The files of weights that are not inside; None if all are.
    """

    onnx: bytes
    findings: tuple[Finding, ...] = ()
    tensors: Mapping[str, str] = field(default_factory=dict)
    weights: WeightFiles | None = None


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
    module: nn.Module, inputs: Any, name: str, seed: int = 0, *, fold_norms: bool = True
) -> Exported:
    """Export a module or TorchScript module at fixed input shapes, in eval mode and fp32.

    Args:
        module: The module, on any device and in any mode. It is left as it was.
        inputs: One entry per argument of `forward`: a tensor, an array, a number, a list, tuple or
            mapping of these, or a shape (by name, or in order) to draw a random tensor for; or a
            mapping of names of arguments to these.
        name: The name of the model, for messages.
        seed: The seed of random inputs.
        fold_norms: Whether batch normalization is folded into convolutions.

    Raises:
        UsageError: The module does not take these inputs.
        WorkloadError: The module cannot be run or exported.
    """
    import torch

    with quiet():
        own, findings = prepare_module(module, name)
        arguments = calling.arrange_arguments(own, inputs, name, seed)
        try:
            expected = _run_module(own, arguments)
        except FAILURES as error:
            raise WorkloadError(
                f"{name} does not run on inputs {arguments.describe()}: {reason(error)}"
            ) from error
        if not list(calling.iterate_tensors(expected)):
            raise WorkloadError(
                f"{name} returns a {type(expected).__name__} without tensors; expected a network"
                " that computes tensors"
            )
        tensors = arguments.tensors()
        is_script = isinstance(own, torch.jit.ScriptModule)
        if not (is_script or (arguments.is_plain and calling.is_plain_output(expected))):
            calling.flatten_forward(own, arguments)
        model = _export_traced(own, tensors, arguments.names(), name, fold_norms=fold_norms)
    feeds = dict(zip(arguments.names(), tensors, strict=True))
    return _finish_export(model, feeds, expected, name, findings)


def _run_module(module: nn.Module, arguments: calling.Arguments) -> Any:
    import torch

    with torch.no_grad():
        return module(*arguments.positional, **arguments.keywords)


def runs_on(module: nn.Module, specs: Sequence[TensorSpec], name: str) -> bool:
    """Tell whether a module, prepared by `prepare_module`, runs on inputs of these shapes."""
    with quiet():
        try:
            _run_module(module, calling.arrange_arguments(module, specs, name, 0))
        except (*FAILURES, UsageError):
            return False
    return True


def export_program(
    program: Any,
    inputs: Sequence[TensorSpec],
    batch: int | None,
    name: str,
    *,
    seed: int = 0,
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> Exported:
    """Export a `torch.export.ExportedProgram`.

    Args:
        program: The program.
        inputs: The shapes of its inputs, by name or in order; they fix its open dimensions.
        batch: The size of open leading dimensions, or None.
        name: The name of the model, for messages.
        seed: The seed of random inputs.
        sizes: The sizes of open dimensions by name.

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
        specs = onnx_inputs.fix_inputs(model, inputs, batch, name, sizes)
        onnx_normalise.normalise_graph(model, name, exported=True)
        random = np.random.default_rng(seed)
        args = tuple(torch.from_numpy(onnx_files.random_input(spec, random)) for spec in specs)
        try:
            expected = _run_program(program, args)
        except FAILURES as error:
            shapes = ", ".join("x".join(map(str, spec.shape)) for spec in specs)
            raise WorkloadError(
                f"{name} does not run on inputs {shapes or 'none'}: {reason(error)}"
            ) from error
    feeds = dict(zip((spec.name for spec in specs), args, strict=True))
    return _finish_export(model, feeds, expected, name, ())


def _run_program(program: Any, args: tuple[Tensor, ...]) -> Any:
    """Run a program on its tensors in order, whatever containers its arguments were in.

    Numbers and None among the arguments are those that it was exported with.
    """
    import torch
    from torch.export.graph_signature import ConstantArgument, InputKind

    tensors = iter(args)
    leaves: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            is_constant = isinstance(spec.arg, ConstantArgument)
            leaves.append(spec.arg.value if is_constant else next(tensors, None))
    with torch.no_grad():
        tree = program.call_spec.in_spec
        if tree is None or tree.num_leaves != len(leaves):
            return program.module()(*args)
        positional, keywords = torch.utils._pytree.tree_unflatten(leaves, tree)  # noqa: SLF001
        return program.module()(*positional, **keywords)


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


def prepare_module(module: nn.Module, name: str) -> tuple[nn.Module, tuple[Finding, ...]]:
    """Copy a module to the CPU, without wrappers, in eval mode, in fp32 and with plain weights.

    Args:
        module: The module, which is left as it was.
        name: The name of the model, for messages.

    Returns:
        The copy, and what was changed in it.

    Raises:
        WorkloadError: It cannot be copied, has no weights yet, or is of a kind without an export.
    """
    own = plain_modules.unwrap(module)
    plain_modules.check_kind(own, name)
    try:
        own = plain_modules.copy_module(own).cpu()
    except FAILURES as error:
        raise WorkloadError(
            f"{name} cannot be copied to be exported: {reason(error)}; give a module that"
            " copy.deepcopy takes"
        ) from error
    if hasattr(own, "training"):  # a frozen TorchScript module has no modes
        own.eval()
    findings = plain_modules.fold_weights(own)
    dtypes = set()
    for tensor in [*own.parameters(), *own.buffers()]:
        if tensor.is_floating_point():
            dtypes.add(str(tensor.dtype).removeprefix("torch."))
    dtypes.discard("float32")
    if not dtypes:
        return own, findings
    text = (
        f"the module's {', '.join(sorted(dtypes))} weights were converted to float32, and that is"
        " what is measured"
    )
    return own.float(), (*findings, Finding("converted_to_fp32", text))


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
            input_names=list(names),
            # Eval mode would rename the weights that batch norm is folded into.
            training=torch.onnx.TrainingMode.PRESERVE,
            opset_version=OPSET,
            verbose=False,
        )
        model = onnx.load_model_from_string(buffer.getvalue())
    except FAILURES as traced:
        if isinstance(module, torch.jit.ScriptModule):
            others = calling.list_values(module)
            cause = reason(traced)
            if others:
                cause = f"it takes {', '.join(others)} beside tensors; script it without them"
            raise WorkloadError(
                f"{name}: torch cannot export this TorchScript to ONNX: {cause}"
            ) from traced
        try:
            model = _export_by_torch_export(module, args, names)
        except FAILURES as error:
            raise WorkloadError(
                f"{name}: torch cannot export it to ONNX: {reason(error)}"
            ) from error
    onnx_normalise.normalise_graph(model, name, exported=True, fold_norms=fold_norms)
    return model


def _export_by_torch_export(
    module: Any, args: tuple[Tensor, ...] | None, names: Sequence[str] | None = None
) -> ModelProto:
    import torch

    exported = torch.onnx.export(
        module,
        args,  # type: ignore[arg-type]
        dynamo=True,
        input_names=None if names is None else list(names),
        opset_version=OPSET,
        verbose=False,
    )
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model: ModelProto = exported.model_proto
    return model


def _finish_export(
    model: ModelProto,
    feeds: Mapping[str, Tensor],
    expected: Any,
    name: str,
    findings: tuple[Finding, ...],
) -> Exported:
    """Serialise an exported model, and compare what it computes with torch's outputs.

    Args:
        model: The model.
        feeds: The tensors that torch was given, in order, by their names.
        expected: What torch computed.
        name: The name of the model, for messages.
        findings: What was noticed so far.
    """
    used = {value.name for value in model.graph.input}
    unused = [key for key in feeds if key not in used]
    if unused and len(used) < len(feeds):
        text = f"{name} computes nothing from {', '.join(unused)}: it is measured without"
        findings += (Finding("inputs_unused", text),)
        feeds = {key: tensor for key, tensor in feeds.items() if key in used}
    data = onnx_files.serialise(model, name)
    outputs = _run_export(data, tuple(feeds.values()), name)
    error = _relative_error(
        outputs, [tensor.detach().numpy() for tensor in calling.iterate_tensors(expected)]
    )
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
    failures: tuple[type[Exception], ...] = (KeyError, *model_errors())
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feeds = {}
        for graph_input, tensor in zip(session.get_inputs(), args, strict=True):
            feeds[graph_input.name] = tensor.numpy()
        return [np.asarray(output) for output in session.run(None, feeds)]
    except failures as error:
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
