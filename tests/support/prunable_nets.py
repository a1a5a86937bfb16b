"""Small torch classifiers in the manner of torchvision and transformers, for tests of pruning."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNormActivation(nn.Sequential):
    """As torchvision writes it: unnamed children."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] = nn.SiLU,
    ) -> None:
        conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(
            conv, nn.BatchNorm2d(cout), act() if act is nn.Identity else act(inplace=True)
        )


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(functional.relu(self.fc1(self.avgpool(x)))))


class MBConv(nn.Module):
    """EfficientNet's block."""

    def __init__(self, cin: int, cout: int, expansion: int = 3) -> None:
        super().__init__()
        wide = cin * expansion
        self.use_res_connect = cin == cout
        self.block = nn.Sequential(
            ConvNormActivation(cin, wide, 1),
            ConvNormActivation(wide, wide, 3, groups=wide),
            SqueezeExcitation(wide, 4),
            ConvNormActivation(wide, cout, 1, act=nn.Identity),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + y if self.use_res_connect else y


class Efficient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNormActivation(3, 12, stride=2), MBConv(12, 12), MBConv(12, 16), MBConv(16, 16)
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


class Dense(nn.Module):
    """DenseNet: every layer reads the concatenation of all before it.

    Batch norm stands before the convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for width in (8, 14, 20)])
        self.convs = nn.ModuleList(
            [nn.Conv2d(width, 6, 3, 1, 1, bias=False) for width in (8, 14, 20)]
        )
        self.norm = nn.BatchNorm2d(26)
        self.classifier = nn.Linear(26 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv0(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            parts.append(conv(functional.relu(norm(torch.cat(parts, 1)))))
        x = functional.adaptive_avg_pool2d(functional.relu(self.norm(torch.cat(parts, 1))), 4)
        return self.classifier(x.flatten(1))


class Grouped(nn.Module):
    """ResNeXt: the middle convolution has groups, which lose the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.conv3 = nn.Conv2d(12, 10, 1)
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        return self.fc(functional.relu(self.conv3(x)).mean((2, 3)))


class Transposed(nn.Module):
    """Transposed convolutions, a slope and a normalization per channel, and a linear layer that
    reads a flattened map.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.slope = nn.PReLU(8, init=0.1)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.norm = nn.InstanceNorm2d(6, affine=True)
        self.fc1 = nn.Linear(6 * 16 * 16, 12)
        self.norm1 = nn.BatchNorm1d(12)
        self.fc2 = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.up(self.slope(self.down(x)))))
        return self.fc2(functional.relu(self.norm1(self.fc1(x.flatten(1)))))


class Signal(nn.Module):
    """One-dimensional, with a depth-wise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(2, 8, 5, padding=2), nn.BatchNorm1d(8)
        self.conv2, self.conv3 = nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, 10, 1)
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(functional.relu(self.norm1(self.conv1(x))))
        return self.fc(functional.relu(self.conv3(functional.relu(x))).mean(2))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        scores = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """A layer of a vision transformer: two residual branches in one forward, tuple out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 2)
        self.intermediate, self.output = nn.Linear(width, 24), nn.Linear(24, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return (x + self.dropout(self.output(functional.gelu(self.intermediate(self.norm2(x))))),)


class Vision(nn.Module):
    """A vision transformer with a learned position per patch and a class token, as transformers
    returns it: a dictionary.
    """

    def __init__(self, *, token: bool = False) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, 16, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16)) if token else None
        self.position = nn.Parameter(torch.randn(1, 16 + token, 16) * 0.1)
        self.layer = nn.ModuleList([Encoder(16) for _ in range(2)])
        self.layernorm = nn.LayerNorm(16)
        self.classifier = nn.Linear(16, 5)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        x = self.projection(pixel_values).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.position
        for layer in self.layer:
            (x,) = layer(x)
        x = self.layernorm(x)
        pooled = x[:, 0] if self.cls_token is not None else x.mean(1)
        return {"logits": self.classifier(pooled)}


class EncoderBlock(nn.Module):
    """As torchvision's vision transformer writes it, around torch's own attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        y, _ = self.self_attention(y, y, y, need_weights=False)
        x = y + x
        return x + self.mlp(self.ln_2(x))


class VisionEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, 16, 4, 4)
        self.layers = nn.Sequential(EncoderBlock(16), EncoderBlock(16))
        self.ln, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.ln(self.layers(self.conv_proj(x).flatten(2).transpose(1, 2))).mean(1))


