"""When a shared store goes away the local one takes what was measured, until a sync.

A server that restarts or a cable that is pulled ends a transaction as a whole. What it held, and
for a measurement in progress all that came before, is then written to the store of this computer;
the error says so. Ids stay the same, so that pushing it up later doubles nothing, even where only
the server's answer was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from hwbench.errors import Call, HwbenchError
from hwbench.store.address import local_address

T = TypeVar("T")
Store = TypeVar("Store")


class Rescue(Generic[Store]):
    """Remembers how each unfinished record came about, to do it again in the local store.

    Args:
        shared: URL of the shared store, without secrets.
        open_local: Opens the store at an address.
    """

    def __init__(
        self, shared: str, open_local: Callable[[str], AbstractContextManager[Store]]
    ) -> None:
        self._shared, self._open_local = shared, open_local
        self._steps: dict[str, list[Callable[[Store], object]]] = {}

    def attempt(
        self,
        work: Callable[[], T],
        record_id: str,
        step: Callable[[Store], object],
        *,
        whole: bool,
        last: bool,
    ) -> T:
        """Write to the shared store, and on its failure to the local one.

        Args:
            work: Writes to the shared store.
            record_id: What is written.
            step: The same for the local store.
            whole: It makes all earlier steps of the record superfluous.
            last: No other step follows.

        Raises:
            HwbenchError: What `work` raised; where the database failed, a note says where the
                record is now.
        """
        if whole:
            self._steps.pop(record_id, None)
        try:
            done = work()
        except HwbenchError as error:
            if _by_database(error):
                self._rescue([*self._steps.get(record_id, ()), step], error)
            raise
        if last:
            self._steps.pop(record_id, None)
        else:
            self._steps.setdefault(record_id, []).append(step)
        return done

    def _rescue(self, steps: Sequence[Callable[[Store], object]], error: HwbenchError) -> None:
        """Do all steps in the local store, and let the error say how it went."""
        try:
            address = local_address()
            with self._open_local(address) as local:
                for step in steps:
                    step(local)
        except HwbenchError as local_error:
            error.add_note(f"the local store did not take it either: {local_error}")
            return
        error.add_note(f"what was measured is kept in {address}")
        stores = {"source": address, "target": self._shared}
        error.add_remedy(Call("sync_store", stores, purpose="when the shared store is back"))


def _by_database(error: HwbenchError) -> bool:
    import sqlalchemy as sa

    return isinstance(error.__cause__, sa.exc.DBAPIError)
