"""What was measured for tables on one device, in the store.

Every network is kept at once, so that a killed build loses one at most.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

from hwbench.errors import SchemaError
from hwbench.lookup_tables.making.fit import Campaign
from hwbench.lookup_tables.making.networks import NetworkSample
from hwbench.lookup_tables.metadata import Source
from hwbench.records.device import DeviceInfo
from hwbench.records.measurement import Settings
from hwbench.store import Store

RECORD = "table_build"
SCHEMA = 1


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

    Raises:
        SchemaError: A record is damaged.
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
        """Take over what earlier runs measured on this device."""
        found: dict[str, tuple[Source, list[str], list[NetworkSample]]] = {}
        for record_id, record in store.records(RECORD, holding=self._device).items():
            if record.get("device") != self._device:
                continue
            if record.get("forget"):
                found.clear()
                continue
            source, ids, samples = found.setdefault(
                str(record.get("campaign")), (_source(record), [], [])
            )
            ids.append(record_id)
            samples.append(NetworkSample.from_dict(record))
        if self._campaign in found:
            _, self._records, self.samples = found.pop(self._campaign)
        for source, ids, samples in found.values():
            count = sum(sample.number >= 0 for sample in samples)
            self.others.append(
                Campaign(replace(source, networks=count, records=tuple(ids)), tuple(samples))
            )


def _source(record: dict[str, Any]) -> Source:
    try:
        return Source(**{**record["source"], "records": ()})
    except (KeyError, TypeError) as error:
        raise SchemaError(f"damaged record of a table build: {error!r}") from error


def _digest(*facts: object) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
