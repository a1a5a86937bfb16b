"""A connection to a phone of the rig that trusts this test's key, and models that run on it."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from hwbench.devices.android.adb.client import Adb, connect
from hwbench.devices.android.adb.keys import load_keys
from hwbench.devices.android.bundle import Bundle
from hwbench.devices.shared.runner.process import RunnerProcess, ort_library
from tests.devices.android.rig import Rig, phone
from tests.support.runner_support import conv_model, dump_outputs, program

SEED = 7
HOME = "/data/local/tmp/hwbench"


@cache
def _home() -> Path:
    """A home folder with an adb key that no real phone has ever seen."""
    folder = Path(tempfile.mkdtemp(prefix="hwbench-test-home-"))
    atexit.register(shutil.rmtree, folder)
    return folder


@contextlib.contextmanager
def own_key() -> Iterator[str]:
    """Connect with a key of the tests' own, and past every adb server. Yields the public key.

    The cache stays the user's: building a phone and what is put there takes half a minute, and
    fetches packages.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", platformdirs.user_cache_dir())
        patch.setenv("HOME", str(_home()))
        patch.setenv("ADB_SERVER_SOCKET", "tcp:127.0.0.1:9")  # the discard port: nobody answers
        patch.delenv("ADB_VENDOR_KEYS", raising=False)
        yield load_keys()[0].public().decode()


@contextlib.contextmanager
def connected(arch: str) -> Iterator[tuple[Rig, Adb]]:
    with own_key() as key, phone(arch, trusted=[key]) as rig, connect(rig.address) as adb:
        yield rig, adb


def push_bundle(adb: Adb, bundle: Bundle) -> str:
    """Returns the folder it is in on the phone."""
    folder = f"{HOME}/bundle/{bundle.digest}"
    for file in bundle.files:
        adb.push(bundle.folder / file.name, f"{folder}/{file.name}", mode=file.mode)
    return folder


def outputs_on_host(folder: Path) -> list[np.ndarray]:
    """What the small convolution net computes here from the runner's own inputs.

    Its model is `folder/m.onnx`.
    """
    model = conv_model(folder / "m.onnx")
    with RunnerProcess.start([str(program())]) as runner:
        runner.library(ort_library())
        runner.configure(seed=SEED)
        runner.load("m", model)
        runner.run(["m"])
        tensors = dump_outputs(runner, "m", folder)
    return [
        np.fromfile(folder / f"m.{index}.bin", spec.dtype).reshape(spec.shape)
        for index, spec in enumerate(tensors)
    ]
