"""Stores of both kinds, each empty; a PostgreSQL server runs once for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwbench.store import Store, open_store
from tests.store.postgresql import Server, missing
from tests.store.records import MEASURED, OTHERS, begun, measurement
from tests.support.cli_support import CommandLine

KINDS = ("sqlite", "postgresql")


@pytest.fixture(autouse=True)
def _own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("HWBENCH_STORE", raising=False)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    running = Server()
    yield running
    running.remove()


@pytest.fixture
def new_address(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Gives the address of a new, empty store of a kind."""
    made: dict[str, Server | None] = {}

    def address(kind: str) -> str:
        server: Server | None = request.getfixturevalue("server") if kind == "postgresql" else None
        name = str(tmp_path / f"store{len(made)}.db") if server is None else server.database()
        made[name] = server
        return name

    yield address
    for name, server in made.items():
        if server is not None:
            server.empty(name)


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, new_address: Callable[[str], str]) -> str:
    """The address of an empty store, once for each kind."""
    return new_address(request.param)


@pytest.fixture
def shared(new_address: Callable[[str], str]) -> str:
    """The address of an empty store on the server."""
    return new_address("postgresql")


@pytest.fixture
def local(tmp_path: Path) -> str:
    """The store of this computer; nothing is there yet."""
    (tmp_path / "data" / "hwbench").mkdir(parents=True)
    return str(tmp_path / "data" / "hwbench" / "store.db")


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    with open_store(address) as opened:
        yield opened


@pytest.fixture
def hwb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return CommandLine(tmp_path, capsys)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with records of several kinds, more than travel at once."""
    path = tmp_path_factory.mktemp("filled") / "store.db"
    with open_store(str(path)) as store:
        for number in range(MEASURED - 1):
            store.save(
                measurement(id=f"m{number}", started_utc=f"2024-01-01T00:00:{number:02}+00:00")
            )
        store.begin(begun(measurement(id="unfinished")))
        for number in range(OTHERS):
            store.save_record(
                "table_build" if number == 0 else "free", {"forget": True, "number": number}
            )
    return path


@pytest.fixture
def source(filled: Path, new_address: Callable[[str], str]) -> str:
    """The store of this computer: a copy of the filled one."""
    return str(shutil.copy(filled, new_address("sqlite")))
