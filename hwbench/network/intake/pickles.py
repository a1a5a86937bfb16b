"""Finding out what a pickle imports without running it.

A pickle is a program. Only its import instructions (GLOBAL and relatives) reach outside, so a
pickle whose every import is on an allow-list can build nothing else. torch writes protocol 2;
instructions beyond it are refused rather than understood.

Traced TorchScript files keep the shapes of their inputs in a pickle, which is read here too.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import sys
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
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""torch.serialization.MAGIC_NUMBER, the first pickle of a file written before torch 1.6."""

_TENSORS = re.compile(
    r"torch\.(\w+Storage|Size|device|float\w+|bfloat16|u?int\d+|bool|half|double|long)"
    r"|torch\.storage\.\w+Storage"
    r"|torch\._utils\._rebuild_(tensor|tensor_v[23]|parameter|parameter_with_state)"
    r"|torch\.nn\.parameter\.(Parameter|Buffer)"
    r"|torch\.serialization\._get_layout|collections\.OrderedDict|builtins\.set|_codecs\.encode"
)
_MODULES = re.compile(
    r"torch\.nn\.modules\.\w+\.[A-Z]\w*|torch\._C\._nn\.gelu|torch\.nn\.functional\.relu"
)
_SCRIPT = re.compile(
    r"__torch__\.(?!torch\.classes\b)[\w.]+|torch\.jit\._pickle\.\w+|" + _TENSORS.pattern
)

_HARMLESS = re.compile(
    r"argparse\.Namespace|copyreg\._reconstructor|types\.SimpleNamespace"
    r"|(pathlib(\._local)?|datetime|uuid|decimal|fractions|contextlib|enum)\.\w+"
    r"|collections\.(defaultdict|deque|Counter)|builtins\.(object|int|float|str|bool|list|dict"
    r"|tuple|slice|range|complex|frozenset|bytearray|getattr)"
)
"""Names of Python that may stand beside weights. They are not made either."""

