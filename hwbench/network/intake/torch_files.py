"""Exporting files of torch to ONNX, in a process of their own.

Even after the checks of `archives` a file reaches native readers that were not written for hostile
input, and TorchScript may loop for ever. So a child process with a time limit loads, runs and
exports it; what comes back is an ONNX model.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hwbench.errors import (
    Argument,
    HwbenchError,
    SchemaError,
    UnsafeModelError,
    UsageError,
    error_from_dict,
    error_to_dict,
)
from hwbench.network.intake.archives import HOW_TO_SAVE, TRUST, ModelFile
from hwbench.network.intake.torch_onnx import (
    FAILURES,
    Exported,
    export_module,
    export_program,
    reason,
)
from hwbench.network.ort import TELEMETRY_OFF
from hwbench.records.findings import Finding
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import nn

LIMIT_S = 600.0
"""Time within which a file must have been exported, in seconds."""

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from"
    " hwbench.network.intake.torch_files import main; main(sys.argv[2])"
)
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


def convert(file: ModelFile, request: ReadRequest, limit_s: float = LIMIT_S) -> Exported:
    """Export a checked file of torch in a child process.

    Args:
        file: The file, as `archives.inspect` gives it.
        request: How it is to be read.
        limit_s: Time within which the child must have finished, in seconds.

    Raises:
        UsageError: Input shapes or the architecture are missing or do not fit.
        SchemaError: torch cannot read the file.
        UnsafeModelError: Reading the file ended the process, or took longer than `limit_s`.
        WorkloadError: The network cannot be run or exported.
    """
    with TemporaryDirectory(prefix="hwbench-") as folder_name:
        folder = Path(folder_name)
        (folder / "payload").write_bytes(file.payload)
        job = {
            "kind": file.kind,
            "file_inputs": [asdict(spec) for spec in file.inputs],
            "request": asdict(request),
        }
        (folder / "request.json").write_text(json.dumps(job))
        # The child runs in the temporary folder, but finds modules where this process does: an
        # empty entry of the path means the current folder.
        current = str(Path.cwd())
        paths = [entry or current for entry in (*sys.path, "")]
        environment = os.environ | TELEMETRY_OFF
        if not request.trust_pickle:
            # Parts of a `.pt2` are pickles too, which torch.export.load would run without this.
            environment["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        command = [sys.executable, "-c", _CHILD, json.dumps(paths), folder_name]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                capture_output=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnsafeModelError(
                f"{request.name}: torch did not finish reading and exporting it within"
                f" {limit_s:g} s"
            ) from error
        if not (folder / "result.json").exists():
            stderr = done.stderr.decode(errors="replace")
            raise _explain_child_end(request.name, done.returncode, stderr)
        result = json.loads((folder / "result.json").read_text())
        if "error" in result:
            raise error_from_dict(result)
        findings = tuple(Finding(**fields) for fields in result["findings"])
        return Exported((folder / "model.onnx").read_bytes(), findings)


def _explain_child_end(name: str, code: int, stderr: str) -> HwbenchError:
    """Make the error for a child process that ended without a result."""
    if code < 0:
        return UnsafeModelError(
            f"{name}: reading it ended the process with signal {-code}; the file is damaged or"
            " hostile"
        )
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no message"]
    return SchemaError(f"{name}: torch cannot read it ({lines[-1][:300]}); save the model anew")


def main(folder: str) -> None:
    """Run the child process: convert `payload` as `request.json` says.

    It leaves `result.json` and, if all went well, `model.onnx`.

    Args:
        folder: The path of the folder with the files.
    """
    _limit_resources()
    place = Path(folder)
    job = json.loads((place / "request.json").read_text())
    fields = job["request"]
    fields["inputs"] = _read_specs(fields["inputs"])
    request = ReadRequest(**fields)
    payload = (place / "payload").read_bytes()
    result: dict[str, Any]
    try:
        exported = _convert_payload(job["kind"], payload, _read_specs(job["file_inputs"]), request)
        (place / "model.onnx").write_bytes(exported.onnx)
        result = {"findings": [asdict(finding) for finding in exported.findings]}
    except HwbenchError as error:
        result = error_to_dict(error)
    except (*FAILURES, pickle.UnpicklingError, EOFError) as error:
        message = f"{request.name}: torch cannot read it ({reason(error)}); save the model anew"
        result = error_to_dict(SchemaError(message))
    (place / "result.json").write_text(json.dumps(result))


def _read_specs(rows: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(row["name"], tuple(row["shape"]), row["dtype"]) for row in rows)


def _limit_resources() -> None:
    """Allow this process no core dump, and no more memory than the machine has.

    A greedy file must not take the processes of others down.
    """
    if sys.platform != "win32":
        import resource

        import psutil

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (psutil.virtual_memory().total,) * 2)


def _convert_payload(
    kind: str, payload: bytes, file_inputs: tuple[TensorSpec, ...], request: ReadRequest
) -> Exported:
    import torch

    if kind == "program":
        program = torch.export.load(io.BytesIO(payload))
        return export_program(program, request.inputs, request.batch, request.name, request.seed)
    if kind == "script":
        script = torch.jit.load(io.BytesIO(payload), map_location="cpu")  # type: ignore[no-untyped-call]
        shapes = choose_input_shapes(request, file_inputs)
        return export_module(script, shapes, request.name, request.seed)
    content = unpickle(payload, request.name, trust=request.trust_pickle)
    if not isinstance(content, torch.nn.Module):
        content = build_architecture(content, request)
    shapes = choose_input_shapes(request, ())
    return export_module(content, shapes, request.name, request.seed)


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
        sys.path.remove(current)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{text} made a {type(module).__name__}; expected a torch.nn.Module")
    return module
