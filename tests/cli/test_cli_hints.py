"""Remedies of errors: arguments for Python, options and whole commands on the command line."""

from __future__ import annotations

import json
import pickle

import pytest
import typer.main

from hwbench.cli.commands import app
from hwbench.cli.hints import COMMAND_OF, error_line
from hwbench.errors import (
    Argument,
    Call,
    DeviceError,
    UnsupportedLayerError,
    UsageError,
    error_from_dict,
    error_to_dict,
)
from tests.support.cli_support import hwb

__all__ = ["hwb"]
ROOT = typer.main.get_command(app)
PROFILE = ("profile", "my net.pt", "--precision", "fp16", "--device=cpu")


@pytest.mark.parametrize(
    ("remedy", "python", "command_line"),
    [
        (
            Argument("precision", "fp32"),
            "pass precision='fp32'",
            "try: hwbench profile 'my net.pt' --device=cpu --precision fp32",
        ),
        (
            Argument("device", "virtual", purpose="without hardware"),
            "without hardware: pass device='virtual'",
            "without hardware: hwbench profile 'my net.pt' --precision fp16 --device virtual",
        ),
        (
            Argument("trust_pickle", value=True),
            "pass trust_pickle=True",
            f"try: hwbench profile 'my net.pt' {' '.join(PROFILE[2:])} --trust-pickle",
        ),
        (
            Argument("arch"),
            "pass arch=...",
            f"try: hwbench profile 'my net.pt' {' '.join(PROFILE[2:])} --arch MODULE:FACTORY",
        ),
        (
            Argument("inputs", ("ids=1x8:int64", "mask=1x8")),
            "pass inputs=('ids=1x8:int64', 'mask=1x8')",
            f"try: hwbench profile 'my net.pt' {' '.join(PROFILE[2:])} --input ids=1x8:int64 --input mask=1x8",
        ),
        (Argument("budget_s", change="a longer"), "pass a longer budget_s", "give a longer --budget"),
        (Argument("seed", change="another"), "pass another seed", "give another --seed"),
        (Argument("no_such"), "pass no_such=...", "pass no_such=..."),
        (
            Call("build_table", {"model": "a.onnx", "device": "cpu", "lower": None}, "measure it"),
            "measure it: build_table(model='a.onnx', device='cpu', lower=...)",
            "measure it: hwbench table build a.onnx --device cpu --lower SHARE",
        ),
        (Call("doctor", {"device": "cpu"}), "call doctor(device='cpu')", "try: hwbench doctor --device cpu"),
    ],
)  # fmt: skip
def test_python_reads_of_arguments_and_the_command_line_of_commands(remedy, python, command_line):
    error = UsageError("it is wrong", remedy)
    assert str(error) == f"it is wrong; {python}"
    assert error_line(error, ROOT, PROFILE) == f"it is wrong; {command_line}"


def test_several_remedies_are_alternatives_and_none_adds_nothing():
    error = UsageError("it is wrong", Argument("seed", 1), Argument("batch", 2))
    assert str(error) == "it is wrong; pass seed=1, or pass batch=2"
    assert "--seed 1, or try: hwbench profile" in error_line(error, ROOT, PROFILE)
    assert str(UsageError("it is wrong")) == "it is wrong"
    assert error_line(UsageError("it is wrong"), ROOT, PROFILE) == "it is wrong"


def test_an_option_that_may_be_repeated_is_added_to_those_given():
    words = ("profile", "a.onnx", "--input", "x=1x3")
    line = error_line(UsageError("no shape", Argument("inputs", "y=1x3")), ROOT, words)
    assert line.endswith("hwbench profile a.onnx --input x=1x3 --input y=1x3")
    whole = Argument("inputs", ("x=1x3", "z=1x4"))
    line = error_line(UsageError("no shape", whole), ROOT, words)
    assert line.endswith("hwbench profile a.onnx --input x=1x3 --input z=1x4")


def test_passwords_of_stores_are_not_repeated():
    for words in (
        ("--store", "postgresql://me:secret@h/d"),
        ("--store=postgresql://me:secret@h/d",),
    ):
        line = error_line(UsageError("no", Argument("seed", 1)), ROOT, ("profile", "a", *words))
        assert "secret" not in line
        assert "me:***@h/d" in line


def test_every_command_that_remedies_name_exists():
    for path in COMMAND_OF.values():
        command = ROOT
        for word in path:
            command = command.commands[word]


def test_errors_travel_with_their_remedies():
    error = UnsupportedLayerError(
        "no kernel",
        Argument("precision", "fp32"),
        Argument("inputs", ("1x3", "1x4")),
        Call("doctor", {"device": "cpu"}),
    )
    as_json = json.loads(json.dumps(error_to_dict(error)))
    for arrived in (error_from_dict(as_json), pickle.loads(pickle.dumps(error))):
        assert type(arrived) is UnsupportedLayerError
        assert str(arrived) == str(error)
        assert arrived.remedies == error.remedies
    assert type(error_from_dict({"error": "NoSuch", "text": "it\nbroke"})) is DeviceError


def test_an_option_that_helps_is_shown_as_a_whole_command(hwb):
    error = hwb(
        "profile", "big.onnx", "--device", "virtual:noise=none", "--precision", "bf16"
    ).error
    assert "does not run bf16" in error
    assert error.endswith("give another --precision")
