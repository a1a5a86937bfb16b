"""What libraries and hwbench itself log while a command runs, as the user sees it.

Warnings of libraries tell their programmers something and users nothing, so they are shown with -v
alone. Warnings of hwbench are lines like any other on standard error, each once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def notices(*, verbose: bool) -> Iterator[None]:
    """Show what is logged until the end of the block.

    Args:
        verbose: Whether to show Python's warnings too.
    """
    handler = _OneLineEach()
    shown = [logging.getLogger("hwbench")]
    libraries = logging.getLogger("py.warnings")
    if verbose:
        shown.append(libraries)
    quiet, propagates = logging.NullHandler(), libraries.propagate
    libraries.addHandler(quiet)
    libraries.propagate = False
    for logger in shown:
        logger.addHandler(handler)
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        for logger in shown:
            logger.removeHandler(handler)
        libraries.removeHandler(quiet)
        libraries.propagate = propagates


class _OneLineEach(logging.Handler):
    """Writes warnings to standard error, each on one line and once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        from hwbench.render.units import printable

        line = printable(" ".join(record.getMessage().split()))
        if line not in self._seen:
            self._seen.add(line)
            sys.stderr.write(f"hwbench: {line}\n")
