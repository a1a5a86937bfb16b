"""From a checked file, or an export, to the Workload that devices run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.network import graph
from hwbench.network.intake import half, onnx_bounds, onnx_files, onnx_normalise, quantize
from hwbench.network.intake.archives import ModelFile
from hwbench.network.intake.torch_files import ReadRequest
from hwbench.network.intake.torch_onnx import Exported
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding

if TYPE_CHECKING:
    from onnx import ModelProto

MANY_ZEROS = 0.5
"""Share of exact zeros from which weights look pruned though they are stored densely."""

_INT8_OPERATORS = {
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
}


def export_onnx(file: ModelFile, path: Path, request: ReadRequest) -> Exported:
    """Parse a checked ONNX file, fix its inputs and bring it to the common form.

    Args:
        file: The file, as `archives.inspect` gives it.
        path: Where it lies; external data is read from its folder.
        request: How it is to be read.

    Raises:
        UsageError: Input shapes are missing or do not fit.
        SchemaError: The file is damaged.
        UnsafeModelError: It refers to external data outside its folder.
        WorkloadError: The weights exceed what one model can hold, or it was exported in training.
    """
    model = onnx_files.parse(file.payload, path)
    onnx_files.fix_inputs(model, request.inputs, request.batch, request.name)
    onnx_normalise.normalise_graph(model, request.name, exported=False)
    return Exported(onnx_files.serialise(model, request.name))


def describe_workload(
    exported: Exported, request: ReadRequest, precision: str, file_bytes: int | None
) -> Workload:
    """Name the nodes, convert to the precision asked for, and describe the result.

    Args:
        exported: The model.
        request: How it was read.
        precision: The precision asked for.
        file_bytes: The size of the file the model was read from, or None.

    Raises:
        SchemaError: A window is wider than what it slides over.
        WorkloadError: The network cannot be cast or quantised.
    """
    model = graph.load(exported.onnx)
    inputs = onnx_files.input_specs(model, request.name)
    onnx_bounds.check_windows(model, request.name)
    findings = list(exported.findings)
    zeros, counts = graph.zero_share(model), graph.count(model)
    if zeros >= MANY_ZEROS:
        findings.append(
            Finding(
                "zeros_left_dense",
                f"{zeros:.0%} of the weights are exactly zero but stored densely: a dense kernel"
                " gains nothing from them",
            )
        )
    file_precision = _precision_of(model)
    final_precision = file_precision
    if file_precision != "fp32":
        findings.append(
            Finding(
                "precision_of_file", f"the file holds {file_precision} already and is measured so"
            )
        )
    elif precision != "fp32":
        if precision == "int8":
            model = quantize.quantize(model, inputs, request.name, request.seed)
            findings.append(quantize.RANDOM_CALIBRATION)
        else:
            model = half.halve(model, request.name, precision)
            findings.append(half.make_finding(precision))
        model = graph.name_nodes(model)
        inputs = onnx_files.input_specs(model, request.name)
        final_precision = precision
    data = onnx_files.serialise(model, request.name)
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    # What was converted here is no longer the file it was. Of a file, external data counts too.
    if file_bytes is None or final_precision != file_precision:
        size_bytes = len(data)
    else:
        size_bytes = max(file_bytes, len(exported.onnx))
    return Workload(
        request.name,
        data,
        inputs,
        batch,
        final_precision,
        counts.macs,
        counts.params,
        size_bytes,
        tuple(findings),
    )


def _precision_of(model: ModelProto) -> str:
    """Find the precision of a model by its operators and the types of its weights."""
    from onnx import TensorProto

    if any(node.op_type in _INT8_OPERATORS for node in model.graph.node):
        return "int8"
    types = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    if TensorProto.FLOAT16 in types:
        return "fp16"
    if TensorProto.BFLOAT16 in types:
        return "bf16"
    return "fp32"
