"""A transfer that is killed, and several at once."""

from __future__ import annotations

import pytest

from hwbench.store import open_store
from hwbench.workflows.sync_store import sync_store
from tests.store.children import running, sync, sync_and_say, together
from tests.store.records import TOTAL, everything


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_killed_transfer_goes_on_where_it_stopped(source: str, address: str, parts: int) -> None:
    """It is killed while it works on the part after those that are through."""
    done = 0
    with running(sync_and_say, source, address) as (process, pipe):
        for number in range(parts):
            done = pipe.recv()
            if number < parts - 1:
                pipe.send("go on")
        if parts:
            pipe.send("go on")
        process.kill()
    with open_store(address) as store:
        kept = len(store.keys())
        for row in store.list():
            assert len(store.get(row.id).series.samples_s) == row.samples
    assert kept >= done
    again = sync_store(address, source)
    assert (again.new.total(), again.known, again.refused) == (TOTAL - kept, kept, [])
    assert everything(address) == everything(source)


def test_four_at_once_bring_everything_once(source: str, address: str) -> None:
    brought = together(sync, [(source, address)] * 4)
    assert sum(new for new, _ in brought) == TOTAL
    assert all(new + known == TOTAL for new, known in brought)
    assert everything(address) == everything(source)
