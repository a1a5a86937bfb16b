"""What a file of torch.save or safetensors holds, read without torch and without running anything.

A pickle names classes and functions. Here none of them is ever imported: tensors become
`TensorRecord`s, everything else an `Instance` that keeps what it was given. So the weights of a
checkpoint are read whatever else lies beside them, and questions that need no torch are answered in
a fraction of the time that torch takes to load.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from hwbench.errors import SchemaError
from hwbench.network.intake import pickles
from hwbench.network.intake.archives import ModelFile

ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2,
    "int8": 1, "uint8": 1, "bool": 1, "uint16": 2, "uint32": 4, "uint64": 8, "complex64": 8,
    "complex128": 16, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
"""Bytes of one entry, by the name that torch gives an element type."""

_FORWARD = re.compile(r"\bdef forward\(self: [\w.]+,(.*?)\) ->", re.DOTALL)
_TENSOR_ARGUMENT = re.compile(r"\b(\w+): Tensor(?=\s*(?:,|$))")
_STORAGES = {
    **pickles.DTYPES, "BFloat16": "bfloat16", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128", "Untyped": "uint8",
}  # fmt: skip
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16",
    "U32": "uint32", "U64": "uint64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor of a file: where its entries lie.

    Attributes:
        dtype: The element type, as torch calls it.
        shape: The sizes.
        storage: The name of the bytes in the file.
        offset: The first entry, in entries.
        stride: Entries from one index to the next, for each dimension.
    """

    dtype: str
    shape: tuple[int, ...]
    storage: str
    offset: int
    stride: tuple[int, ...]


class Instance:
    """An object of a class that is known by its name alone.

    Attributes:
        kind: The class, as `module.Name`.
        arguments: What it was made from.
        state: What was set on it afterwards; for a module of torch, its attributes.
    """

    kind: str = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any, **_: Any) -> Self:
        """Keep the arguments; nothing is made of them."""
        self = super().__new__(cls)
        self.arguments = arguments
        self.state = {}
        return self

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take an entry, as containers do; it is not kept."""

    def extend(self, entries: Any) -> None:
        """Take entries, as containers do; they are not kept."""

    append = extend


class _Mapping(dict[Any, Any]):
    """A dictionary of any class of the standard library."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()
        if arguments and isinstance(arguments[-1], list):
            for pair in arguments[-1]:
                self[pair[0]] = pair[1]


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    key: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class _StorageKind:
    dtype: str


class _StructureUnpickler(pickle.Unpickler):
    """Unpickles containers and numbers, tensors as their records, and the rest as instances."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")
        self._kinds: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}".replace("__builtin__", "builtins")
        if full_name not in self._kinds:
            self._kinds[full_name] = _make_kind(module, name, full_name)
        return self._kinds[full_name]

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # before torch 1.6: a class, and the source it was defined by
            return pid[1]
        view = pid[5] if len(pid) > 5 and pid[5] is not None else (None, 0)
        return _Storage(pid[1].dtype, str(pid[2]), int(view[1]))


def _make_kind(module: str, name: str, full_name: str) -> Any:
    """Make what stands for a class or function of a pickle; nothing of a file can change it."""
    if module in {"torch", "torch.storage"} and name.endswith("Storage"):
        return _StorageKind(_STORAGES.get(name.removesuffix("Storage"), "uint8"))
    if full_name in _MAPPINGS:
        return type(name, (_Mapping,), {})
    if full_name in _MAKERS:
        return partial(_MAKERS[full_name])
    return type(name, (Instance,), {"kind": full_name})


def _rebuild_tensor(
    storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *others: Any
) -> TensorRecord:
    dtype = storage.dtype
    named = getattr(others[2], "kind", "") if len(others) > 2 else ""
    if named.startswith("torch."):  # version 3 names the type beside storage without one
        dtype = named.removeprefix("torch.")
    return TensorRecord(
        dtype, tuple(map(int, size)), storage.key, storage.offset + int(offset),
        tuple(map(int, stride)),
    )  # fmt: skip


_MAPPINGS = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.nn.parameter.Parameter": lambda data=None, *_: data,
    "torch.nn.parameter.Buffer": lambda data=None, *_: data,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "builtins.set": lambda entries=(): set(entries),
    "_codecs.encode": lambda text, *_: text,
}


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds.

    Attributes:
        root: Mappings, sequences, numbers, `TensorRecord` and `Instance`.
        storages: The bytes of tensors, by name.
        foreign: Names of the pickle that are neither of tensors nor of torch.nn.
    """

    root: Any
    storages: Mapping[str, bytes | memoryview]
    foreign: frozenset[str] = field(default_factory=frozenset)


