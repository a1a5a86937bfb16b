"""External data of ONNX files: taken into the model, or left where it is if that is too large.

Nothing of what a tensor says of its place is trusted: it lies in a regular file of the model's own
folder (`neighbours`), and within that file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import SchemaError, UnsafeModelError, WorkloadError
from hwbench.network import weight_files
from hwbench.network.intake import neighbours
from hwbench.network.weight_files import CHECKSUM, FileStamp, WeightFiles, is_external

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes of one serialised message."""
_SMALL_BYTES = 1 << 20
"""Bytes below which external data is taken in whatever the rest of the model holds: shapes,
axes and scales are among it, which a graph is read by."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the data of a tensor lies.

    Attributes:
        file: The file, without a link in its path.
        location: Its path from the model's folder, as the tensor has it.
        offset: Where the data begins.
        length: Bytes of the data.
    """

    file: Path
    location: str
    offset: int
    length: int


def take_in(model: ModelProto, path: Path) -> None:
    """Read external data into a model, in place.

    Where all of it would exceed what one model can hold, large weights stay where they are; the
    tensors then have a location, an offset and a length.

    Args:
        model: The model.
        path: Its path; external data is read from its folder.

    Raises:
        SchemaError: A tensor reaches beyond its file, or has other bytes than its shape needs.
        UnsafeModelError: A tensor lies outside the folder.
        WorkloadError: What has to be taken in exceeds what one model can hold.
    """
    from onnx import SparseTensorProto, TensorProto

    tensors = []
    total = model.ByteSize()
    for message in list(_iterate_messages(model)):
        if isinstance(message, TensorProto) and is_external(message):
            tensors.append(message)
            total += _locate(message, path).length
        elif isinstance(message, SparseTensorProto):
            # Its tensors have no name of their own, and are written out later.
            for part in (message.values, message.indices):
                if is_external(part):
                    _embed(part, _locate(part, path))
    apart: list[tuple[TensorProto, _Place]] = []
    if total > PROTOBUF_LIMIT:
        apart = _set_apart(model, path)
        total -= sum(place.length for _, place in apart)
    if total > PROTOBUF_LIMIT:
        raise WorkloadError(
            f"{path} keeps over {PROTOBUF_LIMIT} bytes of weights that are no initializers of its"
            " graph, or smaller ones; one ONNX model cannot hold them; save it in half precision,"
            " or cut it into parts"
        )
    for tensor in tensors:
        if is_external(tensor):
            _embed(tensor, _locate(tensor, path))
    for tensor, place in apart:
        _write_place(tensor, place.location, place)


def _set_apart(model: ModelProto, path: Path) -> list[tuple[TensorProto, _Place]]:
    """Choose the weights that stay in their files; until `_write_place` they have no place."""
    apart = []
    for tensor in model.graph.initializer:
        if not is_external(tensor):
            continue
        place = _locate(tensor, path)
        if place.length >= _SMALL_BYTES:
            _check_length(tensor, place, path)
            _clear_place(tensor)
            apart.append((tensor, place))
    return apart


def note_weights(model: ModelProto, path: Path) -> WeightFiles | None:
    """Note of all weights that stay in files what they hold, and in which folder the files are.

    The tensors then name them from there, without links.

    Args:
        model: A model that is else complete; it is changed.
        path: The path that it was read from.

    Returns:
        The files; None if no weights are in any.

    Raises:
        SchemaError: A file was changed meanwhile.
        UnsafeModelError: The same.
    """
    tensors = [tensor for tensor in model.graph.initializer if is_external(tensor)]
    placed = [(tensor, _locate(tensor, path)) for tensor in tensors]
    if not placed:
        return None
    folder = Path(os.path.commonpath([place.file.parent for _, place in placed]))
    stamps: dict[str, FileStamp] = {}
    for tensor, place in placed:
        name = place.file.relative_to(folder).as_posix()
        stamp = weight_files.stamp_file(folder, name)
        if stamp is None:
            raise SchemaError(f"{str(place.file)!r} is gone; give the model again")
        _clear_place(tensor)
        _write_place(tensor, name, place)
        digest = sha256()
        for chunk in weight_files.read_chunks(tensor, folder):
            digest.update(chunk)
        tensor.external_data.add(key=CHECKSUM, value=digest.hexdigest())
        if stamps.setdefault(name, stamp) != stamp:
            raise SchemaError(f"{str(place.file)!r} changed while it was read; give it again")
    files = WeightFiles(str(folder), tuple(stamps[name] for name in sorted(stamps)))
    files.require_unchanged(str(path))
    return files


