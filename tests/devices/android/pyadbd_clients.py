"""Google's own adb clients, to show that the Python adbd is what they expect of a phone, and to
reach it through their server.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from tests.devices.android.pyadbd_support import free_port, soon


def adb_programs() -> dict[str, str | None]:
    """The adb programs that may be here, by where they come from; None if one is not."""
    package = find_spec("adbutils")
    bundled = Path(package.origin).parent / "binaries/adb" if package and package.origin else None
    return {
        "path": shutil.which("adb"),
        "adbutils": str(bundled) if bundled and bundled.exists() else None,
    }


class AdbServer:
    """An adb server of one's own: its own port and home, and (where it can be told) without a look
    at USB, which takes 3 s.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.port = program, free_port()
        folder.mkdir(exist_ok=True)
        plain = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ADB_", "ANDROID_"))
        }
        self._env = plain | {
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "ADB_USB": "0",
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "0",
        }

    def __call__(
        self, *arguments: str, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the client."""
        command = [self.program, "-P", str(self.port), *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, timeout=timeout_s, env=self._env
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        with subprocess.Popen(
            [self.program, "-P", str(self.port), "nodaemon", "server"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._env,
        ) as process:
            try:
                assert soon(self._answers), f"{self.program} did not start a server"
                yield
            finally:
                process.kill()

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def state(self, serial: str) -> str:
        """The state that it lists for a phone; nothing if it does not list it."""
        lines = (line.split() for line in self("devices").stdout.decode().splitlines()[1:])
        return next((fields[1] for fields in lines if fields and fields[0] == serial), "")

    def connect(self, serial: str, state: str = "device") -> None:
        self("connect", serial)
        assert soon(lambda: self.state(serial) == state), (
            f"{self.program} sees {serial} as {self.state(serial)!r}"
        )
