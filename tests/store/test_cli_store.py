"""`hwbench store`, and the other commands, on either kind of store."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwbench.records.measurement import Measurement
from hwbench.store import open_store
from tests.store.postgresql import Server
from tests.store.records import change, measurement
from tests.support.cli_support import CommandLine
from tests.support.models import conv_net

VIRTUAL = ("--device", "virtual", "--budget", "5", "--no-layers")


@pytest.fixture(params=["option", "environment"])
def where(
    address: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Two ways to say which store."""
    if request.param == "option":
        return ("--store", address)
    monkeypatch.setenv("HWBENCH_STORE", address)
    return ()


def test_profile_list_show_and_export(hwb: CommandLine, where: tuple[str, ...]) -> None:
    (hwb.folder / "net.onnx").write_bytes(conv_net((64, 64)))
    assert hwb("profile", "net.onnx", *VIRTUAL, *where).code == 0
    (row,) = hwb("store", "list", "--json", "-", *where).json["measurements"]
    assert (row["model"], row["complete"]) == ("net.onnx", True)
    assert "net.onnx" in hwb("store", "list", *where).out
    record = Measurement.from_dict(hwb("store", "show", row["id"][:8], "--json", "-", *where).json)
    assert record.series.samples_s
    assert hwb("store", "export", "all.jsonl", *where).out == "1 records written to all.jsonl\n"
    assert "no lookup table" in hwb("table", "show", "nothing", *where).err


def test_sync_says_what_it_did(hwb: CommandLine, address: str, local: str) -> None:
    with open_store(local) as store:
        store.save(measurement())
        store.save_record("free", {})
    found = hwb("store", "sync", "--to", address)
    assert found.code == 0
    assert found.out.startswith("2 new, 0 there already\n")
    document = hwb("store", "sync", "--to", address, "--from", local, "--json", "-").json
    assert (document["new"], document["known"], document["updated"], document["refused"]) == (
        {},
        2,
        0,
        [],
    )
    assert document["from"].endswith("store.db")


def test_sync_to_the_store_of_the_environment(
    hwb: CommandLine, shared: str, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the shared store in `$HWBENCH_STORE`, the source is what the server did not take."""
    monkeypatch.setenv("HWBENCH_STORE", shared)
    with open_store(local) as store:
        store.save(measurement())
    assert hwb("store", "sync").out.startswith("1 new")
    with open_store() as store:
        assert store.get("0123abc") == measurement()


def test_sync_names_what_it_left_out(hwb: CommandLine, address: str, local: str) -> None:
    with open_store(local) as store:
        store.save(measurement())
        store.save_record("free", {})
        change(store, "UPDATE hwbench_measurements SET record = '['")
    found = hwb("store", "sync", "--to", address)
    assert found.code == 2
    assert "measurement 0123abc" in found.out
    assert found.err.startswith(
        "hwbench: 1 record left out: measurement 0123abc (measurement 0123abc in "
    )
    assert found.err.count("\n") == 1
    (refused,) = hwb("store", "sync", "--to", address, "--json", "-").json["refused"]
    assert (refused["kind"], refused["id"]) == ("measurement", "0123abc")


def test_a_lost_server_leaves_one_line_that_says_what_to_do(
    hwb: CommandLine, shared: str, server: Server, local: str
) -> None:
    server.stop()
    error = hwb("store", "list", "--store", shared).error
    server.start()
    assert "is away: " in error
    assert error.endswith("push it later: hwbench store sync")
    assert not Path(local).exists()
