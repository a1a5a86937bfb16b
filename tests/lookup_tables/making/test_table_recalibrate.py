from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.devices.virtual.device import Law, SessionOffset, Virtual, White
from hwbench.lookup_tables.making.recalibrate import recalibrate
from hwbench.lookup_tables.making.validate import add_grade, validate
from tests.support.table_support import LAW, SETTINGS, built, structure, workload

SLOWER = 1.25


def after_reboot(seed: int = 3) -> Virtual:
    """The device of the table, everything on it slower by the same factor."""
    law = Law(
        macs_per_s=LAW.macs_per_s / SLOWER,
        bytes_per_s=LAW.bytes_per_s / SLOWER,
        layer_overhead_s=LAW.layer_overhead_s * SLOWER,
        network_overhead_s=LAW.network_overhead_s * SLOWER,
        channel_step=LAW.channel_step,
    )
    return Virtual(law=law, noise=(White(), SessionOffset()), seed=seed)


def test_a_table_follows_its_device():
    table = built().table
    keys = structure().keys(structure().widths)
    with after_reboot() as opened:
        fresh, outcome = recalibrate(opened, table, workload(), SETTINGS, networks=12)
        grade = validate(opened, fresh, workload(), replace(SETTINGS, seed=77), networks=12).grade
    assert fresh.predict(keys).latency_s / table.predict(keys).latency_s == pytest.approx(
        SLOWER, rel=0.02
    )
    assert outcome.drift == pytest.approx(SLOWER, rel=0.02)
    assert outcome.grade.mean_error < 0.02
    assert grade.mean_error < 0.03
    assert fresh.provenance.sources[0].latency_s == pytest.approx(
        LAW.network_s(keys) * SLOWER, rel=0.02
    )
    assert fresh.grades == (outcome.grade,)


def test_a_bad_grade_widens_the_intervals():
    table = built().table
    worse = replace(
        table,
        entries={
            k: replace(e, latency_s=e.latency_s * (1.3 if k.op == "Conv" else 1))
            for k, e in table.entries.items()
        },
    )
    with after_reboot() as opened:
        outcome = validate(opened, worse, workload(), SETTINGS, networks=4)
    assert add_grade(worse, outcome).calibration.shared_sd == pytest.approx(outcome.grade.rmspe)
    assert add_grade(worse, outcome).grades == (outcome.grade,)
