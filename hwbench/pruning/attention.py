"""torch's attention after channels were cut out of it.

`nn.MultiheadAttention` has one width: what it reads, its queries, keys and values all together, and
what it writes are equally wide. A pruned network reads and writes what is left of the residual
stream, and its heads have lost channels of their own. `NarrowAttention` computes the same, and
reads all sizes off its weights. It does so in the operations that torch's is made of, in their
order, as tables know layers by these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwbench.errors import UsageError


class NarrowAttention(nn.Module):
    """Multi-head attention whose widths are those of its weights (Vaswani et al. 2017, 3.2.2).

    Its parameters have the names that those of `nn.MultiheadAttention` have, and `forward` takes
    the same arguments. Scores are scaled as the original scales them, by the root of the channels
    that its heads had, so that cutting channels changes nothing else.

    Args:
        original: What it stands in for; the weights are taken over, not copied.

    Raises:
        UsageError: Keys or values of the original have widths of their own, or it adds keys.
    """

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        if original.in_proj_weight is None or original.bias_k is not None or original.add_zero_attn:
            raise UsageError(
                "attention is cut where queries, keys and values are made by one weight and no keys"
                " are added"
            )
        self.num_heads = original.num_heads
        self.batch_first = original.batch_first
        self.dropout = original.dropout
        self.scale = 1 / math.sqrt(original.head_dim)
        # nn.TransformerEncoderLayer asks for this before it calls a fused kernel of its own.
        self._qkv_same_embed_dim = False
        self.in_proj_weight = original.in_proj_weight
        self.in_proj_bias = original.in_proj_bias
        self.out_proj = original.out_proj
        self.train(original.training)

    def forward(  # noqa: PLR0917 - as the original is called
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002 - a hint about attn_mask, which is given too
    ) -> tuple[Tensor, Tensor | None]:
        """Compute what `nn.MultiheadAttention.forward` does.

        Args:
            query: Shape (n, l, channels), (l, n, channels) unless batches come first, or
                (l, channels).
            key: The same with s positions.
            value: As `key`.
            key_padding_mask: Shape (n, s): true, or minus infinity, where keys are left out.
            need_weights: Whether the weights are returned as well.
            attn_mask: Shape (l, s) or (n * heads, l, s): likewise.
            average_attn_weights: Whether those are means over the heads.
            is_causal: Not looked at.

        Returns:
            The output, in the shape of `query`; and the weights, None unless they are needed.
        """
        is_batched = query.dim() == 3
        swaps = is_batched and self.batch_first
        is_self = query is key and key is value
        sources = [query] if is_self else [query, key, value]
        if not is_batched:
            sources = [source.unsqueeze(1) for source in sources]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif swaps:
            sources = [source.transpose(1, 0) for source in sources]
        length, batch = sources[0].shape[:2]
        mask = self._merge_masks(attn_mask, key_padding_mask, query)
        queries, keys, values = (self._divide(made) for made in self._project(sources))
        if need_weights:
            mixed, shares = self._attend(queries, keys, values, mask, batch)
            mixed = mixed.transpose(0, 1).contiguous()
        else:
            mixed, shares = self._attend_at_once(queries, keys, values, mask, batch), None
            mixed = mixed.permute(2, 0, 1, 3).contiguous()
        output: Tensor = self.out_proj(mixed.view(length * batch, -1))
        output = output.view(length, batch, -1)
        if shares is not None and average_attn_weights:
            shares = shares.mean(1)
        if not is_batched:
            return output.squeeze(1), None if shares is None else shares.squeeze(0)
        return (output.transpose(1, 0) if swaps else output), shares

    def _project(self, sources: Sequence[Tensor]) -> Sequence[Tensor]:
        """Queries, keys and values, of shape (positions, n, channels).

        Args:
            sources: What they are made of; one where all are made of the same, at once.
        """
        if len(sources) > 1:
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            weights = self.in_proj_weight.chunk(3)
            return [
                functional.linear(source, weight, bias)
                for source, weight, bias in zip(sources, weights, biases, strict=True)
            ]
        made = functional.linear(sources[0], self.in_proj_weight, self.in_proj_bias)
        parts = made.view(*made.shape[:-1], 3, -1).unsqueeze(0).transpose(0, -2).squeeze(-2)
        parts = parts.contiguous()
        return [parts[0], parts[1], parts[2]]

    def _divide(self, made: Tensor) -> Tensor:
        """One head after the other, of shape (n * heads, positions, channels)."""
        length, batch, channels = made.shape
        count = self.num_heads
        return made.view(length, batch * count, channels // count).transpose(0, 1)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, batch: int
    ) -> tuple[Tensor, Tensor]:
        """Mix the values of each head; also the shares, of shape (n, heads, l, s)."""
        scores = torch.bmm(query * self.scale, key.transpose(-2, -1))
        if mask is not None:
            scores = scores + mask.expand(batch, self.num_heads, -1, -1).flatten(0, 1)
        shares = functional.dropout(scores.softmax(-1), self.dropout, training=self.training)
        return torch.bmm(shares, value), shares.view(batch, self.num_heads, *shares.shape[1:])

    def _attend_at_once(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, batch: int
    ) -> Tensor:
        """Mix the values of each head, by the fastest kernel; shape (n, heads, l, channels)."""
        query, key, value = (
            part.view(batch, self.num_heads, part.shape[1], part.shape[2])
            for part in (query, key, value)
        )
        dropout = self.dropout if self.training else 0.0
        return functional.scaled_dot_product_attention(
            query, key, value, mask, dropout, scale=self.scale
        )

    def _merge_masks(
        self, attention: Tensor | None, padding: Tensor | None, query: Tensor
    ) -> Tensor | None:
        """One mask that is added to the scores (n, heads, l, s); None without any."""
        merged = None
        if attention is not None:
            merged = _additive(attention, query)
            if merged.dim() == 3:
                merged = merged.reshape(-1, self.num_heads, *merged.shape[1:])
        if padding is not None:
            of_keys = _additive(padding, query)[:, None, None]
            merged = of_keys if merged is None else merged + of_keys
        return merged


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers that are added to scores."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def replace_attention(module: nn.Module, paths: Iterable[str]) -> None:
    """Let `NarrowAttention` stand wherever channels of torch's attention are cut, in place.

    Args:
        module: The network.
        paths: Of the modules and bare parameters that are cut.

    Raises:
        UsageError: One of them cannot be cut.
    """
    for path in paths:
        # A bare parameter's owner, or that of the linear layer behind the heads.
        owner = path.rpartition(".")[0]
        original = module.get_submodule(owner)
        if isinstance(original, nn.MultiheadAttention):
            module.set_submodule(owner, NarrowAttention(original), strict=True)
