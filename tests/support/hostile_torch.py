"""Mutations of good files of torch: of archives, pickles, TorchScript and exported programs.

Many of them would leave a mark if their reader ran what they say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.support.hostile_models import BOMBS, members, pack, saved
from tests.support.saved_models import TinyNet, plain, save

_TOKENS = (
    "as_strided", "set_", "resize_", "from_file", "save", "relu", "conv2d", "view", "matmul",
    "expand", "_reinterpret_tensor", "native_batch_norm", "Tensor", "int", "None", "self", "-1",
    "0", "99999999999", "9223372036854775807", "1e308", '"../x"', "[]", "[1, 2, 3]", "while",
    "torch.classes", "__setstate__", "(", ")", ":", ",", "\n", "    ",
)  # fmt: skip
"""What tokens of TorchScript are replaced by."""
_WILD: tuple[Any, ...] = (
    0, -1, 1, 1 << 40, 1 << 63, 0.5, True, None, "", "x", "../../mark", [], {}, [[]],
    "torch.ops.aten.as_strided.default", "torch.ops.aten.from_file.default", "torch.os.system",
    "torch.ops.aten.set_.source_Tensor", "__import__('os').getcwd()", "Symbol('s0')",
)  # fmt: skip
"""What values in the JSON of programs are replaced by."""


@cache
def _content(how: str, tiny: bool) -> dict[str, bytes]:
    """Members of a good file of a network with residual blocks, or of one without."""
    if not tiny:
        return saved(how)
    with TemporaryDirectory() as folder:
        return members(save(TinyNet(), how, Path(folder) / "m.pt2"))


@cache
def _legacy() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.pt"
        torch.save(plain().state_dict(), path, _use_new_zipfile_serialization=False)
        return path.read_bytes()


def make_mutant(folder: Path, mark: Path, random: Random) -> tuple[str, Path]:
    """Write a hostile file.

    Args:
        folder: Where it is written.
        mark: What it would create if code of it ran.
        random: What decides which one it is.

    Returns:
        The kind of it, and its path.
    """
    kind = random.choice(sorted(_KINDS))
    return kind, _KINDS[kind](folder, mark, random)


def _bomb(folder: Path, mark: Path, random: Random) -> Path:
    return BOMBS[random.choice(sorted(BOMBS))](folder, mark)


def _mark_program(mark: Path) -> bytes:
    """Instructions of a pickle that create the mark, and leave the stack as it was."""
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    return b"cbuiltins\neval\n(V" + code.encode() + b"\ntR0"


def _mutate_pickle(data: bytes, mark: Path, random: Random) -> bytes:
    change = random.choice(["plant", "plant", "flip", "cut", "name", "number"])
    if change == "plant":
        # Behind the instruction of the protocol, before the last, or anywhere.
        at = random.choice([2, len(data) - 1, random.randrange(2, len(data))])
        return data[:at] + _mark_program(mark) + data[at:]
    if change == "name":
        names = re.findall(rb"c([\w.]+\n\w+)\n", data)
        if names:
            new = random.choice(
                [b"os\nsystem", b"builtins\nexec", b"torch\nload", b"torch.storage\nUntypedStorage"]
            )
            return data.replace(random.choice(names), new, random.choice([1, -1]))
    if change == "number":
        numbers = list(re.finditer(rb"K(.)", data, re.DOTALL))
        if numbers:
            number = random.choice(numbers)
            huge = b"\x8a\x08" + random.choice([1 << 40, -1, (1 << 62)]).to_bytes(
                8, "little", signed=True
            )
            return data[: number.start()] + huge + data[number.end() :]
    return _damage(data, random)


def _damage(data: bytes, random: Random) -> bytes:
    """Bytes flipped, cut out, doubled or cut off."""
    if not data:
        return b"\0"
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(changed)) if changed else 0
        change = random.choice(["flip", "flip", "cut", "double"])
        if not changed:
            break
        if change == "flip":
            changed[at] = random.randrange(256)
        elif change == "cut":
            del changed[at : at + random.choice([1, 4, 100])]
        else:
            changed[at:at] = changed[at : at + random.choice([1, 4, 100])]
    return bytes(changed)


def _pickled(folder: Path, mark: Path, random: Random) -> Path:
    content = dict(_content(random.choice(["module", "state_dict"]), random.random() < 0.5))
    content["data.pkl"] = _mutate_pickle(content["data.pkl"], mark, random)
    return pack(folder / "m.pt", content)


def _legacy_pickle(folder: Path, mark: Path, random: Random) -> Path:
    path = folder / "m.pt"
    path.write_bytes(_mutate_pickle(_legacy(), mark, random))
    return path


def _script_code(folder: Path, mark: Path, random: Random) -> Path:
    """TorchScript of which some tokens are others."""
    content = dict(_content(random.choice(["traced", "scripted"]), random.random() < 0.5))
    files = [name for name in sorted(content) if name.endswith(".py")]
    for _ in range(random.randint(1, 3)):
        name = random.choice(files)
        tokens = re.split(r"(\w+|\W)", content[name].decode())
        places = [index for index, token in enumerate(tokens) if token.strip()]
        tokens[random.choice(places)] = random.choice([*_TOKENS, f'"{mark}"'])
        content[name] = "".join(tokens).encode()
    return pack(folder / "m.pt", content)


def _script_statement(folder: Path, mark: Path, random: Random) -> Path:
    """TorchScript with one more statement in a `forward`, live by its argument."""
    content = dict(_content("traced", tiny=False))
    name = next(name for name, data in content.items() if b"class Flatten" in data)
    head, forward, rest = content[name].decode().partition("  def forward(")
    argument = rest.partition("\n    ")[2].partition(":")[0]
    sizes = [random.choice([0, 1, 4, 1 << 20, 1 << 40, -1]) for _ in range(4)]
    statement = random.choice(
        [
            f"ops.inductor._reinterpret_tensor({argument}, {sizes}, {sizes}, {sizes[0]})",
            f"({argument}).as_strided({sizes}, {sizes}, {sizes[1]})",
            f"torch.expand({argument}, {sizes})",
            f"torch.zeros({sizes})",
            f"torch.repeat({argument}, {sizes})",
            f"torch.pad({argument}, {sizes})",
            f"torch.cat([{argument}, {argument}], {sizes[0]})",
            f"torch.index_select({argument}, 0, torch.tensor({sizes}))",
            f"torch.max_pool2d({argument}, {sizes[:2]}, {sizes[2:]}, [0, 0], {sizes[:2]})",
            f'torch.from_file("{mark}", True, 64)',
            f"({argument}).resize_({sizes})",
            f"({argument}).fill_(7)",
        ]
    )
    code = f") -> Tensor:\n    {argument} = {statement}\n"
    content[name] = (head + forward + rest.replace(") -> Tensor:\n", code, 1)).encode()
    return pack(folder / "m.pt", content)


def _program_json(folder: Path, _mark: Path, random: Random) -> Path:
    """An exported program of which some values are others."""
    content = dict(_content("program", random.random() < 0.3))
    description = json.loads(content["models/model.json"])
    for _ in range(random.randint(1, 3)):
        places = list(_places(description))
        container, key = random.choice(places)
        container[key] = random.choice(_WILD)
    content["models/model.json"] = json.dumps(description).encode()
    return pack(folder / "m.pt2", content)


def _places(node: Any) -> Any:
    """Walk over every value of a JSON document, as its container and its key."""
    entries = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(entries):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _members(folder: Path, mark: Path, random: Random) -> Path:
    """An archive of which a member is damaged, missing, another's or a pickle that would run."""
    how = random.choice(["traced", "scripted", "program", "module", "state_dict"])
    content = dict(_content(how, random.random() < 0.3))
    name = random.choice(sorted(content))
    change = random.choice(["damage", "damage", "drop", "swap", "bomb"])
    if change == "damage":
        content[name] = _damage(content[name], random)
    elif change == "drop":
        del content[name]
    elif change == "swap":
        content[name] = content[random.choice(sorted(content))]
    else:
        content[name] = b"\x80\x02" + _mark_program(mark) + b"N."
    return pack(folder / "m.pt", content)


def _bytes(folder: Path, mark: Path, random: Random) -> Path:
    """A file damaged anywhere, the directory of its archive included."""
    how = random.choice(["traced", "program", "module", "state_dict"])
    path = pack(folder / "m.pt", _content(how, tiny=False))
    path.write_bytes(_damage(path.read_bytes(), random))
    return path


_KINDS: dict[str, Callable[[Path, Path, Random], Path]] = {
    "bomb": _bomb,
    "bytes": _bytes,
    "legacy pickle": _legacy_pickle,
    "members": _members,
    "pickle": _pickled,
    "program": _program_json,
    "script statement": _script_statement,
    "script tokens": _script_code,
}
