"""Rotary position embedding of a vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cotap_mm.ops import Rotation, patch_rotation
from cotap_mm.rules import check_rules, number


class RotaryPositions(nn.Module):
    """Rotations of the patches of a grid.

    Periods are a buffer. DINOv3's own files store them rounded to bfloat16, and then these are
    loaded; transformers and timm compute them in float32, as this constructor does.

    Source: DINOv3, https://arxiv.org/abs/2508.10104.

    Args:
        head_dims (int): c, channels of an attention head, a multiple of 4.
        theta (float): Base of the periods, which grow from 1 to almost ``theta`` in units of half
            the side of the image. Defaults to 100.

    Raises:
        ValueError: If ``head_dims`` is not a multiple of 4, or ``theta`` not above 1.
    """

    periods: Tensor

    def __init__(self, head_dims: int, theta: float = 100.0) -> None:
        super().__init__()
        if head_dims % 4:
            raise ValueError(
                f'rope needs heads with a multiple of 4 channels, got {head_dims}; change '
                'num_heads or embed_dims'
            )
        check_rules(dict(theta=theta), dict(theta=number(1, above=True)), 'rope: ')
        exponents = torch.arange(head_dims // 4, dtype=torch.float32) / (head_dims // 4)
        self.register_buffer('periods', theta**exponents)  # (c/4,)

    def forward(self, grid: tuple[int, int]) -> Rotation:
        """Compute cosine and sine for the patches of a grid, (H*W, c) each."""
        return patch_rotation(grid, self.periods)
