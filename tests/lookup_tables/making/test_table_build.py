from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwbench.devices.virtual.device import Drift, Fault, Law, Virtual, White
from hwbench.errors import DeviceLostError, UsageError
from hwbench.lookup_tables import Entry, LookupTable
from hwbench.lookup_tables.making.build import build
from hwbench.lookup_tables.making.channel_steps import channel_steps, grid_step
from hwbench.lookup_tables.making.journal import RECORD
from hwbench.lookup_tables.making.networks import Quiet, layer_samples, measure_network
from hwbench.lookup_tables.making.proposals import Grid, propose_uncertain
from hwbench.store import open_store
from tests.support.table_support import LAW, PLAN, SETTINGS, built, device, structure, workload

QUICK = replace(PLAN, first=8, batch=4, most=12)


def numbers(store) -> list[int]:
    return sorted(
        record["number"]
        for record in store.records(RECORD).values()
        if record.get("number", -1) >= 0
    )


def test_a_killed_build_goes_on_and_measures_nothing_twice(tmp_path):
    with open_store(str(tmp_path / "store.db")) as store:
        with pytest.raises(DeviceLostError), device(faults=[Fault("lost", 60)]) as failing:
            build(failing, workload(), SETTINGS, plan=QUICK, store=store)
        before = numbers(store)
        assert 0 < len(before) < QUICK.most
        seen = []
        with device() as opened:
            fitted = build(
                opened, workload(), SETTINGS, plan=QUICK, store=store, callback=seen.append
            )
        assert numbers(store) == list(range(QUICK.most))
        assert [progress.networks for progress in seen] == list(
            range(len(before) + 1, QUICK.most + 1)
        )
        with device() as opened:
            again = build(
                opened, workload(), SETTINGS, plan=QUICK, store=store, callback=seen.append
            )
        assert len(seen) == QUICK.most - len(before)
        assert again.table.entries == fitted.table.entries


def test_an_interrupted_build_proposes_what_an_undisturbed_one_does(tmp_path):
    def widths_of(store) -> list[list[int]]:
        records = sorted(store.records(RECORD).values(), key=lambda record: record["number"])
        return [record["widths"] for record in records if record["number"] >= 0]

    with open_store(str(tmp_path / "a.db")) as store, device(quiet=True) as opened:
        build(opened, workload(), SETTINGS, plan=QUICK, store=store)
        undisturbed = widths_of(store)
    with open_store(str(tmp_path / "b.db")) as store:
        with (
            pytest.raises(DeviceLostError),
            device(quiet=True, faults=[Fault("lost", 190)]) as failing,
        ):
            build(failing, workload(), SETTINGS, plan=QUICK, store=store)
        assert QUICK.first < len(widths_of(store)) < QUICK.most
        with device(quiet=True) as opened:
            build(opened, workload(), SETTINGS, plan=QUICK, store=store)
        assert widths_of(store) == undisturbed


def slow_device(slowness: float) -> Virtual:
    """One inference of the network takes `slowness` times 6 ms."""
    return Virtual(
        law=Law(
            macs_per_s=10e9 / slowness,
            bytes_per_s=20e9 / slowness,
            layer_overhead_s=20e-6 * slowness,
            network_overhead_s=10e-6 * slowness,
            channel_step=8,
        ),
        noise=(White(0.01),),
    )


@pytest.mark.parametrize(("slowness", "budget_s"), [(30, 20), (300, 120)])
def test_a_budget_bounds_a_build_of_a_slow_network(slowness, budget_s, caplog):
    with slow_device(slowness) as opened:
        settings = replace(SETTINGS, budget_s=budget_s)
        prepared = opened.prepare(workload(), settings)
        latency_s = opened.run([prepared]).values_s[0]
        begun_s = opened.time_s()
        fitted = build(opened, workload(), settings, plan=QUICK)
        took_s = opened.time_s() - begun_s
    assert fitted.table.entries
    assert took_s <= budget_s + 30 * latency_s
    assert "fewer rounds" in caplog.text


@pytest.mark.parametrize("budget_s", [1, 10])
def test_a_budget_that_no_table_fits_into_is_refused_at_once(budget_s):
    with slow_device(1000) as opened:
        with pytest.raises(UsageError, match="too few for a table") as refused:
            build(opened, workload(), replace(SETTINGS, budget_s=budget_s), plan=QUICK)
        assert opened.time_s() < 10  # prepared, and run once
    (remedy,) = refused.value.remedies
    assert remedy.name == "budget_s"
    with slow_device(1000) as opened:
        build(opened, workload(), replace(SETTINGS, budget_s=remedy.value), plan=QUICK)


