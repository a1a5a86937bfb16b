"""The command line in this process, in an empty folder with small models and a store of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hwbench.cli import main
from tests.support.models import conv_net

MODELS = {"big": (64, 64), "small": (32, 32), "odd": (49, 49)}


@dataclass(frozen=True)
class Outcome:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))

    @property
    def error(self) -> str:
        """The one line that an error leaves on standard error."""
        assert self.out == ""
        assert self.err.startswith("hwbench: error: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("hwbench: error: ").rstrip("\n")


class CommandLine:
    """Call it with the words after `hwbench`."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def __call__(self, *words: str) -> Outcome:
        self._capsys.readouterr()
        code = main(words)
        return Outcome(code, *self._capsys.readouterr())


@pytest.fixture
def hwb(tmp_path, monkeypatch, capsys):
    """The command line in a folder that holds `MODELS` as NAME.onnx."""
    for name, widths in MODELS.items():
        (tmp_path / f"{name}.onnx").write_bytes(conv_net(widths))
    (tmp_path / "tiny_input.onnx").write_bytes(conv_net((32, 32), size=8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWBENCH_STORE", str(tmp_path / "store.db"))
    monkeypatch.setenv("COLUMNS", "80")
    return CommandLine(tmp_path, capsys)
