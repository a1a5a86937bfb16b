"""The networks of the papers, in plain torch: untrained, seeded, with readable module paths.

A network is named `NAME[@WIDTH][,classes=N]`. WIDTH is a multiplier (`mobilenet_v1@0.5`) or the
full list of widths (`vgg16@64-64-...`); which layers the list names is said by `Network.widths_of`.

Counts below are multiply-accumulates of convolutions and linear layers at batch 1, and torch
parameters (batch norm's weight and bias included, its running statistics not).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwbench.errors import UsageError

Shape = tuple[int, ...]


class ConvBlock(nn.Sequential):
    """`conv`, then `bn` and `act` where asked for; padding keeps the map's size at stride 1."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=not norm)
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if norm:
            parts["bn"] = nn.BatchNorm2d(cout)
        if act is not None:
            parts["act"] = act()
        super().__init__(parts)


class Separable(nn.Sequential):
    """MobileNet-V1's pair: 3x3 depth-wise, then 1x1 point-wise, each with batch norm and ReLU."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        depthwise = ConvBlock(cin, cin, 3, stride=stride, groups=cin)
        super().__init__(OrderedDict(depthwise=depthwise, pointwise=ConvBlock(cin, cout, 1)))


class MobileNetV1(nn.Module):
    """MobileNet-V1 (Howard et al. 2017, arXiv 1704.04861, table 1).

    At 224: 568.7 M / 4.23 M; 325.4 M at multiplier 0.75.
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
        pairs = zip(widths[:-1], widths[1:], strides, strict=True)
        blocks = [Separable(cin, cout, stride) for cin, cout, stride in pairs]
        self.features = nn.Sequential(ConvBlock(3, widths[0], 3, stride=2), *blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) to logits (n, classes)."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """MobileNet-V2's block.

    A 1x1 expansion (none at factor 1), a 3x3 depth-wise convolution, a linear 1x1 projection, and a
    residual addition if shapes agree.
    """

    def __init__(self, cin: int, cout: int, stride: int, factor: int) -> None:
        super().__init__()
        hidden = cin * factor
        self.expand = ConvBlock(cin, hidden, 1, act=nn.ReLU6) if factor > 1 else nn.Identity()
        self.depthwise = ConvBlock(hidden, hidden, 3, stride=stride, groups=hidden, act=nn.ReLU6)
        self.project = ConvBlock(hidden, cout, 1, act=None)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        """(n, cin, h, w) to (n, cout, h / stride, w / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNet-V2 (Sandler et al. 2018, arXiv 1801.04381, table 2). At 224: 300.8 M / 3.50 M.

    `features.0` is the first convolution, 1 to 17 the blocks, 18 the last 1x1 convolution.
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        strides = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
        pairs = zip(widths[:-2], widths[1:-1], strides, strict=True)
        blocks = [
            InvertedResidual(cin, cout, s, factor=6 if i else 1)
            for i, (cin, cout, s) in enumerate(pairs)
        ]
        first = ConvBlock(3, widths[0], 3, stride=2, act=nn.ReLU6)
        last = ConvBlock(widths[-2], widths[-1], 1, act=nn.ReLU6)
        self.features = nn.Sequential(first, *blocks, last)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) to logits (n, classes)."""
        logits: Tensor = self.classifier(self.dropout(self.pool(self.features(x)).flatten(1)))
        return logits


class PadShortcut(nn.Module):
    """He et al.'s shortcut A, without parameters.

    It takes every stride-th pixel and adds channels of zeros.
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c + extra, h / stride, w / stride)."""
        return nn.functional.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra)
        )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, figure 5 left)."""

    expansion = 1

    def __init__(self, cin: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(n, cin, h, w) to (n, width, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(y)) + self.downsample(x))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut (figure 5 right).

    The stride is in the 3x3 convolution, as in every current framework.
    """

    expansion = 4

    def __init__(self, cin: int, width: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        cout = width * self.expansion
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU()
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(n, cin, h, w) to (n, 4 * width, h / stride, w / stride)."""
        y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        out: Tensor = self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        return out


