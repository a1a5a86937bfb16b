"""A damaged record is named and left out; all others are reported, exported and listed."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hwbench.errors import SchemaError
from hwbench.lookup_tables.repository import list_tables
from hwbench.report import _leave_out_unusable, make_report
from hwbench.report.contents import read
from hwbench.store import MEASUREMENT, DamagedRecord, open_store
from tests.support.cli_support import hwb

__all__ = ["hwb"]


def with_leaves_replaced(value: object, leaf: object) -> object:
    """The same structure with other numbers and texts."""
    if isinstance(value, dict):
        return {name: with_leaves_replaced(member, leaf) for name, member in value.items()}
    if isinstance(value, list):
        return [with_leaves_replaced(member, leaf) for member in value]
    return leaf


def without_half(value: dict) -> dict:
    names = sorted(value)
    return {name: value[name] for name in names[::2]}


UNREADABLE: dict[str, Callable[[str], object]] = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "a number": lambda text: "7",
    "no text": lambda text: b"\xff\xfe\x00{}",
    "a name twice": lambda text: text.replace("{", '{"schema": 1, "schema": 1, ', 1),
    "beyond numbers": lambda text: text.replace("{", '{"more": 1e999, ', 1),
}
"""Damage after which no record of any kind can be read."""
SUSPECT: dict[str, Callable[[str], object]] = {
    "nothing in it": lambda text: "{}",
    "half of it": lambda text: json.dumps(without_half(json.loads(text))),
    "lists everywhere": lambda text: json.dumps(with_leaves_replaced(json.loads(text), [])),
    "huge numbers": lambda text: json.dumps(with_leaves_replaced(json.loads(text), 10**400)),
}
"""Damage that some kinds of records, whose readers ask for little, may survive."""


def damage(url: str, change: Callable[[str], object]) -> set[tuple[str, str]]:
    """Change the first record of every kind behind the store's back; returns their kinds and ids."""
    changed = set()
    with closing(sqlite3.connect(url)) as connection, connection:
        rows = [(MEASUREMENT, "hwbench_measurements", "")]
        kinds = connection.execute("SELECT DISTINCT kind FROM hwbench_records").fetchall()
        rows += [(kind, "hwbench_records", f"WHERE kind = '{kind}'") for (kind,) in kinds]
        for kind, table, where in rows:
            record_id, text = connection.execute(
                f"SELECT id, record FROM {table} {where} ORDER BY id"
            ).fetchone()
            connection.execute(
                f"UPDATE {table} SET record = ? WHERE id = ?",
                (change(text), record_id),
            )
            changed.add((kind, record_id))
    return changed


@pytest.fixture
def copy(url, tmp_path) -> str:
    """A store of its own with records of all kinds."""
    with closing(sqlite3.connect(url)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return str(shutil.copy(url, tmp_path / "copy.db"))


def lines_of(copy: str) -> tuple[set[tuple[str, str]], list[DamagedRecord]]:
    """Kinds and ids of the records that are exported, and those that are not."""
    text, damaged = io.StringIO(), []
    with open_store(copy) as store:
        store.export(text, damaged)
    lines = [json.loads(line) for line in text.getvalue().splitlines()]
    return {(line["kind"], line["id"]) for line in lines}, damaged


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
def test_all_but_the_unreadable_is_reported_exported_and_listed(copy, change):
    before, none = lines_of(copy)
    assert none == []
    changed = damage(copy, change)
    after, damaged = lines_of(copy)
    assert {(record.kind, record.id) for record in damaged} == changed
    assert after == before - changed
    made = make_report(store=copy)
    reported = {(record.kind, record.id) for record in made.damaged}
    assert reported <= changed
    assert {kind for kind, _ in reported} >= {MEASUREMENT, "comparison", "search", "search_trial"}
    assert made.contents.measurements
    listed: list[DamagedRecord] = []
    with open_store(copy) as store:
        list_tables(store, listed)
        assert [record.kind for record in listed] == ["lookup_table"]
        for kind, record_id in before - changed:
            if kind == MEASUREMENT:
                store.get(record_id)
        for kind, record_id in changed:
            if kind == MEASUREMENT:
                with pytest.raises(SchemaError):
                    store.get(record_id)


@pytest.mark.parametrize("change", SUSPECT.values(), ids=SUSPECT)
def test_what_is_suspect_never_blocks_the_rest(copy, change):
    changed = damage(copy, change)
    made = make_report(store=copy)
    assert MEASUREMENT in {record.kind for record in made.damaged}
    assert all("\n" not in str(record) for record in made.damaged)
    assert len(made.contents.measurements) >= 4
    with open_store(copy) as store:
        list_tables(store, [])
    exported, damaged = lines_of(copy)
    assert exported
    assert {(record.kind, record.id) for record in damaged} <= changed


def test_nothing_usable_is_left_out(url):
    damaged: list[DamagedRecord] = []
    with open_store(url) as store:
        contents = read(store)
    assert contents.ceilings
    assert _leave_out_unusable(contents, damaged) == contents
    assert damaged == []


@pytest.mark.parametrize(
    "words", [("report", "-o", "page.html"), ("store", "export", "all.jsonl"), ("table", "list")]
)
def test_commands_name_what_they_leave_out(hwb, copy, words):
    damage(copy, UNREADABLE["cut off"])
    outcome = hwb(*words, "--store", copy)
    assert outcome.code == 2
    assert outcome.out
    assert "is damaged and left out" in outcome.err
    assert all(line.startswith("hwbench: ") for line in outcome.err.splitlines())
    for name in words[2:]:
        assert Path(name).stat().st_size > 0
    assert hwb("store", "list", "--store", copy).code == 0
