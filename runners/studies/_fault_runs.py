"""One use of hwbench in a process of its own, on a phone that misbehaves: started from a server
that has everything imported.
"""

from __future__ import annotations

import inspect
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import psutil

from hwbench.cli.signals import ENDING, Ended, ending_signals, exit_code
from hwbench.devices.android.adb.client import Adb, connect
from hwbench.devices.shared import chains
from hwbench.devices.shared.runner import engine, process
from hwbench.errors import DeviceError, MeasurementError
from hwbench.records.measurement import Settings
from hwbench.workflows.build_table import build_table
from hwbench.workflows.compare import compare
from hwbench.workflows.profile import profile
from runners.studies._fault_checks import LOWER, STEP

LIMIT_S = 2.5
"""All of the driver's time limits, which are 10 s and more: what is lost on the way costs the study
that long.
"""
BOUND_S = 40.0
"""A use that takes longer hangs."""
GONE_S = 5.0
"""Seconds within which helpers of a use must end after it."""
LOOK_S = 0.1
"""Seconds between two looks at the helpers of a use."""
ENDED = {code for number in ENDING for code in (-number, exit_code(number))}
"""Exit statuses of a use that a signal ended."""
PRELOAD = [
    __name__,
    "onnx",
    "onnx.checker",
    "sqlalchemy.dialects.sqlite",
    "scipy.optimize",
    "tests.devices.android.pyadbd_phone",
]
BRIEF = Settings(budget_s=0.5, min_sessions=2, max_sessions=2, session_s=0.03)
UNPROFILED = Settings(budget_s=0.5, min_sessions=2, max_sessions=2, session_s=0.03, layers=False)


@dataclass(frozen=True)
class Use:
    """What is asked of hwbench.

    Attributes:
        task: `profile`, `layers` (a profile with them), `compare` or `table`.
        models: One, or for a comparison two, ONNX files.
        store: The store.
    """

    task: str
    models: tuple[Path, ...]
    store: Path


@dataclass(frozen=True)
class Ending:
    """How it ended.

    Attributes:
        kind: `COMPLETE`, the name of the error's class, `KILLED`, `ENDED` by another signal, or
            `HANG`.
        message: The error's.
        took_s: Seconds.
        running: Processes that were started for it and did not end with it.
    """

    kind: str
    message: str
    took_s: float
    running: tuple[str, ...] = ()


def carry_out(
    context: ForkServerContext,
    use: Use,
    device: str,
    meanwhile: Callable[[int], None] = lambda _: None,
) -> Ending:
    """Run it in a process of its own, which `meanwhile` is told the number of, and wait for its
    end.
    """
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_use, args=(use, device, theirs))
    start = time.monotonic()
    process.start()
    theirs.close()
    meanwhile(process.pid or 0)
    helpers: dict[int, psutil.Process] = {}
    while process.is_alive() and time.monotonic() - start < BOUND_S:
        with suppress(psutil.Error):
            for helper in psutil.Process(process.pid).children(recursive=True):
                helpers[helper.pid] = helper
        process.join(LOOK_S)
    took_s = time.monotonic() - start
    if process.is_alive():
        process.kill()
        process.join()
        return Ending("HANG", "", took_s)
    _, alive = psutil.wait_procs(helpers.values(), timeout=GONE_S)
    running = tuple(str(helper) for helper in alive)
    if process.exitcode == -signal.SIGKILL:
        return Ending("KILLED", "", took_s, running)
    if process.exitcode in ENDED:
        return Ending("ENDED", "", took_s, running)
    try:
        kind, message = ours.recv()
    except EOFError:
        kind, message = "CRASH", f"exit status {process.exitcode}"
    return Ending(kind, message, took_s, running)


def _use(use: Use, device: str, out: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as every command does before anything else
    _hasten()
    try:
        with ending_signals():  # as every command does
            _workflow(use, device, str(use.store))
    except (DeviceError, MeasurementError) as error:
        out.send((type(error).__name__, str(error)))
    except Ended as ended:
        sys.exit(ended.exit_code)
    else:
        out.send(("COMPLETE", ""))


def _workflow(use: Use, device: str, store: str) -> Any:
    if use.task == "compare":
        return compare(*use.models, device=device, settings=UNPROFILED, store=store)
    if use.task == "table":
        settings = Settings(budget_s=0.5)
        return build_table(
            use.models[0],
            widths=STEP,
            lower=LOWER,
            device=device,
            settings=settings,
            validation=0,
            store=store,
        )
    return profile(
        use.models[0],
        device=device,
        settings=BRIEF if use.task == "layers" else UNPROFILED,
        store=store,
    )


def _hasten() -> None:
    """Shorten the driver's time limits, and the calibration of its layer times, in this process."""
    engine.PATIENCE_S = process.ANSWER_S = LIMIT_S
    chains.COST_RUNS = 12
    runner = process.RunnerProcess
    for function in (
        Adb.run,
        Adb.script,
        Adb.start,
        Adb.push,
        connect,
        runner.__init__,
        runner.load,
        runner.run,
    ):
        wanted = inspect.signature(function).parameters["timeout_s"]
        if wanted.kind is wanted.KEYWORD_ONLY:
            function.__kwdefaults__ = (function.__kwdefaults__ or {}) | {"timeout_s": LIMIT_S}
        else:
            function.__defaults__ = (*(function.__defaults__ or ())[:-1], LIMIT_S)
