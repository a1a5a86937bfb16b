"""Model intake: whatever holds a network becomes a Workload, with the names of its torch modules.

    a file (.onnx, .pt2, .pt), a folder of Hugging Face, zoo:NAME, module:factory, an nn.Module
        ->  one self-contained ONNX model  ->  Workload
    a .tflite file  ->  Workload, as it is (`hwbench.network.tflite`)

The content of a file says what it is. Files are hostile until shown otherwise: `reader` has all of
this done in a process with limits (`reader_child`). There `archives` and `pickles` check a file
with the standard library alone, `torch_files` lets torch read what is left, `hugging_face` does
the same for folders, and `onnx_external` takes external data in from the model's folder alone
(`neighbours`), or leaves it there where one model cannot hold it.
`torch_onnx` exports and compares with torch, `onnx_normalise` folds and names, `half` and
`quantize` change the precision, and `files` describes what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from hwbench.errors import Argument, UsageError
from hwbench.network.intake import files, guessing, reader, torch_files
from hwbench.network.intake.factories import call_factory, is_factory, parse_factory
from hwbench.network.intake.input_texts import Inputs, parse_dims, parse_inputs
from hwbench.network.intake.kept_models import keep, read_kept
from hwbench.network.intake.torch_files import ReadRequest
from hwbench.network.intake.torch_onnx import Exported, export_module
from hwbench.network.intake.values import add_values, read_values, requests_of
from hwbench.network.tflite import is_tflite, read_workload
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec
from hwbench.user_folders import cache_folder
from hwbench.version import __version__

if TYPE_CHECKING:
    from torch import nn

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""Precisions that `load_workload` can put into a model.

A file that is in half precision or int8 already is measured as it is.
"""


class ModelOptions(TypedDict, total=False):
    """How a model is read: the keywords of `load_workload` that every workflow takes too."""

    inputs: Inputs
    example_inputs: Any
    values: str | Path | Mapping[str, Any] | None
    batch: int | None
    dims: Sequence[str] | Mapping[str, int]
    precision: str
    arch: str | None
    main: Sequence[str | Path]
    trust_pickle: bool
    read_limit: float


