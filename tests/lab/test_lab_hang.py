"""A device whose process is stopped by a signal: noticed in its time, ended, and replaced."""

from __future__ import annotations

import signal

import psutil
import pytest

from tests.lab.ray_support import START_S, real_lab

pytest.importorskip("ray", reason="a lab needs Ray: pip install 'hwbench-latency[lab]'")

SILENT_S = 12.0
"""After how long a device that does not call is taken to be gone; a minute where nobody tests it."""


def test_a_stopped_device_is_noticed_ended_and_replaced(tmp_path):
    with real_lab(tmp_path, silent_s=SILENT_S) as lab:
        lab.join("rack", "virtual:seed=1")
        lab.await_devices(1)
        host = psutil.Process(lab.hosts["rack"].pid)
        (device,) = (
            process
            for process in host.children(recursive=True)
            if "DeviceActor" in " ".join(process.cmdline())
        )
        device.send_signal(signal.SIGSTOP)
        # Stopped as it is, it cannot end by itself.
        assert not psutil.wait_procs([device], timeout=START_S)[1]
        lab.await_devices(1)
