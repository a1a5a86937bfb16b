"""Help of commands: their docstrings, for any width of terminal."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import Any


def join_lines(command: Any) -> Any:
    """Make each paragraph of a command's help one line, and so for the commands below it.

    Docstrings are written in lines of code, which Typer keeps and breaks once more.

    Args:
        command: As Typer makes it; it is changed.
    """
    if command.help is not None:
        command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", cleandoc(command.help))
    # Commands that are made when somebody asks for them are joined by who makes them.
    for below in vars(command).get("commands", {}).values():
        join_lines(below)
    return command
