"""Tables of what other tools measured.

Layers of whole networks are merged by key, and how they add up to those networks is fitted.

A network is kept as it was read, with all its averages; the table is made anew from all networks of
one name, so that one more improves what the others say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain
from statistics import median

import numpy as np

from hwbench.errors import Argument, MissingEntryError, UsageError
from hwbench.lookup_tables.exchange.foreign_network import ForeignEntry, ForeignNetwork
from hwbench.lookup_tables.metadata import Calibration, Entry, Metadata, Provenance, Source
from hwbench.lookup_tables.table import IMPORTED, LookupTable
from hwbench.network.widths import DEFAULT_STEP
from hwbench.records.device import DeviceInfo
from hwbench.records.layer_key import LayerKey
from hwbench.version import __version__

LONE_SD = 0.04
"""Relative error of an entry that rests on one average.

So much does the same layer differ between two networks on the Pixel 1 (root mean square, see
results/pixel1).
"""
LEAST_SD = 0.005
"""No entry is surer than this, however well repeats agree.

They share the phone, its state and the tool's rounding.
"""


def table_of(
    networks: Sequence[ForeignNetwork],
    name: str,
    note: str = "",
    version: str = __version__,
    created_utc: str | None = None,
) -> LookupTable:
    """The table of networks that another tool measured on one device.

    Args:
        networks: At least one.
        name: What the table is found by; stands for the address of the device.
        note: Where the files came from, for people, beside their names.
        version: Of hwbench.
        created_utc: When the table was made, ISO 8601 in UTC; None for now.

    Raises:
        UsageError: They were measured on different hardware, with different runtimes or numbers of
            threads.
    """
    first = networks[0]
    for other in networks[1:]:
        for what in ("target", "runtime", "threads"):
            mine, yours = getattr(first, what), getattr(other, what)
            if mine != yours:
                raise UsageError(
                    f"{other.files[0]} was measured with {what} {yours!r}, but the table {name!r}"
                    f" with {mine!r}",
                    Argument("name", change="another", purpose="import it by itself"),
                )
    details = ((IMPORTED, first.format),)
    device = DeviceInfo(name, first.target, f"imported:{name}", first.runtime, details)
    sources = tuple(_source_of(network) for network in networks if network.model)
    files = ", ".join(dict.fromkeys(chain.from_iterable(network.files for network in networks)))
    text = "; ".join(filter(None, (note, f"read from {files}")))
    created_utc = created_utc or datetime.now(UTC).isoformat()
    made = Provenance(device, first.threads, created_utc, version, sources, text)
    table = _fit_table(networks, made)
    errors = _cross_validate(networks, made)
    if not errors:
        return table
    return replace(
        table,
        metadata=Metadata(
            made, replace(table.calibration, shared_sd=_rms(errors), networks=len(errors))
        ),
    )


def _fit_table(networks: Sequence[ForeignNetwork], made: Provenance) -> LookupTable:
    """Entries and how they add up, not how well.

    What the layers leave of whole networks is spread over the layers. Where they are more than the
    whole, because profiling slows layers down, all are scaled down.
    """
    told = [
        (network.whole_s, network)
        for network in networks
        if network.whole_s is not None and network.rows_s > 0
    ]
    rest_s = (
        median((whole_s - network.rows_s) / network.layers for whole_s, network in told)
        if told
        else 0.0
    )
    scale = 1.0 if rest_s >= 0 else median(whole_s / network.rows_s for whole_s, network in told)
    gathered: dict[LayerKey, list[ForeignEntry]] = {}
    for entry in chain.from_iterable(network.entries for network in networks):
        gathered.setdefault(entry.key, []).append(entry)
    entries = {key: _average_entry(found, scale) for key, found in gathered.items()}
    return LookupTable(
        entries, Metadata(made, Calibration(per_layer_s=max(rest_s, 0.0), networks=0))
    )


def _average_entry(found: Iterable[ForeignEntry], scale: float) -> Entry:
    """One entry of all averages of a key.

    The standard error of a median is 1.25 times that of a mean (Kendall and Stuart, The Advanced
    Theory of Statistics, volume 1, section 10.11); repeats are files, for layers of one file share
    its state.
    """
    found = list(found)
    values_s = np.array([value for entry in found for value in entry.samples_s])
    repeats = sum(math.ceil(entry.n / entry.calls) for entry in found)
    middle_s = float(np.median(values_s))
    if repeats < 2 or middle_s == 0:
        return Entry(middle_s * scale, LONE_SD if middle_s else 0.0, repeats)
    spread = 1.25 * float(values_s.std(ddof=1)) / middle_s / math.sqrt(repeats)
    return Entry(middle_s * scale, max(spread, LEAST_SD), repeats)


def _cross_validate(networks: Sequence[ForeignNetwork], made: Provenance) -> list[float]:
    """Log of measured over predicted latency of every network, each left out in turn.

    Networks that the others cannot answer for are skipped, and those of which not all layers have
    an entry.
    """
    errors = []
    for network in networks:
        rest = [other for other in networks if other is not network]
        if network.whole_s is None or not rest or network.groups_s:
            continue
        try:
            predicted = _fit_table(rest, made).extrapolating().predict(network.keys)
        except MissingEntryError:
            continue
        errors.append(math.log(network.whole_s / predicted.latency_s))
    return errors


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values))


def _source_of(network: ForeignNetwork) -> Source:
    identity = sha256("\n".join(map(str, network.keys)).encode()).hexdigest()
    latency_s = network.rows_s if network.whole_s is None else network.whole_s
    return Source(
        network.model,
        identity,
        latency_s,
        network.layers,
        DEFAULT_STEP,  # their networks have no step of their own
        1.0,
        networks=1,
        records=network.files,
    )
