"""Correcting a pruned network's batch normalization: its outputs keep the original's spread."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwbench.errors import UsageError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class InputSpread:
    """The mean and variance of what a normalization reads, per channel, over all batches.

    It is registered as a forward hook of the normalization and sums up what arrives there.
    """

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add up what the layer reads, of shape (images, channels, ..)."""
        x = inputs[0].detach()
        dims = [dim for dim in range(x.ndim) if dim != 1]
        variance, mean = torch.var_mean(x, dims, correction=0)
        variance, mean = variance.double().cpu(), mean.double().cpu()
        count = x.numel() // x.shape[1]
        self._count += count
        self._sum = self._sum + count * mean
        self._squares = self._squares + count * (variance + mean.square())

    @property
    def mean(self) -> Tensor:
        """The mean of every channel, shape (channels,)."""
        return self._sum / self._count

    @property
    def variance(self) -> Tensor:
        """The variance of every channel, shape (channels,)."""
        return (self._squares / self._count - self.mean.square()).clamp_min(0)


class SpreadCorrection(InputSpread):
    """Forward hook that gives a pruned normalization's output the original's mean and spread.

    Args:
        layer: The normalization of the pruned network, with the statistics it inherited.
        original: What the same normalization read in the original network.
        kept: The channels that stay; None for all.

    Raises:
        UsageError: The normalization has no running statistics.
    """

    def __init__(self, layer: nn.Module, original: InputSpread, kept: Tensor | None) -> None:
        super().__init__()
        mean, variance = original.mean, original.variance
        if kept is not None:
            mean, variance = mean[kept], variance[kept]
        self._original_mean, self._original_variance = mean, variance
        norm: nn.BatchNorm2d = layer  # type: ignore[assignment]
        self._running_mean = _checked_buffer(norm.running_mean).detach().double().cpu()
        self._running_var = _checked_buffer(norm.running_var).detach().double().cpu()

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add up what the layer reads, and set its statistics before it runs."""
        super().__call__(layer, inputs)
        norm: nn.BatchNorm2d = layer  # type: ignore[assignment]
        # The output is (x - running_mean) / sqrt(running_var + eps). The new statistics are those
        # for which the output's variance and mean on the pruned inputs equal what the inherited
        # statistics made of the original inputs: the variances must have the same ratio, and the
        # distance of the means the same size in units of the standard deviation.
        ratio = (self.variance + norm.eps) / (self._original_variance + norm.eps)
        distance = self._original_mean - self._running_mean
        new_var = ((self._running_var + norm.eps) * ratio - norm.eps).clamp_min(0)
        _checked_buffer(norm.running_mean).copy_(self.mean - distance * ratio.sqrt())
        _checked_buffer(norm.running_var).copy_(new_var)


def _checked_buffer(buffer: Tensor | None) -> Tensor:
    if buffer is None:
        raise UsageError(
            "batch normalization without running statistics cannot be corrected; calibrate with"
            " renormalized=0"
        )
    return buffer
