"""Groups of options: spread over a command, gathered again."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer

from hwbench.cli.options import Keeping, ModelSource, Precision, Protocol, options
from hwbench.devices.shared import host
from hwbench.devices.shared.lock import DeviceLock
from hwbench.records.measurement import Settings
from tests.support.cli_support import hwb

__all__ = ["hwb"]


@dataclass(frozen=True)
class Sizes:
    """A group."""

    width: Annotated[int, typer.Option(help="Wide.")] = 3
    height: int = 4


@options
def area(*, sizes: Sizes, name: str, loud: bool = False) -> str:
    """A command."""
    return f"{name}{'!' if loud else ''} {sizes.width * sizes.height}"


def test_groups_are_spread_over_the_signature():
    assert list(inspect.signature(area).parameters) == ["width", "height", "name", "loud"]
    assert area(width=5, height=2, name="a", loud=True) == "a! 10"
    assert area.__doc__ == "A command."


def test_typer_sees_them_as_options():
    app = typer.Typer()
    app.command()(area)
    command = typer.main.get_command(app)
    with command.make_context("area", ["--width", "7", "n"]) as context:
        assert command.invoke(context) == "n 28"


def test_settings_keep_what_was_not_asked_for():
    base = Settings(budget_s=10.0, min_effect=0.02)
    assert Protocol().settings(base) == base
    changed = Protocol(threads=2, budget=3.0, seed=9, isolate=True).settings(
        base, layers=False, min_effect=0.5
    )
    assert changed == Settings(
        threads=2, isolate=True, budget_s=3.0, min_effect=0.5, seed=9, layers=False
    )


def test_groups_turn_into_arguments_of_the_workflows():
    from hwbench.network.intake import ModelOptions
    from hwbench.workflows import compare, profile

    given = (
        ModelSource(inputs=["1x3x8x8"], precision=Precision.int8).arguments()
        | Keeping(no_save=True).arguments()
    )
    assert given["inputs"] == ("1x3x8x8",)
    assert given["precision"] == "int8"
    assert given["save"] is False
    for workflow in (profile.profile, compare.compare):
        assert set(given) <= set(inspect.signature(workflow).parameters) | set(
            ModelOptions.__annotations__
        )


@pytest.mark.parametrize(
    ("store", "command"),
    [(None, "hwbench store show ab"), ("x y", "hwbench store show ab --store 'x y'")],
)
def test_where_a_record_can_be_seen(store, command):
    assert Keeping(store=store).show("ab") == command


def test_a_busy_device_is_waited_for_where_that_was_asked(hwb):
    words = ("profile", "small.onnx", "--budget", "1", "--no-save", "--no-layers")
    with DeviceLock(host.LOCKED_AS):
        # The holder is this process, which nobody waits for: a lock of another one is faked.
        Path(DeviceLock(host.LOCKED_AS).path).write_text("1")
        busy = hwb(*words)
        waited = hwb(*words, "--wait", "0.3")
    assert busy.code == waited.code == 3
    assert "is in use by process 1;" in busy.err
    lines = waited.err.splitlines()
    assert lines[0].endswith("is in use by process 1; waiting since 0 s, for at most 0.3 s")
    assert "is in use by process 1 after waiting 0.3 s;" in lines[1]
    assert "after waiting" not in hwb(*words, "--device", "virtual").err, "it ends with its command"
