"""Model intake: whatever holds a network becomes a Workload, safely and under the names of its torch modules.

    a file (.onnx, .pt2, .pt), zoo:NAME, module:factory, an nn.Module  ->  one self-contained ONNX
    model  ->  Workload

What a file is, is told by its content. Files are hostile until shown otherwise: `archives` and
`pickles` check them with the standard library alone, `torch_files` lets torch read what is left in
a process of its own, `onnx_files` keeps external data inside the model's folder. `torch_onnx`
exports and compares with torch, `onnx_tidy` folds and names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, TypedDict

from hwbench.errors import UsageError
from hwbench.network import graph
from hwbench.network.intake import half, onnx_files, onnx_normalise, quantize, torch_files
from hwbench.network.intake.archives import inspect
from hwbench.network.intake.torch_files import Request
from hwbench.network.intake.torch_onnx import Exported, export_module
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""What `load_workload` can put into a model.

A file that is in half precision or int8 already is measured as it is.
"""
MANY_ZEROS = 0.5
"""Share of exact zeros from which weights look pruned but are stored, and computed, densely."""

_INPUT = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<dims>\d+(?:x\d+)*)")
_FACTORY = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*:[A-Za-z_]\w*(?:\.\w+)*")
_QUANTISED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
}


def parse_input(text: str) -> TensorSpec:
    """Read `1x3x224x224` or `NAME=1x3x224x224`.

    Raises:
        UsageError: It is neither, or a dimension is 0.
    """
    match = _INPUT.fullmatch(text.strip())
    shape = tuple(int(part) for part in match["dims"].split("x")) if match else ()
    if match is None or min(shape) < 1:
        raise UsageError(
            f"input {text!r} is no shape; expected 1x3x224x224 or NAME=1x3x224x224, every dimension"
            " at least 1"
        )
    return TensorSpec(match["name"] or "", shape)


class ModelOptions(TypedDict, total=False):
    """How a model is read: keywords of `load_workload` that every workflow takes too."""

    inputs: Sequence[str]
    example_inputs: Tensor | Sequence[Tensor] | None
    batch: int | None
    precision: str
    arch: str | None
    trust_pickle: bool


