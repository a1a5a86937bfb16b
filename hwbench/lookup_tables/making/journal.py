"""What was measured for tables on one device, in the store.

Every network is kept at once, so that a killed build loses one at most.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

from hwbench.errors import SchemaError
from hwbench.lookup_tables.limits import is_source
from hwbench.lookup_tables.making.fit import Campaign
from hwbench.lookup_tables.making.networks import NetworkSample
from hwbench.lookup_tables.metadata import Source
from hwbench.records.codec import from_plain
from hwbench.records.device import DeviceInfo
from hwbench.records.measurement import Settings
from hwbench.store import DamagedRecord, Store

logger = logging.getLogger(__name__)

RECORD = "table_build"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record: a network of a campaign and its source, or None to leave out all earlier ones."""

    campaign: str
    measured: tuple[Source, NetworkSample] | None


class BuildJournal:
    """Networks of one campaign, found again and added to.

    Those of other campaigns on the same device are found too.

    Args:
        store: None keeps and finds nothing.
        info: The device.
        settings: Threads, isolation and seed.
        source: The model and its grid.
        effort: Whatever else two runs must agree in to be one campaign.
        forget: Leave out, now and later, all that was measured on the device before.
    """

    def __init__(
        self,
        store: Store | None,
        info: DeviceInfo,
        settings: Settings,
        source: Source,
        effort: object,
        *,
        forget: bool = False,
    ) -> None:
        self._store = store
        self._device = _digest(info.target_id, info.runtime, settings.threads, settings.isolate)
        self._campaign = _digest(
            self._device, source.architecture, source.step, source.lower, settings.seed, effort
        )
        self._source = source
        self.samples: list[NetworkSample] = []
        self._records: list[str] = []
        self.others: list[Campaign] = []
        if store is not None:
            if forget:
                store.save_record(
                    RECORD, {"schema": SCHEMA, "device": self._device, "forget": True}
                )
            self._load_earlier(store)

    def keep(self, sample: NetworkSample) -> None:
        """Add a network."""
        if self._store is not None:
            facts = {
                "schema": SCHEMA,
                "device": self._device,
                "campaign": self._campaign,
                "source": asdict(self._source),
            }
            self._records.append(self._store.save_record(RECORD, facts | sample.to_dict()))
        self.samples.append(sample)

    def campaign(self, before: int) -> Campaign:
        """The networks numbered below `before`, and the anchors that came before these."""
        chosen = tuple(
            sample for sample in self.samples if max(sample.number, -1 - sample.number) < before
        )
        count = sum(sample.number >= 0 for sample in chosen)
        return Campaign(replace(self._source, networks=count, records=tuple(self._records)), chosen)

    def _load_earlier(self, store: Store) -> None:
        """Take over what earlier runs measured on this device, less what cannot be used."""
        damaged: list[DamagedRecord] = []
        entries = store.read_records(RECORD, self._read_entry, self._device, damaged)
        found: dict[str, tuple[Source, list[str], list[NetworkSample]]] = {}
        for record_id, entry in entries.items():
            if entry is None:
                continue
            if entry.measured is None:
                found.clear()
                continue
            source, sample = entry.measured
            _, ids, samples = found.setdefault(entry.campaign, (source, [], []))
            ids.append(record_id)
            samples.append(sample)
        for record in damaged:
            logger.warning("%s; what it tells is measured again where it is needed", record)
        if self._campaign in found:
            _, self._records, self.samples = found.pop(self._campaign)
        for source, ids, samples in found.values():
            count = sum(sample.number >= 0 for sample in samples)
            self.others.append(
                Campaign(replace(source, networks=count, records=tuple(ids)), tuple(samples))
            )

    def _read_entry(self, record: Mapping[str, Any]) -> _Entry | None:
        """What a record says; None for one of another device.

        Raises:
            SchemaError: It is damaged.
        """
        if record.get("device") != self._device:
            return None
        if record.get("forget"):
            return _Entry("", None)
        source = from_plain(Source, {**record["source"], "records": []}, "source of a table build")
        if not is_source(source):
            raise SchemaError("damaged source of a table build: its numbers are impossible")
        return _Entry(str(record.get("campaign")), (source, NetworkSample.from_dict(record)))


def _digest(*facts: object) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
