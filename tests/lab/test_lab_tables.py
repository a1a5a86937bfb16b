from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwbench.errors import UnsupportedLayerError, UsageError, error_to_dict
from hwbench.lab.reconcile import find_scales, rescale_samples, widen_intervals
from hwbench.lab.tables import TableBuild, TableRequest
from hwbench.lookup_tables.making.journal import RECORD
from hwbench.store import open_store
from runners.studies._lab_simulation import ClientKilled
from runners.studies.lab_chaos import run
from tests.lab.lab_support import LAW, PLAN, SETTINGS, simulated
from tests.support.models import conv_workload

NET = conv_workload((16, 24, 32))
REQUEST = TableRequest(NET, SETTINGS, PLAN)


@pytest.fixture(scope="module")
def one():
    lab = simulated(1, spread=0.0)
    build = TableBuild(lab, REQUEST)
    return lab, build, build.run()


@pytest.fixture(scope="module")
def eight():
    lab = simulated(8)
    build = TableBuild(lab, REQUEST)
    return lab, build, build.run()


def test_eight_devices_are_six_times_as_fast_and_make_the_same_table():
    plan = replace(
        PLAN, first=48, most=64
    )  # of a full build the first part, which is the same whoever measures
    times_s, tables = [], []
    for count in (1, 8):
        lab = simulated(count)
        build = TableBuild(lab, replace(REQUEST, plan=plan))
        tables.append(build.run().table)
        times_s.append(lab.now())
    assert times_s[0] / times_s[1] >= 6
    rng = np.random.default_rng(0)
    for _ in range(30):
        keys = build.structure.keys(build.grid.random(rng))
        alone, together = (table.extrapolating().predict(keys) for table in tables)
        assert together.ci_s[0] <= alone.ci_s[1]
        assert alone.ci_s[0] <= together.ci_s[1]


def test_scales_are_reconciled(one, eight):
    _, build, fitted = eight
    truth_s = LAW.network_s(build.structure.keys(build.structure.widths))
    speeds = {name: agent.make(0)._speed for name, agent in eight[0].agents.items()}
    found = find_scales(build.journal.samples)
    middle = float(np.exp(np.mean(np.log([speeds[name] for name in found.levels_s]))))
    for name, level_s in found.levels_s.items():
        assert level_s / found.reference_s == pytest.approx(speeds[name] / middle, rel=0.03)
    assert fitted.table.provenance.sources[0].latency_s == pytest.approx(middle * truth_s, rel=0.03)
    assert fitted.rmspe < 2 * one[2].rmspe + 0.005  # though the devices are 3 % apart
    assert "8 devices of one kind" in fitted.table.provenance.note


def test_reconciled_samples_agree_on_the_anchor_and_keep_their_ratios(eight):
    samples = eight[1].journal.samples
    scales = find_scales(samples)
    for before, after in zip(samples, rescale_samples(samples, scales), strict=True):
        assert after.ratio == pytest.approx(before.ratio)
        assert after.layers[0].latency_s / after.beside_s == pytest.approx(
            before.layers[0].latency_s / before.beside_s
        )
        assert after.level_s == pytest.approx(scales.reference_s, rel=0.05)
    assert find_scales(rescale_samples(samples, scales)).deviation == pytest.approx(0, abs=1e-9)


def test_intervals_are_for_any_device_of_the_kind(one, eight):
    scales = find_scales(eight[1].journal.samples)
    assert 0.01 < scales.deviation < 0.06
    assert eight[2].table.calibration.shared_sd > scales.deviation
    alone = find_scales(one[1].journal.samples)
    assert alone.deviation == 0
    assert widen_intervals(one[2].table, alone).calibration == one[2].table.calibration
    assert alone.note == "measured on 1 device of its kind"


def test_a_table_is_graded_on_networks_it_has_not_seen(eight):
    _, build, fitted = eight
    seen = []
    outcome = build.grade(
        fitted.table.extrapolating(), 6, callback=lambda done, total: seen.append((done, total))
    )
    assert [len(trial.sessions_s) for trial in outcome.trials] == [2] * 6
    assert outcome.grade.mean_error < 0.05
    assert seen[-1] == (12, 12)
    with pytest.raises(UsageError, match="nothing to validate with 0 networks"):
        build.grade(fitted.table, 0)


def test_a_killed_client_goes_on_and_nothing_is_measured_twice(tmp_path):
    lab = simulated(3)
    with open_store(str(tmp_path / "store.db")) as store:
        lab.after(1.5, lambda: setattr(lab, "killed", True))
        with pytest.raises(ClientKilled):
            TableBuild(lab, REQUEST, store).run()
        kept = len(store.records(RECORD))
        assert kept > 0
        lab.killed, lab.client = False, "client 1"
        seen = []
        TableBuild(lab, REQUEST, store, callback=seen.append).run()
        numbers = [record["number"] for record in store.records(RECORD).values()]
    genuine = [number for number in numbers if number >= 0]
    assert sorted(genuine) == list(range(PLAN.most))
    assert len(lab.measured) == len(set(lab.measured)) == PLAN.most
    assert [progress.networks for progress in seen][-1] == PLAN.most


def test_each_sample_says_which_device_it_is_of(tmp_path):
    lab = simulated(2)
    with open_store(str(tmp_path / "store.db")) as store:
        TableBuild(lab, REQUEST, store).run()
        makers = {record["by"] for record in store.records(RECORD).values()}
    assert makers == set(lab.agents)


def test_the_budget_ends_a_build_with_a_table():
    lab = simulated(2)
    fitted = TableBuild(lab, replace(REQUEST, settings=replace(SETTINGS, budget_s=1.0))).run()
    assert 0 < fitted.table.provenance.sources[0].networks < PLAN.first
    assert lab.now() < 3


def test_a_model_that_the_devices_cannot_run_ends_the_build(monkeypatch):
    lab = simulated(2)
    monkeypatch.setattr(
        "hwbench.lab.bench.Bench.carry_out",
        lambda *_: error_to_dict(UnsupportedLayerError("no Conv")),
    )
    with pytest.raises(UnsupportedLayerError, match="no Conv"):
        TableBuild(lab, REQUEST).run()


@pytest.mark.parametrize("seed", [1, 3])
def test_chaos_leaves_a_whole_and_right_table(seed, tmp_path):
    ran = run(seed, tmp_path)
    assert sum(ran.struck.values()) > 0
    assert ran.whole
    assert ran.wrong == 0
    assert ran.off < 0.06
