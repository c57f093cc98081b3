"""Attention and output of the CLS token alone."""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch.nn.functional as F
from torch import Tensor, nn

from .precision import at_least_float32


def cls_attention(
    tokens: Tensor,
    qkv: nn.Linear,
    num_heads: int,
    num_prefix: int = 1,
    query_norm: Optional[Callable[[Tensor], Tensor]] = None,
    key_norm: Optional[Callable[[Tensor], Tensor]] = None,
) -> Tensor:
    """Compute the attention of the CLS token to the patches in a self-attention layer.

    Computes this one row of the attention from the layer's projection, so it also works for layers
    with fused attention, which never hold their weights.

    Args:
        tokens (Tensor): Input of the layer, after its norm, shape (B, num_prefix + N, d).
        qkv (nn.Linear): Joint projection to query, key and value, d -> 3 d.
        num_heads (int): Number of attention heads.
        num_prefix (int): Tokens before the patches (CLS and registers). Defaults to 1.
        query_norm (Callable, optional): Norm of the query of each head. Defaults to None.
        key_norm (Callable, optional): Norm of the keys of each head. Defaults to None.

    Returns:
        Tensor: Softmax weights without those of the prefix, at least float32, (B, heads, N).
    """
    width = qkv.out_features // 3
    weight, bias = qkv.weight, qkv.bias
    query = F.linear(tokens[:, :1], weight[:width], None if bias is None else bias[:width])
    key = F.linear(
        tokens, weight[width : 2 * width], None if bias is None else bias[width : 2 * width]
    )
    query, key = (
        x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (query, key)
    )  # (B, heads, 1, d/heads), (B, heads, T, d/heads)
    query = query if query_norm is None else query_norm(query)
    key = key if key_norm is None else key_norm(key)
    logits = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    return at_least_float32(logits).softmax(dim=-1)[:, :, 0, num_prefix:]


def cls_through_block(tokens: Tensor, block: Any) -> Tensor:
    """Run a transformer block for the CLS token only.

    Args:
        tokens (Tensor): Input of the block, CLS first, shape (B, 1 + N, d).
        block (TransformerEncoderLayer): A block of MMPretrain's vision transformer.

    Returns:
        Tensor: ``block(tokens)[:, 0]``, shape (B, d).
    """
    attn, width = block.attn, tokens.shape[-1]
    normed = block.ln1(tokens)
    weight, bias = attn.qkv.weight, attn.qkv.bias
    query = F.linear(normed[:, :1], weight[:width], None if bias is None else bias[:width])
    both = F.linear(normed, weight[width:], None if bias is None else bias[width:])
    query, key, value = (
        x.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        for x in (query, *both.chunk(2, dim=-1))
    )  # (B, heads, 1 or T, d/heads)
    read = attn.scaled_dot_product_attention(
        query, key, value, dropout_p=attn.attn_drop if attn.training else 0.0
    )
    read = attn.proj(read.transpose(1, 2).flatten(2))  # (B, 1, d)
    cls = tokens[:, :1] + attn.out_drop(attn.gamma1(attn.proj_drop(read)))
    return block.ffn(block.ln2(cls), identity=cls)[:, 0]
