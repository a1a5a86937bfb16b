"""From a checked file, or an export, to the Workload that devices run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import Argument, HwbenchError, WorkloadError
from hwbench.network import graph
from hwbench.network.graph.shapes import drop_runtime_shapes
from hwbench.network.intake import (
    half,
    onnx_bounds,
    onnx_external,
    onnx_files,
    onnx_inputs,
    onnx_names,
    onnx_normalise,
    quantize,
)
from hwbench.network.intake.archives import ModelFile
from hwbench.network.intake.onnx_run import Completed, complete_model
from hwbench.network.intake.torch_files import ReadRequest
from hwbench.network.intake.torch_onnx import Exported
from hwbench.network.weight_files import count_external_bytes
from hwbench.network.workload import LARGE_ONNX, ONNX, Workload
from hwbench.records.findings import Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

IN_TRAINING = Finding(
    "exported_in_training",
    "batch normalization computes the statistics of every batch: the network was exported in"
    " training mode; call .eval() on the module and export it again",
)
MANY_ZEROS = 0.5
"""Share of exact zeros from which weights look pruned though they are stored densely."""


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
        WorkloadError: What cannot stay in other files exceeds what one model can hold.
    """
    model = onnx_files.parse(file.payload, path)
    onnx_inputs.fix_inputs(model, request.specs(), request.batch, request.name, dict(request.dims))
    names = onnx_names.FileNames(model)
    onnx_normalise.normalise_graph(model, request.name, exported=False)
    findings: tuple[Finding, ...] = ()
    if onnx_normalise.is_in_training(model):
        findings = (IN_TRAINING,)
    weights = onnx_external.note_weights(model, path)
    data = onnx_files.serialise(model, request.name)
    return Exported(data, findings, names.find_tensors(model), weights)


def blame_sizes(file: ModelFile, path: Path, request: ReadRequest, error: HwbenchError) -> None:
    """Say that the sizes asked for do not suit an ONNX file, if that is why it is refused.

    Args:
        file: The file.
        path: Where it lies.
        request: How it was read.
        error: Why it was refused.

    Raises:
        UsageError: It does not run with these sizes of its open dimensions, but with others.
    """
    model = onnx_files.parse(file.payload, path)
    asked = request.specs(), request.batch, request.name, dict(request.dims)
    before, _, after = error.message.partition("; export")[0].partition(": ")
    onnx_inputs.blame_sizes(model, asked, after or before)


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
    weights = exported.weights
    folder = None if weights is None else Path(weights.folder)
    completed = complete(exported.onnx, request.name, request.seed, folder)
    model = completed.model
    inputs = onnx_files.input_specs(model, request.name)
    onnx_bounds.check_windows(model, request.name)
    findings = [*exported.findings, *completed.findings]
    zeros = graph.zero_share(model, folder)
    counts = graph.count(model, completed.executions)
    findings += _explain_counts(counts)
    if zeros >= MANY_ZEROS:
        findings.append(
            Finding(
                "zeros_left_dense",
                f"{zeros:.0%} of the weights are exactly zero but stored densely: a dense kernel"
                " gains nothing from them",
            )
        )
    file_precision = graph.find_precision(model)
    final_precision = file_precision
    if file_precision != "fp32":
        findings.append(
            Finding(
                "precision_of_file", f"the file holds {file_precision} already and is measured so"
            )
        )
    elif precision != "fp32" and weights is not None:
        raise WorkloadError(
            f"{request.name} keeps over 2 GiB of weights, which are not converted here; save it in"
            f" {precision}",
            Argument("precision", "fp32", purpose="measure it as it is"),
        )
    elif precision != "fp32":
        if precision == "int8":
            model = quantize.quantize(model, inputs, request.name, request.seed)
            findings.append(quantize.RANDOM_CALIBRATION)
        else:
            model = half.halve(model, request.name, precision)
            findings.append(half.make_finding(precision))
        converted = onnx_files.serialise(graph.name_nodes(model), request.name)
        model = complete(converted, request.name, request.seed).model
        inputs = onnx_files.input_specs(model, request.name)
        final_precision = precision
    drop_runtime_shapes(model)
    data = onnx_files.serialise(model, request.name)
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    # What was converted here is no longer the file it was. Of a file, external data counts too.
    if file_bytes is None or final_precision != file_precision:
        size_bytes = len(data)
    else:
        size_bytes = max(file_bytes, len(exported.onnx))
        if weights is not None:
            size_bytes += count_external_bytes(model)
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
        format=ONNX if weights is None else LARGE_ONNX,
        node_names=onnx_names.name_makers(model, exported.tensors),
        weights=weights,
    )


def complete(data: bytes, name: str, seed: int, weights_folder: Path | None = None) -> Completed:
    """Load a model with all the shapes that its runtime knows.

    Args:
        data: The serialised model.
        name: The name of the model, for messages.
        seed: The seed of the inputs of a run, where shapes depend on values.
        weights_folder: Where weights lie that are not inside; None if all are.
    """

    def draw_feeds(model: ModelProto) -> dict[str, NDArray[Any]]:
        onnx_bounds.check_windows(model, name)
        random = np.random.default_rng(seed)
        inputs = onnx_files.input_specs(model, name)
        return {spec.name: onnx_files.random_input(spec, random) for spec in inputs}

    return complete_model(data, draw_feeds, weights_folder)


def _explain_counts(counts: graph.Counts) -> list[Finding]:
    """Say what the multiply-accumulates of a network leave out, or count twice."""
    findings = []
    if counts.macs is None:
        names = ", ".join(counts.uncounted[:3])
        more = ", ..." if len(counts.uncounted) > 3 else ""
        text = f"multiply-accumulates are unknown: those of {names}{more} cannot be counted"
        findings.append(Finding("macs_unknown", text))
    for name, branches in counts.branches:
        each = " and ".join("unknown" if macs is None else f"{macs:,}" for macs in branches)
        text = (
            f"{name} takes one of {len(branches)} branches, and both are counted:"
            f" {each} multiply-accumulates"
        )
        findings.append(Finding("branches_counted", text))
    return findings
