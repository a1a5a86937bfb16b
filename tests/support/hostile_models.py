"""Model files that would leave a mark if anything in them were executed, one for every way into
torch and ONNX.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.support.saved_models import TinyNet, plain, save


class Bomb:
    """Unpickling it creates the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('pathlib').Path({str(self.mark)!r}).touch()",)


def members(path: Path) -> dict[str, bytes]:
    """Members of a zip archive without its root folder."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pack(path: Path, content: Mapping[str, bytes]) -> Path:
    """Write a torch-like zip archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"{path.stem}/{name}", data)
    return path


def torch_bytes(value: object) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@cache
def saved(how: str) -> dict[str, bytes]:
    """Members of a good file, as `saved_models.save` makes it."""
    with TemporaryDirectory() as folder:
        return members(save(plain(), how, Path(folder) / "m.pt2"))


def program(path: Path, change: Callable[[dict[str, Any]], None], **extra: bytes) -> Path:
    """An exported program whose JSON was changed, with extra or replaced members."""
    content = dict(saved("program"))
    description = json.loads(content["models/model.json"])
    change(description)
    content["models/model.json"] = json.dumps(description).encode()
    return pack(path, content | {name.replace("__", "/"): data for name, data in extra.items()})


def first_node(description: dict[str, Any]) -> dict[str, Any]:
    """The first operator of a program."""
    node: dict[str, Any] = description["graph_module"]["graph"]["nodes"][0]
    return node


def configured(content: dict[str, bytes], kind: str, name: str, path_name: str) -> dict[str, bytes]:
    """A program's members whose weights or constants table has one more, pickled entry."""
    file = f"data/{kind}/model_{kind}_config.json"
    table = json.loads(content[file])
    tensor = {"path_name": path_name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    table["config"][name] = tensor
    return content | {file: json.dumps(table).encode()}


def _program_with(
    kind: str, file: str, make: Callable[[Path], bytes]
) -> Callable[[Path, Path], Path]:
    def build(folder: Path, mark: Path) -> Path:
        content = configured(saved("program"), kind, "evil", file)
        return pack(folder / "m.pt2", content | {f"data/{kind}/{file}": make(mark)})

    return build


def _program_samples(folder: Path, mark: Path) -> Path:
    return pack(
        folder / "m.pt2",
        saved("program") | {"data/sample_inputs/model.pt": torch_bytes(((Bomb(mark),), {}))},
    )


def _program_expression(wrap: Callable[[str], object]) -> Callable[[Path, Path], Path]:
    def build(folder: Path, mark: Path) -> Path:
        def change(description: dict[str, Any]) -> None:
            tensor = next(iter(description["graph_module"]["graph"]["tensor_values"].values()))
            code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
            tensor["sizes"][0] = {"as_expr": {"expr_str": wrap(code), "hint": None}}

        return program(folder / "m.pt2", change)

    return build


def _program_operator(folder: Path, mark: Path) -> Path:
    def change(description: dict[str, Any]) -> None:
        first_node(description).update(
            target="torch.os.mkdir",
            inputs=[{"name": "path", "arg": {"as_string": str(mark)}, "kind": 1}],
        )

    return program(folder / "m.pt2", change)


def _program_container(folder: Path, mark: Path) -> Path:
    (folder / "planted.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    context = {"default_factory_module": "planted", "default_factory_name": "x", "dict_context": []}
    tree = [1, {"type": "collections.defaultdict", "context": context, "children_spec": []}]

    def change(description: dict[str, Any]) -> None:
        description["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(
            tree
        )

    return program(folder / "m.pt2", change)


def _program_library(folder: Path, mark: Path) -> Path:
    return program(
        folder / "m.pt2", lambda _: None, **{"data__aotinductor__model__evil.so": b"\x7fELF"}
    )


def _script_code(line: str) -> Callable[[Path, Path], Path]:
    def build(folder: Path, mark: Path) -> Path:
        content = dict(saved("traced"))
        name = next(name for name, data in content.items() if b"class Flatten" in data)
        head, forward, rest = content[name].decode().partition("  def forward(")
        argument = rest.partition("\n    ")[2].partition(":")[0]
        code = f") -> Tensor:\n    {line.format(mark=mark, argument=argument)}\n"
        content[name] = (head + forward + rest.replace(") -> Tensor:\n", code, 1)).encode()
        return pack(folder / "m.pt", content)

    return build


def script_with(line: str, path: Path) -> Path:
    """A TorchScript file whose `forward` begins with one more line; `{argument}` is its input."""
    return _script_code(line)(path.parent, path)


def _script_member(member: str) -> Callable[[Path, Path], Path]:
    def build(folder: Path, mark: Path) -> Path:
        return pack(
            folder / "m.pt", saved("traced") | {member: pickle.dumps(Bomb(mark), protocol=2)}
        )

    return build


def _pickled(value: Callable[[Bomb], object], **options: Any) -> Callable[[Path, Path], Path]:
    def build(folder: Path, mark: Path) -> Path:
        torch.save(value(Bomb(mark)), folder / "m.pt", **options)
        return folder / "m.pt"

    return build


def _raw_pickle(protocol: int) -> Callable[[Path, Path], Path]:
    def build(folder: Path, mark: Path) -> Path:
        (folder / "m.pt").write_bytes(pickle.dumps(Bomb(mark), protocol=protocol))
        return folder / "m.pt"

    return build


def _module_with(bomb: Bomb) -> TinyNet:
    module = TinyNet()
    module.extra = bomb
    return module


BOMBS: dict[str, Callable[[Path, Path], Path]] = {
    "pickled module": _pickled(_module_with),
    "pickle with protocol 4": _pickled(lambda bomb: bomb, pickle_protocol=4),
    "pickle of torch before 1.6": _pickled(lambda bomb: bomb, _use_new_zipfile_serialization=False),
    "state dict": _pickled(lambda bomb: {"fc.weight": torch.zeros(2), "evil": bomb}),
    "plain pickle": _raw_pickle(2),
    "plain pickle of protocol 5": _raw_pickle(5),
    "plain pickle of protocol 0": _raw_pickle(0),
    "program: sample inputs": _program_samples,
    "program: pickled weight": _program_with(
        "weights", "weight_99", lambda mark: torch_bytes(Bomb(mark))
    ),
    "program: pickled constant": _program_with(
        "constants", "tensor_99", lambda mark: torch_bytes(Bomb(mark))
    ),
    "program: opaque constant": _program_with(
        "constants", "opaque_obj_0", lambda mark: pickle.dumps(Bomb(mark))
    ),
    "program: legacy weights": _program_with(
        "weights", "model.pt", lambda mark: torch_bytes({"x": Bomb(mark)})
    ),
    "program: symbolic expression": _program_expression(str),
    "program: list of expressions": _program_expression(lambda code: [code]),
    "program: operator": _program_operator,
    "program: container": _program_container,
    "program: compiled library": _program_library,
    "script: data.pkl": _script_member("data.pkl"),
    "script: constants.pkl": _script_member("constants.pkl"),
    "script: traced inputs": _script_member("traced_inputs.pkl"),
    "script: debug record": _script_member("code/__torch__.py.debug_pkl"),
    "script: writes a file": _script_code('torch.save({argument}, "{mark}")'),
    "script: maps a file": _script_code(
        '_9 = torch.from_file("{mark}", True, 64, dtype=6, layout=0, device=torch.device("cpu"))'
    ),
}
"""Name -> builder(folder, mark).

The file it makes would create `mark` in a reader that trusts it.
"""