def read_content(file: ModelFile, name: str) -> Content:
    """Read what a file of the kinds `pickle`, `script` and `safetensors` holds.

    Args:
        file: The file, as `archives.inspect` gives it.
        name: The name of the file, for messages.

    Raises:
        SchemaError: The file is damaged.
    """
    try:
        if file.kind == "safetensors":
            return _read_safetensors(file.payload)
        if pickles.is_legacy(file.payload):
            return _read_legacy(file.payload, name)
        return _read_zip(file.payload, name)
    except (
        ArithmeticError, AttributeError, EOFError, ImportError, LookupError, RecursionError,
        TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SchemaError(f"{name} is damaged ({cause}); save the model anew") from error


def _read_zip(payload: bytes, name: str) -> Content:
    storages: dict[str, bytes | memoryview] = {}
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        data = b""
        for info in archive.infolist():
            member = info.filename.partition("/")[2]
            if member == "data.pkl":
                data = archive.read(info)
            elif member.startswith("data/"):
                # Members are stored as they are: torch never compresses, and `archives` has
                # written this archive anew.
                storages[member.removeprefix("data/")] = archive.read(info)
            elif member == "byteorder" and archive.read(info).strip() == b"big":
                raise ValueError("it was written on a computer with the other order of bytes")
    return Content(
        _StructureUnpickler(io.BytesIO(data)).load(), storages, _find_foreign(data, name)
    )


def _read_legacy(payload: bytes, name: str) -> Content:
    """Read a file as torch wrote it before 1.6: five pickles, then the storages in their order."""
    stream = io.BytesIO(payload)
    for _ in range(3):  # a magic number, the version, and sizes of the writer's integers
        _StructureUnpickler(stream).load()
    items = _LegacyUnpickler(stream)
    root = items.load()
    keys = _StructureUnpickler(stream).load()
    view, at = memoryview(payload), stream.tell()
    storages: dict[str, bytes | memoryview] = {}
    for key in keys:
        (count,) = struct.unpack_from("<q", payload, at)
        size = count * ITEM_BYTES[items.dtypes[str(key)]]
        if count < 0 or at + 8 + size > len(payload):
            raise ValueError(f"storage {str(key)[:40]!r} is cut short")
        storages[str(key)] = view[at + 8 : at + 8 + size]
        at += 8 + size
    return Content(root, storages, _find_foreign(payload, name))


class _LegacyUnpickler(_StructureUnpickler):
    """Remembers the element types of storages, which their bytes do not tell."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.dtypes: dict[str, str] = {}

    def persistent_load(self, pid: Any) -> Any:
        storage = super().persistent_load(pid)
        if isinstance(storage, _Storage):
            self.dtypes[storage.key] = storage.dtype
        return storage


def _find_foreign(data: bytes, name: str) -> frozenset[str]:
    foreign = set()
    for part in pickles.find_imports(data, name):
        if not (pickles.is_tensor_part(part) or pickles.is_module_class(part)):
            foreign.add(part)
    return frozenset(foreign)


def _read_safetensors(payload: bytes) -> Content:
    import safetensors

    root: dict[str, Any] = {}
    storages: dict[str, bytes | memoryview] = {}
    try:
        entries = safetensors.deserialize(payload)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error
    for tensor_name, entry in entries:
        shape = tuple(entry["shape"])
        strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
        dtype = _SAFETENSORS.get(entry["dtype"], entry["dtype"])
        root[tensor_name] = TensorRecord(dtype, shape, tensor_name, 0, tuple(strides))
        storages[tensor_name] = bytes(entry["data"])
    return Content(_put_first_layer_first(root), storages)


def _put_first_layer_first(tensors: Mapping[str, TensorRecord]) -> dict[str, TensorRecord]:
    """Begin with the layer that the input goes into, which tells what the network takes.

    Files of torch keep the order of the network; those of safetensors are sorted by size. The first
    layer reads what no other makes: the channels of images, or features. One channel tells less, as
    depth-wise convolutions have as many.
    """
    weights = {name: tensor for name, tensor in tensors.items() if _is_weight(name, tensor)}
    made = {tensor.shape[0] for tensor in weights.values()}
    ranked = []
    has_convolutions = any(len(tensor.shape) > 2 for tensor in weights.values())
    for name, tensor in weights.items():
        read = tensor.shape[1]
        if read not in made:
            is_flat = len(tensor.shape) == 2
            ranked.append(
                (is_flat and has_convolutions, read == 1, read != 3, _split_numbers(name), name)
            )
    if not ranked:
        return dict(tensors)
    first = min(ranked)[-1]
    return {first: tensors[first], **tensors}


def _is_weight(name: str, tensor: TensorRecord) -> bool:
    return name.endswith("weight") and len(tensor.shape) >= 2


def _split_numbers(name: str) -> list[tuple[int, str]]:
    """Make a key that sorts numbers in names by their value."""
    parts = re.findall(r"\d{1,18}|\D+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def read_script_arguments(file: ModelFile, kind: str) -> list[str]:
    """Read the names of the tensors that TorchScript takes from its code; empty if it is unusual.

    Args:
        file: The file, as `archives.inspect` gives it.
        kind: The class of its network: `__torch__.package.Net`.
    """
    module, _, name = kind.rpartition(".")
    code = ""
    with zipfile.ZipFile(io.BytesIO(file.payload)) as archive:
        for info in archive.infolist():
            if info.filename.endswith(f"/code/{module.replace('.', '/')}.py"):
                code = archive.read(info).decode(errors="replace")
    own = re.search(rf"^class {re.escape(name)}\(.*?(?=^class |\Z)", code, re.DOTALL | re.MULTILINE)
    forward = _FORWARD.search(own[0]) if own else None
    return _TENSOR_ARGUMENT.findall(forward[1]) if forward else []


def make_tensor(record: TensorRecord, content: Content) -> Any:
    """Make a tensor of torch from its record; it shares no memory with others.

    Args:
        record: The record.
        content: The file that it is of.

    Raises:
        SchemaError: Its entries lie outside its storage, or torch has no such type.
    """
    import torch

    dtype = getattr(torch, record.dtype, None)
    if not isinstance(dtype, torch.dtype) or record.dtype not in ITEM_BYTES:
        raise SchemaError(f"a tensor holds {record.dtype[:40]}; expected numbers")
    data = content.storages.get(record.storage, b"")
    last = record.offset
    for size, stride in zip(record.shape, record.stride, strict=True):
        last += (size - 1) * stride
    is_empty = 0 in record.shape
    fits = (last + 1) * ITEM_BYTES[record.dtype] <= len(data)
    if min((record.offset, *record.shape, *record.stride)) < 0 or not (is_empty or fits):
        raise SchemaError(f"a tensor of shape {record.shape} lies outside its data")
    if is_empty:
        return torch.empty(record.shape, dtype=dtype)
    count = len(data) // ITEM_BYTES[record.dtype]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bytes that must not be written to: they are copied
        entries = torch.frombuffer(data, dtype=dtype, count=count)
    return torch.as_strided(entries, record.shape, record.stride, record.offset).clone()
