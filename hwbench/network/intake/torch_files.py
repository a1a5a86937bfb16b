"""Files of torch to ONNX, in a process of their own.

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
"""Time in which a file must have been exported, seconds."""

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from"
    " hwbench.network.intake.torch_files import main; main(sys.argv[2])"
)
_NESTED = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
)  # where training checkpoints keep the weights


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a file of torch.

    Attributes:
        name: Of the file, for messages.
        inputs: Shapes from the user, by name or in order; they win over those in the file.
        batch: Leading dimension of every input, or None.
        arch: `module:factory` that builds the network for a file with weights alone.
        trust_pickle: Pickles may run code.
        seed: Of random inputs.
    """

    name: str
    inputs: tuple[TensorSpec, ...] = ()
    batch: int | None = None
    arch: str | None = None
    trust_pickle: bool = False
    seed: int = 0


def convert(file: ModelFile, request: Request, limit_s: float = LIMIT_S) -> Exported:
    """Export a checked file of torch in a child process.

    Raises:
        UsageError: Input shapes or the architecture are missing or do not fit.
        SchemaError: torch cannot read the file.
        UnsafeModelError: Reading it ended the process, or took longer than `limit_s` seconds.
        WorkloadError: It cannot be run or exported.
    """
    with TemporaryDirectory(prefix="hwbench-") as text:
        folder = Path(text)
        (folder / "payload").write_bytes(file.payload)
        asked = {
            "kind": file.kind,
            "kept": [asdict(spec) for spec in file.inputs],
            "request": asdict(request),
        }
        (folder / "request.json").write_text(json.dumps(asked))
        paths = [entry or os.getcwd() for entry in (*sys.path, "")]  # noqa: PTH109 - "" is what Python itself calls it
        environment = os.environ | TELEMETRY_OFF
        if not request.trust_pickle:
            environment["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        command = [sys.executable, "-c", _CHILD, json.dumps(paths), text]
        try:
            done = subprocess.run(
                command,
                cwd=text,
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
            raise _died(request.name, done.returncode, done.stderr.decode(errors="replace"))
        result = json.loads((folder / "result.json").read_text())
        if "error" in result:
            raise error_from_dict(result)
        return Exported(
            (folder / "model.onnx").read_bytes(),
            tuple(Finding(**found) for found in result["findings"]),
        )


def _died(name: str, code: int, stderr: str) -> HwbenchError:
    if code < 0:
        return UnsafeModelError(
            f"{name}: reading it ended the process with signal {-code}; the file is damaged or"
            " hostile"
        )
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no message"]
    return SchemaError(f"{name}: torch cannot read it ({lines[-1][:300]}); save the model anew")


def main(folder: str) -> None:
    """Entry of the child process: convert `payload` as `request.json` says.

    Leave `result.json` and `model.onnx`.
    """
    _limit_resources()
    place = Path(folder)
    asked = json.loads((place / "request.json").read_text())
    fields = asked["request"]
    request = Request(**{**fields, "inputs": _specs(fields["inputs"])})
    result: dict[str, Any]
    try:
        exported = _convert(
            asked["kind"], (place / "payload").read_bytes(), _specs(asked["kept"]), request
        )
        (place / "model.onnx").write_bytes(exported.onnx)
        result = {"findings": [asdict(found) for found in exported.findings]}
    except HwbenchError as error:
        result = error_to_dict(error)
    except (*FAILURES, pickle.UnpicklingError, EOFError) as error:
        message = f"{request.name}: torch cannot read it ({reason(error)}); save the model anew"
        result = error_to_dict(SchemaError(message))
    (place / "result.json").write_text(json.dumps(result))


def _specs(rows: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(row["name"], tuple(row["shape"]), row["dtype"]) for row in rows)


def _limit_resources() -> None:
    """No core dump, and no more memory than the machine has: a greedy file must not take others' processes down."""
    if sys.platform != "win32":
        import resource

        import psutil

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (psutil.virtual_memory().total,) * 2)


def _convert(kind: str, payload: bytes, kept: tuple[TensorSpec, ...], request: Request) -> Exported:
    import torch

    if kind == "program":
        program = torch.export.load(io.BytesIO(payload))
        return export_program(program, request.inputs, request.batch, request.name, request.seed)
    if kind == "script":
        script = torch.jit.load(io.BytesIO(payload), map_location="cpu")  # type: ignore[no-untyped-call]
        return export_module(script, input_shapes(request, kept), request.name, request.seed)
    found = unpickle(payload, request.name, trust=request.trust_pickle)
    if not isinstance(found, torch.nn.Module):
        found = with_architecture(found, request)
    return export_module(found, input_shapes(request, ()), request.name, request.seed)


def input_shapes(request: Request, known: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The shapes to run at: the user's, else the `known` ones.

    The batch replaces their leading dimension.

    Raises:
        UsageError: There are none.
    """
    if not (request.inputs or known):
        raise UsageError(
            f"{request.name} does not say the shape of its input",
            Argument("inputs", "1x3x224x224", purpose="give it"),
        )
    types = [spec.dtype for spec in known] + ["float32"] * len(request.inputs)
    specs = [
        replace(spec, dtype=dtype) for spec, dtype in zip(request.inputs, types, strict=False)
    ] or list(known)
    if request.batch is not None:
        specs = [replace(spec, shape=(request.batch, *spec.shape[1:])) for spec in specs]
    return tuple(specs)


def unpickle(payload: bytes, name: str, *, trust: bool) -> Any:
    """What a pickle of torch holds: a module of torch.nn classes, or weights.

    Raises:
        UnsafeModelError: It holds anything else, and is not trusted.
    """
    import torch

    if trust:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=False)
    classes = [
        kind
        for kind in vars(torch.nn).values()
        if isinstance(kind, type) and issubclass(kind, torch.nn.Module)
    ]
    extra: list[Callable[..., Any]] = [
        torch.nn.modules.linear.NonDynamicallyQuantizableLinear,
        torch.nn.functional.relu,
        torch.nn.functional.gelu,
    ]
    try:
        with torch.serialization.safe_globals([*classes, *extra]):
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        cause = " ".join(
            str(error)
            .partition("WeightsUnpickler error:")[2]
            .partition("Check the documentation")[0]
            .split()
        )
        raise UnsafeModelError(
            f"{name}: torch's weights-only reader refuses it ({cause[:200] or 'damaged'})"
            f"; {HOW_TO_SAVE}",
            TRUST,
        ) from error


def with_architecture(found: Any, request: Request) -> nn.Module:
    """The network of the architecture asked for, with the weights that the file holds.

    Raises:
        SchemaError: It holds no weights.
        UsageError: There is no architecture, or the weights do not fit it.
    """
    weights = _weights_in(found, request.name)
    if request.arch is None:
        held = f"{len(weights)} tensors, first {next(iter(weights))!r}"
        raise UsageError(
            f"{request.name} holds weights alone ({held})",
            Argument("arch", purpose="say what builds the network"),
        )
    module = from_factory(request.arch)
    load_weights(module, weights, request.name, request.arch)
    return module


def load_weights(module: nn.Module, found: Any, name: str, arch: str) -> None:
    """Put the weights that a file holds into a network.

    Args:
        module: The network.
        found: What was read from the file: a state dict, or a checkpoint with one.
        name: Of the file, for messages.
        arch: Of the network, for messages.

    Raises:
        SchemaError: The file holds no weights.
        UsageError: They do not fit.
    """
    weights = _weights_in(found, name)
    try:
        module.load_state_dict(weights)
    except FAILURES as error:
        text = " ".join(str(error).split())
        raise UsageError(f"the weights of {name} do not fit {arch}: {text[:300]}") from error


def _weights_in(found: Any, name: str) -> dict[str, Any]:
    import torch

    if isinstance(found, Mapping):
        found = next((found[key] for key in _NESTED if isinstance(found.get(key), Mapping)), found)
    if (
        not isinstance(found, Mapping)
        or not found
        or not all(isinstance(value, torch.Tensor) for value in found.values())
    ):
        raise SchemaError(
            f"{name} holds a {type(found).__name__}; expected a module or a state_dict"
        )
    return dict(found)


def from_factory(text: str) -> nn.Module:
    """Import `package.module:factory` and call it; the current folder is searched last.

    Raises:
        UsageError: It does not import, or makes no nn.Module.
    """
    import torch

    where, _, attribute = text.partition(":")
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        made = import_module(where)
        for part in attribute.split("."):
            made = getattr(made, part)
        module = made() if callable(made) and not isinstance(made, torch.nn.Module) else made
    except FAILURES as error:
        raise UsageError(
            f"{text} cannot be called to build a network: {reason(error)}; expected"
            " package.module:factory"
        ) from error
    finally:
        sys.path.remove(here)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{text} made a {type(module).__name__}; expected a torch.nn.Module")
    return module