def load_workload(
    model: str | Path | nn.Module,
    *,
    inputs: Inputs = (),
    example_inputs: Any = None,
    values: str | Path | Mapping[str, Any] | None = None,
    batch: int | None = None,
    dims: Sequence[str] | Mapping[str, int] = (),
    precision: str = "fp32",
    arch: str | None = None,
    main: Sequence[str | Path] = (),
    trust_pickle: bool = False,
    read_limit: float = 1.0,
    seed: int = 0,
) -> Workload:
    """Turn a model into the workload that devices run: ONNX, or a `.tflite` file as it is.

    Args:
        model: A path (`.onnx`, `.pt2`, TorchScript, a module saved whole, or with `arch` a state
            dict, alone or in a checkpoint, or `.safetensors`; or `.tflite`, which is measured as it
            is), a folder of Hugging Face,
            `zoo:NAME[@WIDTH][,classes=N]`, `package.module:factory`, also with literal arguments,
            or an nn.Module, which is left as it is and exported in eval mode.
        inputs: The inputs: texts such as `1x3x224x224` or `ids=1x128:int64[0,30522]` (name, sizes,
            element type, and the range that values are drawn from), tuples of sizes, or a mapping
            of names to either. They are needed where the model does not hold them.
        example_inputs: What to call an nn.Module with, instead of `inputs`: a tensor, or a sequence
            or mapping of arguments; each a tensor, array or number, or a container of these.
        values: The values of inputs: the path of a file by numpy.savez, or a mapping of names to
            arrays. Without `inputs` they also say the shapes.
        batch: The leading dimension of every input; None for that of the shapes.
        dims: The sizes of dimensions that an ONNX model names, `seq=128`.
        precision: `fp32`; `fp16` or `bf16` to cast weights, inputs and outputs; or `int8` to
            quantise statically with random calibration inputs. A file that is quantised or in half
            precision already stays so, and the workload says what it is.
        arch: `package.module:factory` that builds the network whose weights the file holds. Layers
            are cut to weights that are narrower.
        main: Scripts that define the classes of `__main__` that a module saved whole is made of.
            What the classes need is taken from there; nothing else of a script is run.
        trust_pickle: Whether pickles may run code.
        read_limit: Factor on the memory and the time that reading a file may take. They grow with
            the file and its inputs; a small ONNX file has 10 s of processor time and 2 GB.
        seed: The seed of the zoo's weights and of random inputs.

    Raises:
        UsageError: A name or precision is unknown, shapes are missing or do not fit, or there is no
            such file.
        UnsafeModelError: The file would execute code, reaches outside its folder, unpacks beyond
            bounds, or needs more memory or time than it may take.
        SchemaError: The file is damaged or of no known kind.
        WorkloadError: The network cannot be run, exported, cast or quantised.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision {precision!r} is not offered; expected one of {', '.join(PRECISIONS)}"
        )
    if batch is not None and batch < 1:
        raise UsageError(f"batch must be at least 1, not {batch}")
    name = str(model) if isinstance(model, str | Path) else type(model).__name__
    given = {} if values is None else read_values(values)
    requests = parse_inputs(inputs) or requests_of(given)
    scripts = [main] if isinstance(main, str | Path) else main
    request = ReadRequest(
        name,
        requests,
        batch,
        tuple(parse_dims(dims).items()),
        arch,
        tuple(str(script) for script in scripts),
        trust_pickle,
        seed,
        str(Path.cwd()),
    )
    if arch is not None:
        parse_factory(arch)
    workload = _read_workload(model, request, example_inputs, precision, read_limit)
    return add_values(workload, requests, given, seed)


def _read_workload(
    model: str | Path | nn.Module,
    request: ReadRequest,
    example_inputs: Any,
    precision: str,
    read_limit: float,
) -> Workload:
    """Read a model, whatever it is; see `load_workload`."""
    name = request.name
    if not isinstance(model, str | Path):
        exported = _export_module(model, request, example_inputs)
    elif example_inputs is not None:
        raise UsageError(
            f"example inputs go with an nn.Module; say the shapes for {name} with"
            " inputs=['1x3x224x224']"
        )
    elif name.startswith("zoo:"):
        exported = _export_zoo_network(request)
    elif is_factory(name) and not Path(name).exists():
        parse_factory(name)
        if not request.inputs:
            raise guessing.missing_shape(f"{name}, which would be imported and called,", {})
        exported = _export_module(call_factory(name), request, None)
    elif is_tflite(Path(name)):
        return _read_tflite(request, precision)
    else:
        return reader.read_file(request, precision, read_limit)
    return files.describe_workload(exported, request, precision, None)


def _read_tflite(request: ReadRequest, precision: str) -> Workload:
    """Read a model that is measured as it is.

    Raises:
        UsageError: Something was asked for that would change it.
    """
    asked = {
        "batch": request.batch,
        "dims": request.dims,
        "precision": precision != "fp32",
        "arch": request.arch,
        "main": request.main,
    }
    workload = read_workload(Path(request.name), request.name)
    shapes = {spec.name: spec.shape for spec in workload.inputs}
    in_order = [*shapes.values()]
    for position, entry in enumerate(request.inputs):
        shape = shapes.get(entry.name)
        if not entry.name and position < len(in_order):
            shape = in_order[position]
        asked["inputs"] = entry.shape != shape
        if asked["inputs"]:
            break
    for name, value in asked.items():
        if value:
            raise UsageError(
                f"{request.name} is a TensorFlow Lite model, which is measured as it is; convert"
                " the network it was made from anew",
                Argument(name, change="no"),
            )
    return workload


def _export_module(module: Any, request: ReadRequest, example_inputs: Any) -> Exported:
    import torch

    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"cannot load a {type(module).__name__}; expected a path, zoo:NAME,"
            " package.module:factory or an nn.Module"
        )
    if example_inputs is None:
        return torch_files.export_read_module(module, request)
    if request.inputs or request.batch is not None:
        raise UsageError("example inputs already say shapes and batch; leave out inputs and batch")
    return export_module(module, example_inputs, request.name, request.seed)


def _export_zoo_network(request: ReadRequest) -> Exported:
    """Export a network of the zoo.

    The export is kept in the user's cache folder, so that the second time needs no torch.
    """
    cache = _cache_file(request)
    data = read_kept(cache)
    if data is not None:
        return Exported(data)
    from hwbench.network import zoo

    spec = request.name.removeprefix("zoo:")
    module = zoo.build(spec, request.seed)
    shapes = torch_files.choose_input_shapes(request, (TensorSpec("", zoo.input_shape(spec)),))
    exported = export_module(module, shapes, request.name, request.seed)
    if not exported.findings:
        keep(cache, exported.onnx)
    return exported


def _cache_file(request: ReadRequest) -> Path:
    """Find where an export is cached: named after everything that shapes it, this code included."""
    facts = [
        repr(replace(request, folder="", main=(), arch=None)),
        __version__,
        version("torch"),
        version("onnx"),
    ]
    folder = Path(__file__).parent
    files = ("../zoo.py", "torch_onnx.py", "onnx_normalise.py", "onnx_constants.py")
    sources = [(folder / file).read_bytes() for file in files]
    key = sha256("\n".join(facts).encode() + b"".join(sources)).hexdigest()
    return cache_folder() / "onnx" / f"{key[:32]}.bin"
