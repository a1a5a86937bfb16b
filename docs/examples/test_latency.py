"""Latency as tests: how fast are the networks, and does the smaller one pay?"""

import pytest
import torch
from torch import nn


@pytest.mark.parametrize("model", ["zoo:mobilenet_v1", "zoo:mobilenet_v1@0.5"])
def test_latency(hw_benchmark, model):
    record = hw_benchmark(model)
    assert record.median_s < 0.5


def test_half_the_width_pays(assert_faster):
    assert_faster("zoo:mobilenet_v1", "zoo:mobilenet_v1@0.5", at_least=1.3)


def test_a_norm_costs_nothing_once_it_is_folded(assert_faster):
    plain = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU())
    normed = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU())
    assert_faster(plain, normed, at_least=1, example_inputs=torch.zeros(1, 3, 64, 64))


def test_most_time_is_saved_where_most_work_was(hw_compare):
    found = hw_compare("zoo:mobilenet_v1", "zoo:mobilenet_v1@0.5")
    assert found.macs_ratio > 3
    assert sum(layer.saved_s for layer in found.layers) > 0


@pytest.mark.hil  # skipped unless --hwbench-device names more than this computer's CPU
def test_fast_enough_for_video(hw_benchmark):
    assert hw_benchmark("zoo:mobilenet_v1@0.5").median_s < 1 / 30
