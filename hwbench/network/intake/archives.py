"""Model files are hostile until shown otherwise: what a file is, and a clean copy of it for torch to read.

Works with the standard library alone, so that no reader of torch sees a byte before it was checked.
Zip archives are never handed on as they came: their members are read within bounds, checked one by
one, and written into a new archive, so that two readers cannot disagree about what is in it. What
torch would execute or evaluate is refused or left out:

* pickles (of modules and state dicts): only names on an allow-list (`pickles`);
* exported programs (`.pt2`): `torch.export.load` (2.13) unpickles sample inputs and opaque
  constants, loads shared libraries (`data/aotinductor`), gives symbolic expressions to sympy's
  `eval` and resolves operator names by attribute. Samples and guards are dropped, constants must be
  raw tensors, operators and expressions must be on an allow-list;
* TorchScript: runs no Python, but can write files (`aten::save`, `aten::from_file`), call remote
  processes and reach C++ classes. Sources with such a word are refused.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench.errors import Argument, SchemaError, UnsafeModelError, UsageError
from hwbench.network.intake import pickles
from hwbench.records.tensors import TensorSpec

MAX_BYTES = 8 << 30
"""Largest file, and largest sum of unpacked members, that is read at all."""
MAX_RATIO = 100
"""Largest unpacked size over file size.

Torch stores members uncompressed (ratio 1); deflate reaches 1,032.
"""

# The form torch writes symbolic sizes in: Add(Mul(Integer(2), Symbol('s77', positive=True,
# integer=True)), Integer(1)).
_SYMBOLIC = re.compile(
    r"(?>Symbol\('[su]\d+'(?:, [a-z]+=True)*\)|\b[su]?\d+\b|[-+(),\s]"
    r"|\b(?:Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing)(?=\())*+"
)
_SYMBOL = re.compile(r"-?int_oo|[su]\d+")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b)\w+\.\w+|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|torch\.sym_(int|float|max|min|not|ite)|math\.(ceil|floor|trunc)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_)"
)
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_PROGRAM_TENSOR = re.compile(r"data/(weights/weight_|constants/tensor_)\d+")
_PROGRAM_CONFIGS = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
_ARCHIVE_PARTS = {"archive_format", "archive_version", "byteorder", "version", ".data/version"}
_EFFECTS = re.compile(
    rb"\b(save|from_file|classes|rpc_\w+|PythonOp|IgnoredPythonOp|c10d\w*|symm_mem|profiler)\b"
)

HOW_TO_SAVE = "ask its author for the model saved with torch.export.save"
TRUST = Argument("trust_pickle", value=True, purpose="only if you trust its author")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file after the checks.

    Attributes:
        kind: `onnx`, `program` (torch.export), `script` (TorchScript), `pickle` (torch.save of a
            module or state dict).
        payload: What may be given to the reader of that kind.
        inputs: Shapes the file keeps of its example inputs, nameless; empty if none.
    """

    kind: str
    payload: bytes
    inputs: tuple[TensorSpec, ...] = ()


def inspect(path: Path, *, trust_pickle: bool = False) -> ModelFile:
    """Read a file, tell by its content what it is, and check it.

    Raises:
        UsageError: No such file, a directory, or empty.
        SchemaError: Damaged, or of no known kind.
        UnsafeModelError: It would execute something, unpack beyond bounds, or hide one member
            behind another.
    """
    data = read_file(path)
    if data.startswith(b"PK"):
        members = _members(data, str(path))
        if members.get("archive_format") == b"pt2":
            return ModelFile("program", _program(members, str(path)))
        if "constants.pkl" in members and any(member.startswith("code/") for member in members):
            return _script(members, str(path))
        if "data.pkl" in members:
            _check_pickle(members["data.pkl"], str(path), trust_pickle=trust_pickle)
            return ModelFile("pickle", _pack(members))
        raise SchemaError(
            f"{path} is a zip archive but not a model of torch; expected one by torch.export.save,"
            " torch.jit.save or torch.save"
        )
    if data.startswith(b"\x80"):
        _check_pickle(data, str(path), trust_pickle=trust_pickle)
        if not pickles.is_legacy(data):
            raise SchemaError(
                f"{path} is a plain pickle; expected a file by torch.export.save, torch.jit.save or"
                " torch.save"
            )
        return ModelFile("pickle", data)
    return ModelFile("onnx", data)


def read_file(path: Path) -> bytes:
    """The bytes of a regular, non-empty file within bounds.

    Raises:
        UsageError: No such file, not a regular file, empty, too large or unreadable.
    """
    try:
        if not path.exists():
            raise UsageError(f"no such model file: {path}")
        if not path.is_file():
            raise UsageError(
                f"{path} is not a regular file; expected a model file (.onnx, .pt2, .pt)"
            )
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise UsageError(
                f"{path} has {size} bytes; expected a model file of 1 to {MAX_BYTES} bytes"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r} ({error})") from error


