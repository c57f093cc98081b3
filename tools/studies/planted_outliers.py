"""Outlier tokens planted into the input of a network's last block, and a CLS token that is fitted.

Outliers of large ViTs share a direction, have a large norm, and attract the attention of CLS
(https://arxiv.org/abs/2309.16588). The norm before the last block feeds a LayerNorm, so attention
depends on the direction alone.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.ops import patch_tokens, qkv_parameters

#: Share of the patches of an image that become outliers.
SHARE = 0.02
_OWN_PART = 0.3  # of a token's own direction that remains in an outlier


class Outliers(NamedTuple):
    """How outliers differ from other tokens."""

    direction: str  # a key of DIRECTIONS
    ratio: float  # their norm, relative to the median norm
    side: int = 1  # of the square blocks of patches in which they come


#: Name -> outliers; None for the network as it is.
OUTLIERS: dict[str, Optional[Outliers]] = {
    'none': None,
    'large': Outliers('attended', 5.0),
    'key': Outliers('large key', 5.0),
    'quiet': Outliers('attended', 1.0),
    'blocks': Outliers('attended', 5.0, side=3),
}


def attended_direction(backbone: nn.Module, entering: Tensor) -> Tensor:
    """Compute the direction of the token that CLS attends to most.

    It maximizes the sum over heads of the scalar products of its key with the mean query of CLS,
    before any norm of queries and keys.

    Args:
        backbone (nn.Module): A :class:`~cotap_mm.models.DINOViT`.
        entering (Tensor): Tokens entering its last block, (B, T, d).

    Returns:
        Tensor: Unit vector, (d,).
    """
    query, keys = _query_and_keys(backbone, entering)
    return F.normalize(query @ keys, dim=0)


def large_key_direction(backbone: nn.Module, entering: Tensor) -> Tensor:
    """Compute the direction of the token with the largest key, on the side that CLS attends to.

    Args:
        backbone (nn.Module): A :class:`~cotap_mm.models.DINOViT`.
        entering (Tensor): Tokens entering its last block, (B, T, d).

    Returns:
        Tensor: Unit vector, (d,).
    """
    query, keys = _query_and_keys(backbone, entering)
    direction = torch.linalg.svd(keys)[2][0]
    return direction if query @ keys @ direction > 0 else -direction


DIRECTIONS = {'attended': attended_direction, 'large key': large_key_direction}


def _query_and_keys(backbone: nn.Module, entering: Tensor) -> tuple[Tensor, Tensor]:
    """Mean query of CLS, (d,), and the map from normalized tokens to keys, (d, d)."""
    block = backbone.last_block
    weight, bias = qkv_parameters(block.attn.qkv)
    width = entering.shape[2]
    query = F.linear(
        block.ln1(entering[:, 0]), weight[:width], None if bias is None else bias[:width]
    )
    return query.mean(dim=0), weight[width : 2 * width] * block.ln1.weight


def plant(
    backbone: nn.Module, entering: Tensor, grid: tuple[int, int], outliers: Outliers, seed: int
) -> tuple[Tensor, Tensor]:
    """Turn random patches of each image into outliers.

    The labels have no influence on which ones, so finding outliers tells nothing about objects.

    Args:
        backbone (nn.Module): A :class:`~cotap_mm.models.DINOViT`.
        entering (Tensor): Tokens entering its last block, (B, T, d).
        grid (tuple[int, int]): H, W.
        outliers (Outliers): What they look like.
        seed (int): Of their positions.

    Returns:
        tuple[Tensor, Tensor]: Tokens (B, T, d), and the indices of the outliers among the patches,
        (B, K) with K = 2 % of the patches, rounded to whole blocks, at least one; they may overlap.
    """
    patches = patch_tokens(entering, grid)  # (B, N, d)
    chosen = _draw_blocks(len(patches), grid, outliers.side, seed)  # (B, K)
    where = chosen[..., None].expand(-1, -1, patches.shape[2])
    shared = DIRECTIONS[outliers.direction](backbone, entering)
    own = F.normalize(patches.gather(1, where), dim=2)
    usual = torch.linalg.vector_norm(patches, dim=2).median()
    planted = outliers.ratio * usual * F.normalize(shared + _OWN_PART * own, dim=2)
    prefix = entering.shape[1] - patches.shape[1]
    return torch.cat([entering[:, :prefix], patches.scatter(1, where, planted)], dim=1), chosen


def _draw_blocks(num_images: int, grid: tuple[int, int], side: int, seed: int) -> Tensor:
    """Indices of the patches in random blocks, (B, K)."""
    rows, columns = (count - side + 1 for count in grid)  # of the upper left corners
    count = max(1, round(SHARE * grid[0] * grid[1] / side**2))
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand((num_images, rows * columns), generator=generator)
    corners = draws.argsort(dim=1)[:, :count, None]  # (B, blocks, 1)
    inside = torch.arange(side)
    offsets = (inside[:, None] * grid[1] + inside).flatten()  # (side * side,)
    return ((corners // columns) * grid[1] + corners % columns + offsets).flatten(1)


def fit_cls(
    backbone: nn.Module, entering: Tensor, grid: tuple[int, int], share: Tensor, steps: int = 200
) -> Tensor:
    """Fit one CLS token for all images, with which the last block attends to objects.

    Only these d numbers are trained, with labels, so that outliers have something to spoil.

    Args:
        backbone (nn.Module): A :class:`~cotap_mm.models.DINOViT`, frozen.
        entering (Tensor): Tokens entering its last block, (B, T, d).
        grid (tuple[int, int]): H, W.
        share (Tensor): Share of each patch that objects cover, (B, N); images without are skipped.
        steps (int): Of Adam with up to 32 images. Defaults to 200.

    Returns:
        Tensor: The token, (d,).
    """
    seen = share.sum(dim=1) > 0
    wanted = share[seen].float()
    wanted = wanted / wanted.sum(dim=1, keepdim=True)  # (B, N)
    cls, others = entering[:, 0].mean(dim=0).clone().requires_grad_(), entering[seen, 1:]
    optimizer = torch.optim.Adam([cls], lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randperm(len(wanted), generator=generator)[:32]
        tokens = torch.cat([cls.expand(len(batch), 1, -1), others[batch]], dim=1)
        attention = backbone.cls_attention(tokens, grid).mean(dim=1)  # (B, N)
        attention = attention / attention.sum(dim=1, keepdim=True)
        loss = -(wanted[batch] * attention.clamp_min(1e-12).log()).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return cls.detach()
