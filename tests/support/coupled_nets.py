"""Small networks whose channels are coupled in the ways that people ask about."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Concatenated(nn.Module):
    """Every layer reads all that came before it, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 16), conv(16, 16), conv(32, 16)
        self.fc = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        c = self.c(torch.cat([a, b], 1))
        return self.fc(torch.cat([a, b, c], 1).mean((2, 3)))


class Divided(nn.Module):
    """Half of the channels pass a layer, all are then concatenated, as in YOLO's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.p = conv(3, 32), conv(16, 16), conv(48, 32, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.a(x).chunk(2, 1))
        parts.append(self.b(parts[-1]))
        return self.fc(self.p(torch.cat(parts, 1)).mean((2, 3)))


class Excited(nn.Module):
    """A squeeze-and-excite block within a residual one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d, self.p = conv(3, 32), conv(32, 32, groups=32), conv(32, 32, 1)
        self.r, self.e = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.d(x)
        gate = torch.sigmoid(self.e(torch.relu(self.r(y.mean((2, 3), keepdim=True)))))
        return self.fc((self.p(y * gate) + x).mean((2, 3)))


class Skipped(nn.Module):
    """A U-Net of one level; its answer is a map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16), conv(16, 32, stride=2)
        self.up, self.c = nn.ConvTranspose2d(32, 16, 2, 2), conv(32, 16)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.out(self.c(torch.cat([a, self.up(self.b(a))], 1)))


class Attending(nn.Module):
    """Patches and one layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Conv2d(3, 64, 8, 8)
        self.e = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.e(self.p(x).flatten(2).transpose(1, 2)).mean(1))


class Flattened(nn.Module):
    """A linear layer that reads all positions of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 16)
        self.f1, self.f2 = nn.Linear(16 * 64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.a(x), 8).flatten(1)
        return self.f2(torch.relu(self.f1(x)))


COUPLED = (Concatenated, Divided, Excited, Skipped, Attending, Flattened)
