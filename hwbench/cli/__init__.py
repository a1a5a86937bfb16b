"""The command line: `main` turns what happened into one line on standard error and an exit code.

0 fine (compare: FASTER or SAME); 1 SLOWER, or a rule of `--fail-on` was hit; 2 usage, unreadable
file, INCOMPARABLE; 3 device; 4 the runtime cannot run the model; 5 UNRESOLVED; 70 a fault of
hwbench itself (EX_SOFTWARE of sysexits.h); 130 interrupted and 141 reader of the output gone, as
shells report SIGINT and SIGPIPE; 129 and 143 ended by SIGHUP and SIGTERM.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import typer
import typer.main

from hwbench.cli.commands import app
from hwbench.cli.help_texts import join_lines
from hwbench.cli.hints import error_line, system_error_line
from hwbench.cli.notices import notices
from hwbench.cli.signals import Ended, end_program, ending_signals
from hwbench.cli.streams import ReaderGone, usable_streams
from hwbench.errors import HwbenchError
from hwbench.records.scratch import remove_abandoned
from hwbench.user_folders import cache_folder

FAULT, INTERRUPTED, READER_GONE = 70, 130, 141
COMPLETION = "_HWBENCH_COMPLETE"
"""The variable by which a shell asks for completions, as Typer's scripts for shells name it."""
_BadCommandLine = cast(
    "type[Exception]", typer.BadParameter.__mro__[1]
)  # click's UsageError; Typer exports only this subclass of it


def run() -> NoReturn:
    """Run the command that this process was started with, and end the process."""
    if COMPLETION in os.environ:  # a shell asks what may come next; the parser itself answers
        typer.main.get_command(app)(prog_name="hwbench")
    # Python's own handler raises wherever the process is, also while it begins or ends.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_program(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows the program's name; None for that of this process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with usable_streams(), ending_signals(), notices(verbose=_is_verbose(words)):
            return _run_to_exit_code(words)
    except Ended as ended:  # while the streams were made or given back
        return ended.exit_code


def _run_to_exit_code(words: list[str]) -> int:
    """Run one command; whatever goes wrong becomes a line on standard error and an exit code."""
    command = join_lines(typer.main.get_command(app))
    try:
        _remove_left_folders()
        code = _run(command, words)
        sys.stdout.flush()
    except ReaderGone:
        return READER_GONE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last line of defence
        first = _find_signal(error) or error
        return _report_error(error, words, *_explain_error(first, command, words))
    return code


def _remove_left_folders() -> None:
    """Remove the temporary folders of commands that were killed outright."""
    import tempfile

    # Whoever needs one of these places will say what is wrong with it.
    with suppress(OSError, HwbenchError):
        cache = cache_folder(quiet=True)
        for place in (Path(tempfile.gettempdir()), cache, *cache.glob("*/")):
            remove_abandoned(place)


def _find_signal(error: BaseException) -> Ended | None:
    """The signal that an error came after: while a command tidies up, devices may be gone."""
    before: BaseException | None = error
    while before is not None and not isinstance(before, Ended):
        before = before.__context__
    return before


def _explain_error(error: BaseException, command: Any, words: Sequence[str]) -> tuple[int, str]:
    """The exit code for an error, and its line."""
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        error = OSError(errno.EAGAIN, str(error))  # Python says no more than this text
    match error:
        case _BadCommandLine():
            return 2, _usage_text(error)
        case HwbenchError():
            return error.exit_code, error_line(error, command, words)
        case Ended() if error.exit_code != INTERRUPTED:
            return error.exit_code, f"ended by {error}"
        case KeyboardInterrupt():
            return INTERRUPTED, "interrupted"
        case OSError() | MemoryError():  # of the surroundings, not of hwbench
            return 2, system_error_line(error)
    return FAULT, f"{_first_line(error)}; a fault of hwbench: run again with -v and report it"


def _is_verbose(words: Sequence[str]) -> bool:
    return not {"-v", "--verbose"}.isdisjoint(words)


def _run(command: Any, words: list[str]) -> int:
    try:
        with command.make_context("hwbench", words) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as done:  # after --help and --version
        return done.exit_code


def _report_error(error: BaseException, words: Sequence[str], code: int, text: str) -> int:
    """Say in one line on standard error what happened; with -v, where."""
    from hwbench.render.units import printable

    if _is_verbose(words):
        traceback.print_exception(error)
    notes = getattr(error, "__notes__", ())
    sys.stderr.write(f"hwbench: error: {printable('; '.join([text, *notes]))}\n")
    return code


def _usage_text(error: BaseException) -> str:
    """The parser's message, and where to look the options up."""
    context = getattr(error, "ctx", None)
    message = str(getattr(error, "format_message", error.__str__)()).rstrip(".")
    return f"{message} (see: {context.command_path if context else 'hwbench'} --help)"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0]
