"""A network of three droppable blocks that is trained and pruned in no time, and its table on a
quiet simulated device.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from hwbench.devices.virtual.device import Virtual
from hwbench.lookup_tables import LookupTable, build
from hwbench.network.intake import load_workload
from tests.support.table_support import PLAN, SETTINGS

DEVICE = "virtual:noise=none,step=4"


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm1 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.second, self.norm2 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.second(torch.relu(self.norm1(self.first(x))))))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.Sequential(Block(32), Block(32), Block(32))
        self.wide = nn.Conv2d(32, 64, 3, 2, 1)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(
            self.pool(torch.relu(self.wide(self.blocks(torch.relu(self.stem(x)))))).flatten(1)
        )
        return logits


def tiny() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny().eval()


def example() -> Tensor:
    return torch.ones(1, 3, 16, 16)


@cache
def table() -> LookupTable:
    with Virtual(DEVICE.partition(":")[2]) as device:
        return build(
            device, load_workload(tiny(), example_inputs=example()), SETTINGS, plan=PLAN
        ).table
