"""Resizing of position embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32


def resize_position_embedding(
    pos_embed: Tensor, source: tuple, target: tuple, num_extra_tokens: int = 1
) -> Tensor:
    """Resize position embeddings bicubically, as DINO does.

    The *scale factor* (h + 0.1) / h0 determines the sampling positions. Resizing to the size
    (h, w) would give slightly different values from those that DINO was trained with.

    Source: DINO, https://arxiv.org/abs/2104.14294 (its released implementation).

    Args:
        pos_embed (Tensor): Embeddings, extra tokens first, shape (1, E + h0*w0, d).
        source (tuple): Grid (h0, w0) of ``pos_embed``.
        target (tuple): New grid (h, w), in patches.
        num_extra_tokens (int): E, tokens without a position in the grid. Defaults to 1.

    Returns:
        Tensor: Embeddings, shape (1, E + h*w, d).

    Raises:
        ValueError: If ``pos_embed`` does not have E + h0*w0 tokens.
    """
    if pos_embed.shape[1] != num_extra_tokens + source[0] * source[1]:
        raise ValueError(
            f'pos_embed has {pos_embed.shape[1]} tokens, expected '
            f'{num_extra_tokens} + {source[0]} x {source[1]}'
        )
    if tuple(source) == tuple(target):
        return pos_embed
    extra, grid = pos_embed[:, :num_extra_tokens], pos_embed[:, num_extra_tokens:]
    grid = grid.unflatten(1, tuple(source)).permute(0, 3, 1, 2)  # (1, N, d) -> (1, d, h0, w0)
    scale = tuple((new + 0.1) / old for new, old in zip(target, source))
    precise = at_least_float32(grid)
    resized = F.interpolate(precise, scale_factor=scale, mode='bicubic').to(grid.dtype)
    return torch.cat([extra, resized.flatten(2).transpose(1, 2)], dim=1)  # (1, E + h*w, d)
