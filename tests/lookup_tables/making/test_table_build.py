from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwbench.devices.virtual.device import Drift, Fault
from hwbench.errors import DeviceLostError, SchemaError, UsageError
from hwbench.lookup_tables.making.build import build
from hwbench.lookup_tables.making.channel_steps import channel_steps, grid_step
from hwbench.lookup_tables.making.journal import RECORD
from hwbench.lookup_tables.making.networks import Quiet, layer_samples, measure_network
from hwbench.lookup_tables.making.proposals import Grid
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


def test_damaged_checkpoints_are_refused(tmp_path):
    with open_store(str(tmp_path / "store.db")) as store, device() as opened:
        build(opened, workload(), SETTINGS, plan=QUICK, store=store)
        record = next(iter(store.records(RECORD).values()))
        store.save_record(RECORD, record | {"whole_s": [-1.0]})
        with pytest.raises(SchemaError, match="damaged record"):
            build(opened, workload(), SETTINGS, plan=QUICK, store=store)


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
