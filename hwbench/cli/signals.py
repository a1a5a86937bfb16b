"""Signals that end a command: it tidies up first, and within bounds.

SIGTERM and SIGHUP end a Python process on the spot: temporary folders stay, the settings of a phone
stay as the measurement needed them. Here they become an exception, as SIGINT does, so that every
block that is being left undoes what it did.

Some things do not heed an exception: a long call of a library in C, which runs to its end first,
and an exception that Python drops because it came up in a destructor. So a thread watches, and ends
the process where the exception does not get through or tidying up takes too long.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from hwbench.records.scratch import remove_own

ENDING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
"""Signals that end a command."""
HEED_S = 3.0
"""Seconds that a library may take until the exception gets through."""
TIDY_S = 15.0
"""Seconds that tidying up may take; most of it is a few requests to a phone."""


class Ended(KeyboardInterrupt):
    """A signal ends the command; no library may handle that as an error.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = exit_code(number)


def exit_code(number: int) -> int:
    """The exit code with which shells report that a signal ended a process."""
    return 128 + number


def end_program(code: int) -> NoReturn:
    """End this process with an exit code; at once, if a signal ended its command.

    Python takes down all modules on its way out and waits for threads, which with PyTorch takes
    seconds. The command has tidied up by then, and whoever sent the signal waits.

    Args:
        code: What the command gave.
    """
    if code not in map(exit_code, ENDING):
        sys.exit(code)
    atexit._run_exitfuncs()  # noqa: SLF001 - whoever registered there may have processes to end
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # one that was closed is None
            stream.flush()
    os._exit(code)


@contextmanager
def ending_signals() -> Iterator[None]:
    """Raise `Ended` in the block for the first signal that ends a command; ignore further ones.

    A terminal that is closed sends several. Only a second SIGINT, which is a person's, ends the
    process at once. Signals that whoever started the process had ignored (nohup) stay ignored.
    Outside the main thread, where Python takes no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch()
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, watch.handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        watch.stop()


class _Watch:
    """Raises the exception, and watches that the process ends."""

    def __init__(self) -> None:
        self._raised, self._over = threading.Event(), threading.Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # The interpreter writes the number of each signal there at once, also during a call in C.
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # Where no thread may be started, signals still raise; only what does not heed them runs on.
        with suppress(RuntimeError):
            threading.Thread(target=self._end_late, daemon=True).start()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal in the main thread."""
        if not self._raised.is_set():
            self._raised.set()
            raise Ended(number)
        if number == signal.SIGINT:
            os._exit(exit_code(number))

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)  # which ends the thread

    def _end_late(self) -> None:
        """End the process if a signal does not, or not in time."""
        with suppress(OSError):
            while number := os.read(self._reader, 1):
                if number[0] not in ENDING or signal.getsignal(number[0]) != self.handle:
                    continue  # another's to handle
                if not self._raised.wait(HEED_S) or not self._over.wait(TIDY_S):
                    remove_own()
                    os._exit(exit_code(number[0]))
                break
        os.close(self._reader)