def load_workload(
    model: str | Path | nn.Module,
    *,
    inputs: Sequence[str] = (),
    example_inputs: Tensor | Sequence[Tensor] | None = None,
    batch: int | None = None,
    precision: str = "fp32",
    arch: str | None = None,
    trust_pickle: bool = False,
    seed: int = 0,
) -> Workload:
    """Turn a model into the ONNX workload that devices run.

    Args:
        model: A path (`.onnx`, `.pt2`, TorchScript, a pickled module of torch.nn classes, a state
            dict with `arch`), `zoo:NAME[@WIDTH][,classes=N]`, `package.module:factory`, or an
            nn.Module (left as it is; exported in eval mode).
        inputs: Input shapes as text, `1x3x224x224` or `NAME=1x3x224x224`; needed where the model
            does not hold them.
        example_inputs: Tensors to export an nn.Module with, instead of `inputs`.
        batch: Leading dimension of every input.
        precision: `fp32`; `fp16` or `bf16` to cast weights, inputs and outputs; or `int8` to
            quantise statically with random calibration inputs. A file that is quantised or in half
            precision already stays so, and the workload says what it is.
        arch: `package.module:factory` that builds the network whose weights the file holds.
        trust_pickle: Let pickles run code.
        seed: Of the zoo's weights and of random inputs.

    Raises:
        UsageError: Unknown name or precision, missing or misfitting shapes, no such file.
        UnsafeModelError: The file would execute code, reaches outside its folder, or unpacks beyond
            bounds.
        SchemaError: The file is damaged or of no known kind.
        WorkloadError: The network cannot be run, exported, cast or quantised.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision {precision!r} is not offered; expected one of {', '.join(PRECISIONS)}"
        )
    if batch is not None and batch < 1:
        raise UsageError(f"batch must be at least 1, not {batch}")
    name = (
        model
        if isinstance(model, str)
        else str(model)
        if isinstance(model, Path)
        else type(model).__name__
    )
    request = Request(name, tuple(map(parse_input, inputs)), batch, arch, trust_pickle, seed)
    file_bytes = None
    if not isinstance(model, str | Path):
        found = _from_module(model, request, example_inputs)
    elif example_inputs is not None:
        raise UsageError(
            f"example inputs go with an nn.Module; say the shapes for {name} with"
            " inputs=['1x3x224x224']"
        )
    elif name.startswith("zoo:"):
        found = _from_zoo(request)
    elif _FACTORY.fullmatch(name) and not Path(name).exists():
        found = _from_module(torch_files.from_factory(name), request, None)
    else:
        found = _from_file(Path(model), request)
        file_bytes = Path(model).stat().st_size
    return _workload(found, request, precision, file_bytes)


def _from_module(
    module: Any, request: Request, example_inputs: Tensor | Sequence[Tensor] | None
) -> Exported:
    import torch

    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"cannot load a {type(module).__name__}; expected a path, zoo:NAME,"
            " package.module:factory or an nn.Module"
        )
    if example_inputs is None:
        return export_module(
            module, torch_files.input_shapes(request, ()), request.name, request.seed
        )
    tensors = [example_inputs] if isinstance(example_inputs, torch.Tensor) else list(example_inputs)
    if request.inputs or request.batch is not None:
        raise UsageError("example inputs already say shapes and batch; leave out inputs and batch")
    return export_module(module, tensors, request.name, request.seed)


def _from_file(path: Path, request: Request) -> Exported:
    file = inspect(path, trust_pickle=request.trust_pickle)
    if file.kind != "onnx":
        return torch_files.convert(file, request)
    model = onnx_files.parse(file.payload, path)
    onnx_files.fix_inputs(model, request.inputs, request.batch, request.name)
    onnx_normalise.tidy(model, request.name, exported=False)
    return Exported(onnx_files.serialise(model, request.name))


def _from_zoo(request: Request) -> Exported:
    """A network of the zoo.

    Its export is kept in the user's cache folder, so that the second time needs no torch.
    """
    cache = _cache_file(request)
    data = cache.read_bytes() if cache.is_file() else b""
    if sha256(data[32:]).digest() == data[:32]:
        return Exported(data[32:])
    from hwbench.network import zoo

    spec = request.name.removeprefix("zoo:")
    module = zoo.build(spec, request.seed)
    shapes = torch_files.input_shapes(request, (TensorSpec("", zoo.input_shape(spec)),))
    exported = export_module(module, shapes, request.name, request.seed)
    if not exported.findings:
        _keep(cache, exported.onnx)
    return exported


def _cache_file(request: Request) -> Path:
    """Where the export belongs: named after everything that shapes it, this code included."""
    from platformdirs import user_cache_dir

    facts = [repr(request), *(version(package) for package in ("hwbench", "torch", "onnx"))]
    folder = Path(__file__).parent
    files = ("../zoo.py", "torch_onnx.py", "onnx_normalise.py", "onnx_constants.py")
    sources = [(folder / file).read_bytes() for file in files]
    key = sha256("\n".join(facts).encode() + b"".join(sources)).hexdigest()
    return Path(user_cache_dir("hwbench")) / "onnx" / f"{key[:32]}.bin"


def _keep(cache: Path, data: bytes) -> None:
    """Write whole or not at all; a cache that cannot be written costs time, nothing else."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=cache.parent, delete=False) as file:
            file.write(sha256(data).digest() + data)
        Path(file.name).replace(cache)
    except OSError:
        return


def _workload(
    found: Exported, request: Request, precision: str, file_bytes: int | None
) -> Workload:
    model = graph.load(found.onnx)
    inputs = onnx_files.input_specs(model, request.name)
    graph.name_nodes(model)
    findings = list(found.findings)
    zeros, counts = graph.zero_share(model), graph.count(model)
    if zeros >= MANY_ZEROS:
        findings.append(
            Finding(
                "zeros_left_dense",
                f"{zeros:.0%} of the weights are exactly zero but stored densely: a dense kernel"
                " gains nothing from them",
            )
        )
    held = _precision_of(model)
    converted = held == "fp32" != precision
    if held != "fp32":
        findings.append(
            Finding("precision_of_file", f"the file holds {held} already and is measured so")
        )
    elif converted:
        model = graph.name_nodes(_converted(model, inputs, request, precision))
        inputs = onnx_files.input_specs(model, request.name)
        findings.append(
            quantize.RANDOM_CALIBRATION if precision == "int8" else half.finding(precision)
        )
        held = precision
    data = onnx_files.serialise(model, request.name)
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    # External data counts; what was converted here is no longer the file it was.
    size = len(data) if file_bytes is None or converted else max(file_bytes, len(found.onnx))
    return Workload(
        request.name, data, inputs, batch, held, counts.macs, counts.params, size, tuple(findings)
    )


def _converted(
    model: ModelProto, inputs: Sequence[TensorSpec], request: Request, precision: str
) -> ModelProto:
    """An fp32 model in another precision."""
    if precision == "int8":
        return quantize.quantize(model, inputs, request.name, request.seed)
    return half.halve(model, request.name, precision)


def _precision_of(model: ModelProto) -> str:
    from onnx import TensorProto

    if any(node.op_type in _QUANTISED for node in model.graph.node):
        return "int8"
    weights = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    if TensorProto.FLOAT16 in weights:
        return "fp16"
    return "bf16" if TensorProto.BFLOAT16 in weights else "fp32"
