"""A process behind walls reads, computes and writes into its folder; nothing else."""

import json
import subprocess
import sys

import pytest

from hwbench.network.intake import reader_child, walls
from tests.support.paths import ROOT

ATTEMPTS = """
import ctypes, json, os, resource, signal, socket, subprocess, sys, threading
from pathlib import Path
from hwbench.network.intake import walls

own, other = map(Path, sys.argv[1:])
missing = walls.raise_walls(own)
file = other / "file"
inside = own / "inside"
threads = []

def start_thread():
    thread = threading.Thread(target=lambda: threads.append((other / "thread").touch()))
    threading.excepthook = lambda arguments: threads.append(arguments.exc_value)
    thread.start()
    thread.join()
    if isinstance(threads[0], OSError):
        raise threads[0]

attempts = {
    "write": lambda: file.write_text("x"),
    "append": lambda: file.open("a"),
    "make": lambda: (other / "new").touch(),
    "make folder": lambda: (other / "new").mkdir(),
    "remove": file.unlink,
    "truncate": lambda: os.truncate(file, 0),
    "move out": lambda: inside.rename(other / "moved"),
    "link": lambda: (other / "link").symlink_to("/"),
    "write through a link": lambda: ((own / "link").symlink_to(file), (own / "link").write_text("x")),
    "mode": lambda: file.chmod(0o777),
    "times": lambda: os.utime(file),
    "socket": socket.socket,
    "local socket": lambda: socket.socket(socket.AF_UNIX),
    "program": lambda: subprocess.run(["true"]),
    "fork": os.fork,
    "signal": lambda: os.kill(os.getppid(), 0),
    "memory of another": lambda: open(f"/proc/{os.getppid()}/mem", "wb"),
    "limits": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "from a thread": start_thread,
}
inside.write_text("x")
outcomes = {}
for name, attempt in attempts.items():
    try:
        attempt()
        outcomes[name] = "done"
    except (OSError, ValueError) as error:
        outcomes[name] = "refused"
Path(os.devnull).write_text(file.read_text())
os.kill(os.getpid(), 0)
resource.getrlimit(resource.RLIMIT_CPU)
print(json.dumps([missing, outcomes]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")
def test_nothing_gets_over_the_walls(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    (other / "file").write_text("kept")
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, own, other],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    missing, outcomes = json.loads(done.stdout)
    if missing:
        pytest.skip(f"this kernel has no walls for {missing}")
    assert {name for name, outcome in outcomes.items() if outcome != "refused"} == set()
    assert [path.name for path in other.iterdir()] == ["file"]
    assert (other / "file").read_text() == "kept"


def test_walls_that_are_missing_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(walls, "_confine_writes", lambda *_: False)
    monkeypatch.setattr(walls, "_filter_calls", lambda *_: False)
    monkeypatch.setattr(walls.ctypes, "CDLL", lambda *_, **__: _NoLibrary())
    missing = walls.raise_walls(tmp_path)
    assert missing == ("files", "network")
    finding = reader_child._make_finding(missing)
    assert "cannot keep a process from files and network" in finding.text


class _NoLibrary:
    def prctl(self, *_):
        return 0