def test_a_second_model_joins_the_table_of_the_device(tmp_path):
    with open_store(str(tmp_path / "store.db")) as store, device() as opened:
        build(opened, workload("zoo:resnet56"), SETTINGS, plan=QUICK, store=store)
        alone = len(numbers(store))
        plan = replace(PLAN, most=12, batch=4)  # resnet20 has no layer that resnet56 has not
        table = build(opened, workload(), SETTINGS, plan=plan, store=store).table
        assert [source.networks for source in table.provenance.sources] == [12, alone]
        assert numbers(store)[-1] < plan.first
    for name in ("zoo:resnet20", "zoo:resnet56"):
        whole = table.predict(structure(name).keys(structure(name).widths)).latency_s
        assert whole == pytest.approx(
            LAW.network_s(structure(name).keys(structure(name).widths)), rel=0.03
        )


@pytest.mark.slow
def test_what_was_measured_can_be_forgotten(tmp_path):
    with open_store(str(tmp_path / "store.db")) as store, device() as opened:
        build(opened, workload(), SETTINGS, plan=QUICK, store=store)
        for forget, expected in ((False, 1), (True, 2), (False, 2)):
            fitted = build(opened, workload(), SETTINGS, plan=QUICK, store=store, forget=forget)
            assert len(numbers(store)) == expected * QUICK.most
            assert len(fitted.table.provenance.sources) == 1


@pytest.mark.parametrize(
    "other", [{"plan": replace(QUICK, step=8)}, {"settings": replace(SETTINGS, threads=2)}]
)
def test_another_question_is_another_campaign(tmp_path, other):
    asked = {"plan": QUICK, "settings": SETTINGS} | other
    with open_store(str(tmp_path / "store.db")) as store, device() as opened:
        build(opened, workload(), SETTINGS, plan=QUICK, store=store)
        build(opened, workload(), asked["settings"], plan=asked["plan"], store=store)
        assert len(numbers(store)) == 2 * QUICK.most


def test_the_budget_ends_a_build_with_a_table():
    with device() as opened:
        fitted = build(opened, workload(), replace(SETTINGS, budget_s=4.0), plan=PLAN)
        assert opened.time_s() < 6
    assert 2 < fitted.table.provenance.sources[0].networks < PLAN.first


def test_drift_cancels():
    with device() as opened:
        opened._noise = (Drift(),)
        opened._start()
        table = build(opened, workload(), SETTINGS, plan=QUICK).table
    level = table.provenance.sources[0].latency_s
    whole = table.predict(structure().keys(structure().widths)).latency_s
    assert whole == pytest.approx(level, rel=0.01)


def test_the_whole_range_is_measured():
    table = built().table
    grid = Grid(structure().widths, PLAN.step, PLAN.lower)
    for widths in (structure().widths, grid.least):
        assert not table.predict(structure().keys(widths)).interpolated


def test_a_table_says_where_it_came_from():
    fitted = built()
    (source,) = fitted.table.provenance.sources
    assert (source.model, source.architecture) == ("zoo:resnet20", structure().architecture)
    assert (source.step, source.lower, source.layers) == (
        PLAN.step,
        PLAN.lower,
        len(structure().slots),
    )
    assert source.latency_s == pytest.approx(
        LAW.network_s(structure().keys(structure().widths)), rel=0.02
    )
    assert fitted.table.calibration.networks == source.networks == len(fitted.errors)


def test_a_device_without_layers_is_refused():
    with device() as opened:
        blind = object.__new__(type("Blind", (), {"address": "blind"}))
        with pytest.raises(UsageError, match="blind cannot time layers"):
            measure_network(blind, opened.prepare(workload(), SETTINGS), None, PLAN.effort, Quiet())


@pytest.fixture(scope="module")
def kept_records(tmp_path_factory):
    """What a build leaves in the store."""
    path = tmp_path_factory.mktemp("kept") / "store.db"
    with open_store(str(path)) as store, device() as opened:
        build(opened, workload(), SETTINGS, plan=QUICK, store=store)
        return list(store.records(RECORD).values())


def build_on(records, folder):
    """Build where earlier runs have left these records."""
    with open_store(str(folder / "store.db")) as store, device() as opened:
        for record in records:
            store.save_record(RECORD, record)
        return build(opened, workload(), SETTINGS, plan=QUICK, store=store)


def with_layers(record, change):
    return record | {"layers": [change(*layer) for layer in record["layers"]]}


UNUSABLE = {
    "rounds below 0": lambda record: record | {"whole_s": [-1.0]},
    "no rounds": lambda record: record | {"anchor_s": [], "whole_s": []},
    "rounds that do not pair": lambda record: record | {"anchor_s": record["anchor_s"][1:]},
    "no time beside": lambda record: record | {"beside_s": 0.0},
    "hardly any time beside": lambda record: record | {"beside_s": 5e-324},
    "endless rounds": lambda record: record | {"whole_s": [1e300] * len(record["anchor_s"])},
    "no layers": lambda record: record | {"layers": []},
    "layers without time": lambda record: with_layers(record, lambda key, *_: [key, 0.0, 0.0]),
    "layers below 0": lambda record: with_layers(record, lambda key, *_: [key, -1e-6, 0.1]),
    "endless deviations": lambda record: with_layers(record, lambda k, s, _: [k, s, 1e300]),
    "impossible layers": lambda record: with_layers(
        record, lambda _, *numbers: ["Linear[1x0->1x9]{}@fp32", *numbers]
    ),
    "no source": lambda record: record | {"source": {}},
    "a source of text": lambda record: record | {"source": record["source"] | {"step": "8"}},
    "no step": lambda record: record | {"source": record["source"] | {"step": 0}},
    "no number": lambda record: record | {"number": None},
}
"""What a damaged record of a build may hold."""


