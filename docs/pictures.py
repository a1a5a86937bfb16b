"""The pictures of the documentation: real commands, as a terminal of 80 columns shows them.

python docs/pictures.py
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

FOLDER = Path(__file__).parent / "img"
COMMANDS = {"compare": "hwbench compare zoo:mobilenet_v1 zoo:mobilenet_v1@0.7"}
_WEB_FONT = re.compile(
    r"@font-face \{.*?\}\s*", re.DOTALL
)  # Rich refers to one on the network; a reader may have none


def main() -> None:
    """Draw all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, command in COMMANDS.items():
        (FOLDER / f"{name}.svg").write_text(picture(command, name), encoding="utf-8")


def picture(command: str, name: str) -> str:
    """SVG of what `command` writes to a terminal."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=80, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(f"$ {command}\n{shown(command)}"))
    return _WEB_FONT.sub("", console.export_svg(title="hwbench", unique_id=name))


def shown(command: str) -> str:
    """Standard output of a command on a pseudo-terminal.

    The exit code is part of the answer and no error.
    """
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"COLUMNS": "80", "TERM": "xterm-256color"}
    program = Path(sys.executable).with_name("hwbench")
    argv = [str(program), *shlex.split(command)[1:]]
    with subprocess.Popen(argv, stdout=theirs, stderr=subprocess.DEVNULL, env=environment):
        os.close(theirs)
        parts = []
        while part := _read(ours):
            parts.append(part)
    os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n").rstrip()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux's way of saying that the other end was closed
        return b""


if __name__ == "__main__":
    main()
