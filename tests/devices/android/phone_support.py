"""Phones to open as a device: the Python one, and Google's adbd on this computer and under
emulation.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.devices.android.pyadbd_phone import FakePhone
from tests.devices.android.rig import Rig, phone
from tests.devices.android.rig_support import own_key

CLUSTER = "little" if (os.cpu_count() or 1) > 1 else "big"
"""The first CPUs: on a computer with two, the one that other work shares least is left alone."""


@contextmanager
def rig(arch: str) -> Iterator[Rig]:
    """A rig that lets this process in, and no adb server in between."""
    with own_key() as key, phone(arch, trusted=[key]) as running:
        yield running


@contextmanager
def fake() -> Iterator[FakePhone]:
    """The Python phone."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        stack.enter_context(own_key())
        yield stack.enter_context(FakePhone(Path(folder)))


@contextmanager
def fake_in_a_process() -> Iterator[str]:
    """The address of a Python phone whose threads and files are another process's, for tests that
    count ours.
    """
    code = (
        "import sys; from pathlib import Path; from tests.devices.android.pyadbd_phone import"
        " FakePhone\nwith FakePhone(Path(sys.argv[1])) as phone: print(phone.address, flush=True);"
        " sys.stdin.read()"
    )
    with TemporaryDirectory() as folder, own_key():
        argv = [sys.executable, "-c", code, folder]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
            process.communicate(timeout=20)


def on(place: str, *options: str) -> str:
    """The address within the driver of a phone's first CPUs."""
    return ",".join((place, f"cluster={CLUSTER}", *options))
