from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from hwbench.devices.virtual.device import SessionOffset, White
from hwbench.errors import MissingEntryError
from hwbench.lookup_tables.making.build import build
from hwbench.lookup_tables.making.fit import LEAST_SD, Campaign, fit
from hwbench.lookup_tables.making.journal import RECORD
from hwbench.lookup_tables.making.networks import NetworkSample, least_disturbed, paired_ratio
from hwbench.lookup_tables.metadata import Metadata
from hwbench.store import open_store
from tests.support.table_support import LAW, PLAN, SETTINGS, built, device, structure, workload


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A noisy campaign's networks."""
    with open_store(str(tmp_path_factory.mktemp("fit") / "store.db")) as store, device() as opened:
        table = build(opened, workload(), SETTINGS, plan=PLAN, store=store).table
        samples = tuple(
            NetworkSample.from_dict(record) for record in store.records(RECORD).values()
        )
    return Campaign(table.provenance.sources[0], samples)


def error(table) -> float:
    whole_s = table.predict(structure().keys(structure().widths)).latency_s
    return whole_s / LAW.network_s(structure().keys(structure().widths)) - 1


def slowed(values_s: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return tuple(factor * value_s for value_s in values_s)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: replace(s, anchor_s=slowed(s.anchor_s, 2.0)),
        lambda s: replace(s, whole_s=slowed(s.whole_s, 1.4)),
        lambda s: replace(s, beside_s=1.5 * s.beside_s),
    ],
    ids=["anchor", "network", "profile"],
)
def test_disturbed_networks_are_left_out_and_counted(campaign, spoil):
    samples = list(campaign.samples)
    for index in (5, 11, 23):
        samples[index] = spoil(samples[index])
    fitted = fit([Campaign(campaign.source, tuple(samples))], built().table.provenance)
    assert fitted.table.provenance.sources[0].disturbed == campaign.source.disturbed + 3
    assert abs(error(fitted.table)) < 0.02
    assert np.abs(fitted.errors).max() < 0.1


def test_nothing_is_left_out_of_a_quiet_campaign(campaign):
    assert campaign.source.disturbed == 0
    assert fit([campaign], built().table.provenance).table.provenance.sources[0].disturbed == 0


def test_networks_round_trip_as_plain_types(campaign):
    assert [NetworkSample.from_dict(sample.to_dict()) for sample in campaign.samples] == list(
        campaign.samples
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "least", "most"),
    [((White(0.01),), LEAST_SD, 0.008), ((White(0.01), SessionOffset(0.01)), 0.005, 0.02)],
)
def test_the_shared_deviation_is_that_of_sessions(noise, least, most):
    with device() as opened:
        opened._noise = noise
        opened._start()
        sd = build(opened, workload(), SETTINGS, plan=PLAN).table.calibration.shared_sd
    assert least <= sd < most


def test_calm_blocks_are_those_that_took_least():
    anchor_s, whole_s = (10.0, 30.0, 10.2, 10.1, 10.0, 25.0), (5.0, 5.0, 9.0, 5.05, 5.1, 5.0)
    assert set(least_disturbed(anchor_s, whole_s)) == {0, 3, 4}
    assert paired_ratio(anchor_s, whole_s) == pytest.approx(0.5, rel=0.02)


def test_a_table_whose_layers_explain_nothing_answers_nothing(campaign):
    same = [
        replace(sample, whole_s=sample.anchor_s, beside_s=sample.level_s)
        for sample in campaign.samples
    ]
    fitted = fit([Campaign(campaign.source, tuple(same))], built().table.provenance)
    assert fitted.rmspe < 0.1  # a constant is what there is
    with pytest.raises(MissingEntryError):
        fitted.table.predict(structure().keys(structure().widths))


def cached(sample: NetworkSample) -> NetworkSample:
    """The network as on a device where small ones stay in a cache, large ones never do, and the
    step between is smooth.
    """
    factor = 1 - 0.5 / (1 + math.exp(4 * (math.log(sample.ratio) + 0.9)))
    layers = tuple(replace(layer, latency_s=factor * layer.latency_s) for layer in sample.layers)
    return replace(
        sample,
        whole_s=slowed(sample.whole_s, factor),
        beside_s=factor * sample.beside_s,
        layers=layers,
    )


def test_networks_that_stay_in_a_cache_bend_the_way_layers_add_up(campaign, monkeypatch):
    plain = fit([campaign], built().table.provenance)
    bent = Campaign(campaign.source, tuple(cached(sample) for sample in campaign.samples))
    fitted = fit([bent], built().table.provenance)
    assert plain.table.calibration.bend == 0
    assert fitted.table.calibration.bend < 0
    monkeypatch.setattr("hwbench.lookup_tables.making.fit.BENDS", (0.0,))
    assert fitted.rmspe < 0.8 * fit([bent], built().table.provenance).rmspe
    restored = Metadata.from_dict(json.loads(json.dumps(fitted.table.metadata.to_dict())))
    assert restored == fitted.table.metadata
    sums_s = np.geomspace(1e-6, 1.0, 1000)  # far beyond the networks on both sides
    assert (np.diff(fitted.table.calibration.whole_s(sums_s, 20)) > 0).all()
