"""Folders of Hugging Face: `config.json` and weights, for the libraries transformers and timm.

The configuration names a class of the installed library; code that lies in the folder is never run,
and nothing is fetched. The library is shown a folder of its own, with a configuration in which only
facts of the network are left and with the weights that were checked here. All that can be told of a
folder without these libraries is told first, by `inspect_folder`: they take seconds to load.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, SchemaError, UnsafeModelError, UsageError
from hwbench.network.intake import archives, checkpoints, fitting, neighbours
from hwbench.network.intake.factories import call_factory
from hwbench.network.intake.failures import FAILURES, reason
from hwbench.network.intake.input_texts import InputRequest
from hwbench.network.intake.structures import make_tensor, read_content
from hwbench.network.intake.torch_files import ReadRequest, export_read_module
from hwbench.network.intake.torch_onnx import Exported, quiet
from hwbench.optional import install_command
from hwbench.records.findings import Finding
from hwbench.records.untrusted import load_json

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the preferred first; those in several parts have an index beside them."""
_INDEX = ".index.json"
_MAX_CONFIG_BYTES, _MAX_INDEX_BYTES, _MAX_PARTS = 4 << 20, 64 << 20, 2_000
_OTHER_WEIGHTS = {
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "adapter_model.safetensors": "an adapter (PEFT)",
    "adapter_model.bin": "an adapter (PEFT)",
}
_NOT_OF_THE_NETWORK = re.compile(
    r"_.*|auto_map|attn_implementation|experts_implementation|custom_pipelines|use_kernels"
)
"""Entries of a configuration that choose code, or say where the file came from."""
_MAX_DEPTH = 20
_TIMM_NAME = re.compile(r"[a-z0-9_]{1,80}(?:\.[a-z0-9_]{1,80})?")
_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,120}")
_USUAL_SIDE, _USUAL_TOKENS = 224, 128


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder with a network, after the checks.

    Attributes:
        config: Its configuration, without what chooses code; empty if the user names the code.
        library: What builds the network: `transformers` or `timm`; empty if the user names it.
        weights: The files of weights, by the names that the folder gives them.
        index: The file that says which weights are in which part; None if there is one part.
        image: The size of images that the configuration says, nameless; None if it says none.
    """

    config: Mapping[str, Any]
    library: str
    weights: Mapping[str, Path]
    index: Path | None = None
    image: InputRequest | None = None

    @property
    def size_bytes(self) -> int:
        """The size of all weights."""
        return sum(path.stat().st_size for path in self.weights.values())


def inspect_folder(folder: Path, request: ReadRequest) -> ModelFolder:
    """Find out what a folder holds and whether enough is known to run it.

    Args:
        folder: The folder.
        request: How it is to be read.

    Raises:
        UsageError: There is no network in it, its library is not installed, or the shape of its
            input is missing.
        SchemaError: Its configuration, or the index of its weights, is damaged.
        UnsafeModelError: Its network is made by code in the folder.
    """
    home = locate(folder)
    if request.arch is not None:
        weights, index = _find_weights(home, request.name)
        return ModelFolder({}, "", weights, index)
    path = neighbours.find_neighbour(home, CONFIG)
    if path is None:
        raise UsageError(_explain_without_config(home, request.name))
    config = _read_json(path, f"{request.name}/{CONFIG}", _MAX_CONFIG_BYTES)
    library = _find_library(config, request.name)
    weights, index = _find_weights(home, request.name)
    if find_spec(library) is None:
        raise UsageError(
            f"{request.name} is a network of {library}, which is not installed; try:"
            f" {install_command(packages=[library])}"
        )
    found = ModelFolder(_clean(config, 0), library, weights, index, _find_image(config))
    if not request.inputs and found.image is None:
        raise UsageError(
            f"{request.name} does not say the shape of its input",
            Argument("inputs", _suggest_input(config), purpose="give it"),
        )
    return found


def locate(folder: Path) -> Path:
    """Give the folder with the files of a network: itself, or a revision in the cache."""
    if (folder / CONFIG).exists():
        return folder
    return neighbours.find_snapshot(folder) or folder


def count_bytes(folder: Path) -> int:
    """Count the bytes of the files in a folder, which bound what reading it may take."""
    total = 0
    home = locate(folder)
    try:
        for entry in os.scandir(home):
            target = neighbours.find_neighbour(home, entry.name)
            if target is not None and entry.name.endswith((".safetensors", ".bin")):
                total += target.stat().st_size
    except OSError:
        return 0  # reading the folder will say what is wrong
    return total


def _explain_without_config(folder: Path, name: str) -> str:
    """Say what a folder is that has no configuration of a network."""
    expected = "expected a model file, or a folder with config.json and weights (Hugging Face)"
    try:
        names = sorted(entry.name for entry in folder.iterdir())[:1000]
    except OSError as error:
        return f"cannot read the folder {name} ({error.strerror}); {expected}"
    if "model_index.json" in names:
        return f"{name} holds a pipeline of several networks; name the folder of one of them"
    if "adapter_config.json" in names:
        return (
            f"{name} holds an adapter (PEFT) without its network; save the network with the adapter"
            " in it (merge_and_unload, save_pretrained)"
        )
    if (folder / "snapshots").is_dir():
        return f"{name} holds several revisions of a network; name one of the folders in snapshots"
    models = [entry for entry in names if entry.endswith((".onnx", ".pt2", ".pt", ".safetensors"))]
    if models:
        return f"{name} is a folder with {', '.join(models[:3])}; name the file"
    return f"{name} is a folder without config.json; {expected}"


def _read_json(path: Path, name: str, most_bytes: int) -> dict[str, Any]:
    """Read an object from a JSON file of bounded size.

    Raises:
        SchemaError: It is larger, damaged, or no object.
    """
    try:
        if path.stat().st_size > most_bytes:
            raise SchemaError(f"{name} has over {most_bytes} bytes; expected a configuration")
        content = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        cause = " ".join(str(error).split())[:200]
        raise SchemaError(f"{name} is damaged ({cause}); save the network anew") from error
    if not isinstance(content, dict):
        raise SchemaError(f"{name} holds a {type(content).__name__}; expected an object")
    return content


def _find_library(config: Mapping[str, Any], name: str) -> str:
    """Find the library that a configuration is for, and refuse what none of them can build.

    Raises:
        UsageError: It is for another library, or says nothing of the network.
        UnsafeModelError: The network is made by code in the folder.
    """
    model_type, architectures = config.get("model_type"), config.get("architectures")
    if isinstance(config.get("_class_name"), str) and "_diffusers_version" in config:
        kind = str(config["_class_name"])[:80]
        raise UsageError(
            f"{name} is a network of diffusers; give it as code that builds it:"
            f" 'diffusers:{kind}.from_pretrained(\"{name}\")'"
        )
    if config.get("quantization_config"):
        method = "some method"
        if isinstance(config["quantization_config"], dict):
            method = str(config["quantization_config"].get("quant_method", method))[:40]
        raise UsageError(
            f"{name} was quantised by {method}, which has no way to ONNX; give the network before"
            " that, to be quantised here",
            Argument("precision", "int8"),
        )
    if isinstance(model_type, str) and re.fullmatch(r"[\w.-]{1,80}", model_type):
        names = architectures if isinstance(architectures, list) else []
        if not all(isinstance(entry, str) and _CLASS_NAME.fullmatch(entry) for entry in names):
            raise SchemaError(f"{name}/{CONFIG}: architectures {architectures!r:.80} name no class")
        return "transformers"
    architecture = config.get("architecture")
    if isinstance(architecture, str) and _TIMM_NAME.fullmatch(architecture):
        return "timm"
    if "auto_map" in config:
        raise _own_code(name)
    raise UsageError(
        f"{name}/{CONFIG} names no network (model_type of transformers, or architecture of timm);"
        " name the code that builds it",
        Argument("arch", also={"inputs": "1x3x224x224"}),
    )


def _own_code(name: str) -> UnsafeModelError:
    return UnsafeModelError(
        f"{name} is built by code in the folder, which is never run; name the code that you trust",
        Argument("arch", purpose="it is then imported and called"),
    )


def _clean(value: Any, depth: int) -> Any:
    """Leave out of a configuration what chooses code, at any depth."""
    if depth > _MAX_DEPTH:
        raise SchemaError(f"{CONFIG} is nested too deeply")
    if isinstance(value, dict):
        cleaned = {}
        for key, entry in value.items():
            if not _NOT_OF_THE_NETWORK.fullmatch(key):
                cleaned[key] = _clean(entry, depth + 1)
        return cleaned
    if isinstance(value, list):
        return [_clean(entry, depth + 1) for entry in value]
    return value


def _find_weights(folder: Path, name: str) -> tuple[dict[str, Path], Path | None]:
    """Find the files of weights, in one part or in several.

    Raises:
        UsageError: There are none that torch reads.
        SchemaError: The index is damaged, or names files that are not there.
    """
    for file in _WEIGHTS:
        path = neighbours.find_neighbour(folder, file)
        if path is not None:
            return {file: path}, None
        index = neighbours.find_neighbour(folder, file + _INDEX)
        if index is not None:
            return _find_parts(folder, index, f"{name}/{file}{_INDEX}"), index
    others = [kind for file, kind in _OTHER_WEIGHTS.items() if (folder / file).exists()]
    if others:
        raise UsageError(
            f"{name} has the weights of {others[0]} alone; save the network with its weights of"
            " torch (save_pretrained)"
        )
    onnx_files = sorted(path.name for path in folder.glob("*.onnx"))[:1]
    if onnx_files:
        raise UsageError(f"{name} has no weights of torch, but {onnx_files[0]}; name that file")
    raise UsageError(
        f"{name} has no weights ({' or '.join(_WEIGHTS)}, or links that lead out of the folder)"
    )


def _find_parts(folder: Path, index: Path, name: str) -> dict[str, Path]:
    weight_map = _read_json(index, name, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SchemaError(f"{name} has no weight_map; save the network anew")
    files = {str(value) for value in weight_map.values()}
    if len(files) > _MAX_PARTS:
        raise SchemaError(f"{name} names {len(files)} files; at most {_MAX_PARTS} are read")
    parts: dict[str, Path] = {}
    for file in sorted(files):
        part = neighbours.find_neighbour(folder, file) if "/" not in file else None
        if part is None:
            raise SchemaError(
                f"{name} names {file[:80]!r}, which is no file in the folder; save the network anew"
            )
        parts[file] = part
    return parts


def _find_image(config: Mapping[str, Any]) -> InputRequest | None:
    """Find the size of images in a configuration, if images are all that the network takes."""
    if "model_type" not in config:
        pretrained = config.get("pretrained_cfg")
        sizes = pretrained.get("input_size") if isinstance(pretrained, dict) else None
        if isinstance(sizes, list) and _are_sizes(sizes) and len(sizes) == 3:
            return InputRequest("", (1, *sizes))
        return None
    side, channels = config.get("image_size"), config.get("num_channels", 3)
    sides = side if isinstance(side, list) else [side, side]
    if "vocab_size" in config or not _are_sizes([channels, *sides]) or len(sides) != 2:
        return None
    return InputRequest("", (1, channels, *sides))


def _are_sizes(values: Sequence[Any]) -> bool:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 14:
            return False
    return True


def _suggest_input(config: Mapping[str, Any]) -> str | tuple[str, ...]:
    """Write an input that a network of this configuration could take, for a message."""
    channels = config.get("num_channels", 3)
    if "num_mel_bins" in config and _are_sizes([config["num_mel_bins"]]):
        return f"1x{config['num_mel_bins']}x3000"
    if "conv_stride" in config and "vocab_size" in config:
        return "1x16000"  # a second of sound
    if "vocab_size" in config or "text_config" in config:
        text = f"1x{_count_tokens(config)}:int64"
        if config.get("is_encoder_decoder") is True:
            return (f"input_ids={text}", f"decoder_input_ids={text}")
        return f"input_ids={text}"
    if _are_sizes([channels]):
        return f"1x{channels}x{_USUAL_SIDE}x{_USUAL_SIDE}"
    return "1x3x224x224"


def _count_tokens(config: Mapping[str, Any]) -> int:
    """Count the tokens of an ordinary text that the network has positions for."""
    for name in ("max_position_embeddings", "n_positions"):
        positions = config.get(name)
        if isinstance(positions, int) and _are_sizes([positions]):
            return min(positions, _USUAL_TOKENS)
    return _USUAL_TOKENS


def export_folder(folder: ModelFolder, request: ReadRequest, scratch: Path) -> Exported:
    """Build the network of a folder and export it. Only for a process that may be lost.

    Args:
        folder: The folder, as `inspect_folder` gives it.
        request: How it is to be read.
        scratch: A folder for this network alone.

    Raises:
        UsageError: The library does not have the network, or the weights do not fit it.
        SchemaError: The library cannot read the weights.
        UnsafeModelError: A pickle of weights would run code.
        WorkloadError: The network cannot be run or exported.
    """
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(scratch / "cache"),
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }
    _check_weights(folder, request.name)
    with quiet():
        if folder.library == "transformers":
            module, findings = _load_by_transformers(folder, request, scratch)
        else:
            arch = request.arch or write_timm_factory(folder.config)
            module = call_factory(arch)
            findings = fitting.load_into(module, _read_tensors(folder, request), request.name, arch)
    if not request.inputs and folder.image is not None:
        request = replace(request, inputs=(folder.image,))
        text = f"the input was not given: {folder.image} is the size in its {CONFIG}"
        findings = (Finding("input_guessed", text), *findings)
    exported = export_read_module(module, request)
    return replace(exported, findings=(*findings, *exported.findings))


def _check_weights(folder: ModelFolder, name: str) -> None:
    """Check the weights before a library reads them.

    Raises:
        SchemaError: A file holds none.
        UnsafeModelError: A pickle would run code.
    """
    for file, path in folder.weights.items():
        if archives.inspect(path).kind not in {"pickle", "safetensors"}:
            raise SchemaError(f"{name}/{file} holds no weights; save the network anew")


def write_timm_factory(config: Mapping[str, Any]) -> str:
    """Write the call that builds a network of timm without weights."""
    keywords: dict[str, Any] = {}
    for name in ("num_classes", "global_pool"):
        if isinstance(config.get(name), int | str):
            keywords[name] = config[name]
    arguments = config.get("model_args")
    for name, value in arguments.items() if isinstance(arguments, dict) else ():
        is_of_weights = name.startswith(("pretrained", "checkpoint"))
        if _CLASS_NAME.fullmatch(name) and not is_of_weights:
            keywords[name] = value
    listing = "".join(f", {name}={value!r}" for name, value in keywords.items())
    return f"timm:create_model({config['architecture']!r}, pretrained=False{listing})"


def _read_tensors(folder: ModelFolder, request: ReadRequest) -> dict[str, Tensor]:
    """Read the weights of all parts of a folder.

    Raises:
        SchemaError: A part is damaged or holds no weights.
    """
    tensors = {}
    for name, path in folder.weights.items():
        part = f"{request.name}/{name}"
        content = read_content(archives.inspect(path), part)
        candidates = checkpoints.find_candidates(content.root)
        if not candidates:
            raise SchemaError(f"{part} holds no weights; save the network anew")
        for key, record in candidates[0].tensors.items():
            tensors[key] = make_tensor(record, content)
    return tensors


def _load_by_transformers(
    folder: ModelFolder, request: ReadRequest, scratch: Path
) -> tuple[nn.Module, tuple[Finding, ...]]:
    """Have transformers build a network, from a copy of its folder with what was checked alone."""
    copy = scratch / "network"
    copy.mkdir()
    # A cache of past steps is what generating text adds to an inference; tensors come out of it.
    config = {**folder.config, "use_cache": False}
    (copy / CONFIG).write_text(json.dumps(config))
    for name, path in folder.weights.items():
        (copy / name).symlink_to(path)
    if folder.index is not None:
        first = next(iter(folder.weights))
        kind = _WEIGHTS[first.endswith(".bin")]
        (copy / f"{kind}{_INDEX}").symlink_to(folder.index)
    kind = _find_class(folder.config, request.name)
    try:
        module, report = kind.from_pretrained(
            str(copy),
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            torch_dtype="auto",
        )
    except MemoryError:
        raise
    except (*FAILURES, EOFError) as error:
        raise SchemaError(
            f"{request.name}: transformers cannot read it ({_without(copy, reason(error))})"
        ) from error
    arch = type(module).__name__
    if report["mismatched_keys"]:
        # Pruned layers, whose widths no configuration can say.
        tensors = _read_tensors(folder, request)
        return module, fitting.load_into(module, tensors, request.name, arch)
    return module, tuple(_describe_loading(report, request.name, arch))


def _without(copy: Path, text: str) -> str:
    """Leave our own copy of a folder out of a message."""
    return text.replace(f"{copy}/", "").replace(str(copy), "the folder")


def _find_class(config: Mapping[str, Any], name: str) -> Any:
    """Find the class of transformers that a configuration names.

    Raises:
        UsageError: The installed version does not have it.
        UnsafeModelError: It is in the folder.
    """
    import transformers

    architectures = config.get("architectures") or ["AutoModel"]
    for architecture in architectures:
        kind = getattr(transformers, architecture, None)
        if isinstance(kind, type) and hasattr(kind, "from_pretrained"):
            return kind
    raise UsageError(
        f"{name} needs {architectures[0]}, which transformers {transformers.__version__} does not"
        f" have; try: {install_command(packages=['-U', 'transformers'])}; or, if its code lies in"
        " the folder, name it",
        Argument("arch", purpose="code that you trust"),
    )


def _describe_loading(report: Mapping[str, Any], name: str, arch: str) -> Iterator[Finding]:
    """Say which weights were left out, and which the folder lacks."""
    for code, key, text in (
        ("weights_left_out", "unexpected_keys", f"that {arch} has no place for, left out"),
        ("weights_drawn", "missing_keys", f"that {arch} needs are missing, and random"),
    ):
        keys = sorted(report[key])
        if keys:
            listing = ", ".join(entry[:60] for entry in keys[:3])
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            yield Finding(code, f"{name}: tensors {text}: {listing}{more}")
