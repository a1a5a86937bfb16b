"""Remedies of errors as options and commands that can be pasted.

The library says which argument or function would help (`hwbench.errors.Remedy`); here that is
turned into the option of the command that failed, or into another command.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwbench.errors import Argument, Call, HwbenchError, Remedy

PARAMETER_OF = {"budget_s": "budget", "example_inputs": "inputs", "path": "target"}
"""Arguments of the Python functions whose command has another name for them."""

COMMAND_OF = {
    "build_table": ("table", "build"),
    "export_table": ("table", "export"),
    "import_table": ("table", "import"),
    "list_devices": ("devices",),
    "list_tables": ("table", "list"),
    "open_store().list": ("store", "list"),
    "setup_device": ("devices", "setup"),
    "sync_store": ("store", "sync"),
    "tag_model": ("store", "tag"),
}
"""Functions whose command has another name."""


HELP_AGAINST = {
    errno.EACCES: "name a file or folder that you may use, or have it permitted",
    errno.EAGAIN: "raise the limit of processes and threads (ulimit -u), or end others",
    errno.EDQUOT: "free space there, or name another place",
    errno.EFBIG: "raise the limit (ulimit -f), or name another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n 1024)",
    errno.ENFILE: "close other programs, or raise the limit of open files of this computer",
    errno.ENOMEM: "free memory, or take a smaller model or batch",
    errno.ENOSPC: "free space there, or name another place",
    errno.EPERM: "name a file or folder that you may use, or have it permitted",
    errno.EROFS: "name a place that can be written to",
}
"""What helps against errors of the operating system that nothing else has handled."""


def system_error_line(error: OSError | MemoryError) -> str:
    """What the operating system refused, for which file, and what helps, in one line."""
    if isinstance(error, MemoryError):
        return f"not enough memory; {HELP_AGAINST[errno.ENOMEM]}"
    subject = f"{error.filename}: " if error.filename is not None else ""
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_folder():
        return "the current folder is gone; go to one that exists"
    text = " ".join(f"{subject}{error.strerror or error or type(error).__name__}".split())
    help_text = HELP_AGAINST.get(error.errno or 0, "run again with -v to see where")
    return f"{text}; {help_text}"


def _has_folder() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def error_line(error: HwbenchError, root: Any, words: Sequence[str]) -> str:
    """What happened and what helps, in one line.

    Args:
        error: What was raised.
        root: The group of all commands.
        words: What the user wrote after `hwbench`.
    """
    hints = [_hint(remedy, root, words) for remedy in error.remedies]
    if not hints:
        return error.message
    return f"{error.message}; {', or '.join(hints)}"


def _hint(remedy: Remedy, root: Any, words: Sequence[str]) -> str:
    if isinstance(remedy, Call):
        hint = _command_text(remedy, root)
        return f"{remedy.purpose or 'try'}: {hint}"
    option = _find_option(_find_command(root, words), remedy.name)
    if option is None:
        return str(remedy)
    if remedy.change:
        text = f"give {remedy.change} {option.opts[0]}"
        return f"{remedy.purpose}: {text}" if remedy.purpose else text
    is_whole = isinstance(remedy.value, tuple)
    corrected = [
        *_without_option(words, option, keeps_others=not is_whole),
        *_option_words(option, remedy),
    ]
    for name, value in remedy.also.items():
        other = _find_option(_find_command(root, words), name)
        if other is not None:
            corrected = _without_option(corrected, other)
            corrected += _option_words(other, Argument(name, value))
    return f"{remedy.purpose or 'try'}: {_shell_text(corrected)}"


def _find_command(root: Any, words: Sequence[str]) -> Any:
    """The command that `words` call: groups hold the commands of the next word.

    Of a group that can do without such a word, it is its default.
    """
    command = root
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    default = getattr(command, "default_command", None)
    return command if default is None else command.commands[default]


def _find_option(command: Any, argument: str) -> Any:
    """The option of a command for an argument of the Python functions; None without one."""
    name = PARAMETER_OF.get(argument, argument)
    for parameter in command.params:
        if parameter.name == name and parameter.opts[0].startswith("-"):
            return parameter
    return None


def _option_words(option: Any, remedy: Argument) -> list[str]:
    if option.is_flag:
        return [option.opts[0]]
    if remedy.value is None:
        return [option.opts[0], option.metavar or "..."]
    values = remedy.value if isinstance(remedy.value, tuple) else (remedy.value,)
    return [word for value in values for word in (option.opts[0], str(value))]


def _without_option(words: Sequence[str], option: Any, *, keeps_others: bool = True) -> list[str]:
    """The user's words without the option to be given anew.

    Args:
        words: What the user wrote.
        option: The option.
        keeps_others: Whether an option that may be repeated stays, so that another is added.
    """
    if option.multiple and keeps_others:
        return list(words)
    kept = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in option.opts:
            skip = not option.is_flag
        elif not any(word.startswith(f"{name}=") for name in option.opts):
            kept.append(word)
    return kept


def _command_text(call: Call, root: Any) -> str:
    """The command for a function, its arguments as operands and options."""
    path = COMMAND_OF.get(call.function, (call.function,))
    command = _find_command(root, path)
    operands: list[str] = []
    options: list[str] = []
    for name, value in call.arguments.items():
        option = _find_option(command, name)
        if option is None:
            operands.append(name.upper() if value is None else str(value))
        else:
            options += _option_words(option, Argument(name, value))
    return _shell_text([*path, *operands, *options])


def _shell_text(words: Sequence[str]) -> str:
    """The whole command, quoted for a shell; passwords in URLs of stores are hidden."""
    from hwbench.store import redacted

    shown = []
    for word in words:
        option, equals, value = word.partition("=")
        if "://" not in word:
            shown.append(word)
        elif option.startswith("--") and equals:
            shown.append(f"{option}={redacted(value)}")
        else:
            shown.append(redacted(word))
    return shlex.join(["hwbench", *shown])
