"""The CLS token in a self-attention layer."""

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
    """How the first token attends to the patches in a self-attention layer.

    Only one row of the attention is computed, so fused attention layers, which
    never hold their weights, are no obstacle.

    Args:
        tokens (Tensor): What enters the layer (after its norm), shape (B, num_prefix + N, d).
        qkv (nn.Linear): The layer's joint projection to query, key and value, d -> 3 d.
        num_heads (int): Attention heads.
        num_prefix (int): Tokens before the patches (CLS and registers). Defaults to 1.
        query_norm (callable, optional): Norm of each head's query, where there is one.
        key_norm (callable, optional): The same for keys.

    Returns:
        Tensor: float32 softmax weights without those of the prefix, shape (B, heads, N).
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
    """CLS behind a transformer block, without the other tokens behind it.

    Args:
        tokens (Tensor): What enters the block, CLS first, shape (B, 1 + N, d).
        block (TransformerEncoderLayer): MMPretrain's.

    Returns:
        Tensor: What ``block(tokens)[:, 0]`` is, shape (B, d).
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