def test_damaged_checkpoints_are_left_out_and_measured_again(kept_records, caplog, tmp_path):
    damaged = [
        change(record) for change, record in zip(UNUSABLE.values(), kept_records * 2, strict=False)
    ]
    fitted = build_on(damaged, tmp_path)
    assert sum("is damaged and left out" in line for line in caplog.messages) == len(UNUSABLE)
    assert fitted.table.provenance.sources[0].networks >= QUICK.first
    assert fitted.rmspe < 0.05


def test_a_build_goes_on_where_the_layers_seemed_to_explain_nothing(kept_records, tmp_path):
    # All networks take equally long, whatever their layers take: those were disturbed.
    equal = [record | {"whole_s": record["anchor_s"]} for record in kept_records[:9]]
    assert build_on(equal, tmp_path).table.entries


def test_networks_are_proposed_where_no_layer_has_a_latency():
    table = built().table
    silent = {key: Entry(0.0, 0.0, entry.samples) for key, entry in table.entries.items()}
    grid = Grid(structure().widths, PLAN.step, PLAN.lower)
    proposed = propose_uncertain(
        grid, LookupTable(silent, table.metadata), structure(), PLAN.batch, (1, 2)
    )
    assert len(proposed) == PLAN.batch


@pytest.mark.slow
@pytest.mark.parametrize("networks", [1, 2])
def test_a_build_of_another_model_that_was_killed_early_stops_no_later_one(networks, tmp_path):
    with open_store(str(tmp_path / "store.db")) as store, device() as opened:
        other = PLAN.__class__(step=8, lower=0.5, first=networks, batch=2, most=networks)
        build(opened, workload("zoo:vgg16@0.25,classes=10"), SETTINGS, plan=other, store=store)
        fitted = build(opened, workload(), SETTINGS, plan=QUICK, store=store)
    assert fitted.rmspe < 0.1


@pytest.mark.parametrize("slower", [20.0, 50.0])
def test_earlier_networks_that_agree_with_nothing_are_left_out(
    kept_records, caplog, tmp_path, slower
):
    strange = [
        record | {"campaign": "another", "beside_s": record["beside_s"] * slower}
        for record in kept_records[:2]
    ]
    fitted = build_on([*kept_records, *strange], tmp_path)
    assert "agrees with nothing else" in caplog.text
    assert fitted.table.provenance.sources[0].networks >= QUICK.first


def test_rows_the_runtime_inserted_count_for_the_layer_they_serve():
    names = [slot.layer.name for slot in structure().slots]
    keys = dict(zip(names, structure().keys(structure().widths), strict=True))
    with device(quiet=True) as opened:
        profile = opened.profile_layers(opened.prepare(workload(), SETTINGS), 4)
    plain = layer_samples(profile, keys)
    extra = [replace(profile.rows[3], name=f"{names[3]}/ReorderInput", key=None)]
    first = [replace(profile.rows[0], name="input/ReorderInput", key=None)]
    rows = (*first, *profile.rows[:5], *extra, *profile.rows[6:])
    more = layer_samples(replace(profile, rows=rows), keys)
    assert more[3].latency_s == pytest.approx(2 * plain[3].latency_s)
    assert more[0].latency_s == pytest.approx(2 * plain[0].latency_s)
    assert more[5].latency_s == 0
    assert [sample.key for sample in more] == list(keys.values())


@pytest.mark.parametrize(("step", "lower"), [(0, 0.2), (8, 0.0), (8, 1.0)])
def test_impossible_grids_are_refused(step, lower):
    with pytest.raises(UsageError):
        Grid((16, 32), step, lower)
    with pytest.raises(UsageError):
        Grid((), 8, 0.2)


def test_random_structures_lie_on_the_grid_and_reach_both_ends():
    grid = Grid((16, 20, 64), 8, 0.25)
    rng = np.random.default_rng(0)
    drawn = np.array([grid.random(rng) for _ in range(500)])
    for column, original in zip(drawn.T, grid.originals, strict=True):
        assert set(column % 8) <= {0, original % 8}
        assert column.max() == original
        assert column.min() == min(max(8, round(original * 0.25 / 8) * 8), original)


def test_the_channel_step_is_found_with_a_few_small_layers():
    with device() as opened:
        steps = channel_steps(opened, workload(), SETTINGS)
    assert steps["Conv@fp32"] == LAW.channel_step
    assert grid_step(steps) == LAW.channel_step
    assert grid_step({"Conv@fp32": 1}) == 8
