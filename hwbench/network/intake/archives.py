"""Checking model files, which are hostile until shown otherwise, and cleaning them for torch.

This works with the standard library alone, so that no reader of torch sees a byte before it was
checked. Zip archives are never handed on as they came: their members are read within bounds,
checked one by one, and written into a new archive, so that two readers cannot disagree about what
is in it. What torch would execute or evaluate is refused or left out:

* pickles (of modules and state dicts): only names on an allow-list (`pickles`);
* exported programs (`.pt2`): `torch.export.load` (2.13) unpickles sample inputs and opaque
  constants, loads shared libraries (`data/aotinductor`), gives symbolic expressions to sympy's
  `eval` and resolves operator names by attribute. Samples and guards are dropped, constants must be
  raw tensors, operators and expressions must be on an allow-list;
* TorchScript: runs no Python, but can write files (`aten::save`, `aten::from_file`), call remote
  processes, reach C++ classes, and write outside its tensors. Only operators on an allow-list may
  stand in it (`operators`).
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
from hwbench.network.intake import foreign_formats, operators, pickles
from hwbench.records.tensors import TensorSpec

MAX_BYTES = 8 << 30
"""Largest file, and largest sum of unpacked members, that is read at all, in bytes."""
MAX_RATIO = 100
"""Largest unpacked size over file size.

Torch stores members uncompressed (ratio 1); deflate reaches 1,032.
"""

_MAX_HEADER_BYTES = 100_000_000
"""Longest header of a file of safetensors, as its library has it."""
_ZIP, _PICKLE = b"PK", b"\x80"
"""First bytes of archives and of bare pickles."""

# The form torch writes symbolic sizes in: Add(Mul(Integer(2), Symbol('s77', positive=True,
# integer=True)), Integer(1)).
_SYMBOLIC = re.compile(
    r"(?>Symbol\('[su]\d+'(?:, [a-z]+=True)*\)|\b[su]?\d+\b|[-+(),\s]"
    r"|\b(?:Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv"
    r"|ModularIndexing)(?=\())*+"
)
_SYMBOL = re.compile(r"-?int_oo|[su]\d+")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b)\w+\.\w+"
    r"|torch\.ops\.quantized_decomposed\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|torch\.sym_(int|float|max|min|not|ite)|math\.(ceil|floor|trunc)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_)"
)
_QUANTISED = re.compile(
    rb"torch\.ops\.(?:torchao|quantized|export\.access_subclass_inner_tensor)\b"
)
"""What programs of networks quantised by torch or torchao name that have no way to ONNX."""
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_PROGRAM_TENSOR = re.compile(r"data/(weights/weight_|constants/tensor_)\d+")
_PROGRAM_CONFIGS = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
_ARCHIVE_PARTS = {"archive_format", "archive_version", "byteorder", "version", ".data/version"}
_RUNS_AT_LOAD = re.compile(rb"\b__(get|set)state__\b")
_CALL = re.compile(rb"(?<![\w.])(?:torch|ops\.(\w+))\.(\w+)\s*\(")
"""A call of an operator as torch writes it into the code of TorchScript."""

HOW_TO_SAVE = "ask its author for the model saved with torch.export.save"
TRUST = Argument("trust_pickle", value=True, purpose="only if you trust its author")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file after the checks.

    Attributes:
        kind: `onnx`, `program` (torch.export), `script` (TorchScript), `pickle` (torch.save of a
            module or state dict) or `safetensors`.
        payload: The bytes that may be given to the reader of that kind.
        inputs: The shapes that the file keeps of its example inputs, nameless; empty if none.
    """

    kind: str
    payload: bytes
    inputs: tuple[TensorSpec, ...] = ()


