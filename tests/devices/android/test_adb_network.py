"""Large files over a network as it is outside of this computer: packets of 1500 bytes, in a network
namespace of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_NETWORK = [
    "unshare",
    "--net",
    "sh",
    "-c",
    'ip link set lo mtu 1500 && ip link set lo up && exec "$@"',
    "sh",
]
_BOTH = """
import os, sys
from pathlib import Path
from adb_shell.adb_device import AdbDeviceTcp
from hwbench.devices.android.adb.client import connect
from tests.devices.android.pyadbd import PyAdbd

folder, data = Path(sys.argv[1]), os.urandom(30_000_000)
(folder / "local").write_bytes(data)
with PyAdbd() as adbd:
    with connect(adbd.address) as adb:
        adb.push(data, str(folder / "remote"))
        print("pushed", (folder / "remote").read_bytes() == data)
        print("pulled", adb.pull(str(folder / "remote"), limit_bytes=len(data)) == data)
    stock = AdbDeviceTcp("127.0.0.1", adbd.port, default_transport_timeout_s=2.0)
    stock.connect()
    try:
        stock.push(str(folder / "local"), str(folder / "stock"), read_timeout_s=2.0)
    except Exception as error:
        print("adb-shell alone", type(error).__name__)
    stock.close()
"""


def _networks() -> bool:
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    return subprocess.run([*_NETWORK, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(
    not _networks(), reason="a network of its own needs root, unshare and ip (apt install iproute2)"
)
def test_large_files_over_a_network_with_an_mtu_of_1500(tmp_path: Path) -> None:
    command = [*_NETWORK, sys.executable, "-c", _BOTH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["pushed True", "pulled True"], done.stderr
    assert lines[-1].startswith("adb-shell alone"), (
        "the network no longer shows the defect, so it proves no cure"
    )
