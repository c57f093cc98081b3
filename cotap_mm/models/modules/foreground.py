"""Foreground of an image: the patches that the patch losses use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cotap_mm.ops import (
    cls_attention,
    foreground_mask,
    local_median,
    outlying_norms,
    patch_tokens,
)
from cotap_mm.registry import MODELS
from cotap_mm.rules import check_arguments, number, whole


@MODELS.register_module()
class ClsAttention(nn.Module):
    """The smallest set of patches that holds a given share of the attention of CLS.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        mass (float): Share of the attention, in (0, 1]. Defaults to 0.6.
        sigma (float): Standard deviation of the blur of the attention in patches, > 0; a small one
            (0.01) does not blur. Defaults to 0.6.

    Raises:
        ValueError: If an argument is out of range.
    """

    @check_arguments(mass=number(0, 1, above=True), sigma=number(0, above=True))
    def __init__(self, mass: float = 0.6, sigma: float = 0.6) -> None:
        super().__init__()
        self.mass, self.sigma = mass, sigma

    @torch.no_grad()
    def forward(self, backbone: nn.Module, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the foreground.

        Args:
            backbone (nn.Module): A :class:`DINOViT`.
            entering (Tensor): Tokens entering its last block, (B, 1+R+N, d).
            grid (tuple[int, int]): H, W with H*W = N.

        Returns:
            Tensor: Mask, bool (B, H, W), True for at least one patch of each image.
        """
        attention = self.attention(backbone, entering, grid)
        return foreground_mask(attention.unflatten(2, grid), self.mass, self.sigma)

    def attention(self, backbone: nn.Module, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the attention of CLS to the patches, (B, heads, N)."""
        return backbone.cls_attention(entering, grid)


@MODELS.register_module()
class ClippedAttention(ClsAttention):
    """As :class:`ClsAttention`, with patches of outlying norm set aside.

    Large ViTs without registers store global information in a few background patches, which CLS
    attends to. They get no share of the attention, and are never foreground.

    Source: outliers of the norm, https://arxiv.org/abs/2309.16588.

    Args:
        mass (float): Defaults to 0.6.
        sigma (float): Defaults to 0.6.
    """

    @torch.no_grad()
    def forward(self, backbone: nn.Module, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the foreground; see :meth:`ClsAttention.forward`."""
        norms = torch.linalg.vector_norm(patch_tokens(entering, grid).float(), dim=-1)
        outlying = outlying_norms(norms)  # (B, N)
        attention = self.attention(backbone, entering, grid).mean(dim=1)  # (B, N)
        kept = attention.masked_fill(outlying, 0.0)
        mask = foreground_mask(kept[:, None].unflatten(2, grid), self.mass, self.sigma).flatten(1)
        mask = mask & ~outlying
        best = F.one_hot(kept.argmax(dim=1), kept.shape[1]).bool()
        empty = ~mask.any(dim=1, keepdim=True)  # the blur may leave only an outlier
        return (mask | (best & empty)).unflatten(1, grid)


@MODELS.register_module()
class KeyNormAttention(ClsAttention):
    """As :class:`ClsAttention`, with keys of equal norm in each head.

    Tokens that attract attention by the norm of their key, not by its direction, lose it.

    Args:
        mass (float): Defaults to 0.6.
        sigma (float): Defaults to 0.6.
    """

    def attention(self, backbone: nn.Module, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the attention of CLS to patches, (B, heads, N)."""
        block = backbone.last_block

        def of_equal_norm(key: Tensor) -> Tensor:
            key = key if block.attn.k_norm is None else block.attn.k_norm(key)
            norms = torch.linalg.vector_norm(key.float(), dim=-1, keepdim=True)
            usual = norms.median(dim=2, keepdim=True).values  # of the tokens of an image
            return (key * (usual / norms.clamp_min(1e-12))).to(key.dtype)

        return cls_attention(
            block.ln1(entering),
            block.attn.qkv,
            block.attn.num_heads,
            backbone.num_prefix,
            block.attn.q_norm,
            of_equal_norm,
            backbone.rotation(grid),
        )


@MODELS.register_module()
class MedianAttention(ClsAttention):
    """As :class:`ClsAttention`, with the median of 3 x 3 patches for the attention of each.

    Single patches that attract attention lose it, whatever their norm or key. So do objects that
    are narrower than two patches.

    Args:
        mass (float): Defaults to 0.6.
        sigma (float): Defaults to 0.6.
    """

    def attention(self, backbone: nn.Module, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the local median of the mean over heads, (B, 1, N)."""
        mean = super().attention(backbone, entering, grid).mean(dim=1)  # (B, N)
        return local_median(mean.unflatten(1, grid)).flatten(1)[:, None]


@MODELS.register_module()
class PcaForeground(nn.Module):
    """Patches on one side of the first principal component of the image's tokens.

    Tokens have unit length and are centered. The side that the border of the image belongs to
    less is the foreground. No attention is read.

    Args:
        steps (int): Iterations of the power method. Defaults to 30.
    """

    @check_arguments(steps=whole(1))
    def __init__(self, steps: int = 30) -> None:
        super().__init__()
        self.steps = steps

    @torch.no_grad()
    def forward(self, backbone: nn.Module, entering: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the foreground; see :meth:`ClsAttention.forward`."""
        with torch.autocast(entering.device.type, enabled=False):
            tokens = F.normalize(patch_tokens(entering, grid).float(), dim=-1)  # (B, N, d)
            tokens = tokens - tokens.mean(dim=1, keepdim=True)
            direction = tokens[:, :1]  # deterministic; the corner is rarely orthogonal
            for _ in range(self.steps):
                scores = tokens @ direction.transpose(1, 2)  # (B, N, 1)
                direction = F.normalize(scores.transpose(1, 2) @ tokens, dim=-1)  # (B, 1, d)
            scores = (tokens @ direction.transpose(1, 2))[..., 0].unflatten(1, grid)
        border = border_of(grid, scores.device)
        outside = (scores * border).sum(dim=(1, 2)) / border.sum()
        scores = scores * torch.where(outside > 0, -1.0, 1.0)[:, None, None]
        best = F.one_hot(scores.flatten(1).argmax(dim=1), grid[0] * grid[1]).bool()
        return (scores > 0) | best.unflatten(1, grid)


def border_of(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return a mask of the outermost patches of a grid (H, W), bool."""
    rows, columns = (torch.arange(count, device=device) for count in grid)
    at_top = (rows == 0) | (rows == grid[0] - 1)
    at_side = (columns == 0) | (columns == grid[1] - 1)
    return at_top[:, None] | at_side[None]


@torch.no_grad()
def border_excess(mask: Tensor) -> Tensor:
    """Measure how much more of the border than of the middle of images is foreground.

    Args:
        mask (Tensor): Foreground, bool (..., H, W).

    Returns:
        Tensor: Share of the outermost patches minus that of the middle half, in [-1, 1], a scalar.
    """
    height, width = mask.shape[-2:]
    share = mask.float().reshape(-1, height, width).mean(dim=0)
    border = border_of((height, width), mask.device)
    middle = share[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return (share * border).sum() / border.sum() - middle.mean()