def inspect(path: Path, *, trust_pickle: bool = False) -> ModelFile:
    """Read a file, tell by its content what it is, and check it.

    Args:
        path: The path of the file.
        trust_pickle: Whether pickled modules and state dicts may import anything.

    Raises:
        UsageError: There is no such file, it is a directory, or it is empty.
        SchemaError: The file is damaged, or of no known kind.
        UnsafeModelError: The file would execute something, unpack beyond bounds, or hide one member
            behind another.
    """
    data = read_file(path)
    # First of all, as the length that such a file begins with may read as the mark of another kind.
    if _is_safetensors(data[:10]):
        return ModelFile("safetensors", data)
    if data.startswith(_ZIP):
        members = _read_members(data, str(path))
        if members.get("archive_format") == b"pt2":
            return ModelFile("program", _clean_program(members, str(path)))
        if "constants.pkl" in members and any(member.startswith("code/") for member in members):
            return _clean_script(members, str(path))
        if "data.pkl" in members:
            _check_pickle(members["data.pkl"], str(path), trust_pickle=trust_pickle)
            return ModelFile("pickle", _write_archive(members))
        foreign = foreign_formats.describe_archive(members)
        if foreign:
            raise SchemaError(f"{path} is {foreign}")
        raise SchemaError(
            f"{path} is a zip archive but not a model of torch; expected one by torch.export.save,"
            " torch.jit.save or torch.save"
        )
    if data.startswith(_PICKLE):
        _check_pickle(data, str(path), trust_pickle=trust_pickle)
        if not pickles.is_legacy(data):
            raise SchemaError(
                f"{path} is a plain pickle; expected a file by torch.export.save, torch.jit.save or"
                " torch.save"
            )
        return ModelFile("pickle", data)
    foreign = foreign_formats.describe(data[:512])
    if foreign:
        raise SchemaError(f"{path} is {foreign}")
    return ModelFile("onnx", data)


def read_file(path: Path) -> bytes:
    """Read the bytes of a regular file of 1 to `MAX_BYTES` bytes.

    Raises:
        UsageError: There is no such file, or it is not regular, empty, too large or unreadable.
    """
    check_file(path)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r} ({error})") from error


def check_file(path: Path) -> None:
    """Check that there is a regular file of 1 to `MAX_BYTES` bytes.

    Raises:
        UsageError: There is not.
    """
    try:
        if not path.exists():
            raise UsageError(f"no such model file: {path}")
        if not path.is_file():
            raise UsageError(
                f"{path} is not a regular file; expected a model file (.onnx, .pt2, .pt)"
            )
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r} ({error})") from error
    if not 0 < size <= MAX_BYTES:
        raise UsageError(
            f"{path} has {size} bytes; expected a model file of 1 to {MAX_BYTES} bytes"
        )


def is_torch_file(path: Path) -> bool:
    """Tell by its first bytes whether torch would have to read a file.

    Raises:
        UsageError: There is no such file, or it is not regular, empty, too large or unreadable.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(10)
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r} ({error})") from error
    return start.startswith((_ZIP, _PICKLE)) or _is_safetensors(start)


def _is_safetensors(start: bytes) -> bool:
    """Tell by its first ten bytes whether a file is of safetensors: a length, and JSON."""
    return start[8:10] == b'{"' and 2 <= int.from_bytes(start[:8], "little") <= _MAX_HEADER_BYTES


def _read_members(data: bytes, name: str) -> dict[str, bytes]:
    """Read all members of an archive, after checks of names, sizes and checksums.

    Args:
        data: The archive.
        name: The name of the file, for messages.

    Returns:
        The contents by name, without the archive's root folder.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            # Sizes are checked before a byte is unpacked. `read` then fails on a member that is
            # longer than it said, or that does not match its checksum.
            _check_sizes(archive.infolist(), len(data), name)
            members = {_member_name(info, name): archive.read(info) for info in infos}
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
    if len(members) < len(infos):
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
    """Check the name of a member, and give it without the archive's root folder."""
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