def _members(data: bytes, name: str) -> dict[str, bytes]:
    """All members by name without the archive's root folder, after checks of names, sizes and checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_sizes(infos, len(data), name)
            members = {
                _member_name(info, name): archive.read(info) for info in infos if not info.is_dir()
            }
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        OverflowError,
    ) as error:
        raise SchemaError(
            f"{name} is a damaged zip archive ({error}); save the model anew"
        ) from error
    if len(members) < sum(not info.is_dir() for info in infos):
        raise UnsafeModelError(
            f"{name} holds two members of one name; refusing to guess which one is meant"
        )
    return members


def _check_sizes(infos: list[zipfile.ZipInfo], size: int, name: str) -> None:
    unpacked = sum(info.file_size for info in infos)
    if unpacked > min(MAX_BYTES, MAX_RATIO * size):
        raise UnsafeModelError(
            f"{name} has {size} bytes and would unpack to {unpacked}; at most {MAX_RATIO} times its"
            " size is read"
        )
    for info in infos:
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise UnsafeModelError(
                f"{name} packs {info.filename!r} with method {info.compress_type}; torch stores or"
                " deflates"
            )


def _member_name(info: zipfile.ZipInfo, name: str) -> str:
    root, _, rest = info.filename.partition("/")
    if (
        not root
        or not rest
        or ".." in (root, *rest.split("/"))
        or rest.startswith("/")
        or re.search(r"[\\\x00-\x1f:]", info.filename)
    ):
        raise UnsafeModelError(
            f"{name} holds a member named {info.filename!r}, which reaches outside the archive's"
            " folder"
        )
    return rest


def _pack(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"model/{member}"), data)
    return buffer.getvalue()


def _check_pickle(data: bytes, name: str, *, trust_pickle: bool) -> None:
    if not trust_pickle:
        pickles.require(
            data,
            name,
            lambda part: pickles.is_tensor_part(part) or pickles.is_module_class(part),
            HOW_TO_SAVE,
            TRUST,
        )


def _script(members: Mapping[str, bytes], name: str) -> ModelFile:
    """A TorchScript archive without debug records and traced inputs, its sources and pickles checked."""
    kept = {}
    for member, data in members.items():
        if member.startswith("code/") and member.endswith(".py"):
            if word := _EFFECTS.search(data):
                raise UnsafeModelError(
                    f"{name}: its TorchScript code uses {word[0].decode()!r}, which reaches outside"
                    " the model; export it anew"
                )
        elif member in {"data.pkl", "constants.pkl"}:
            pickles.require(
                data,
                f"{name} ({member})",
                pickles.is_script_part,
                "a TorchScript file never needs that",
            )
        elif not (member.startswith(("data/", "constants/")) or member in _ARCHIVE_PARTS):
            continue
        kept[member] = data
    return ModelFile(
        "script", _pack(kept), pickles.traced_inputs(members.get("traced_inputs.pkl", b""))
    )


def _program(members: Mapping[str, bytes], name: str) -> bytes:
    """A torch.export archive with nothing left in it that torch would execute."""
    if any(member.startswith("data/aotinductor") for member in members):
        raise UnsafeModelError(
            f"{name} carries compiled libraries (AOTInductor), which would run; expected a"
            " torch.export.save file"
        )
    kept = {
        member: data
        for member, data in members.items()
        if member in _ARCHIVE_PARTS or _PROGRAM_TENSOR.fullmatch(member)
    }
    try:
        for config in _PROGRAM_CONFIGS:
            kept[config] = members[config]
            for fqn, entry in json.loads(members[config])["config"].items():
                if entry["use_pickle"] or not _PROGRAM_TENSOR.fullmatch(
                    f"{config.rpartition('/')[0]}/{entry['path_name']}"
                ):
                    raise UnsafeModelError(
                        f"{name}: constant {fqn!r} is pickled; only plain tensors are read"
                    )
        program = json.loads(members["models/model.json"])
        program["guards_code"] = []
        _clean(program, name)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SchemaError(
            f"{name} is not a program by torch.export.save of torch 2.9 or later ({error!r})"
        ) from error
    return _pack(
        kept
        | {
            "models/model.json": json.dumps(program).encode(),
            "data/sample_inputs/model.pt": b"",
        }
    )


def _clean(program: Any, name: str) -> None:
    """Check every operator, symbolic expression and container type in a program's JSON.

    Drop what is only for debuggers.
    """
    checks: dict[str, Callable[[str], object]] = {
        "expr_str": _SYMBOLIC.fullmatch,
        "in_spec": _known_tree,
        "out_spec": _known_tree,
    }
    for holder in _dicts(program):
        if isinstance(target := holder.get("target"), str):
            if not _OPERATOR.fullmatch(target):
                raise UnsafeModelError(
                    f"{name}: operator {target[:80]!r} is not one of torch's tensor operators"
                )
            stack = holder["metadata"].get("nn_module_stack", "")
            holder["metadata"] = {"nn_module_stack": stack} if stack else {}
        for key, check in checks.items():
            if key in holder and not (isinstance(holder[key], str) and check(holder[key])):
                raise UnsafeModelError(
                    f"{name}: {key} {str(holder[key])[:80]!r} is more than shapes and containers"
                    " need"
                )
        if "as_operator" in holder or "as_custom_obj" in holder:
            raise UnsafeModelError(
                f"{name}: an argument is a function or a foreign object; only tensors and numbers"
                " are read"
            )
        if "treespec_namedtuple_fields" in holder:
            holder["treespec_namedtuple_fields"] = {}
    if not all(_SYMBOL.fullmatch(symbol) for symbol in program["range_constraints"]):
        raise UnsafeModelError(f"{name}: range constraints on something else than symbols")


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Every dict inside nested lists and dicts, outermost first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _dicts(item)


def _known_tree(text: str) -> bool:
    return all(holder["type"] in _TREES for holder in _dicts(json.loads(text)) if "type" in holder)
