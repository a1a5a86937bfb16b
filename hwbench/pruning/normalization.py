"""Batch normalization of a pruned network, corrected so that what leaves it is spread as in the original."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwbench.errors import UsageError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Spread:
    """Mean and variance of what arrives at a normalization, per channel, over all batches."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Forward hook: take in what the layer reads."""
        x = inputs[0].detach()
        dims = [dim for dim in range(x.ndim) if dim != 1]
        variance, mean = (value.double().cpu() for value in torch.var_mean(x, dims, correction=0))
        count = x.numel() // x.shape[1]
        self._count += count
        self._sum, self._squares = (
            self._sum + count * mean,
            self._squares + count * (variance + mean.square()),
        )

    @property
    def mean(self) -> Tensor:
        """Shape (channels,)."""
        return self._sum / self._count

    @property
    def variance(self) -> Tensor:
        """Shape (channels,)."""
        return (self._squares / self._count - self.mean.square()).clamp_min(0)


class Correction(Spread):
    """Forward hook of a pruned network's normalization: its output gets the mean and spread that the original's has."""

    def __init__(self, layer: nn.BatchNorm2d, before: Spread, kept: Tensor | None) -> None:
        super().__init__()
        chosen = torch.arange(len(before.mean)) if kept is None else kept
        self._wanted = before.mean[chosen], before.variance[chosen]
        self._running = (_running(layer.running_mean), _running(layer.running_var))

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take in what the layer reads, and set its statistics before it runs."""
        super().__call__(layer, inputs)
        (mean, variance), (running_mean, running_var) = self._wanted, self._running
        norm: nn.BatchNorm2d = layer  # type: ignore[assignment]
        ratio = (self.variance + norm.eps) / (variance + norm.eps)
        _running(norm.running_mean, self.mean - (mean - running_mean) * ratio.sqrt())
        _running(norm.running_var, ((running_var + norm.eps) * ratio - norm.eps).clamp_min(0))


def _running(buffer: Tensor | None, value: Tensor | None = None) -> Tensor:
    """A running statistic as it was, in double precision; it becomes `value` if one is given."""
    if buffer is None:
        raise UsageError(
            "batch normalization without running statistics cannot be corrected; calibrate with"
            " renormalized=0"
        )
    was = buffer.detach().double().cpu()
    if value is not None:
        buffer.copy_(value)
    return was
