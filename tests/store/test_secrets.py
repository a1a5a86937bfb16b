"""Passwords are in no message, no log, no record and no file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import sqlalchemy as sa

from hwbench.cli.options import Keeping
from hwbench.errors import HwbenchError, StoreUnavailableError, UsageError
from hwbench.store import open_store, redacted
from tests.store.postgresql import PASSWORD, Server
from tests.store.records import measurement
from tests.support.cli_support import CommandLine

SECRET = "hunter2xyz"
WRONG = [
    f"postgresql://me:{SECRET}@127.0.0.1:1/db?connect_timeout=1",
    f"postgresql://127.0.0.1:1/db?password={SECRET}&connect_timeout=1",
    f"postgresql://me@127.0.0.1:1/db?sslpassword={SECRET}&connect_timeout=1",
    f"postgresql://me:with@{SECRET}@127.0.0.1/db",
    f"postgresql://me:{SECRET}@host:port/db",
    f"postgresql://me:x@y:{SECRET}@host/db",
    f"mysql://me:{SECRET}@host/db",
    f"nosuch://me:{SECRET}@host/db",
    f"postgresql://me:{SECRET}@127.0.0.1:1/db?nosuch_parameter=1",
    f"postgresql://me:{SECRET}@/db?host=/nowhere",
]


@pytest.mark.parametrize("address", WRONG)
def test_errors_do_not_repeat_them(
    address: str, hwb: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(HwbenchError) as caught:
            open_store(address)
        assert len(str(caught.value).splitlines()) == 1
        for words in (("store", "list"), ("store", "list", "-v"), ("table", "list", "-v")):
            found = hwb(*words, "--store", address)
            assert found.code == 2
            assert SECRET not in str(caught.value) + found.out + found.err + caplog.text + redacted(
                address
            )


def test_a_server_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(
        StoreUnavailableError,
        match=r"postgresql\+psycopg://me:\*\*\*@127\.0\.0\.1:1/db.* is away: .*push it later",
    ):
        open_store(WRONG[0])


def test_a_wrong_password_is_told(shared: str, server: Server) -> None:
    with pytest.raises(StoreUnavailableError, match="password authentication failed") as caught:
        open_store(server.url(sa.make_url(shared).database or "", SECRET))
    assert SECRET not in str(caught.value)


def test_what_is_shown_and_kept(shared: str, hwb: CommandLine, tmp_path: Path) -> None:
    with open_store(shared) as store:
        store.save(measurement())
        shown = store.url + repr(store._engine)
    for words in (
        ("list",),
        ("list", "--json", "-"),
        ("show", "0123"),
        ("export", str(tmp_path / "all.jsonl")),
    ):
        found = hwb("store", *words, "--store", shared)
        assert found.code == 0, found.err
        shown += found.out + found.err
    with open_store(str(tmp_path / "local.db")) as local:
        local.save(measurement(id="other"))
    for words in ((), ("--json", "-")):
        found = hwb("store", "sync", "--from", str(tmp_path / "local.db"), "--to", shared, *words)
        assert found.code == 0, found.err
        shown += found.out + found.err
    shown += (tmp_path / "all.jsonl").read_text() + Keeping(store=shared).show("0123")
    assert "tester:***@" in shown
    for secret in (PASSWORD, PASSWORD.replace("/", "%2F")):
        assert secret not in shown


def test_other_addresses_stay_as_they_are() -> None:
    for address in ("store.db", "sqlite:///a b.db", "postgresql+psycopg://team@host/hwbench"):
        assert redacted(address) == address


def test_an_at_sign_in_a_password_is_explained() -> None:
    with pytest.raises(UsageError, match="write one in a password as %40"):
        open_store("postgresql://me:a@b@host/db")
