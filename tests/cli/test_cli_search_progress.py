"""Progress of a search: a line on a terminal, else one every half a minute, also while it trains."""

from __future__ import annotations

import io
import sys
import threading

from hwbench.cli import live_line
from hwbench.cli.options import Keeping
from hwbench.cli.search_progress import show_search


class Heard(io.StringIO):
    """A standard error that is no terminal, and says when a line was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def listen(monkeypatch) -> Heard:
    stream = Heard()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_nothing_is_written_before_half_a_minute(monkeypatch):
    heard = listen(monkeypatch)
    with show_search("net", Keeping()) as line:
        line.say("training the original")
    assert heard.getvalue() == ""


def test_training_that_tells_nothing_is_told_of(monkeypatch):
    heard = listen(monkeypatch)
    monkeypatch.setattr(live_line, "PLAIN_S", 0.01)
    with show_search("net", Keeping()) as line:
        line.say("training the original")
        heard.written.clear()
        assert heard.written.wait(10)
    assert "hwbench: 0 s: net training the original ..." in heard.getvalue()


def test_nothing_disturbs_timed_rounds(monkeypatch):
    heard = listen(monkeypatch)
    monkeypatch.setattr(live_line, "PLAIN_S", 0.01)
    before = set(threading.enumerate())
    with show_search("net", Keeping()) as line:
        line.say("training the original")
        assert len(set(threading.enumerate()) - before) == 1
        line.say("measuring the result", timed=True)
        for thread in threading.enumerate():
            if thread.daemon and thread is not threading.current_thread():
                thread.join(0.2)
        heard.written.clear()
        assert not heard.written.wait(0.1)


def test_the_plan_of_its_time_is_said_at_once(monkeypatch):
    heard = listen(monkeypatch)
    with show_search("net", Keeping()) as line:
        line.planned("60 s are left: trials 60 s")
    assert heard.getvalue() == "hwbench: 0 s: net 60 s are left: trials 60 s\n"
