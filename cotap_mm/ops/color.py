"""Color augmentation of crops, determined by random numbers that the caller draws."""

from __future__ import annotations

import math
from typing import Union

import torch
from torch import Tensor

#: Number of uniform draws in [0, 1) per crop: whether to jitter, four strengths, the order of the
#: four, whether to convert to gray, whether to blur, and the width of the blur.
COLOR_DRAWS = 12
_JITTER, _STRENGTHS, _ORDER, _GRAY, _BLUR, _SIGMA = 0, slice(1, 5), slice(5, 9), 9, 10, 11
_BLUR_KERNEL = 7

#: Settings of the method.
COLOR_DEFAULTS: dict[str, Union[float, tuple[float, float]]] = dict(
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    jitter_prob=0.8,
    gray_prob=0.2,
    blur_prob=0.5,
    blur_sigma=(0.1, 2.0),
)


@torch.no_grad()
def augment_color(
    crops: Tensor,
    draws: Tensor,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    jitter_prob: float = 0.8,
    gray_prob: float = 0.2,
    blur_prob: float = 0.5,
    blur_sigma: tuple[float, float] = (0.1, 2.0),
) -> Tensor:
    """Apply color jitter, grayscale and blur to each crop with its own parameters.

    The result for a crop depends on its row of ``draws`` alone, not on the rest of the batch. The
    draws stay on the CPU, so host and device are never synchronized, and each operation computes
    only the crops that it applies to.

    Source: CoTAP, https://arxiv.org/abs/2509.09429; the operations are kornia's equivalents of
    torchvision's ``ColorJitter``.

    Args:
        crops (Tensor): Images in [0, 1], float (N, 3, h, w). Not changed.
        draws (Tensor): Uniform draws in [0, 1), on the CPU, (N, :data:`COLOR_DRAWS`).
        brightness (float | tuple[float, float]): b for factors in [1 - b, 1 + b], or the lowest
            and highest factor.
        contrast (float | tuple[float, float]): Range of factors, given as for ``brightness``.
        saturation (float | tuple[float, float]): Range of factors, given as for ``brightness``.
        hue (float | tuple[float, float]): h for rotations of the color circle in [-h, h], or the
            lowest and highest, in turns.
        jitter_prob (float): Share of crops with jittered brightness, contrast, saturation and hue,
            in random order.
        gray_prob (float): Share of crops that are converted to gray.
        blur_prob (float): Share of crops that are blurred, with a 7 x 7 kernel.
        blur_sigma (tuple[float, float]): Lowest and highest standard deviation, in pixels.

    Returns:
        Tensor: Images in [0, 1], shape (N, 3, h, w).

    Raises:
        ValueError: If ``draws`` has another shape.
    """
    if draws.shape != (len(crops), COLOR_DRAWS):
        raise ValueError(
            f'draws must have shape ({len(crops)}, {COLOR_DRAWS}), got {tuple(draws.shape)}'
        )
    from kornia import color, enhance, filters  # slow to import, not needed downstream

    operations = (
        (enhance.adjust_brightness_accumulative, *_limits(brightness, 1)),
        (enhance.adjust_contrast_with_mean_subtraction, *_limits(contrast, 1)),
        (enhance.adjust_saturation_with_gray_subtraction, *_limits(saturation, 1)),
        (lambda pixels, turns: enhance.adjust_hue(pixels, turns * 2 * math.pi), *_limits(hue, 0)),
    )
    crops = crops.clamp(0, 1)

    def change(chosen: Tensor, operation, *values: Tensor) -> None:
        """Apply an operation to the crops that a mask (N,) on the CPU selects."""
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            parameters = [value[rows].to(crops.device, non_blocking=True) for value in values]
            rows = rows.to(crops.device, non_blocking=True)
            crops.index_copy_(0, rows, operation(crops.index_select(0, rows), *parameters))

    jittered = draws[:, _JITTER] < jitter_prob
    order = draws[:, _ORDER].argsort(dim=1)  # (N, 4): operation of each step
    for step in range(len(operations)):
        for index, (operation, low, high, neutral) in enumerate(operations):
            if low == high == neutral:
                continue
            strength = low + (high - low) * draws[:, _STRENGTHS][:, index]
            change(jittered & (order[:, step] == index), operation, strength)
    change(
        draws[:, _GRAY] < gray_prob, lambda pixels: color.rgb_to_grayscale(pixels).expand_as(pixels)
    )
    low, high = blur_sigma
    kernels = filters.get_gaussian_kernel1d(
        _BLUR_KERNEL, (low + (high - low) * draws[:, _SIGMA, None]).to(crops.dtype)
    )  # (N, 7)
    change(
        draws[:, _BLUR] < blur_prob,
        lambda pixels, kernel: filters.filter2d_separable(pixels, kernel, kernel),
        kernels,
    )
    return crops.clamp_(0, 1)


def _limits(strength, neutral: float) -> tuple[float, float, float]:
    """Return the lowest and highest value, and the neutral one, which changes nothing."""
    if isinstance(strength, (int, float)):
        return max(neutral - strength, neutral - 1), neutral + strength, neutral
    low, high = strength
    return low, high, neutral
