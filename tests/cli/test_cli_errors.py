"""What goes wrong on the command line: one line on standard error, the right exit code, nothing
lost.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

import hwbench
from hwbench.cli.commands import ORDER
from hwbench.devices.virtual.device import Virtual
from hwbench.records.series import Series
from tests.support.cli_support import hwb

__all__ = ["hwb"]
VIRTUAL = ("--device", "virtual")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("profil",), "profil"),
        (("profile", "--no-such"), "--no-such"),
        (("--no-such",), "--no-such"),
        (("profile", "big.onnx", "--budget", "-1"), "not a positive number of seconds"),
        (("profile", "big.onnx", "--budget", "0"), "not a positive number of seconds"),
        (("profile", "big.onnx", "--budget", "nan"), "not a positive number of seconds"),
        (("profile", "big.onnx", "--budget", "soon"), "not a number of seconds"),
        (("profile", "big.onnx", "--threads", "0"), "--threads"),
        (("profile", "big.onnx", "--batch", "0"), "--batch"),
        (("profile", "big.onnx", "--seed", "-1"), "--seed"),
        (("profile", "big.onnx", "--precision", "fp8"), "fp8"),
        (("profile", "big.onnx", "--format", "xml"), "xml"),
        (("profile", "big.onnx", "--json", "no/such/folder.json"), "does not exist"),
        (("profile", "big.onnx", "--json", "."), "is a folder"),
        (("compare", "big.onnx", "small.onnx", "--min-effect", "0"), "between 0 and 100 %"),
        (("compare", "big.onnx", "small.onnx", "--min-effect", "1"), "between 0 and 100 %"),
        (("compare", "big.onnx", "small.onnx", "--min-effect", "much"), "not a share"),
        (
            ("compare", "big.onnx", "small.onnx", "--fail-on", "speed<1"),
            "speedup, macs_ratio, params_ratio",
        ),
        (("compare", "big.onnx", "small.onnx", "--fail-on", "speedup=1"), "speedup=1"),
        (("compare", "big.onnx"), "CANDIDATE"),
        (("selftest", "--runs", "0"), "--runs"),
        (("profile", "missing.onnx", *VIRTUAL), "missing.onnx"),
        (("profile", "big.onnx", "--device", "toaster"), "toaster"),
        (("profile", "big.onnx", "--device", "virtual:colour=red"), "colour"),
        (("store", "show", "ffff"), "ffff"),
        (("store", "export", "no/such/folder.jsonl"), "folder.jsonl"),
    ],
)
def test_bad_requests_are_one_line_and_code_2(hwb, words, said):
    found = hwb(*words)
    assert found.code == 2
    assert said in found.error
    assert len(found.error) < 400


@pytest.mark.parametrize(
    ("fault", "code"),
    [("open", 3), ("build", 4), ("lost@500", 3), ("timeout@500", 3), ("nan@500", 3)],
)
def test_exit_code_of_each_fault(hwb, fault, code):
    found = hwb("profile", "big.onnx", "--device", f"virtual:fault={fault}")
    assert found.code == code
    kept = "hwbench store show" in found.error
    assert kept == ("@" in fault)


def test_what_was_measured_before_a_fault_can_be_shown(hwb):
    error = hwb(
        "profile", "big.onnx", "--device", "virtual:fault=lost@500", "--store", "my store.db"
    ).error
    command = error.partition("hwbench store show ")[2]
    assert command.endswith("--store 'my store.db'")
    shown = hwb("store", "show", command.split()[0], "--store", "my store.db")
    assert shown.code == 0
    assert "ended before it was complete" in " ".join(shown.out.split())


def test_a_record_without_samples_can_be_shown(hwb):
    with hwbench.open_store() as store:
        hwb("profile", "big.onnx", *VIRTUAL)
        whole = store.get("")
        store.begin(replace(whole, id="feed", series=Series()))
    shown = hwb("store", "show", "feed")
    assert shown.code == 0
    assert "no sample was taken" in " ".join(shown.out.split())


@pytest.mark.parametrize("after", [0, 60])
@pytest.mark.parametrize("save", [True, False])
def test_interrupting_says_what_is_kept(hwb, monkeypatch, after, save):
    calls, real = [], Virtual._run

    def interrupted(self, order, loops):
        calls.append(None)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(self, order, loops)

    monkeypatch.setattr(Virtual, "_run", interrupted)
    found = hwb("profile", "big.onnx", *VIRTUAL, *(() if save else ("--no-save",)))
    assert found.code == 130
    assert found.error.startswith("interrupted; ")
    expected = (
        "nothing was measured yet"
        if not after
        else "hwbench store show"
        if save
        else "nothing is kept"
    )
    assert expected in found.error


@pytest.mark.parametrize("words", [("profile", "big.onnx"), ("compare", "big.onnx", "small.onnx")])
def test_no_record_is_named_that_was_not_kept(hwb, words):
    assert "; record" in hwb(*words, *VIRTUAL).out.replace("\n", " ")
    loose = hwb(*words, *VIRTUAL, "--no-save").out.replace("\n", " ")
    assert "; record" not in loose
    assert "kept nowhere" in loose


def test_traceback_only_with_v(hwb):
    plain, verbose = (hwb("profile", "missing.onnx", *VIRTUAL, *more) for more in ((), ("-v",)))
    assert "Traceback" not in plain.err
    assert "Traceback" in verbose.err
    assert verbose.err.endswith(plain.err)


def test_a_fault_of_hwbench_itself_is_one_line_and_code_70(hwb, monkeypatch):
    def broken():
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(hwbench, "list_devices", broken, raising=False)
    found = hwb("devices")
    assert found.code == 70
    assert "ZeroDivisionError: first line; a fault of hwbench: run again with -v" in found.error


def test_names_cannot_command_the_terminal(hwb):
    found = hwb("profile", "\x1b[31mred\nline.onnx", *VIRTUAL)
    assert "\x1b" not in found.error


def command(*words: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        "import sys; from hwbench.cli import main; sys.exit(main())",
        *words,
    ]


def test_help_loads_nothing_heavy():
    heavy = ("torch", "onnx", "onnxruntime", "pandas", "matplotlib", "numpy", "scipy", "sqlalchemy")
    code = (
        "import sys; from hwbench.cli import main; code = main(['--help']);"
        f"print(code, [name for name in {heavy!r} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "devices",
        "doctor",
        "profile",
        "compare",
        "selftest",
        "store",
        "store list",
        "store show",
        "store export",
    ],
)
def test_every_help_has_an_example(hwb, name):
    found = hwb(*name.split(), "--help")
    assert found.code == 0
    assert f"Example: hwbench {name}".rstrip() in found.out


def test_help_names_the_defaults_of_the_workflows(hwb):
    from hwbench.records.measurement import Settings
    from hwbench.workflows import matrix, profile, selftest
    from hwbench.workflows.defaults import DEFAULT_MODEL, TABLE_BUDGET_S

    def text(name: str) -> str:
        return " ".join(hwb(name, "--help").out.replace("│", " ").split())

    assert f"{DEFAULT_MODEL} if not given" in text("profile")
    budgets = text("profile")
    assert profile.DEFAULT_SETTINGS.budget_s == selftest.DEFAULT_BUDGET_S
    assert matrix.DEFAULT_SETTINGS.budget_s == selftest.DEFAULT_BUDGET_S
    short = "for profile, for each run of selftest and for each cell of matrix"
    assert f"{selftest.DEFAULT_BUDGET_S:g} {short}" in budgets
    assert f"{TABLE_BUDGET_S:g} for table build, else {Settings().budget_s:g}" in budgets
    assert f"{Settings().min_effect:.0%} if not given" in text("compare")
    assert f"{selftest.DEFAULT_MODEL} if not given" in text("selftest")
    assert f"{selftest.DEFAULT_RUNS} if not given" in text("selftest")


@pytest.mark.parametrize("words", [("compare",), ("search", "amc"), ("table", "build")])
def test_paragraphs_of_help_are_broken_by_the_terminal_alone(hwb, words):
    text = hwb(*words, "--help").out.partition("╭")[0]
    lines = [line.strip() for line in text.splitlines()]
    for line, following in itertools.pairwise(lines[2:]):
        if line and following and not line.startswith("Usage"):
            assert len(line) + 1 + len(following.partition(" ")[0]) > 78


def test_help_begins_with_what_everybody_uses(hwb):
    listed = hwb("--help").out.partition("Commands")[2]
    names = re.findall(r"^\W*([a-z]+)  +[A-Z]", listed, re.MULTILINE)
    assert names == ORDER
    assert names[0] == "profile"


def test_without_a_command_it_helps(hwb):
    assert "Usage: hwbench" in hwb().out
    assert "Usage: hwbench store" in hwb("store").out
    assert hwb("--version").out == f"hwbench {hwbench.__version__}\n"


def test_a_reader_that_leaves_is_no_error(hwb):
    for _ in range(2):
        hwb("profile", "big.onnx", *VIRTUAL)
    read, write = os.pipe()
    os.close(read)
    try:
        found = subprocess.run(
            command("store", "export"),
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert found.returncode == 141
    assert found.stderr == ""


@pytest.mark.slow
def test_a_terminal_without_unicode_gets_question_marks(hwb):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    found = subprocess.run(
        command("profile", "big.onnx", *VIRTUAL),
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "?" in found.stdout
