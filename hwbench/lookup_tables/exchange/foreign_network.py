"""One network as another tool measured it: its layers, and the whole of it.

It is kept in the store as it was read, with all its averages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

from hwbench.errors import Argument, SchemaError
from hwbench.lookup_tables.limits import MAX_COUNT, check_key, is_latency
from hwbench.records.codec import from_plain, to_plain, written_as_row
from hwbench.records.layer_key import LayerKey
from hwbench.records.untrusted import MAX_SECONDS, MIN_SECONDS

MAX_LAYERS = 10**6
"""Most layers of one network, and most calls of them."""


@written_as_row
@dataclass(frozen=True, slots=True)
class ForeignEntry:
    """Latency of one layer as another tool measured it in one network.

    Attributes:
        key: The layer.
        samples_s: One mean latency per call, seconds, for every row with this key in every log;
            never empty.
        calls: Calls per inference, over all layers of the network that share the key.
    """

    key: LayerKey
    samples_s: tuple[float, ...]
    calls: int

    @property
    def median_s(self) -> float:
        """Median latency of one call, seconds."""
        return median(self.samples_s)

    @property
    def n(self) -> int:
        """Averages behind the median."""
        return len(self.samples_s)


@dataclass(frozen=True, slots=True)
class ForeignNetwork:
    """One network as another tool measured it.

    Attributes:
        model: As the user gave it; empty for a list of layers that is of no network.
        format: What was read: `tflite-log`, ...
        files: Where from.
        entries: Its layers.
        layers: How many layers it has.
        whole_s: Latency of the network end to end, seconds; None where no file tells.
        target: The hardware, for people.
        runtime: Inference engine, as far as the files tell.
        threads: Threads of the runtime.
        groups_s: Seconds of what was measured of several layers together, which have no entry.
    """

    model: str
    format: str
    files: tuple[str, ...]
    entries: tuple[ForeignEntry, ...]
    layers: int
    whole_s: float | None
    target: str
    runtime: str
    threads: int
    groups_s: float = 0.0

    def __post_init__(self) -> None:
        sound = (
            1 <= self.layers <= MAX_LAYERS
            and 1 <= self.threads <= MAX_COUNT
            and (self.whole_s is None or MIN_SECONDS <= self.whole_s <= MAX_SECONDS)
            and (self.groups_s == 0 or MIN_SECONDS <= self.groups_s <= MAX_SECONDS)
            and all(map(_is_possible_entry, self.entries))
            and sum(entry.calls for entry in self.entries) <= MAX_LAYERS
        )
        if not sound:
            raise SchemaError(
                f"{', '.join(self.files)}: numbers of layers, threads, calls or seconds are out of"
                " bounds, so this is no network that was measured"
            )
        for entry in self.entries:
            check_key(entry.key)

    @property
    def layers_s(self) -> float:
        """Sum of its layers that have an entry, seconds."""
        return sum(entry.median_s * entry.calls for entry in self.entries)

    @property
    def rows_s(self) -> float:
        """Sum of all that was measured of its layers, those measured together too, seconds."""
        return self.layers_s + self.groups_s

    @property
    def keys(self) -> list[LayerKey]:
        """A key for every call of a layer that has a latency."""
        return [entry.key for entry in self.entries for _ in range(entry.calls)]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; `groups_s` only where there are any, as older ones have none."""
        plain = to_plain(self)
        if not self.groups_s:
            del plain["groups_s"]
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s form.

        Raises:
            SchemaError: It is damaged.
        """
        again = Argument("name", change="another", purpose="import it again")
        return from_plain(cls, data, "imported network", again)


def _is_possible_entry(entry: ForeignEntry) -> bool:
    return entry.calls >= 1 and len(entry.samples_s) > 0 and all(map(is_latency, entry.samples_s))
