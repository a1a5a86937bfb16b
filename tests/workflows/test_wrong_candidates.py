"""A candidate that computes something else is told, whatever kind of file it comes in."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from hwbench.measuring.agreement import check_outputs
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload

pytestmark = pytest.mark.slow

SHAPE = (1, 3, 16, 16)


def build() -> nn.Sequential:
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()
    return draw_weights(net, 0)


def draw_weights(net: nn.Sequential, seed: int) -> nn.Sequential:
    """Weights by which outputs depend on the input, as those of a trained network do.

    With torch's own the biases outweigh everything else.
    """
    torch.manual_seed(seed)
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


def permute_outputs(net: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        for parameter in (net[-1].weight, net[-1].bias):
            parameter.copy_(parameter.roll(3, dims=0))
    return net


def redraw_weights(net: nn.Sequential) -> nn.Sequential:
    return draw_weights(net, 1)


def leave_out_layer(net: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*net[:4], *net[6:])


def tune(net: nn.Sequential) -> nn.Sequential:
    """What a version of a network is like: nearly the same."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1 + 0.01 * torch.randn_like(parameter))
    return net


def save_onnx(net: nn.Sequential, path: str) -> None:
    torch.onnx.export(net, (torch.zeros(SHAPE),), path, dynamo=False)


def save_pt2(net: nn.Sequential, path: str) -> None:
    torch.export.save(torch.export.export(net, (torch.zeros(SHAPE),)), path)


def save_pt(net: nn.Sequential, path: str) -> None:
    torch.save(net, path)


SAVERS = {"onnx": save_onnx, "pt2": save_pt2, "pt": save_pt}
CHANGES = {change.__name__: change for change in (permute_outputs, redraw_weights, leave_out_layer)}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Read the network after a change from a file of a format."""
    folder = tmp_path_factory.mktemp("wrong")

    @cache
    def make(kind: str, change: str) -> Workload:
        net = {**CHANGES, "tune": tune, "": lambda net: net}[change](build())
        path = str(folder / f"{change or 'baseline'}.{kind}")
        SAVERS[kind](net, path)
        return load_workload(path, inputs=() if kind != "pt" else ("1x3x16x16",))

    return make


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", SAVERS)
def test_a_wrong_candidate_is_told(kind, change, load):
    likeness = check_outputs(load(kind, ""), load(kind, change), 0, 10.0)
    assert [finding.code for finding in likeness.findings] == ["different_outputs"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", SAVERS)
def test_a_version_of_the_network_is_not(kind, load):
    assert not check_outputs(load(kind, ""), load(kind, "tune"), 0, 10.0).findings
