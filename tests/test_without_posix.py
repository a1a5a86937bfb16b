"""What works where Python has no POSIX, as on Windows: the package, its help, and virtual devices.

It is simulated: modules and names that Python lacks there are taken away.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT_POSIX = """
import os, signal, sys
for name in ("fcntl", "resource", "termios", "grp"):
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "O_DIRECTORY", "fork", "killpg", "pread", "setsid", "statvfs",
             "sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGPIPE", "SIGALRM", "SIGQUIT"):
    delattr(signal, name)
import hwbench
from hwbench.cli import main
"""


def run(code: str, tmp_path) -> subprocess.CompletedProcess[str]:
    store = f"import os; os.environ['HWBENCH_STORE'] = {str(tmp_path / 'store.db')!r}\n"
    return subprocess.run(
        [sys.executable, "-c", store + WITHOUT_POSIX + code],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_virtual_devices_are_measured_compared_and_kept(tmp_path):
    code = (
        'print(hwbench.compare("zoo:resnet20", "zoo:resnet20@0.5", device="virtual"))\n'
        'sys.exit(main(["store", "list"]))'
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<Comparison FASTER" in done.stdout
    assert done.stdout.count("zoo:resnet20") >= 4


@pytest.mark.parametrize("words", [["--help"], ["compare", "--help"], ["devices"]])
def test_help_and_the_list_of_devices(tmp_path, words):
    done = run(f"sys.exit(main({words!r}))", tmp_path)
    assert done.returncode == 0, done.stderr


def test_real_devices_are_refused_in_a_line(tmp_path):
    done = run('sys.exit(main(["profile", "zoo:resnet20", "--budget", "1"]))', tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("hwbench: error: this operating system cannot lock a device")
    assert done.stderr.count("\n") == 1
