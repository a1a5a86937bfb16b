"""Pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from tests.support.paths import ROOT

DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str | Path) -> str:
    """Text of one page, by its path in the documentation."""
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str | Path, language: str) -> list[str]:
    """Code blocks of one language on a page."""
    return [found["code"] for found in _BLOCK.finditer(page(name)) if found["language"] == language]


def module(name: str, block: int) -> ModuleType:
    """A Python block of a page, executed as a module of its own."""
    code = blocks(name, "python")[block]
    made = ModuleType(f"block{block}_of_{Path(name).stem}")
    exec(compile(code, f"docs/{name}", "exec", dont_inherit=True), vars(made))
    return made
