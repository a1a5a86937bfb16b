"""What studies compute besides measuring."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hwbench.devices.virtual.device import Virtual
from hwbench.network.graph import load, zero_share
from hwbench.records.measurement import Settings
from runners.studies import _groups, _variants
from runners.studies.blocks_vs_filters import compared, nearest, widths_at
from runners.studies.clustering_lowrank import clustered, factors, with_clusters, with_factors
from runners.studies.depthwise import LARGEST_MACS, formula, geometries, mean_over, pair
from runners.studies.odd_widths import layout_of, phone_rows, sweep
from runners.studies.one_network_many_latencies import with_exits
from runners.studies.sparsity import (
    ALEXNET,
    KEPT,
    layer_variants,
    narrowed_to,
    sparsified,
    step_width,
    zeroed,
)
from runners.studies.sustained import Stage, combined, fill, resolves, row_of

QUICK = Settings(budget_s=5, min_sessions=2, max_sessions=3, layers=False)


@pytest.fixture(scope="module")
def convolutions():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 8, 1),
    )
    return _variants.exported(nn.Sequential(*layers), 3, 8)


def test_a_group_is_rows_against_its_first(convolutions):
    narrow = _variants.narrowed(convolutions, lambda width: width // 2)
    with Virtual() as device:
        found = _groups.measured(device, {"whole": convolutions, "half": narrow}, QUICK)
    whole, half = _groups.rows_of(found, kind="test")
    assert (whole["verdict"], whole["ratio"], whole["low"], whole["high"]) == ("baseline", 1, 1, 1)
    assert half["kind"] == "test"
    assert half["macs"] == narrow.macs / convolutions.macs < 1
    assert half["low"] <= half["ratio"] <= half["high"]
    raw = _groups.raw_of(found)
    assert len(raw["session"]) == len(raw["samples_s"]["whole"]) == len(raw["samples_s"]["half"])
    assert _groups.by_name([whole, half])["half"] is half


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            {"ratio": 0.93146, "low": 0.925, "high": 0.937, "verdict": "FASTER"},
            "0.931 (0.925 to 0.937)",
        ),
        ({"ratio": 2.5, "low": 2.4, "high": 2.61, "verdict": "SLOWER"}, "2.50 (2.40 to 2.61)"),
        (
            {"ratio": 1.01, "low": 0.98, "high": 1.04, "verdict": "UNRESOLVED"},
            "1.010 (0.980 to 1.040, unresolved)",
        ),
    ],
)
def test_a_ratio_in_words(row, text):
    assert _groups.said(row) == text


def test_narrowed_changes_what_can_be_pruned_and_nothing_else(convolutions):
    narrow = _variants.narrowed(convolutions, lambda width: width // 2)
    shapes = [
        tuple(tensor.dims)
        for tensor in load(narrow.onnx).graph.initializer
        if len(tensor.dims) == 4
    ]
    assert shapes == [(8, 3, 3, 3), (12, 8, 3, 3), (8, 12, 1, 1)]


def test_sparsified_drops_the_smallest_and_keeps_the_norm():
    weights = np.random.default_rng(0).standard_normal((8, 5, 3, 3)).astype(np.float32)
    sparse = sparsified(weights, 0.9)
    kept = sparse != 0
    assert kept.sum() == round(0.1 * weights.size)
    assert np.abs(weights[kept]).min() >= np.abs(weights[~kept]).max()
    assert np.linalg.norm(sparse) == pytest.approx(np.linalg.norm(weights), rel=1e-5)
    assert (sparsified(weights, 0) == weights).all()


def test_zeroed_leaves_shapes_and_sets_the_share(convolutions):
    sparse = zeroed(convolutions, 0.75)
    assert zero_share(load(sparse.onnx)) == pytest.approx(0.75, abs=0.01)
    assert (sparse.macs, sparse.params) == (convolutions.macs, convolutions.params)
    assert _variants.zipped_bytes(sparse) < _variants.zipped_bytes(convolutions)


@pytest.mark.parametrize("name", ["conv1", "conv5"])
def test_layers_keep_as_many_weights_both_ways(name):
    made = layer_variants(ALEXNET[name])
    kept = made["narrower"].params / made["dense"].params
    assert kept == pytest.approx(KEPT, abs=0.03)
    assert zero_share(load(made["zeros"].onnx)) == pytest.approx(1 - kept, abs=1e-3)


def test_narrowed_to_meets_the_share_of_parameters_in_steps():
    from hwbench.network.intake import load_workload

    whole = load_workload("zoo:plain20")
    slim = narrowed_to(whole, 0.1)
    assert slim.params / whole.params == pytest.approx(0.1, abs=0.02)
    assert [step_width(width, 0.3) for width in (64, 128, 8)] == [20, 40, 4]


def test_formula_is_the_ratio_of_macs():
    for channels, kernel in ((16, 3), (64, 5)):
        ordinary, separable = pair(channels, kernel, 7).values()
        assert separable.macs / ordinary.macs == pytest.approx(formula(channels, kernel))
    assert mean_over([{"over_formula": 2.0}, {"over_formula": 8.0}]) == pytest.approx(4)


def test_clustered_takes_few_values_each_weight_the_nearest():
    weights = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    few = clustered(weights, 8)
    values = np.unique(few)
    assert few.shape == weights.shape
    assert len(values) <= 8
    chosen = values[np.abs(weights[..., None] - values).argmin(-1)]
    assert np.abs(weights - few).sum() == pytest.approx(np.abs(weights - chosen).sum(), rel=0.02)
    assert np.var(weights - few) < np.var(weights - clustered(weights, 2))


def test_factors_are_the_layer_at_full_rank_and_near_it_below():
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3, stride=2, padding=1)
    x = torch.randn(2, 6, 9, 9)
    with torch.no_grad():
        wanted = layer(x)
        errors = [
            float((factors(layer, rank)(x) - wanted).norm() / wanted.norm()) for rank in (8, 6, 2)
        ]
    assert errors[0] < 1e-5
    assert errors[0] < errors[1] < errors[2] < 1


def test_copies_are_changed_and_the_original_is_not():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
    before = module[0].weight.clone()
    assert len(with_clusters(module, 4)[0].weight.unique()) <= 4
    low = with_factors(module, 0.25)
    assert [tuple(part.weight.shape) for part in low[0]] == [(4, 3, 3, 3), (16, 4, 1, 1)]
    assert module[0].weight.equal(before)


def test_exits_stop_where_they_should():
    from hwbench.network import zoo

    whole = zoo.build("mobilenet_v1@0.25")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (early,) = with_exits(whole, [4], end=False)(x)
        *exits, last = with_exits(whole, [4, 6], end=True)(x)
        assert last.allclose(whole(x), atol=1e-5)
    assert early.shape == last.shape == (1, 1000)
    assert early.equal(exits[0])
    assert len(with_exits(whole, [4], end=False).features) == 5


def test_sweep_changes_the_middle_alone():
    made = sweep()
    macs = {int(name): workload.macs for name, workload in made.items()}
    assert next(iter(macs)) == 64
    assert all(count == macs[64] * width // 64 for width, count in macs.items())


def test_layout_is_what_the_profile_saw():
    def layer(op, implementation):
        return SimpleNamespace(op=op, implementation=implementation)

    def found(*layers):
        return SimpleNamespace(candidate=SimpleNamespace(profile=SimpleNamespace(layers=layers)))

    blocked = found(layer("Conv", "nchwc16"), layer("ReorderOutput", "reorder"))
    plain = found(layer("Conv", "nchwc16"), layer("Conv", "nchw"))
    assert layout_of({"64": blocked, "63": plain}) == {"64": "blocked", "63": "plain"}
    with pytest.raises(RuntimeError, match="no layers for 60"):
        layout_of({"60": SimpleNamespace(candidate=SimpleNamespace(profile=None))})


def test_phone_rows_are_the_logs_own_medians_and_marked():
    here = {
        name: {"name": name, "device": "this CPU", "macs": 1}
        for name in ("mobilenet", "0.75mobilenet", "0.5flops")
    }
    rows = phone_rows(here)
    assert [row["name"] for row in rows] == list(here)
    assert rows[0]["ratio"] == 1
    assert all(
        row["verdict"] == "logged" and "not measured here" in row["device"] and row["low"] == ""
        for row in rows
    )


def test_pairs_are_matched_by_latency_and_compared_network_by_network():
    rows = [
        {"name": name, "ratio": ratio} for name, ratio in (("width 0.75", 0.8), ("width 0.5", 0.55))
    ]
    assert nearest({"ratio": 0.56}, rows) == "width 0.5"
    assert nearest({"ratio": 0.6}, rows) == ""
    known = {"1 dropped": {"ratio": 0.6}, "width 0.5": rows[1]}
    right = {"1 dropped": [0.9, 0.8, 0.95], "width 0.5": [0.88, 0.79, 0.92]}
    found = compared("1 dropped", "width 0.5", known, right)
    assert found["gain"] == pytest.approx(0.02)
    assert found["low"] == pytest.approx(0.02 - 4.3027 * 0.01 / np.sqrt(3), rel=1e-3)
    assert found["high"] - found["gain"] == pytest.approx(found["gain"] - found["low"])


def test_widths_keep_groups_that_cannot_be_cut():
    groups = tuple(
        SimpleNamespace(name=name, width=width) for name, width in (("a", 16), ("b", 64), ("c", 32))
    )
    prunable = SimpleNamespace(structure=SimpleNamespace(groups=groups), fixed={"c": "why"})
    assert widths_at(prunable, 0.5) == [8, 32, 32]
    assert widths_at(prunable, 0.01) == [4, 4, 32]


def test_a_stage_is_filled_for_its_time_and_compared(convolutions):
    with Virtual() as device:
        prepared = device.prepare(convolutions, Settings())
        stage = Stage("short", 0.0)
        fill(device, prepared, stage, 0.05, lambda past_s: int(past_s // 0.02))
    assert len(stage.samples_s) == len(stage.at_s) == len(stage.window) >= 1
    first = Stage("first", 0.0, [1.0, 1.0, 1.1, 1.1], [0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1])
    slower = replace(first, name="slower", samples_s=[2.0, 2.0, 2.2, 2.2])
    assert row_of(first, first)["low"] == row_of(first, first)["high"] == 1
    row = row_of(slower, first)
    assert row["ratio"] == pytest.approx(2)
    assert (
        row["high"] / row["ratio"]
        == pytest.approx(row["ratio"] / row["low"])
        == pytest.approx(combined(first.latency.half_width, first.latency.half_width))
    )


@pytest.mark.parametrize(
    ("long_low", "after_high", "seen"),
    [(1.05, 1.02, True), (0.99, 0.98, False), (1.05, 1.2, False)],
)
def test_a_slow_down_must_exceed_what_the_machine_does_by_itself(long_low, after_high, seen):
    rows = [{}, {"low": long_low, "high": 1.3}, {"low": 0.9, "high": after_high}]
    assert resolves(rows) is seen


def test_rounds_are_well_below_a_time_slice_or_well_above(convolutions):
    small, large = (
        replace(convolutions, macs=macs) for macs in (_groups.SMALL_MACS, 2 * _groups.SMALL_MACS)
    )
    assert _groups.round_s([small, small]) == _groups.SHORT_ROUND_S
    assert _groups.round_s([small, large]) == _groups.LONG_ROUND_S


def test_no_geometry_is_larger_than_the_study_has_time_for():
    found = geometries()
    assert len(found) == len(set(found))
    assert max((channels * kernel * side) ** 2 for channels, kernel, side in found) <= LARGEST_MACS
