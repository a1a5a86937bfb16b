"""What a pickle names, told without running it.

And the input shapes a traced TorchScript file keeps in one.

A pickle is a program. Only its import instructions (GLOBAL and relatives) reach outside, so a
pickle whose every import is on an allow-list can build nothing else. torch writes protocol 2;
instructions beyond it are refused rather than understood.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from hwbench.errors import Remedy, UnsafeModelError
from hwbench.records.tensors import TensorSpec

_REFUSED = {
    "INST",
    "OBJ",
    "STACK_GLOBAL",
    "NEWOBJ_EX",
    "EXT1",
    "EXT2",
    "EXT4",
    "BYTEARRAY8",
    "NEXT_BUFFER",
    "READONLY_BUFFER",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER: first pickle of a file written before torch 1.6

_TENSORS = re.compile(
    r"torch\.(\w+Storage|Size|device|float\w+|bfloat16|u?int\d+|bool|half|double|long|storage\.\w+Storage)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state)|torch\.nn\.parameter\.(Parameter|Buffer)"
    r"|torch\.serialization\._get_layout|collections\.OrderedDict|builtins\.set|_codecs\.encode"
)
_MODULES = re.compile(
    r"torch\.nn\.modules\.\w+\.[A-Z]\w*|torch\._C\._nn\.gelu|torch\.nn\.functional\.relu"
)
_SCRIPT = re.compile(
    r"__torch__\.(?!torch\.classes\b)[\w.]+|torch\.jit\._pickle\.\w+|" + _TENSORS.pattern
)

DTYPES = {
    "Float": "float32", "Half": "float16", "Double": "float64", "Long": "int64", "Int": "int32", "Short": "int16",
    "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
"""Element type of each legacy storage class, as a numpy name."""


def is_module_class(name: str) -> bool:
    """Whether `name` is what a pickled module of torch.nn classes needs beyond tensors."""
    return _MODULES.fullmatch(name) is not None


def is_tensor_part(name: str) -> bool:
    """Whether `name` is what tensors, parameters and state dicts are pickled with."""
    return _TENSORS.fullmatch(name) is not None


def is_script_part(name: str) -> bool:
    """Whether `name` is what TorchScript pickles name: types defined in the archive itself, and tensors."""
    return _SCRIPT.fullmatch(name) is not None


def imports(data: bytes, name: str) -> set[str]:
    """Everything the pickles in `data` import, as `module.attribute`.

    Several pickles may follow each other.

    Args:
        data: One pickle, or a legacy torch file whose first five pickles are looked at.
        name: Of the file, for messages.

    Raises:
        UnsafeModelError: It is no complete pickle, or uses an instruction that torch does not
            write.
    """
    stream, found = io.BytesIO(data), set[str]()
    legacy = is_legacy(data)
    for _ in range(5 if legacy else 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pickletools warns of odd escapes in damaged texts
                found |= _imports_of_one(stream, len(data))
        except (ValueError, OverflowError) as error:
            raise UnsafeModelError(
                f"{name}: damaged pickle ({error}); save the model anew"
            ) from error
    return found


def _imports_of_one(stream: io.BytesIO, size: int) -> set[str]:
    found: set[str] = set()
    pushed: list[str | None] = [
        None,
        None,
    ]  # texts as they come to lie on the stack; protocol 4 imports the last two
    memo: dict[int, str | None] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        kind = opcode.name
        if kind == "GLOBAL":
            found.add(str(argument).replace("__builtin__", "builtins").replace(" ", "."))
        elif kind == "STACK_GLOBAL":
            found.add(f"{pushed[-2]}.{pushed[-1]} (pickle protocol 4)")
        elif kind in _REFUSED:
            found.add(f"{kind} {argument or ''}".strip())
        elif kind in {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}:
            index = len(memo) if argument is None else int(argument)
            if index > size:
                raise ValueError(f"memo index {index} in {size} bytes")
            memo[index] = pushed[-1]
            continue
        elif kind in {"GET", "BINGET", "LONG_BINGET"}:
            pushed.append(memo.get(int(argument or 0)))
            continue
        pushed.append(argument if isinstance(argument, str) else None)
    return found


def is_legacy(data: bytes) -> bool:
    """Whether `data` starts like a file that torch.save wrote before torch 1.6."""
    return data.startswith(
        pickle.PROTO + b"\x02" + pickle.LONG1 + b"\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")
    )


def require(
    data: bytes, name: str, allowed: Callable[[str], bool], advice: str, *remedies: Remedy
) -> None:
    """Refuse a pickle that imports anything not `allowed`.

    Raises:
        UnsafeModelError: Naming what it imports, with `advice` and `remedies`.
    """
    foreign = sorted(part for part in imports(data, name) if not allowed(part))
    if foreign:
        shown = ", ".join(repr(part)[1:-1] for part in foreign[:6]) + (
            f" and {len(foreign) - 6} more" if len(foreign) > 6 else ""
        )
        raise UnsafeModelError(
            f"{name} is a pickle that would run or build {shown}; {advice}", *remedies
        )


class _Shapes(pickle.Unpickler):
    """Unpickles tensors as their TensorSpec.

    Everything else that is not a plain container is refused.
    """

    def find_class(self, module: str, name: str) -> Any:
        makers: dict[str, Callable[..., object]] = {
            "torch.jit._pickle.restore_type_tag": lambda value, _type: value,
            "torch._utils._rebuild_tensor_v2": lambda dtype, _offset, size, *_: TensorSpec(
                "", tuple(map(int, size)), dtype
            ),
            "collections.OrderedDict": lambda *_: None,
        }
        if module == "torch" and name.endswith("Storage"):
            return DTYPES.get(name.removesuffix("Storage"), "float32")
        try:
            return makers[f"{module}.{name}"]
        except KeyError as error:
            raise pickle.UnpicklingError(f"{module}.{name} in traced inputs") from error

    def persistent_load(self, pid: Any) -> Any:
        return pid[1]


def traced_inputs(data: bytes) -> tuple[TensorSpec, ...]:
    """Shapes and types of the example inputs of `forward`, from a TorchScript archive's `traced_inputs.pkl`.

    Returns:
        One nameless TensorSpec per input; empty where the pickle is not of that form (then
        the caller must say it).
    """
    try:
        if not all(is_script_part(part) for part in imports(data, "traced_inputs.pkl")):
            return ()
        found = _Shapes(io.BytesIO(data)).load()["forward"]
    except (
        UnsafeModelError,
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ):
        return ()
    if not isinstance(found, Sequence) or not all(isinstance(spec, TensorSpec) for spec in found):
        return ()
    return tuple(found)
