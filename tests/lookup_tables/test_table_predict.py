from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import MissingEntryError, SchemaError, UsageError
from hwbench.lookup_tables import Calibration, Entry, LookupTable, Metadata
from hwbench.lookup_tables.making.proposals import Grid
from hwbench.lookup_tables.structure_latency import StructureLatency
from hwbench.records.layer_key import LayerKey
from hwbench.records.prediction import LatencySource
from tests.support.table_support import LAW, PLAN, built, structure

KEY = "Conv[1x{}x8x8->1x{}x8x8]{{act=Relu,group=1,kernel=1x1,pads=0.0.0.0,strides=1x1}}@fp32"


def small(points: dict[tuple[int, int], float]) -> LookupTable:
    entries = {
        LayerKey.parse(KEY.format(*pair)): Entry(value, 0.01, 1) for pair, value in points.items()
    }
    return LookupTable(entries, Metadata(built().table.provenance, Calibration()))


def random_structures(count: int, seed: int) -> np.ndarray:
    grid = Grid(structure().widths, PLAN.step, PLAN.lower)
    rng = np.random.default_rng(seed)
    return np.array([grid.random(rng) for _ in range(count)])


def test_a_table_and_its_view_of_a_network_are_latency_sources():
    assert isinstance(StructureLatency(built().table, structure()), LatencySource)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_vectorised_predictions_are_those_of_the_keys(seed, off_grid):
    table, source = built().table, StructureLatency(built().table, structure())
    wide = random_structures(3, seed)
    if off_grid:
        wide = np.minimum(
            wide + np.random.default_rng(seed).integers(0, 4, wide.shape), structure().widths
        )
    expected = [table.predict(structure().keys(widths)).latency_s for widths in wide.tolist()]
    np.testing.assert_allclose(source.predict_widths(wide), expected, rtol=1e-12)


def test_a_hundred_thousand_structures_take_less_than_a_second():
    source = StructureLatency(built().table, structure())
    wide = np.tile(random_structures(100, 1), (1000, 1))
    start = time.process_time()
    assert source.predict_widths(wide).shape == (100_000,)
    assert time.process_time() - start < 1.0


def test_measured_and_interpolated_keys_are_told_apart():
    table = built().table
    prediction = table.predict(structure().keys(structure().widths))
    assert len(prediction.measured) == len(structure().slots)
    assert not prediction.interpolated
    odd = table.predict(structure().keys([width - 1 for width in structure().widths]))
    assert odd.interpolated
    assert not odd.extrapolated


def test_an_unknown_layer_is_refused_with_the_command_that_would_measure_it():
    foreign = LayerKey.parse("Conv[1x8x9x9->1x8x9x9]{group=1,kernel=5x5}@fp32")
    with pytest.raises(
        MissingEntryError, match=r"Conv\[1x8x9x9.*build_table\(model='MODEL', device='virtual"
    ):
        built().table.predict([foreign])
    with pytest.raises(MissingEntryError, match="Conv"):
        built().table.extrapolating().predict([foreign])


def test_the_measured_range_is_not_left_silently():
    table, tiny = built().table, [1] * len(structure().widths)
    with pytest.raises(MissingEntryError, match="outside what was measured"):
        table.predict(structure().keys([2] * len(structure().widths)))
    with pytest.raises(MissingEntryError, match="outside what was measured"):
        StructureLatency(table, structure()).predict_widths(
            np.array([structure().widths, [2] * len(tiny)])
        )
    inside = table.predict(structure().keys(structure().widths))
    beyond = table.extrapolating().predict(structure().keys([2] * len(tiny)))
    assert beyond.extrapolated
    assert beyond.latency_s > 0
    width = [high_s / low_s for low_s, high_s in (inside.ci_s, beyond.ci_s)]
    assert width[1] > width[0]


def test_leaving_the_range_on_the_grid_is_refused_too():
    source = StructureLatency(built().table, structure(), step=2)
    with pytest.raises(MissingEntryError, match="outside what was measured"):
        source.predict_widths(np.full((1, len(structure().widths)), 2))


@pytest.mark.parametrize(
    "wide", [np.ones(3, int), np.ones((2, 2), int), np.zeros((1, 12), int), np.ones((1, 12))]
)
def test_impossible_widths_are_refused(wide):
    groups = len(structure().widths)
    wide = np.resize(wide, (1, groups)).astype(wide.dtype) if wide.shape == (1, 12) else wide
    with pytest.raises(UsageError):
        StructureLatency(built().table, structure()).predict_widths(wide)


def test_a_structure_with_an_unknown_layer_names_it():
    with pytest.raises(MissingEntryError, match=r"conv1|features\.0"):
        StructureLatency(small({(8, 8): 1e-5}), structure())


def test_a_lone_measurement_answers_only_for_itself():
    table = small({(64, 64): 5e-5})
    assert table.predict([LayerKey.parse(KEY.format(64, 64))]).latency_s == pytest.approx(
        5e-5, rel=0.01
    )
    with pytest.raises(MissingEntryError):
        table.predict([LayerKey.parse(KEY.format(64, 32))])


def test_frames_and_plain_types_bring_the_same_table_back():
    table = built().table
    for twin in (LookupTable.from_frame(table.to_frame()), LookupTable.from_dict(table.to_dict())):
        assert twin == table
        keys = structure().keys(structure().widths)
        assert twin.predict(keys) == table.predict(keys)


@pytest.mark.parametrize("value", [-1e-6, float("nan"), float("inf")])
def test_impossible_latencies_are_refused(value):
    frame = built().table.to_frame()
    frame.loc[3, "latency_s"] = value
    with pytest.raises(SchemaError, match="entry of"):
        LookupTable.from_frame(frame)


def test_damaged_frames_are_refused():
    frame = built().table.to_frame()
    attrs = dict(frame.attrs)
    for damage in ({"schema": 99}, {"schema": 1}, {"schema": 1, "provenance": 3}):
        frame.attrs["hwbench"] = damage
        with pytest.raises(SchemaError):
            LookupTable.from_frame(frame)
    frame.attrs.update(attrs)
    with pytest.raises(SchemaError, match="samples missing"):
        LookupTable.from_frame(frame.drop(columns="samples"))
    doubled = frame.iloc[[0, *range(len(frame))]]
    doubled.attrs.update(attrs)
    with pytest.raises(SchemaError, match="different keys"):
        LookupTable.from_frame(doubled)
    frame.loc[0, "key"] = "nonsense"
    with pytest.raises(SchemaError, match="not a layer key"):
        LookupTable.from_frame(frame)
    with pytest.raises(SchemaError, match="at least one entry"):
        LookupTable({}, built().table.metadata)


def test_predictions_recover_the_law():
    wide = random_structures(100, 77)
    truth = np.array([LAW.network_s(structure().keys(widths)) for widths in wide.tolist()])
    for fitted, bound in ((built(quiet=True), 0.002), (built(), 0.01)):
        errors = StructureLatency(fitted.table, structure()).predict_widths(wide) / truth - 1
        assert np.abs(errors).mean() < bound


def test_the_channel_step_is_known():
    assert built().table.steps["Conv@fp32"] == LAW.channel_step
