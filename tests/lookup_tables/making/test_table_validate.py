from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwbench.errors import MissingEntryError, StaleTableError, UsageError
from hwbench.lookup_tables import build
from hwbench.lookup_tables.making.validate import HeldOutTrial, Validation, draw_held_out, validate
from hwbench.lookup_tables.repository import check_table, find_table, save_table
from hwbench.records.prediction import Prediction
from hwbench.store import open_store
from hwbench.workflows.build_table import build_table, validate_table
from hwbench.workflows.predict import predict
from tests.support.table_support import PLAN, SETTINGS, built, device, structure, workload

pytestmark = pytest.mark.slow


def test_good_tables_get_good_grades():
    tables = [built().table]
    for seed in (2, 3):
        with device(seed=seed) as opened:
            tables.append(build(opened, workload(), SETTINGS, plan=PLAN).table)
    coverages = []
    for table in tables:
        with device(seed=9) as opened:
            grade = validate(opened, table, workload(), SETTINGS, networks=30).grade
        assert grade.mean_error < 0.02
        assert grade.within_10 == 1
        assert grade.rank > 0.98
        assert 0 < grade.noise < 0.03
        coverages.append(grade.coverage)
    # The errors of one table have a common part, so that its own share says little: intervals hold
    # what they promise over tables.
    assert 0.85 <= sum(coverages) / len(coverages) <= 1


def test_a_wrong_table_gets_a_bad_grade():
    table = built().table
    worse = {
        key: replace(entry, latency_s=entry.latency_s * (1.3 if key.op == "Conv" else 1))
        for key, entry in table.entries.items()
    }
    with device(seed=9) as opened:
        grade = validate(
            opened, replace(table, entries=worse), workload(), SETTINGS, networks=8
        ).grade
    assert grade.bias > 0.1
    assert grade.coverage < 0.2


def test_the_numbers_of_a_grade():
    def trial(predicted_s: float, *sessions_s: float) -> HeldOutTrial:
        return HeldOutTrial(
            (1,), Prediction(predicted_s, (0.9 * predicted_s, 1.1 * predicted_s)), sessions_s
        )

    grade = Validation(
        "m", structure(), (trial(1.0, 1.0, 1.0), trial(2.1, 2.0, 2.0), trial(3.6, 3.0, 3.0)), 1.0
    ).grade
    assert grade.bias == pytest.approx((0 + 0.05 + 0.2) / 3)
    assert grade.rmspe == pytest.approx(np.sqrt((0.05**2 + 0.2**2) / 3))
    assert (grade.within_10, grade.coverage) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (grade.rank, grade.noise) == (pytest.approx(1), 0)


def test_held_out_networks_were_not_measured():
    chosen = draw_held_out(structure(), built().table.provenance.sources[0], 50, SETTINGS.seed)
    assert len(set(chosen)) == 50
    with pytest.raises(UsageError), device() as opened:
        validate(opened, built().table, workload(), SETTINGS, networks=0)


def test_a_table_of_another_model_is_refused():
    with device() as opened, pytest.raises(MissingEntryError):
        validate(opened, built().table, workload("zoo:mobilenet_v2"), SETTINGS, networks=1)


def test_tables_are_found_by_device_and_id(tmp_path):
    table = built().table
    with open_store(str(tmp_path / "store.db")) as store:
        first = save_table(store, table)
        grade = Validation(
            "m", structure(), (HeldOutTrial((1,), Prediction(1.0, (0.9, 1.1)), (1.0,)),), 1.0
        ).grade
        second = save_table(store, table.graded(grade))
        assert find_table(store, "virtual").grades == (grade,)
        assert find_table(store, first[:12]) == table
        assert find_table(store, second) == table.graded(grade)
        with pytest.raises(UsageError, match="no lookup table"):
            find_table(store, "cpu")


def test_tables_of_two_devices_of_one_address_are_told_apart(tmp_path):
    table = built().table
    made = table.provenance
    other_device = replace(made.device, target="the other", target_id="other")
    other = replace(
        table, metadata=replace(table.metadata, provenance=replace(made, device=other_device))
    )
    with open_store(str(tmp_path / "store.db")) as store:
        save_table(store, table)
        second = save_table(store, other)
        with pytest.raises(UsageError, match=rf"2 devices.*{second[:12]} \(the other\).*by its id"):
            find_table(store, "virtual")
        assert find_table(store, "virtual", made.device.target_id) == table
        assert find_table(store, "virtual", "other") == find_table(store, second) == other
        with pytest.raises(UsageError, match="2 devices"):
            find_table(store, "virtual", "a third")


def test_a_table_is_for_one_device_runtime_and_thread_count():
    table = built().table
    info = table.provenance.device
    check_table(table, info, 1)
    for other, threads, what in (
        (replace(info, target_id="else"), 1, "device"),
        (replace(info, runtime="else"), 1, "runtime"),
        (info, 2, "threads"),
    ):
        with pytest.raises(StaleTableError, match=what):
            check_table(table, other, threads)


def test_the_workflows_from_model_to_prediction(tmp_path):
    where = {"store": str(tmp_path / "store.db")}
    address = "virtual:noise=none"
    settings = replace(SETTINGS, budget_s=3.0)
    done = build_table(
        "zoo:resnet20", device=address, widths="auto", settings=settings, validation=2, **where
    )
    assert done.id is not None
    assert done.validation is not None
    assert done.table.grades[0].networks == 2
    assert done.table.provenance.sources[0].step == 16
    prediction = predict("zoo:resnet20", table=address, **where)
    assert prediction.latency_s == pytest.approx(
        done.table.provenance.sources[0].latency_s, rel=0.01
    )
    assert len(prediction.layers) == len(structure().slots)
    graded = validate_table("zoo:resnet20", device=address, networks=3, **where)
    assert [grade.networks for grade in graded.table.grades] == [3]
    with pytest.raises(StaleTableError):
        validate_table("zoo:resnet20", table=done.id, device="virtual:step=4", networks=3, **where)


@pytest.mark.parametrize("widths", ["eight", 0, "-8"])
def test_impossible_widths_are_refused(widths):
    with pytest.raises(UsageError, match="auto"):
        build_table("zoo:resnet20", device="virtual", widths=widths, save=False)
