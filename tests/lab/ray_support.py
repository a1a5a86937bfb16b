"""A lab of real processes on this computer: a head and hosts, each started as a user would, and all
ended with the block.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HWBENCH = str(Path(sys.executable).with_name("hwbench"))
START_S, CALL_S, STOP_S = 280.0, 280.0, 60.0
IMPATIENT_HEAD = """
import sys
from hwbench.lab.hosts import serve_head
from hwbench.lab.records import Rules
serve_head(
    "127.0.0.1",
    int(sys.argv[1]),
    lambda line: print(line, flush=True),
    Rules(silent_s=float(sys.argv[2])),
)
"""
TOKEN = "token-of-the-tests-only-" + "0" * 16


@dataclass
class RealLab:
    """A running lab.

    Attributes:
        folder: For logs, caches and stores.
        address: Of its head.
        hosts: The process of each host, by name.
        head: That of the head.
    """

    folder: Path
    address: str
    hosts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    head: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "XDG_CACHE_HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.folder),
            "HWBENCH_LAB_TOKEN": TOKEN,
        }
        return {**os.environ, **own, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process that serves, and wait for what it says when it does."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                list(command), stdout=file, stderr=file, env=self.environment
            )
        until = time.monotonic() + START_S
        while f" at {self.address}" not in (said := log.read_text()) or "error:" in said:
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                raise AssertionError(f"{name} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        return process

    def join(self, name: str, *devices: str) -> None:
        """Have a host join with these devices."""
        words = [word for device in devices for word in ("--device", device)]
        self.hosts[name] = self.start(
            name,
            HWBENCH,
            "lab",
            "join",
            self.address,
            "--host",
            "127.0.0.1",
            "--name",
            name,
            *words,
        )

    def kill_host(self, name: str) -> None:
        """What a power cut does: every process of the host is gone at once."""
        process = self.hosts.pop(name)
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        for one in family:
            one.send_signal(signal.SIGKILL)
        process.wait(STOP_S)

    def await_pool(self) -> psutil.Process:
        """The process of the pool.

        It sets its title at every call, and may be looked at while half of that is written.
        """
        assert self.head is not None
        until = time.monotonic() + START_S
        while True:
            pools = []
            for process in psutil.Process(self.head.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # others come and go meanwhile
                    if "PoolActor" in " ".join(process.cmdline()):
                        pools.append(process)
            if len(pools) == 1:
                return pools[0]
            assert time.monotonic() < until, f"the lab has {len(pools)} pools"
            time.sleep(0.1)

    def popen(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command of a client."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [HWBENCH, *words],
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=self.environment,
            cwd=self.folder,
        )

    def call(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of a client."""
        return subprocess.run(
            [HWBENCH, *words],
            capture_output=True,
            text=True,
            timeout=CALL_S,
            env=self.environment | environment,
            cwd=self.folder,
        )

    def status(self) -> dict[str, Any]:
        """What `hwbench lab status` says."""
        found = self.call("lab", "status", self.address, "--json", "-")
        assert found.returncode == 0, found.stderr
        return dict(json.loads(found.stdout))

    def await_devices(self, count: int) -> dict[str, Any]:
        """The status once so many devices are free."""
        return self.await_status(
            lambda devices: sum(device["state"] == "free" for device in devices) == count
        )

    def await_status(self, wanted: Callable[[list[dict[str, Any]]], bool]) -> dict[str, Any]:
        """The status once its devices are as wanted."""
        until = time.monotonic() + START_S
        while True:
            done = self.call("lab", "status", self.address, "--json", "-")
            status: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
            if status and wanted(status["devices"]):
                return status
            assert time.monotonic() < until, f"the lab stays like this: {status} {done.stderr}"


@contextmanager
def real_lab(folder: Path, silent_s: float | None = None) -> Iterator[RealLab]:
    """A head, if asked with another patience with silent devices; hosts are up to the caller."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    lab = RealLab(folder, f"127.0.0.1:{port}")
    command = [HWBENCH, "lab", "start", "--port", str(port)]
    if silent_s is not None:
        command = [sys.executable, "-c", IMPATIENT_HEAD, str(port), str(silent_s)]
    head = lab.head = lab.start("head", *command)
    try:
        yield lab
    finally:
        for process in (*lab.hosts.values(), head):
            process.terminate()
        for process in (*lab.hosts.values(), head):
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
