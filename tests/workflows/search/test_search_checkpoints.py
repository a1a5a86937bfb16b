"""Checkpoints are whole or not there, and what cannot be read costs no more than time."""

from __future__ import annotations

import logging
import os

import pytest
import torch

from hwbench.workflows.search.checkpoints import KEPT_S, FileCheckpoint


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_state_is_kept_replaced_and_removed():
    checkpoint = FileCheckpoint(["search", "network"])
    assert checkpoint.load() is None
    for step in (1, 2):
        checkpoint.save({"step": step, "weights": {"a": torch.ones(3)}})
    again = FileCheckpoint(["search", "network"])
    state = again.load()
    assert state["step"] == 2
    torch.testing.assert_close(state["weights"]["a"], torch.ones(3))
    assert FileCheckpoint(["search", "other"]).load() is None
    again.remove()
    again.remove()
    assert checkpoint.load() is None
    assert list(checkpoint.path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_state_is_left_out_and_said(damage, caplog):
    checkpoint = FileCheckpoint(["search"])
    checkpoint.save({"step": 1})
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load() is None
    assert "the training begins anew" in caplog.text


def test_states_that_nobody_came_back_for_are_removed():
    old, new = FileCheckpoint(["old"]), FileCheckpoint(["new"])
    old.save({"step": 1})
    then = old.path.stat().st_mtime - KEPT_S - 60
    os.utime(old.path, (then, then))
    new.save({"step": 1})
    assert [path.name for path in new.path.parent.iterdir()] == [new.path.name]


def test_a_place_that_cannot_be_written_costs_the_checkpoint_alone(tmp_path, caplog):
    checkpoint = FileCheckpoint(["search"])
    checkpoint.path.parent.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.path.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        checkpoint.save({"step": 1})
    assert "the training is not kept" in caplog.text