def check_files(weights: WeightFiles, artifact: bytes, path: Path) -> None:
    """Check by oneself what a worker says of the files of weights: they lie in the model's folder.

    Args:
        weights: What it says.
        artifact: The model that it gave.
        path: The path of the model that it read.

    Raises:
        ValueError: A file lies elsewhere, or the model names another one.
    """
    import onnx

    model = onnx.load_model_from_string(artifact)
    named = {file.name for file in weights.files}
    for tensor in model.graph.initializer:
        if is_external(tensor) and weight_files.read_entries(tensor).get("location") not in named:
            raise ValueError(f"{tensor.name!r} is in none of the files")
    for file in weights.files:
        if not neighbours.is_neighbour(path.parent, Path(weights.folder) / file.name):
            raise ValueError(f"{file.name!r} is not in the model's folder")


def _embed(tensor: TensorProto, place: _Place) -> None:
    """Read the data of a tensor into it."""
    with place.file.open("rb") as file:
        file.seek(place.offset)
        tensor.raw_data = file.read(place.length)
    _clear_place(tensor)


def _clear_place(tensor: TensorProto) -> None:
    tensor.ClearField("external_data")
    tensor.data_location = tensor.DEFAULT


def _write_place(tensor: TensorProto, location: str, place: _Place) -> None:
    entries = {"location": location, "offset": str(place.offset), "length": str(place.length)}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = tensor.EXTERNAL


def _check_length(tensor: TensorProto, place: _Place, path: Path) -> None:
    """Check that a tensor has as many bytes as its shape needs; what is taken in is checked later.

    Raises:
        SchemaError: It has not, or is no tensor of numbers.
    """
    elements = 1
    for size in tensor.dims:
        elements *= max(0, size)
    try:
        needed = weight_files.count_bytes(tensor, elements)
    except ValueError as error:
        raise SchemaError(f"{path}: {error}; export it anew") from error
    if needed != place.length:
        shape = "x".join(map(str, tensor.dims))
        raise SchemaError(
            f"{path}: weight {tensor.name!r} has {place.length} bytes where its shape {shape} needs"
            f" {needed}; export it anew"
        )


def _locate(tensor: TensorProto, path: Path) -> _Place:
    """Find the data of one tensor, which the file itself locates: nothing is trusted.

    Args:
        tensor: A tensor that names a file, an offset and a length.
        path: The path of the model.
    """
    fields = weight_files.read_entries(tensor)
    location = fields.get("location", "")
    if not neighbours.is_inside(location):
        raise UnsafeModelError(
            f"{path}: tensor {tensor.name!r} keeps its data at {location!r}; expected a file in the"
            " model's folder"
        )
    target = neighbours.find_neighbour(path.parent, location)
    if target is None:
        raise UnsafeModelError(
            f"{path}: tensor {tensor.name!r} needs {location!r}, which is no regular file in the"
            " model's folder"
        )
    size = target.stat().st_size
    offset_text, length_text = fields.get("offset", "0"), fields.get("length", "")
    for text in (offset_text, length_text):
        if text and (not text.isdecimal() or len(text) > 18):
            raise SchemaError(
                f"{path}: tensor {tensor.name!r} lies at offset {offset_text[:40]!r}, length"
                f" {length_text[:40]!r}; expected whole numbers"
            )
    offset = int(offset_text or 0)
    length = int(length_text) if length_text else size - offset
    if not 0 <= offset <= offset + length <= size:
        raise SchemaError(
            f"{path}: tensor {tensor.name!r} needs bytes {offset} to {offset + length} of"
            f" {location!r}, which has {size}"
        )
    return _Place(target, location, offset, length)


def _iterate_messages(message: Any) -> Iterator[Any]:
    """Walk over every protobuf message inside `message`, itself first.

    It goes by what protobuf has stored rather than by ONNX's fields, so that no tensor can hide in
    a subgraph, a function, or a field that a later version of ONNX adds.

    Raises:
        ValueError: A text is not UTF-8; protobuf hands such a one on as bytes.
    """
    yield message
    for field, value in message.ListFields():
        entries = value if hasattr(value, "extend") else (value,)  # repeated, or one
        if field.message_type is not None:
            for entry in entries:
                yield from _iterate_messages(entry)
        elif field.type == field.TYPE_STRING and any(isinstance(entry, bytes) for entry in entries):
            raise ValueError(f"{field.name} is not text")
