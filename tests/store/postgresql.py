"""A PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket, as a user without
rights.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

USER, PASSWORD = "tester", "s3cret/w0rd"
SETTINGS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "deadlock_timeout=50ms")


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL here."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
    )
    return found[-1].parent if found else None


def missing() -> str | None:
    """What keeps a server from being started."""
    if binaries() is None:
        return "needs PostgreSQL: apt-get install postgresql"
    if shutil.which("setpriv") is None:
        return "needs setpriv: apt-get install util-linux"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "needs psycopg: pip install 'hwbench-latency[lab]'"
    return None


class Server:
    """A server; it ends with the test process, however that ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hwbench-pg-", dir="/tmp"))
        self._bin = binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._free: list[str] = []
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self.folder, secret):
                shutil.chown(path, _unprivileged().pw_uid, _unprivileged().pw_gid)
        access = ("-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}")
        self._run("initdb", "-D", self.data, *access, "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        """Returns when it answers."""
        settings = [word for setting in SETTINGS for word in ("-c", setting)]
        argv = self._argv("postgres", "-D", self.data, "-k", str(self.folder), *settings)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not start within a minute"
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends every session, SIGQUIT does not even say good-bye."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def database(self, locale: str | None = None) -> str:
        """The URL of an empty database, its texts ordered as in a language."""
        if self._free and locale is None:
            return self._free.pop()
        self._databases += 1
        name = f"store{self._databases}"
        language = (
            f" TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE '{locale}'" if locale else ""
        )
        self.execute(f"CREATE DATABASE {name}{language}", "postgres")
        return self.url(name)

    def empty(self, url: str) -> None:
        """Make a database ready for another test, which is quicker than a new one."""
        if self._process is None:
            self.start()
        name = url.partition("?")[0].rpartition("/")[2]
        self.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            "postgres",
        )
        self.execute("DROP SCHEMA public CASCADE", name)
        self.execute("CREATE SCHEMA public", name)
        self._free.append(url)

    def url(self, database: str, password: str = "s3cret%2Fw0rd") -> str:
        return f"postgresql+psycopg://{USER}:{password}@/{database}?host={self.folder}"

    def execute(self, statement: str, database: str) -> list[Any]:
        """Run one statement beside the code under test."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def connect(self, database: str) -> Any:
        import psycopg

        return psycopg.connect(
            host=str(self.folder), user=USER, password=PASSWORD, dbname=database, autocommit=True
        )

    def _answers(self) -> bool:
        import psycopg

        try:
            self.execute("SELECT 1", "postgres")
        except psycopg.OperationalError:
            return False
        return True

    def _argv(self, program: str, *arguments: str) -> list[str]:
        assert self._bin is not None
        user = _unprivileged()
        drop = (
            [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            if os.geteuid() == 0
            else []
        )
        return ["setpriv", "--pdeathsig=INT", *drop, str(self._bin / program), *arguments]

    def _run(self, *argv: str) -> None:
        done = subprocess.run(
            self._argv(*argv),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]


def _unprivileged() -> pwd.struct_passwd:
    """Whom the server runs as: it refuses to run as root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("neither a user postgres nor nobody")
