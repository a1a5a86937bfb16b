"""A command that a signal ends leaves no process, no folder and a store that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hwbench.cli import main, signals
from hwbench.cli.signals import Ended, ending_signals
from hwbench.errors import DeviceLostError
from hwbench.records.scratch import PREFIX
from hwbench.store import open_store
from tests.needs import needs_compiler
from tests.support.models import conv_net

pytestmark = pytest.mark.usefixtures("heard_signals")

NUMBERS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL]
SOON_S = 200.0


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command with a place of its own for everything."""
    for name in ("tmp", "cache"):
        (folder / name).mkdir(exist_ok=True)
    places = {"TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "HWBENCH_STORE": "store.db"}
    return subprocess.Popen(
        [sys.executable, "-m", "hwbench", *words],
        cwd=folder,
        env=os.environ | {name: str(folder / place) for name, place in places.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left(folder: Path) -> list[Path]:
    """Temporary folders, wherever they are."""
    return list(folder.rglob(f"{PREFIX}*"))


def wait_until_measuring(process: subprocess.Popen[str], folder: Path) -> list[psutil.Process]:
    """Wait until the native runner runs; give all processes that the command has started."""
    deadline = time.monotonic() + SOON_S
    while time.monotonic() < deadline:
        assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        with suppress(psutil.NoSuchProcess):
            if any("runner-" in child.name() for child in children):
                return children
        time.sleep(0.1)
    raise AssertionError("it does not begin to measure")


@needs_compiler
@pytest.mark.parametrize("number", NUMBERS)
def test_nothing_runs_on_and_nothing_is_left(number, tmp_path):
    (tmp_path / "m.onnx").write_bytes(conv_net((8,), size=8))
    words = ("profile", "m.onnx", "--device", "cpu", "--budget", "120", "--no-layers")
    process = start(tmp_path, *words)
    children = wait_until_measuring(process, tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=SOON_S)
    assert not psutil.wait_procs(children, timeout=5)[1]
    if number == signal.SIGKILL:
        assert process.returncode == -number
        assert left(tmp_path)
        following = start(tmp_path, "store", "list")
        following.communicate(timeout=SOON_S)
        assert following.returncode == 0
    else:
        text = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        assert process.returncode == 128 + number
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"hwbench: error: {text}")
    assert not left(tmp_path)
    with open_store(str(tmp_path / "store.db")) as store:
        store.list()


def raise_in_block(*numbers: int) -> list[str]:
    """Send signals to this process, each in the middle of handling the one before."""
    heard = []
    with ending_signals():
        for number in numbers:
            try:
                signal.raise_signal(number)
            except Ended as ended:
                heard.append(str(ended))
    return heard


def test_further_signals_do_not_disturb_tidying_up():
    before = [signal.getsignal(number) for number in signals.ENDING]
    assert raise_in_block(signal.SIGHUP, signal.SIGTERM, signal.SIGHUP) == ["SIGHUP"]
    assert [signal.getsignal(number) for number in signals.ENDING] == before


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert raise_in_block(signal.SIGHUP, signal.SIGTERM) == ["SIGTERM"]
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_fails_while_tidying_up_does_not_hide_the_signal(number, monkeypatch, capsys):
    def end_in_the_middle(*_):
        try:
            signal.raise_signal(number)
        finally:
            raise DeviceLostError("the runner has ended")

    monkeypatch.setattr("hwbench.cli._run", end_in_the_middle)
    assert main(["devices"]) == signals.exit_code(number)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the runner has ended" not in said


def test_signals_are_heard_where_no_thread_may_be_started(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert raise_in_block(signal.SIGTERM) == ["SIGTERM"]


def test_a_command_outside_the_main_thread_runs_without_them():
    ran = []

    def run() -> None:
        with ending_signals():
            ran.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ran == [signal.getsignal(signal.SIGTERM)]


IN_A_LIBRARY = "print(flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
IN_A_DESTRUCTOR = "Dying(); print(flush=True); time.sleep(600)"
TIDYING = """
try:
    print(flush=True); time.sleep(600)
finally:
    time.sleep(600)
"""
SCRIPT = """
import hashlib, os, pathlib, signal, sys, textwrap, time
from hwbench.cli import main, signals
from hwbench.records.scratch import scratch_folder
signals.HEED_S = signals.TIDY_S = 0.3
class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
try:
    with signals.ending_signals(), scratch_folder(pathlib.Path(sys.argv[1])):
        exec(sys.argv[2])
except signals.Ended as ended:  # the signal came before the call that does not heed it
    sys.exit(ended.exit_code)
"""


@pytest.mark.parametrize("code", [IN_A_LIBRARY, IN_A_DESTRUCTOR, TIDYING])
def test_a_process_that_does_not_heed_is_ended_and_its_folders_are_removed(code, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    process.stdout.readline()
    if code is not IN_A_DESTRUCTOR:
        assert left(tmp_path)
        process.send_signal(signal.SIGTERM)
    assert process.wait(SOON_S) == 128 + signal.SIGTERM
    assert not left(tmp_path)
    process.stdout.close()


ENDING = """
import atexit, sys, threading
from hwbench.cli.signals import end_program
atexit.register(print, "tidied up")
threading.Thread(target=threading.Event().wait).start()  # Python would wait for it
end_program(int(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_process_of_an_ended_command_waits_for_nothing(number):
    code = str(signals.exit_code(number))
    done = subprocess.run([sys.executable, "-c", ENDING, code], capture_output=True, timeout=60)
    assert (str(done.returncode), done.stdout, done.stderr) == (code, b"tidied up\n", b"")


AT_ITS_END = """
import atexit, time
import hwbench.cli
atexit.register(time.sleep, 600)
atexit.register(print, "the command is over", flush=True)
hwbench.cli.main = lambda: 0
hwbench.cli.run()
"""


def test_an_interrupt_after_the_command_ends_the_process_without_a_word():
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", AT_ITS_END], stdout=pipe, stderr=pipe)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SOON_S)
    assert (process.returncode, err) == (-signal.SIGINT, b"")