DTYPES = {
    "Float": "float32", "Half": "float16", "Double": "float64", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
"""The element type of each legacy storage class, as a NumPy name."""


def is_module_class(name: str) -> bool:
    """Tell whether `name` is what a pickled module of torch.nn classes needs beyond tensors."""
    return _MODULES.fullmatch(name) is not None


def is_tensor_part(name: str) -> bool:
    """Tell whether `name` is what tensors, parameters and state dicts are pickled with."""
    return _TENSORS.fullmatch(name) is not None


def is_replaceable(name: str) -> bool:
    """Tell whether `name` may stand in a file of weights, where nothing is made of it.

    Those are classes of the user, of torch and of other packages, which only whole modules need,
    and harmless ones of Python. What a harmless file never names (`os`, `eval`) stays refused.
    """
    root = name.partition(".")[0]
    if root in sys.stdlib_module_names or root == "builtins":
        return _HARMLESS.fullmatch(name) is not None
    return re.fullmatch(r"[A-Za-z_][\w.]*", name) is not None


def is_script_part(name: str) -> bool:
    """Tell whether `name` is what TorchScript pickles name.

    That is a type defined in the archive itself, or part of a tensor.
    """
    return _SCRIPT.fullmatch(name) is not None


def find_imports(data: bytes, name: str) -> set[str]:
    """Find everything that the pickles in `data` import, as `module.attribute`.

    Args:
        data: One pickle, or a legacy torch file, whose first five pickles are looked at.
        name: The name of the file, for messages.

    Raises:
        UnsafeModelError: The data is no complete pickle.
    """
    stream = io.BytesIO(data)
    names: set[str] = set()
    for _ in range(5 if is_legacy(data) else 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pickletools warns of odd escapes in damaged texts
                names |= _find_imports_of_next(stream, len(data))
        except (ValueError, OverflowError) as error:
            raise UnsafeModelError(
                f"{name}: damaged pickle ({error}); save the model anew"
            ) from error
    return names


def _find_imports_of_next(stream: io.BytesIO, size: int) -> set[str]:
    """Find the imports of the next pickle in a stream, and of instructions that torch never writes.

    Args:
        stream: The pickles; the next one is read to its end.
        size: The length of the whole file in bytes.
    """
    names: set[str] = set()
    # Protocol 4 imports by the last two texts on the stack. The stack is followed only as far as
    # messages need it: STACK_GLOBAL is refused whatever it names.
    pushed: list[str | None] = [None, None]
    memo: dict[int, str | None] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        kind = opcode.name
        if kind == "GLOBAL":
            names.add(str(argument).replace("__builtin__", "builtins").replace(" ", "."))
        elif kind == "STACK_GLOBAL":
            names.add(f"{pushed[-2]}.{pushed[-1]} (pickle protocol 4)")
        elif kind in _REFUSED:
            names.add(f"{kind} {argument or ''}".strip())
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
    return names


def is_legacy(data: bytes) -> bool:
    """Tell whether `data` starts like a file that torch.save wrote before torch 1.6."""
    return data.startswith(
        pickle.PROTO + b"\x02" + pickle.LONG1 + b"\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")
    )


def check_imports(
    data: bytes, name: str, is_allowed: Callable[[str], bool], advice: str, *remedies: Remedy
) -> None:
    """Refuse a pickle that imports anything that is not allowed.

    Args:
        data: The pickle.
        name: The name of the file, for messages.
        is_allowed: Tells whether a `module.attribute` may be imported.
        advice: What the message says to do.
        remedies: What else would help.

    Raises:
        UnsafeModelError: It imports something else; the message names it.
    """
    foreign = sorted(part for part in find_imports(data, name) if not is_allowed(part))
    if foreign:
        listing = ", ".join(repr(part)[1:-1] for part in foreign[:6])
        if len(foreign) > 6:
            listing += f" and {len(foreign) - 6} more"
        raise UnsafeModelError(
            f"{name} is a pickle that would run or build {listing}; {advice}", *remedies
        )


class _ShapeUnpickler(pickle.Unpickler):
    """Unpickles tensors as their TensorSpec.

    A tensor is pickled as a call of a torch function on its storage. Here that function is replaced
    by one that keeps type and shape only, and the storage by its element type. Everything else that
    is not a plain container is refused.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return DTYPES.get(name.removesuffix("Storage"), "float32")
        try:
            return _SHAPE_MAKERS[f"{module}.{name}"]
        except KeyError as error:
            raise pickle.UnpicklingError(f"{module}.{name} in traced inputs") from error

    def persistent_load(self, pid: Any) -> Any:
        # A storage is a tuple whose second entry is its class, here already an element type.
        return pid[1]


def _make_spec(dtype: str, _offset: object, size: Sequence[int], *_others: object) -> TensorSpec:
    return TensorSpec("", tuple(int(entries) for entries in size), dtype)


_SHAPE_MAKERS: dict[str, Callable[..., object]] = {
    "torch.jit._pickle.restore_type_tag": lambda value, _type: value,
    "torch._utils._rebuild_tensor_v2": _make_spec,
    "collections.OrderedDict": lambda *_: None,
}


def read_traced_inputs(data: bytes) -> tuple[TensorSpec, ...]:
    """Read shapes and types of the example inputs of `forward` of a TorchScript archive.

    Args:
        data: The member `traced_inputs.pkl` of the archive; empty if there is none.

    Returns:
        One nameless TensorSpec per input; empty where the pickle is not of that form, so that the
        user must give the shapes.
    """
    try:
        if not all(is_script_part(part) for part in find_imports(data, "traced_inputs.pkl")):
            return ()
        specs = _ShapeUnpickler(io.BytesIO(data)).load()["forward"]
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
    if not isinstance(specs, Sequence) or not all(isinstance(spec, TensorSpec) for spec in specs):
        return ()
    return tuple(specs)