class ResNet(nn.Module):
    """ResNet (He et al. 2015, arXiv 1512.03385, table 1 for ImageNet, section 4.2 for CIFAR).

    ImageNet: ResNet-18 1.81 G / 11.7 M, -34 3.66 G / 21.8 M, -50 4.09 G / 25.6 M. CIFAR, shortcut
    A: ResNet-20 40.6 M / 0.27 M, ResNet-56 125.5 M / 0.85 M.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        self.cifar = len(widths) == 3
        first = (
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
            if self.cifar
            else _imagenet_stem(widths[0])
        )
        self.conv1, self.bn1, self.relu = first, nn.BatchNorm2d(widths[0]), nn.ReLU()
        self.maxpool = nn.Identity() if self.cifar else nn.MaxPool2d(3, 2, 1)
        stages = [self._stage(block, i, depth, widths) for i, depth in enumerate(depths)]
        self.layer1, self.layer2, self.layer3 = stages[:3]
        self.layer4 = nn.Identity() if self.cifar else stages[3]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1] * block.expansion, classes)

    def _stage(
        self, block: type[BasicBlock | Bottleneck], stage: int, depth: int, widths: Sequence[int]
    ) -> nn.Module:
        cin, cout = (
            widths[0] if stage == 0 else widths[stage - 1] * block.expansion,
            widths[stage] * block.expansion,
        )
        stride = 1 if stage == 0 else 2
        first = block(cin, widths[stage], stride, self._shortcut(cin, cout, stride))
        return nn.Sequential(
            first, *(block(cout, widths[stage], 1, nn.Identity()) for _ in range(depth - 1))
        )

    def _shortcut(self, cin: int, cout: int, stride: int) -> nn.Module:
        if stride == 1 and cin == cout:
            return nn.Identity()
        if self.cifar and cout >= cin:
            return PadShortcut(cout - cin, stride)
        return ConvBlock(cin, cout, 1, stride=stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) to logits (n, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def _imagenet_stem(width: int) -> nn.Conv2d:
    return nn.Conv2d(3, width, 7, 2, 3, bias=False)


class Plain(nn.Module):
    """Plain-20: ResNet-20 without its shortcuts (He et al. 2015, section 4.2).

    At 32: 40.6 M / 0.27 M.
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        halved = (7, 13)  # the first layers of the second and the third stage
        inputs = (3, *widths[:-1])
        convs = [
            ConvBlock(cin, w, 3, stride=1 + (i in halved))
            for i, (cin, w) in enumerate(zip(inputs, widths, strict=True))
        ]
        self.features = nn.Sequential(*convs)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) to logits (n, classes)."""
        logits: Tensor = self.fc(self.pool(self.features(x)).flatten(1))
        return logits


class VGG16(nn.Module):
    """VGG-16, configuration D without batch norm (Simonyan and Zisserman 2014, arXiv 1409.1556).

    At 224: 15.47 G / 138.4 M.
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = 3
        for i, width in enumerate(widths[:13], start=1):
            layers.append(ConvBlock(cin, width, 3, norm=False))
            if i in {2, 4, 7, 10, 13}:
                layers.append(nn.MaxPool2d(2))
            cin = width
        fc6, fc7 = widths[13:]
        self.features = nn.Sequential(*layers)
        hidden = OrderedDict(
            fc6=nn.Linear(cin * 49, fc6), relu6=nn.ReLU(), fc7=nn.Linear(fc6, fc7), relu7=nn.ReLU()
        )
        self.classifier = nn.Sequential(OrderedDict(**hidden, fc8=nn.Linear(fc7, classes)))

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, 224, 224) to logits (n, classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def _truncated(width: int, multiplier: float) -> int:
    """Scale a width as TensorFlow Slim's mobilenet_v1 does (`depth_multiplier`, `min_depth=8`)."""
    return max(int(width * multiplier), 8)


def _divisible(width: int, multiplier: float) -> int:
    """Scale a width to the nearest multiple of 8, never more than 10 % below.

    This is `_make_divisible` of TensorFlow Slim's mobilenet_v2.
    """
    scaled = width * multiplier
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def _nearest(width: int, multiplier: float) -> int:
    """Nearest whole channel; the papers of these networks define no multiplier."""
    return max(1, int(width * multiplier + 0.5))


@dataclass(frozen=True, slots=True)
class Network:
    """One line of the table.

    Attributes:
        builder: Takes all widths and the number of classes.
        widths: Widths at multiplier 1.
        widths_of: Which layers the widths belong to, for error messages.
        size: Default height and width of the input image, pixels.
        classes: Default number of classes.
        scale: How a multiplier changes one width.
    """

    builder: Callable[[Sequence[int], int], nn.Module]
    widths: tuple[int, ...]
    widths_of: str
    size: int
    classes: int
    scale: Callable[[int, float], int] = _nearest


def _resnet(block: type[BasicBlock | Bottleneck], *depths: int) -> Network:
    def builder(widths: Sequence[int], classes: int) -> nn.Module:
        return ResNet(block, depths, widths, classes)

    if len(depths) == 3:
        return Network(builder, (16, 32, 64), "the 3 stages", 32, 10)
    return Network(builder, (64, 128, 256, 512), "the 4 stages (before expansion)", 224, 1000)


_V1 = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_V2 = (32, 16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320, 1280)
_VGG = (64, 64, 128, 128, 256, 256, 256, *[512] * 6, 4096, 4096)

NETWORKS: dict[str, Network] = {
    "mobilenet_v1": Network(
        MobileNetV1, _V1, "conv1 and the 13 point-wise convolutions", 224, 1000, _truncated
    ),
    "mobilenet_v2": Network(MobileNetV2, _V2, "features.0 to features.18", 224, 1000, _divisible),
    "plain20": Network(Plain, (*[16] * 7, *[32] * 6, *[64] * 6), "the 19 convolutions", 32, 10),
    "resnet18": _resnet(BasicBlock, 2, 2, 2, 2),
    "resnet20": _resnet(BasicBlock, 3, 3, 3),
    "resnet34": _resnet(BasicBlock, 3, 4, 6, 3),
    "resnet50": _resnet(Bottleneck, 3, 4, 6, 3),
    "resnet56": _resnet(BasicBlock, 9, 9, 9),
    "vgg16": Network(VGG16, _VGG, "the 13 convolutions, fc6 and fc7", 224, 1000),
}
"""Every network by name."""

_SPEC = re.compile(
    r"(?P<name>[\w.]+)(?:@(?P<width>[\d.]+(?:-\d+)*))?(?:,classes=(?P<classes>\d+))?"
)


USUAL_WIDTH, MAX_WIDTH = 1 << 13, 1 << 24
"""Channels of a layer up to which a network is surely small enough, and at most."""
MAX_PARAMS = 1 << 29
"""Most parameters; in single precision they fill 2 GiB, the most that one ONNX file holds."""


def parse(spec: str) -> tuple[Network, tuple[int, ...], int]:
    """Split `NAME[@WIDTH][,classes=N]` into the network, its widths and its number of classes.

    Raises:
        UsageError: Unknown name, malformed or impossible widths.
    """
    match = _SPEC.fullmatch(spec)
    if match is None or match["name"] not in NETWORKS:
        raise UsageError(
            f"no network {spec!r} in the zoo; expected NAME[@WIDTH][,classes=N] with NAME one of"
            f" {', '.join(sorted(NETWORKS))}"
        )
    network = NETWORKS[match["name"]]
    widths = _widths(network, spec, match["width"] or "1")
    classes = int(match["classes"] or network.classes)
    if min(*widths, classes) < 1:
        raise UsageError(
            f"zoo:{spec} has a layer without channels; widths and classes must be at least 1"
        )
    if max(*widths, classes) > MAX_WIDTH:
        raise UsageError(
            f"zoo:{spec} has a layer of {max(*widths, classes)} channels; expected at most"
            f" {MAX_WIDTH}"
        )
    if max(*widths, classes) > USUAL_WIDTH:
        _check_size(network, spec, widths, classes)
    return network, widths, classes


def _check_size(network: Network, spec: str, widths: tuple[int, ...], classes: int) -> None:
    """Refuse a network that no model file holds, before memory is taken for it."""
    with torch.device("meta"):  # shapes alone
        params = sum(weight.numel() for weight in network.builder(widths, classes).parameters())
    if params > MAX_PARAMS:
        raise UsageError(
            f"zoo:{spec} has {params} parameters; expected at most {MAX_PARAMS}, which fill 2 GiB"
        )


def _widths(network: Network, spec: str, text: str) -> tuple[int, ...]:
    if "-" not in text:
        try:
            multiplier = float(text)
        except ValueError as error:
            raise UsageError(
                f"zoo:{spec}: width multiplier {text!r} is not a number such as 0.75"
            ) from error
        if not 0 < multiplier <= 16:
            raise UsageError(f"zoo:{spec}: width multiplier {text} must be above 0 and at most 16")
        scaled = [network.scale(width, multiplier) for width in network.widths]
        if network.scale is _divisible and multiplier < 1:
            scaled[-1] = network.widths[
                -1
            ]  # the paper's section 6.1: the last layer does not shrink below 1280
        return tuple(scaled)
    parts = text.split("-")
    if len(parts) != len(network.widths) or not all(part.isdigit() for part in parts):
        raise UsageError(
            f"zoo:{spec} names {len(parts)} widths; expected {len(network.widths)} whole numbers,"
            f" of {network.widths_of}"
        )
    return tuple(int(part) for part in parts)


def build(spec: str, seed: int = 0) -> nn.Module:
    """Build the network `NAME[@WIDTH][,classes=N]` in eval mode.

    Weights are drawn from `seed` (He initialisation).

    The global random state of torch is left as it was.

    Raises:
        UsageError: Unknown name, malformed or impossible widths.
    """
    network, widths, classes = parse(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = network.builder(widths, classes)
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # He et al. 2015 (arXiv 1502.01852), eq. 14: activations keep their scale, so none
                # becomes denormal.
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    return module.eval()


def input_shape(spec: str) -> Shape:
    """Default input shape (1, 3, h, w) of the network named by `spec`.

    Raises:
        UsageError: As `build`.
    """
    size = parse(spec)[0].size
    return 1, 3, size, size
