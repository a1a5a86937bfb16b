"""Standard streams that a command can rely on, whatever the shell connected them to.

A stream may be closed (`2>&-`), full (`/dev/full`), or a pipe whose reader left (`| head -1`).
None of that may change what a command found out: what is said on standard error is dropped where
it cannot be written, and standard output, which holds the result, ends the command with an
exception of its own, so that it is not mistaken for another file or pipe that failed.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from hwbench.errors import UsageError


class ReaderGone(BaseException):
    """The reader of standard output has closed it; no library may handle that as an error."""


@contextmanager
def usable_streams() -> Iterator[None]:
    """Give the process standard streams that can be written to until the end of the block.

    Streams that somebody else has put in their place (a test's capture) are left alone.

    Raises:
        UsageError: While writing to standard output: it takes no more.
        ReaderGone: While writing to standard output: its reader left.
    """
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text_stream(_Output(1, "w", closefd=False), before[0])
    if sys.stderr is sys.__stderr__:
        # Each line at once, also into a file, as Python's own standard error does.
        sys.stderr = _text_stream(_Messages(2, "w", closefd=False), before[1], by_line=True)
    try:
        yield
    finally:
        # An error that is already on its way counts more than the rest of the output.
        with suppress(OSError, UsageError, ReaderGone):
            sys.stdout.flush()
        sys.stdout, sys.stderr = before


def _fill_closed_descriptors() -> None:
    """Open the null device in place of closed standard streams.

    Otherwise the next file to be opened, such as a store, would get the number of standard error,
    and libraries would write their messages into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, descriptor)
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - it takes no keywords
            if opened != descriptor:
                os.close(opened)


class _Output(io.FileIO):
    """Standard output. After its first failure it takes everything and writes nothing.

    What is still in buffers then cannot fail a second time when the interpreter ends.
    """

    _failed = False

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._failed:
            return size
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])  # a pipe that somebody made non-blocking is full
        except BrokenPipeError:
            self._failed = True
            raise ReaderGone from None
        except OSError as error:
            self._failed = True
            raise UsageError(
                f"cannot write to standard output: {error.strerror or error}"
            ) from error
        return written


class _Messages(io.FileIO):
    """Standard error; what cannot be written is dropped, since there is nowhere to say so."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return super().write(data) or 0
        return memoryview(data).nbytes


def _text_stream(raw: io.FileIO, like: TextIO | None, *, by_line: bool = False) -> TextIO:
    """Text as `like` encodes it; a terminal without Unicode shows ? for what it lacks."""
    encoding = like.encoding if like is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding,
        errors="replace",
        line_buffering=by_line or raw.isatty(),
    )
