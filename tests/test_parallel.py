"""Tests run beside each other, but those of a file in one process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

FILES = ("tests/records/test_scratch.py", "tests/render/test_render_searching.py")


def test_the_tests_of_a_file_run_in_one_process():
    command = [sys.executable, "-m", "pytest", "-n", "2", "-v", *FILES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout
    workers = defaultdict(set)
    for worker, file in re.findall(r"^\[(gw\d)\].* PASSED (.*?)::", done.stdout, re.MULTILINE):
        workers[file].add(worker)
    assert [len(workers[file]) for file in FILES] == [1, 1]
    assert len(set.union(*workers.values())) == 2, "and files beside each other"
