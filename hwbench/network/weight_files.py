"""Weights that stay in files beside a model: ONNX's external data, where it is too large for one.

A serialised ModelProto holds less than 2 GiB. What exceeds that stays in the files of the user, and
each tensor says in which one it lies, where there, and the SHA-256 of its bytes
(https://onnx.ai/onnx/repo-docs/ExternalData.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import WorkloadError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, TensorProto

ORT_FOLDER = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's option for the folder of the weights of a model that is given as bytes."""
CHECKSUM = "checksum"
"""Key of a tensor's entry with the SHA-256 of its bytes."""
_CHUNK_BYTES = 16 << 20
_PLACE_KEYS = {"location", "offset"}
_BITS_OF_SMALL_TYPES = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""Bits of an element of the types that are packed into bytes, by ONNX's names."""


@dataclass(frozen=True)
class FileStamp:
    """A file as it was when it was read.

    Attributes:
        name: Its path from the folder of the weights, with slashes.
        size_bytes: Its size.
        modified_ns: When it was written last, in nanoseconds since 1970.
    """

    name: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class WeightFiles:
    """The files that a model's large weights are read from.

    Attributes:
        folder: The folder, as an absolute path, that tensors name their files from.
        files: The files.
    """

    folder: str
    files: tuple[FileStamp, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    def require_unchanged(self, name: str) -> None:
        """Check that no file was written since it was read.

        Args:
            name: The name of the model, for the message.

        Raises:
            WorkloadError: One was, or is gone.
        """
        for file in self.files:
            if stamp_file(Path(self.folder), file.name) != file:
                raise WorkloadError(
                    f"the weights of {name} in {str(Path(self.folder) / file.name)!r} have changed"
                    " since they were read; repeat the command"
                )


def stamp_file(folder: Path, name: str) -> FileStamp | None:
    """Note size and time of a file; None if it is gone."""
    try:
        status = (folder / name).stat()
    except OSError:
        return None
    return FileStamp(name, status.st_size, status.st_mtime_ns)


def is_external(tensor: TensorProto) -> bool:
    """Tell whether the values of a tensor are in another file."""
    return bool(tensor.external_data) or tensor.data_location == tensor.EXTERNAL


def has_external(model: ModelProto) -> bool:
    """Tell whether a weight of a model is in another file."""
    return any(is_external(tensor) for tensor in model.graph.initializer)


def count_external_bytes(model: ModelProto) -> int:
    """Count the bytes of all weights of a model that are in other files."""
    total = 0
    for tensor in model.graph.initializer:
        if is_external(tensor):
            total += int(read_entries(tensor)["length"])
    return total


def read_entries(tensor: TensorProto) -> dict[str, str]:
    """Read what a tensor says of its place: `location`, `offset`, `length`, `checksum`."""
    return {entry.key: entry.value for entry in tensor.external_data}


def count_bytes(tensor: TensorProto, elements: int) -> int:
    """Count the bytes of that many elements of a tensor, as ONNX packs them.

    Raises:
        ValueError: It is of no type of numbers.
    """
    import onnx

    try:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if kind == "STRING":
            raise ValueError("texts are in no other file")
        bits = _BITS_OF_SMALL_TYPES.get(kind)
        if bits is None:
            bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise ValueError(f"weight {tensor.name!r} has type {tensor.data_type}") from error
    return -(-elements * bits // 8)


def read_chunks(tensor: TensorProto, folder: Path) -> Iterator[bytes]:
    """Read the bytes of a tensor, some at a time.

    Args:
        tensor: A tensor with location, offset and length.
        folder: What its location begins at.

    Raises:
        ValueError: The file ends before the tensor does.
        OSError: It cannot be read.
    """
    entries = read_entries(tensor)
    remaining = int(entries["length"])
    with (folder / entries["location"]).open("rb") as file:
        file.seek(int(entries["offset"]))
        while remaining:
            chunk = file.read(min(remaining, _CHUNK_BYTES))
            if not chunk:
                raise ValueError(f"{entries['location']!r} ends before {tensor.name!r} does")
            remaining -= len(chunk)
            yield chunk


def read_values(tensor: TensorProto, folder: Path) -> Iterator[NDArray[Any]]:
    """Read the values of a tensor in order, some at a time; see `read_chunks`."""
    import onnx

    for chunk in read_chunks(tensor, folder):
        bits = count_bytes(tensor, 8)  # eight elements have as many bytes as one has bits
        elements = len(chunk) * 8 // bits
        part = onnx.TensorProto(data_type=tensor.data_type, dims=[elements], raw_data=chunk)
        yield onnx.numpy_helper.to_array(part)


def forget_places(data: bytes) -> bytes:
    """Write a model without where its weights lie, but with their checksums: what identifies it.

    Args:
        data: The serialised model.
    """
    import onnx

    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        for index in reversed(range(len(tensor.external_data))):
            if tensor.external_data[index].key in _PLACE_KEYS:
                del tensor.external_data[index]
    return bytes(model.SerializeToString(deterministic=True))
