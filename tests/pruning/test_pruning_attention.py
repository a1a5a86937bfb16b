"""What stands in for torch's attention once channels were cut out of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwbench.errors import UsageError
from hwbench.pruning.attention import NarrowAttention


def attention(**options) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(16, 4, **options).eval()
    if made.in_proj_bias is not None:
        nn.init.normal_(made.in_proj_bias)
    return made


@pytest.mark.parametrize("is_batched", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_torch_does(is_batched, batch_first, need_weights, bias):
    original = attention(batch_first=batch_first, bias=bias)
    query, key, value = (torch.randn(3, 3, 16) for _ in range(3))
    if not is_batched:
        query, key, value = query[0], key[0], value[0]
    expected = original(query, key, value, need_weights=need_weights)
    given = NarrowAttention(original)(query, key, value, need_weights=need_weights)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
@pytest.mark.parametrize("per_head", [True, False])
def test_masks_leave_out_the_same_positions(kind, per_head):
    original = attention(batch_first=True)
    x = torch.randn(2, 5, 16)
    later = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    if per_head:
        later = later.expand(8, 5, 5).clone()
        later[3] = False
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    if kind != torch.bool:
        later, padding = (
            torch.zeros(mask.shape).masked_fill(mask, float("-inf")) for mask in (later, padding)
        )
    asked = {"attn_mask": later, "key_padding_mask": padding, "average_attn_weights": False}
    torch.testing.assert_close(
        NarrowAttention(original)(x, x, x, **asked), original(x, x, x, **asked)
    )


def test_an_encoder_of_torch_runs_with_it():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = layer(x)
        layer.self_attn = NarrowAttention(layer.self_attn)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"kdim": 8}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_of_other_kinds_is_refused(options):
    with pytest.raises(UsageError, match="attention is cut where"):
        NarrowAttention(attention(**options))
