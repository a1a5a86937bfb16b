"""A tiny network with everything that names and folding can get wrong, saved in every way torch
knows.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

SHAPE = (1, 3, 16, 16)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.bn(self.conv(x)))


def unit(cin: int, cout: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, 3, 1, 1, groups=groups, bias=groups > 1)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(cout), act=nn.ReLU6()))


class TinyNet(nn.Module):
    """Repeated blocks, a depth-wise convolution with bias, batch norm with statistics, pooling,
    dropout, a linear layer.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                unit(3, 8), Residual(8), Residual(8), unit(8, 8, groups=8)
            )
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.drop = nn.Dropout()
            self.fc = nn.Linear(8, 5)
            for layer in self.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                        nn.init.uniform_(tensor, 0.5, 1.5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.pool(self.features(x)).flatten(1)))


def plain() -> nn.Sequential:
    """A network of torch.nn classes alone."""
    conv = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), act=nn.Hardswish())
    )
    return nn.Sequential(
        OrderedDict(body=conv, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(4, 5))
    ).eval()


def save(module: nn.Module, how: str, path: Path, shape: tuple[int, ...] = SHAPE) -> Path:
    """Save `module` as `program`, `traced`, `scripted`, `frozen`, `module`, `state_dict`, `onnx` or
    `legacy_onnx`.
    """
    x = torch.zeros(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "program":
            torch.export.save(torch.export.export(module, (x,)), path)
        elif how in {"traced", "frozen"}:
            traced = torch.jit.trace(module, x)
            torch.jit.save(torch.jit.freeze(traced) if how == "frozen" else traced, path)
        elif how == "scripted":
            torch.jit.save(torch.jit.script(module), path)
        elif how == "module":
            torch.save(module, path)
        elif how == "state_dict":
            torch.save(module.state_dict(), path)
        else:
            torch.onnx.export(
                module, (x,), path, dynamo=how == "onnx", verbose=False, external_data=False
            )
    return path
