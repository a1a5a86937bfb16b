"""Files are read within limits, by a process that ends with the one that started it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import psutil
import pytest
from onnx import helper, numpy_helper

from hwbench.errors import HwbenchError, SchemaError, UnsafeModelError, UsageError, WorkloadError
from hwbench.network.intake import load_workload, reader
from tests.support.hostile_onnx import (
    HOSTILE,
    make_model,
    mutate,
    nested_functions,
    seed_model,
    vary,
    wide_seed_model,
)
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="forks a worker per file")


def write(path, model):
    path.write_bytes(model.SerializeToString())
    return path


def test_the_seeds_of_the_mutations_are_good_models(tmp_path):
    workload = load_workload(write(tmp_path / "m.onnx", seed_model()))
    assert workload.macs == 4 * 3 * 9 * 64 + 20
    assert workload.params == 4 * 27 + 4 + 25
    assert load_workload(write(tmp_path / "wide.onnx", wide_seed_model())).params == 428


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_end_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "ONNX_S", 2.0)
    monkeypatch.setattr(reader, "BASE_BYTES", 400_000_000)
    path = write(tmp_path / "m.onnx", HOSTILE[case]())
    try:
        load_workload(path)
    except HwbenchError as error:
        assert error.exit_code == 2
        assert len(str(error).splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_time_is_bounded_and_the_bound_can_be_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BASE_BYTES", 16_000_000_000)  # a tenth of it is enough memory
    path = write(tmp_path / "m.onnx", nested_functions())
    with pytest.raises(UnsafeModelError, match=r"within 1 s.*a larger read_limit"):
        load_workload(path, read_limit=0.1)
    assert load_workload(write(tmp_path / "few.onnx", nested_functions(3))).macs == 0


@linux_only
def test_memory_is_bounded_and_the_bound_can_be_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BASE_BYTES", 200_000_000)
    path = write(tmp_path / "m.onnx", HOSTILE["huge Concat"]())
    with pytest.raises(UnsafeModelError, match=r"GB of memory.*a larger read_limit"):
        load_workload(path)


@pytest.mark.parametrize("operator", ["Conv", "MaxPool"])
def test_windows_fit_into_what_they_slide_over(operator, tmp_path):
    def make(dilation):
        inputs, more = ["x"], {"kernel_shape": [3, 3]}
        if operator == "Conv":
            inputs, more = ["x", "w"], {}
        node = helper.make_node(
            operator, inputs, ["y"], pads=[1, 1, 1, 1], dilations=[dilation] * 2, **more
        )
        weight = numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "w")
        shape = (1, 3, 8, 8)
        return write(tmp_path / "m.onnx", make_model([node], [weight][: len(inputs) - 1], shape))

    assert load_workload(make(4)).batch == 1
    with pytest.raises(SchemaError, match=rf"window of {operator}.* spans 11 .* has 10"):
        load_workload(make(5))


@linux_only
def test_what_runtimes_compute_at_load_is_bounded_too(tmp_path, monkeypatch):
    """A constant of 17 GB, which no reader of the file needs to make."""
    path = write(tmp_path / "m.onnx", HOSTILE["huge Max"]())
    with pytest.raises(UnsafeModelError, match="to read or to run it"):
        load_workload(path)
    node = helper.make_node("Expand", ["x", "to"], ["y"])
    to = numpy_helper.from_array(np.array([1 << 24, 8], np.int64), "to")
    path = write(tmp_path / "wide.onnx", make_model([node], [to]))
    assert load_workload(path).batch == 1
    monkeypatch.setattr(reader, "BASE_BYTES", 400_000_000)
    with pytest.raises(UnsafeModelError, match="to read or to run it"):
        load_workload(path)


@pytest.mark.parametrize("factor", [0, -1.0, float("inf"), float("nan")])
def test_the_limit_is_a_positive_factor(factor, tmp_path):
    path = write(tmp_path / "m.onnx", seed_model())
    with pytest.raises(UsageError, match="positive factor"):
        load_workload(path, read_limit=factor)


def test_mutations_along_the_grammar(tmp_path, monkeypatch):
    """A workload or one line, whatever a file says."""
    monkeypatch.setattr(reader, "ONNX_S", 3.0)
    monkeypatch.setattr(reader, "BASE_BYTES", 400_000_000)
    random = Random(7)
    outcomes = set()
    for _ in range(100):
        change, model = random.choice([mutate, vary]), random.choice([seed_model, wide_seed_model])
        path = write(tmp_path / "m.onnx", change(model(), random))
        try:
            load_workload(path, inputs=["1x3x8x8"])
            outcomes.add("workload")
        except HwbenchError as error:
            assert error.exit_code in {2, 4}
            assert len(str(error).splitlines()) == 1
            outcomes.add(type(error).__name__)
    assert {"workload", "SchemaError", "WorkloadError"} <= outcomes


def run(script, *arguments, folder, **more):
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


@linux_only
def test_files_share_one_reader_and_onnx_needs_no_torch(tmp_path):
    path = write(tmp_path / "m.onnx", seed_model())
    (tmp_path / "tmp").mkdir()
    script = (
        "import sys, os; from hwbench.network.intake import load_workload, reader\n"
        "numbers = []\n"
        "for _ in range(2):\n"
        "    load_workload(sys.argv[1]); numbers.append(reader._READER._process.pid)\n"
        "maps = open(f'/proc/{numbers[0]}/maps').read()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    load_workload(sys.argv[1]); own = reader._READER._process.pid\n"
        "    reader._READER.stop(); os._exit(own in numbers)\n"
        "_, status = os.waitpid(child, 0)\n"
        "load_workload(sys.argv[1]); numbers.append(reader._READER._process.pid)\n"
        "print(len(set(numbers)), 'libtorch' in maps, status)\n"
    )
    process = run(script, path, folder=tmp_path / "tmp")
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("1 False 0\n", "")
    assert not list((tmp_path / "tmp").iterdir())


@linux_only
@pytest.mark.usefixtures("heard_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_nothing_runs_on_and_nothing_is_left_after_a_signal(number, tmp_path):
    path = write(tmp_path / "m.onnx", nested_functions())
    folder = tmp_path / "tmp"
    folder.mkdir()
    script = "import sys, hwbench; hwbench.load_workload(sys.argv[1])"
    process = run(script, path, folder=folder)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/*/output")) and time.monotonic() < deadline:
        time.sleep(0.05)
    helpers = psutil.Process(process.pid).children(recursive=True)
    assert len(helpers) == 2
    status = Path(f"/proc/{helpers[1].pid}/status").read_text()
    assert re.search(r"^Seccomp:\s*2$", status, re.MULTILINE), "it is behind walls"
    process.send_signal(number)
    process.communicate(timeout=10)
    _, alive = psutil.wait_procs(helpers, timeout=5)
    assert not alive
    assert not list(folder.iterdir())


@linux_only
def test_a_reader_that_ends_is_an_error_and_replaced(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", seed_model())
    own = reader._Reader()
    monkeypatch.setattr(reader, "_READER", own)
    monkeypatch.setattr(reader, "_CHILD", "raise SystemExit('no such thing')")
    with pytest.raises(WorkloadError, match="reader of model files ended: no such thing"):
        load_workload(path)
    monkeypatch.undo()
    monkeypatch.setattr(reader, "_READER", own)
    assert load_workload(path).macs > 0
    own.stop()


LOADING = """
import json, sys, time; sys.path[:] = json.loads(sys.argv[1])
from hwbench.records.scratch import scratch_folder
with scratch_folder():
    time.sleep(600)
"""


@linux_only
def test_a_reader_that_is_ended_while_it_loads_libraries_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(reader.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(reader, "_CHILD", LOADING)
    monkeypatch.setattr(reader, "STOP_S", 0.1)
    own = reader._Reader()
    own._start()
    deadline = time.monotonic() + 120
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir())
    own.stop()
    assert not list(tmp_path.iterdir())


WAITING = """
import os, sys, threading, time
from hwbench.network.intake import reader_child
from hwbench.records.scratch import scratch_folder
requests = os.fdopen(0, "rb", buffering=0)
with reader_child._ending_with(requests):
    pass
assert threading.active_count() == 1, "or no process could be forked safely"
with scratch_folder(), reader_child._ending_with(requests):
    print(flush=True)
    time.sleep(600)
"""


@linux_only
def test_a_reader_whose_owner_is_killed_while_it_loads_libraries_ends(tmp_path):
    process = run(WAITING, folder=tmp_path, stdin=subprocess.PIPE)
    process.stdout.readline()
    assert list(tmp_path.iterdir())
    process.stdin.close()
    assert process.wait(timeout=60) == 1
    assert not list(tmp_path.iterdir())
    process.stdout.close()
    process.stderr.close()
