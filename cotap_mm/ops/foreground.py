"""Foreground mask from the attention of the CLS token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from .precision import at_least_float32

_BLUR_KERNEL = 7


@torch.no_grad()
def foreground_mask(attention: Tensor, mass: float = 0.6, sigma: float = 0.6) -> Tensor:
    """Select the smallest set of patches that holds a given share of the CLS attention.

    Averages over heads, blurs with a Gaussian (7 x 7, reflected borders; a smaller kernel on grids
    too small to reflect 3 patches), and drops patches in ascending order as long as the dropped
    ones hold at most ``1 - mass`` of the attention.
    Computed in at least float32, also under autocast.

    Source: CoTAP, https://arxiv.org/abs/2509.09429.

    Args:
        attention (Tensor): Attention of CLS to the patches, shape (B, heads, H, W).
        mass (float): Share of the attention that is kept, in (0, 1]. Defaults to 0.6.
        sigma (float): Standard deviation of the blur in patches, > 0. Defaults to 0.6.

    Returns:
        Tensor: Mask, bool (B, H, W), True for at least one patch of each image.

    Raises:
        ValueError: If ``attention`` is not 4-D or an option is out of range.
    """
    if attention.ndim != 4:
        raise ValueError(
            f'attention must have shape (B, heads, H, W), got {tuple(attention.shape)}'
        )
    if not 0 < mass <= 1:
        raise ValueError(f'mass must be in (0, 1], got {mass}')
    if not sigma > 0:
        raise ValueError(f'sigma must be > 0, got {sigma}')
    attention = at_least_float32(attention)
    mean = attention.mean(dim=1, keepdim=True)  # (B, heads, H, W) -> (B, 1, H, W)
    height, width = mean.shape[-2:]
    kernel = [min(_BLUR_KERNEL, 2 * side - 1) for side in (width, height)]
    # Autocast would blur in half precision, whose rounding changes which patches are kept.
    with torch.autocast(mean.device.type, enabled=False):
        weight = gaussian_blur(mean, kernel, [sigma, sigma]).flatten(1)  # (B, H*W)
    ascending, order = weight.sort(dim=1)
    share = (ascending / ascending.sum(dim=1, keepdim=True)).cumsum(dim=1)
    kept = share > 1 - mass
    kept[:, -1] = True  # rounding of the sum must not leave the mask empty
    mask = torch.zeros_like(kept).scatter_(1, order, kept)
    return mask.unflatten(1, (height, width))


def outlying_norms(norms: Tensor, ratio: float = 1.5, deviations: float = 5.0) -> Tensor:
    """Find tokens whose norm is far above that of the others.

    Source: https://arxiv.org/abs/2309.16588 (which marks them by a threshold for each network).

    Args:
        norms (Tensor): Norms of the tokens of a batch, any shape.
        ratio (float): Lowest norm of an outlier, relative to the median. Defaults to 1.5.
        deviations (float): Lowest distance from the median in robust standard deviations (1.4826
            times the median absolute deviation). Defaults to 5.

    Returns:
        Tensor: Bool, same shape; True for norms above both limits.
    """
    median = norms.median()
    deviation = 1.4826 * (norms - median).abs().median()
    return norms > torch.maximum(ratio * median, median + deviations * deviation)


def local_median(maps: Tensor) -> Tensor:
    """Replace each value by the median of its 3 x 3 neighborhood.

    Beyond the border, the outermost values are repeated. A peak of one patch disappears, also in a
    corner; edges of regions stay.

    Args:
        maps (Tensor): Shape (B, H, W).

    Returns:
        Tensor: Same shape.
    """
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode='replicate')
    values = F.unfold(padded, 3)  # (B, 1, H+2, W+2) -> (B, 9, H*W)
    # Sorting is deterministic on a GPU, torch.median is not.
    return values.sort(dim=1).values[:, 4].view_as(maps)
