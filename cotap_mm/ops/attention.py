"""Attention and output of the CLS token alone."""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch.nn.functional as F
from torch import Tensor, nn

from .precision import at_least_float32
from .rotary import Rotation, rotate_patches


def patch_tokens(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Select the patches, which come last: (B, P + N, d) -> (B, N, d).

    Args:
        tokens (Tensor): P tokens of CLS and registers, then N patches, shape (B, P + N, d).
        grid (tuple[int, int]): H, W with H*W = N.
    """
    return tokens[:, tokens.shape[1] - grid[0] * grid[1] :]


def qkv_parameters(qkv: nn.Linear) -> tuple[Tensor, Optional[Tensor]]:
    """Return weight (3 d, d) and bias (3 d,) with which a layer projects to query, key and value.

    They differ from those of the layer if it has no bias for keys, as in DINOv3, or is adapted by
    LoRA.

    Args:
        qkv (nn.Linear): Joint projection, d -> 3 d.
    """
    return getattr(qkv, 'effective_weight', qkv.weight), getattr(qkv, 'effective_bias', qkv.bias)


def cls_attention(
    tokens: Tensor,
    qkv: nn.Linear,
    num_heads: int,
    num_prefix: int = 1,
    query_norm: Optional[Callable[[Tensor], Tensor]] = None,
    key_norm: Optional[Callable[[Tensor], Tensor]] = None,
    rotation: Optional[Rotation] = None,
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
        rotation (Rotation, optional): Rotary position embedding of the N patches; CLS has none.
            Defaults to None.

    Returns:
        Tensor: Softmax weights without those of the prefix, at least float32, (B, heads, N).
    """
    width = qkv.out_features // 3
    weight, bias = qkv_parameters(qkv)
    query = F.linear(tokens[:, :1], weight[:width], None if bias is None else bias[:width])
    key = F.linear(
        tokens, weight[width : 2 * width], None if bias is None else bias[width : 2 * width]
    )
    query, key = (
        x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (query, key)
    )  # (B, heads, 1, d/heads), (B, heads, T, d/heads)
    query = query if query_norm is None else query_norm(query)
    key = key if key_norm is None else key_norm(key)
    key = key if rotation is None else rotate_patches(key, rotation)
    logits = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    return at_least_float32(logits).softmax(dim=-1)[:, :, 0, num_prefix:]


def cls_through_block(tokens: Tensor, block: Any, rotation: Optional[Rotation] = None) -> Tensor:
    """Run a transformer block for the CLS token only.

    Args:
        tokens (Tensor): Input of the block, CLS first, shape (B, P + N, d).
        block (TransformerEncoderLayer): A block of MMPretrain's vision transformer or of ours.
        rotation (Rotation, optional): Rotary position embedding of the N patches. Defaults to
            None.

    Returns:
        Tensor: ``block(tokens)[:, 0]``, shape (B, d).
    """
    attn, width = block.attn, tokens.shape[-1]
    normed = block.ln1(tokens)
    weight, bias = qkv_parameters(attn.qkv)
    query = F.linear(normed[:, :1], weight[:width], None if bias is None else bias[:width])
    both = F.linear(normed, weight[width:], None if bias is None else bias[width:])
    query, key, value = (
        x.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        for x in (query, *both.chunk(2, dim=-1))
    )  # (B, heads, 1 or T, d/heads)
    if getattr(attn, 'q_norm', None) is not None:
        query, key = attn.q_norm(query), attn.k_norm(key)
    if rotation is not None:
        key = rotate_patches(key, rotation)
    read = attn.scaled_dot_product_attention(
        query, key, value, dropout_p=attn.attn_drop if attn.training else 0.0
    )
    read = attn.proj(read.transpose(1, 2).flatten(2))  # (B, 1, d)
    cls = tokens[:, :1] + attn.out_drop(attn.gamma1(attn.proj_drop(read)))
    return block.ffn(block.ln2(cls), identity=cls)[:, 0]
