"""Norms of patch tokens as maps, with outliers marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from cotap_mm.ops import outlying_norms

from .canvas import Pixels, colorize
from .grid import Scale

MARK = (213, 94, 0)  # color of an outlier's frame
COLORMAP = 'cividis'

NORMS_NOTE = (
    'Norm of each patch token after the last block, before any final norm or filter, divided by '
    'the median of its network. Framed: outliers, at least 1.5 times the median and 5 robust '
    'standard deviations above it.'
)


class Norms(NamedTuple):
    """Norms of the patch tokens of one network.

    Attributes:
        maps (np.ndarray): Norms divided by their median, float, shape (B, h, w).
        median (float): Median norm over all patches.
        outliers (np.ndarray): Bool, shape (B, h, w).
    """

    maps: np.ndarray
    median: float
    outliers: np.ndarray

    @property
    def summary(self) -> str:
        """Number and share of outliers, and the largest norm."""
        count, largest = int(self.outliers.sum()), float(self.maps.max())
        share = 100 * count / self.outliers.size
        return (
            f'median norm {self.median:.3g}, largest {largest:.2f} x median, '
            f'{count} outlier{"" if count == 1 else "s"} ({share:.2g} % of patches)'
        )


def feature_norms(patches: Tensor) -> Norms:
    """Compute the norms of patch tokens and find outliers.

    Large ViTs store global information in a few background patches, whose norms are several
    times those of all others; dense tasks suffer from them (Darcet et al., "Vision Transformers
    Need Registers", https://arxiv.org/abs/2309.16588). An outlier here is a patch whose norm is
    at least 1.5 times the median and 5 robust standard deviations (1.4826 times the median
    absolute deviation) above it.

    Args:
        patches (Tensor): Tokens of B images, shape (B, C, h, w).

    Returns:
        Norms: Maps, median and outliers.

    Raises:
        ValueError: If the shape is wrong.
    """
    if patches.ndim != 4:
        raise ValueError(f'patches must have shape (B, C, h, w), got {tuple(patches.shape)}')
    norms = torch.linalg.vector_norm(patches.detach().double(), dim=1).cpu()
    median = float(norms.median())
    return Norms((norms / max(median, 1e-12)).numpy(), median, outlying_norms(norms).numpy())


def norm_pixels(norms: Norms) -> tuple[list[Pixels], Scale]:
    """Color the norms; outliers are at the bright end of the scale.

    Args:
        norms (Norms): From :func:`feature_norms`.

    Returns:
        tuple: One map for each image, uint8 (h, w, 3), and their color scale.
    """
    usual = norms.maps[~norms.outliers]
    low = float(usual.min()) if usual.size else 0.0
    high = max(float(usual.max()) if usual.size else 1.0, low + 1e-6)
    maps = [colorize(values, low, high, COLORMAP) for values in norms.maps]
    return maps, Scale(low, high, COLORMAP, 'norm / median')


def draw_outliers(axes: Axes, outliers: np.ndarray, size: Sequence[int]) -> None:
    """Frame the outliers of one image.

    Args:
        axes (Axes): Axes that show the image.
        outliers (np.ndarray): Bool, shape (h, w).
        size (sequence): Size (H, W) of the image in pixels.
    """
    height, width = size[0] / outliers.shape[0], size[1] / outliers.shape[1]
    for row, column in np.argwhere(outliers):
        axes.add_patch(
            Rectangle(
                (column * width - 0.5, row * height - 0.5),
                width,
                height,
                fill=False,
                ec=[value / 255 for value in MARK],
                lw=1.2,
            )
        )