def _write_archive(members: Mapping[str, bytes]) -> bytes:
    """Write members into a new, uncompressed archive, as torch does."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"model/{member}"), data)
    return buffer.getvalue()


def _check_pickle(data: bytes, name: str, *, trust_pickle: bool) -> None:
    if not trust_pickle:
        pickles.check_imports(
            data,
            name,
            _may_stand_in_pickle,
            HOW_TO_SAVE,
            TRUST,
        )


def _may_stand_in_pickle(part: str) -> bool:
    """Tell whether a pickle may name something; what is not of torch is not made (`structures`)."""
    return (
        pickles.is_tensor_part(part)
        or pickles.is_module_class(part)
        or pickles.is_replaceable(part)
    )


def _clean_script(members: Mapping[str, bytes], name: str) -> ModelFile:
    """Check sources and pickles of a TorchScript archive; leave out what only debuggers need."""
    clean = {}
    for member, data in members.items():
        if member.startswith("code/") and member.endswith(".py"):
            _check_script_code(data, name)
        elif member in {"data.pkl", "constants.pkl"}:
            pickles.check_imports(
                data,
                f"{name} ({member})",
                pickles.is_script_part,
                "a TorchScript file never needs that",
            )
        elif not (member.startswith(("data/", "constants/")) or member in _ARCHIVE_PARTS):
            continue
        clean[member] = data
    inputs = pickles.read_traced_inputs(members.get("traced_inputs.pkl", b""))
    return ModelFile("script", _write_archive(clean), inputs)


def _check_script_code(code: bytes, name: str) -> None:
    """Refuse code that runs while it is loaded, and operators that no file may use.

    What is compiled of it is checked again, by the operators themselves (`operators`). Only the
    text shows what the compiler leaves out because nothing uses its result.
    """
    method = _RUNS_AT_LOAD.search(code)
    if method:
        raise UnsafeModelError(
            f"{name}: its TorchScript runs {method[0].decode()} when it is loaded; export it anew"
            " from a module without that"
        )
    for call in _CALL.finditer(code):
        namespace = (call[1] or b"aten").decode(errors="replace")
        operators.check_call(namespace, call[2].decode(errors="replace"), name)


def _clean_program(members: Mapping[str, bytes], name: str) -> bytes:
    """Make a copy of a torch.export archive with nothing left in it that torch would execute."""
    if any(member.startswith("data/aotinductor") for member in members):
        raise UnsafeModelError(
            f"{name} carries compiled libraries (AOTInductor), which would run; expected a"
            " torch.export.save file"
        )
    clean = {
        member: data
        for member, data in members.items()
        if member in _ARCHIVE_PARTS or _PROGRAM_TENSOR.fullmatch(member)
    }
    try:
        quantised = _QUANTISED.search(members["models/model.json"])
        if quantised:
            raise UnsafeModelError(
                f"{name} was quantised by torchao ({quantised[0].decode()}), which has no way to"
                " ONNX; give the network before that, to be quantised here",
                Argument("precision", "int8"),
            )
        for config in _PROGRAM_CONFIGS:
            clean[config] = members[config]
            folder = config.rpartition("/")[0]
            for constant, entry in json.loads(members[config])["config"].items():
                is_plain = _PROGRAM_TENSOR.fullmatch(f"{folder}/{entry['path_name']}")
                if entry["use_pickle"] or not is_plain:
                    raise UnsafeModelError(
                        f"{name}: constant {constant!r} is pickled; only plain tensors are read"
                    )
        program = json.loads(members["models/model.json"])
        program["guards_code"] = []  # code that torch would run to check inputs
        _clean_program_json(program, name)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SchemaError(
            f"{name} is not a program by torch.export.save of torch 2.9 or later ({error!r})"
        ) from error
    clean["models/model.json"] = json.dumps(program).encode()
    clean["data/sample_inputs/model.pt"] = b""
    return _write_archive(clean)


def _clean_program_json(program: Any, name: str) -> None:
    """Check every operator, symbolic expression and container type in a program's JSON.

    What is only for debuggers is dropped, in place.
    """
    checks: dict[str, Callable[[str], object]] = {
        "expr_str": _SYMBOLIC.fullmatch,
        "in_spec": _has_plain_containers,
        "out_spec": _has_plain_containers,
    }
    # What torch reads may stand anywhere in the document, so every object in it is checked by its
    # keys, whatever it is.
    for entry in _iterate_objects(program):
        target = entry.get("target")
        if isinstance(target, str):
            if not _OPERATOR.fullmatch(target):
                raise UnsafeModelError(
                    f"{name}: operator {target[:80]!r} is not one of torch's tensor operators"
                )
            # The stack of modules is where layers get their names from.
            stack = entry["metadata"].get("nn_module_stack", "")
            entry["metadata"] = {"nn_module_stack": stack} if stack else {}
        for key, check in checks.items():
            if key in entry and not (isinstance(entry[key], str) and check(entry[key])):
                raise UnsafeModelError(
                    f"{name}: {key} {str(entry[key])[:80]!r} is more than shapes and containers"
                    " need"
                )
        if "as_operator" in entry or "as_custom_obj" in entry:
            raise UnsafeModelError(
                f"{name}: an argument is a function or a foreign object; only tensors and numbers"
                " are read"
            )
        if "treespec_namedtuple_fields" in entry:
            entry["treespec_namedtuple_fields"] = {}
    if not all(_SYMBOL.fullmatch(symbol) for symbol in program["range_constraints"]):
        raise UnsafeModelError(f"{name}: range constraints on something else than symbols")


def _iterate_objects(value: Any) -> Iterator[dict[str, Any]]:
    """Walk over every object of a JSON document, outermost first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from _iterate_objects(entry)


def _has_plain_containers(text: str) -> bool:
    """Tell whether a tree of inputs or outputs is made of Python's own containers alone."""
    for entry in _iterate_objects(json.loads(text)):
        if "type" in entry and entry["type"] not in _CONTAINERS:
            return False
    return True
