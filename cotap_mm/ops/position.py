"""Resizing of position embeddings and patch embeddings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32

#: How a family of networks resizes its position embeddings; the grid is (h, w), before (h0, w0).
RESIZE_RULES = {
    'dino': 'bicubic by the factors (h + 0.1) / h0 and (w + 0.1) / w0: DINO, iBOT, DINOv2',
    'size': 'bicubic to the size (h, w): transformers, MMPretrain, MAE',
    'antialias': 'bicubic to the size (h, w) with antialiasing: timm, DINOv2 with registers',
}


def resize_position_embedding(
    pos_embed: Tensor,
    source: tuple,
    target: tuple,
    num_extra_tokens: int = 1,
    rule: str = 'dino',
) -> Tensor:
    """Resize position embeddings bicubically, as the family of the network does.

    In DINO, the *scale factor* (h + 0.1) / h0 determines the sampling positions. Resizing to the
    size (h, w) gives slightly different values, antialiasing other ones where the grid shrinks.

    Source: DINO, https://arxiv.org/abs/2104.14294 (its released implementation); the rules of
    transformers 5 and timm 1.0.

    Args:
        pos_embed (Tensor): Embeddings, extra tokens first, shape (1, E + h0*w0, d).
        source (tuple): Grid (h0, w0) of ``pos_embed``.
        target (tuple): New grid (h, w), in patches.
        num_extra_tokens (int): E, tokens without a position in the grid. Defaults to 1.
        rule (str): One of :data:`RESIZE_RULES`. Defaults to ``'dino'``.

    Returns:
        Tensor: Embeddings, shape (1, E + h*w, d).

    Raises:
        ValueError: If ``pos_embed`` does not have E + h0*w0 tokens, or the rule is unknown.
    """
    check_rule(rule)
    if pos_embed.shape[1] != num_extra_tokens + source[0] * source[1]:
        raise ValueError(
            f'pos_embed has {pos_embed.shape[1]} tokens, expected '
            f'{num_extra_tokens} + {source[0]} x {source[1]}'
        )
    if tuple(source) == tuple(target):
        return pos_embed
    extra, grid = pos_embed[:, :num_extra_tokens], pos_embed[:, num_extra_tokens:]
    grid = grid.unflatten(1, tuple(source)).permute(0, 3, 1, 2)  # (1, N, d) -> (1, d, h0, w0)
    precise = at_least_float32(grid)
    if rule == 'dino':
        scale = tuple((new + 0.1) / old for new, old in zip(target, source))
        resized = F.interpolate(precise, scale_factor=scale, mode='bicubic')
    else:
        antialias = rule == 'antialias'
        resized = F.interpolate(precise, tuple(target), mode='bicubic', antialias=antialias)
    resized = resized.to(grid.dtype)
    return torch.cat([extra, resized.flatten(2).transpose(1, 2)], dim=1)  # (1, E + h*w, d)


def check_rule(rule: Any) -> None:
    """Reject an unknown rule.

    Raises:
        ValueError: If it is not one of :data:`RESIZE_RULES`.
    """
    if rule not in RESIZE_RULES:
        raise ValueError(
            f'the rule to resize position embeddings must be one of {", ".join(RESIZE_RULES)}, '
            f'got {rule!r}'
        )


def resize_patch_embedding(weight: Tensor, size: int) -> Tensor:
    """Resize the kernels of a patch embedding, so that resized patches give the same tokens.

    Patches x of p x p pixels become B x when they are resized to q x q pixels. The new kernel is
    the pseudo-inverse of B^T applied to the old one: then (B x) . w' = x . w for every x if
    q >= p, and as nearly as possible for random x otherwise. (Resizing the kernels themselves would
    change the size of the tokens.)

    Source: FlexiViT, https://arxiv.org/abs/2212.08013, section 3.4.

    Args:
        weight (Tensor): Kernels, shape (d, channels, p, p).
        size (int): q, new side in pixels.

    Returns:
        Tensor: Kernels, shape (d, channels, q, q).
    """
    old = weight.shape[-1]
    if size == old:
        return weight
    eye = torch.eye(old * old, dtype=torch.double).view(old * old, 1, old, old)
    resize = F.interpolate(eye, (size, size), mode='bicubic', antialias=size < old)
    matrix = torch.linalg.pinv(resize.flatten(1))  # (p*p, q*q): B^T -> its pseudo-inverse
    kernels = at_least_float32(weight).double().flatten(2).cpu()  # (d, channels, p*p)
    resized = kernels @ matrix.T
    return resized.unflatten(2, (size, size)).to(weight)
