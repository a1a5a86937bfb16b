"""Help of every command has an example that the command's own parser takes; shells complete."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer.main

from hwbench.cli.commands import app
from tests.support.cli_support import hwb

__all__ = ["hwb"]


def walk(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """All commands by the words that lead to them."""
    found = {path: command}
    for name, below in (getattr(command, "commands", None) or {}).items():
        found |= walk(below, (*path, name))
    return found


COMMANDS = walk(typer.main.get_command(app))


def parse(words: list[str]) -> list[str]:
    """Parse a command line without running it; the names of the commands on the way."""
    command, name, names = COMMANDS[()], "hwbench", []
    parent = None
    while True:
        context = command.make_context(name, words, parent=parent)
        names.append(name)
        rest = [*context._protected_args, *context.args]
        if not hasattr(command, "resolve_command") or not rest:
            context.close()
            return names[1:]
        name, command, words = command.resolve_command(context, rest)
        parent = context


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_example_of_a_command_is_one_that_it_takes(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    epilog = COMMANDS[path].epilog
    assert epilog is not None, f"hwbench {' '.join(path)} --help has no example"
    assert epilog.startswith("Example: hwbench")
    examples = re.findall(r"hwbench [^;(]+", epilog)
    assert examples
    for example in examples:
        names = tuple(parse(shlex.split(example)[1:]))
        if hasattr(COMMANDS[path], "resolve_command"):
            assert names[: len(path)] == path or not path, "an example of a group is of it"
        else:
            assert names == path


def test_an_example_with_an_unknown_option_would_not_be_taken(tmp_path, monkeypatch):
    with pytest.raises(typer.BadParameter.__mro__[1], match="--widhts"):
        parse(["table", "build", "zoo:resnet20", "--widhts", "8"])


@pytest.mark.parametrize(
    "example",
    ["cache show", "table list", "table show pixel1", "store list --model zoo:resnet18 --limit 5"],
)
def test_examples_that_need_no_device_run(hwb, example):
    epilogs = " ".join(command.epilog for command in COMMANDS.values())
    assert f"hwbench {example}" in epilogs
    assert hwb(*example.split()).code == 0


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["comp"], ["compare"]),
        (["table", "pre"], ["predict"]),
        (["compare", "a", "b", "--candidate-d"], ["--candidate-device"]),
        (["profile", "a", "--precision", "b"], ["bf16"]),
    ],
)
def test_a_shell_completes_commands_options_and_values(words, completions, monkeypatch):
    monkeypatch.setenv("_HWBENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["hwbench", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    command = [sys.executable, "-m", "hwbench"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == completions
