"""The device of a run: opened once, missing, wrong, lost, in use, shared by workers."""

from __future__ import annotations

import pytest

from hwbench.devices.shared.lock import DeviceLock

pytest_plugins = ("pytester",)
THREE = """
import pytest

@pytest.mark.parametrize("net", ["net", "twin", "slower"])
def test(hw_benchmark, net):
    hw_benchmark(f"{net}.onnx")
"""
BOARD = """
import os
from pathlib import Path

from hwbench.devices import DRIVERS, Driver
from hwbench.devices.virtual.device import Virtual
from hwbench.errors import DeviceUnavailableError

DRIVERS["board"] = Driver("board:Board", "a board that one can use at a time")

class Board(Virtual):
    name = "board"
    _file = Path(__file__).with_name("in_use")

    def _open(self):
        try:
            os.close(os.open(self._file, os.O_CREAT | os.O_EXCL))
        except FileExistsError as error:
            raise DeviceUnavailableError("two at once") from error
        with self._file.with_name("opened").open("a") as file:
            file.write("x")
        super()._open()

    def _close(self):
        self._file.unlink(missing_ok=True)
        super()._close()
"""
"""A driver that cannot be opened twice at once, and counts how often it is."""


@pytest.fixture
def board(suite):
    """Says how often the board was opened; `--hwbench-device board` opens it."""
    suite.pytester.makepyfile(board=BOARD)
    suite.pytester.makeconftest("import board")
    return lambda: len((suite.folder / "opened").read_text())


def test_opened_once_for_all_tests(suite, board):
    suite.tests(THREE)
    suite.run(device="board", apart=True).assert_outcomes(passed=3)
    assert board() == 1


@pytest.mark.slow
def test_workers_take_turns(suite, board):
    suite.tests(THREE.replace('"net", "twin", "slower"', '"net", "twin", "slower"] * 4 + ["net"'))
    result = suite.run("-n", "3", device="board", apart=True)
    result.assert_outcomes(passed=13)
    assert board() == 13
    assert len(suite.kept()) == 13
    result.stdout.fnmatch_lines(
        [
            "*- hwbench on board*",
            "test_latency.py::test*",
            "  *.onnx: 2.* ms (95 % interval *); record *",
        ]
    )


def test_a_device_in_use_is_waited_for_so_long(suite):
    suite.tests(THREE)
    device = "virtual:seed=77"
    with DeviceLock(f"{device} (pytest)"):
        result = suite.run("--hwbench-wait", "0.1", device=device)
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            (
                "*no device to measure on: device virtual:seed=77 (pytest) is in use by process *after"
                " waiting 0.1 s*"
            )
        ]
    )
    suite.run("--hwbench-wait", "0.1", device=device).assert_outcomes(passed=3)


def test_a_missing_device_is_an_error_that_says_what_is_missing(suite):
    suite.tests(THREE + "\ndef test_other(): pass\n")
    result = suite.run(device="virtual:fault=open")
    result.assert_outcomes(errors=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            (
                "no device to measure on: the virtual device refuses to open, as asked; leave out"
                " fault=open"
            )
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("toaster", "*--hwbench-device: unknown device 'toaster'; known: *"),
        ("virtual:noise=loud", "*--hwbench-device: unknown noise 'loud'*"),
        ("cpu:3", "*--hwbench-device: device 'cpu' takes no address*"),
    ],
)
def test_a_bad_address_ends_the_run_before_any_test(suite, address, message):
    suite.tests("def test_other(): pass")
    result = suite.run(device=address)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_device_that_was_lost_gets_a_new_chance(suite):
    suite.pytester.makepyfile(
        flaky="""
        from hwbench.devices import DRIVERS, Driver
        from hwbench.devices.virtual.device import Virtual
        from hwbench.errors import DeviceLostError

        DRIVERS["flaky"] = Driver("flaky:Flaky", "goes away once")

        class Flaky(Virtual):
            name = "flaky"
            lost = False

            def _run(self, order, loops):
                if not Flaky.lost:
                    Flaky.lost = True
                    raise DeviceLostError("the cable fell out")
                return super()._run(order, loops)
        """
    )
    suite.pytester.makeconftest("import flaky")
    suite.tests(THREE)
    result = suite.run(device="flaky", apart=True)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*DeviceLostError: the cable fell out"])


HIL = """
import pytest

@pytest.mark.hil
def test_video(hw_benchmark):
    hw_benchmark("net.onnx")

@pytest.mark.hil
def test_of_somebody_else(): pass
"""


def test_hil_is_skipped_where_no_device_was_named(suite):
    suite.tests(HIL)
    result = suite.run("-rs", device=None)
    result.assert_outcomes(skipped=1, passed=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED*needs a device beyond 'cpu': pytest --hwbench-device ADDRESS*"]
    )
    result.stdout.no_fnmatch_line("*hwbench on*")


def test_hil_runs_on_a_device(suite, board):
    suite.tests(HIL)
    suite.run("-m", "hil", device="board", apart=True).assert_outcomes(passed=2)
    assert board() == 1
