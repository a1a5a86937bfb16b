"""Progress: a line on a terminal, silence elsewhere, and what it says of an error."""

from __future__ import annotations

import io
import sys

import pytest

from hwbench.cli.options import Keeping
from hwbench.cli.progress import show_measuring
from hwbench.devices.virtual.device import Virtual
from hwbench.measuring.sessions import measure, measure_interleaved
from hwbench.records.measurement import Settings
from tests.support.models import told

QUICK = Settings(layers=False, budget_s=5)
A, B = told("a"), told("b")


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown_while(monkeypatch, workloads, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("hwbench.cli.progress.REDRAW_S", 0.0)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    with (
        Virtual(latencies_s={A.sha256: 0.01, B.sha256: 0.005}) as device,
        show_measuring("my model", Keeping()) as line,
    ):
        measure_interleaved(device, workloads, QUICK, line)
    return stream.getvalue()


def test_a_terminal_sees_stage_session_budget_and_estimate(monkeypatch):
    text = shown_while(monkeypatch, [A], Terminal())
    assert "reading my model" in text
    assert "session 1, warming up" in text
    assert "of at most 5 s" in text
    assert "session 2" in text
    assert " ms (" in text


def test_a_comparison_shows_the_ratio(monkeypatch):
    assert "ratio 0.50x (0." in shown_while(monkeypatch, [A, B], Terminal())


def test_elsewhere_it_is_silent(monkeypatch):
    assert shown_while(monkeypatch, [A], io.StringIO()) == ""


def test_no_thread_redraws_during_rounds(monkeypatch):
    import threading

    monkeypatch.setattr(sys, "stderr", Terminal())
    before = threading.active_count()
    with show_measuring("m", Keeping()):
        assert threading.active_count() == before


def test_prints_go_to_standard_error(capsys):
    with show_measuring("m", Keeping()):
        sys.stdout.write("from the model\n")
    assert capsys.readouterr() == ("", "from the model\n")


def test_an_error_says_where_its_samples_are():
    records = []

    def measure_and_fail() -> None:
        with (
            Virtual(latencies_s={A.sha256: 0.01}) as device,
            show_measuring("m", Keeping(store="a b.db")) as line,
        ):
            records.append(measure(device, A, QUICK, line))
            raise ValueError("x")

    with pytest.raises(ValueError, match="x") as caught:
        measure_and_fail()
    assert caught.value.__notes__ == [
        f"what was measured is kept: hwbench store show {records[0].id[:12]} --store 'a b.db'"
    ]


def test_an_error_before_the_first_sample_has_nothing_to_say():
    with pytest.raises(ValueError, match="x") as caught, show_measuring("m", Keeping()):
        raise ValueError("x")
    assert not hasattr(caught.value, "__notes__")