class Bert(nn.Module):
    """Post-norm encoder over token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(30, 16)
        self.attention = Attention(16, 2)
        self.norm = nn.LayerNorm(16)
        self.dense1, self.dense2 = nn.Linear(16, 24), nn.Linear(24, 16)
        self.classifier = nn.Linear(16, 5)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.word_embeddings(input_ids)
        x = self.norm(x + self.attention(x))
        x = x + self.dense2(functional.gelu(self.dense1(x)))
        return self.classifier(torch.tanh(x[:, 0]))


class Tied(nn.Module):
    """Embeddings of tokens and of positions, and an output layer that shares the tokens' table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(30, 16), nn.Embedding(9, 16)
        self.norm, self.wide, self.narrow = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + self.places(torch.arange(ids.shape[1]))
        x = x + self.narrow(functional.gelu(self.wide(self.norm(x))))
        return self.head(x)


class NumberedAttention(nn.Module):
    """As timm writes it: one layer makes queries, keys and values, and sizes are numbers."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.inner = heads, head_dim, heads * head_dim
        self.scale = head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * self.inner), nn.Linear(self.inner, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        qkv = self.qkv(x).reshape(batch, count, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = torch.softmax(q @ k.transpose(-1, -2) * self.scale, -1) @ v
        return self.proj(x.transpose(1, 2).reshape(batch, count, self.inner))


class Numbered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        self.attention = NumberedAttention(16, 4, 4)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(self.norm(x))).mean(1))


class RegroupedAttention(nn.Module):
    """Heads of so many channels each, as many as there are: the size is no number that is seen."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.sizes = [size]
        self.qkv, self.out = nn.Linear(width, 3 * heads * size), nn.Linear(heads * size, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, -1, self.sizes[0]))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.softmax(q @ k.transpose(-1, -2) / self.sizes[0] ** 0.5, -1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


class Regrouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, 16, 4, 4), RegroupedAttention(16, 3, 12)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x)).mean(1))


class StandardisedConv(nn.Conv2d):
    """A convolution that standardises its weights at every inference, as NFNet's do."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        gain = (self.gain * self.scale).view(-1)
        weight = functional.batch_norm(flat, None, None, gain, training=True, momentum=0.0)
        return functional.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=self.padding)


class NormFree(nn.Module):
    """As NFNet: standardised weights, a convolution along the channels, a scalar on the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (
            StandardisedConv(*sizes) for sizes in ((3, 8, 3), (8, 12, 1), (12, 8, 3))
        )
        self.along = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.two(functional.silu(self.one(functional.silu(x))))
        factors = self.along(y.mean((2, 3)).view(len(y), 1, -1)).sigmoid()
        x = x + y * factors.view(len(y), -1, 1, 1) * self.gain
        return self.head(x.mean((2, 3)))


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, every bias and normalization drawn at random, so that nothing is the same by
    being zero or one.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in module.modules():
            for name in ("bias", "running_mean"):
                value = getattr(layer, name, None)
                if isinstance(value, Tensor):
                    value.normal_(0, 0.2)
            if hasattr(layer, "running_var") or isinstance(layer, nn.LayerNorm):
                layer.weight.uniform_(0.5, 1.5)
            if isinstance(getattr(layer, "running_var", None), Tensor):
                layer.running_var.uniform_(0.5, 2)
    return module.eval()


class Residual(nn.Module):
    """A block that is a module of its own and returns a tuple, as layers of transformers do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, 6, 3, padding=1), nn.Conv2d(6, width, 3, padding=1)

    def forward(self, x: Tensor, _mask: Tensor | None = None) -> tuple[Tensor]:
        return (x + self.two(functional.relu(self.one(x))),)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Residual(8) for _ in range(3)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        for block in self.blocks:
            x = block(x, None)[0]
        return self.head(x.mean((2, 3)))


class Hardcoded(nn.Module):
    """A forward that names numbers of channels, which pruning would have to change."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(functional.relu(self.stem(x)), [4, 4], 1)
        x = functional.relu(self.middle(torch.cat([right, left], 1)))
        return self.head(functional.adaptive_avg_pool2d(x, 4).flatten(1))


class Shared(nn.Module):
    """One convolution used twice: the graph has two layers where torch has one module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.twice(functional.relu(self.twice(functional.relu(self.stem(x))))))
        return self.head(functional.relu(self.last(x)).mean((2, 3)))


def is_dense_layer(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or (
        isinstance(part, nn.Conv2d) and (part.groups == 1 or part.groups != part.in_channels)
    )
