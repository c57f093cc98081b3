"""Color augmentation of crops, determined by random numbers that the caller draws."""

from __future__ import annotations

import math
from typing import NamedTuple, Union

import torch
from torch import Tensor

from .sampling import pinned

#: Number of uniform draws in [0, 1) per crop: whether to jitter, four strengths, the order of the
#: four, whether to convert to gray, whether to blur, and the width of the blur.
COLOR_DRAWS = 12
_JITTER, _STRENGTHS, _ORDER, _GRAY, _BLUR, _SIGMA = 0, slice(1, 5), slice(5, 9), 9, 10, 11
_BLUR_KERNEL = 7
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601
_CONTRAST, _SATURATION, _HUE = 1, 2, 3  # columns of the strengths; 0 is brightness

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

    The result for a crop depends on its row of ``draws`` alone, not on the rest of the batch. What
    to do is decided on the CPU and copied to the device at once, so host and device are never
    synchronized, and each operation computes only the crops that it applies to.

    Brightness, contrast and saturation are one operation with other numbers, :func:`_blend`. So
    crops with different orders run together: each does what it has before its change of hue, in
    as many rounds as it needs, then all change their hue, then each does the rest.

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
    from kornia import enhance, filters  # slow to import, not needed downstream

    limits = [_limits(brightness, 1), _limits(contrast, 1), _limits(saturation, 1), _limits(hue, 0)]
    low, high = blur_sigma
    kernels = filters.get_gaussian_kernel1d(
        _BLUR_KERNEL, (low + (high - low) * draws[:, _SIGMA, None]).to(crops.dtype)
    )  # (N, 7)
    blurred = (draws[:, _BLUR] < blur_prob).nonzero()[:, 0]
    jitter = _plan(draws, (draws[:, _JITTER] < jitter_prob).nonzero()[:, 0], limits, crops.dtype)
    rows, gray_rows, blurred_rows = _to_device(
        crops.device, jitter.rows, (draws[:, _GRAY] < gray_prob).nonzero()[:, 0], blurred
    )
    kernel, turns, *factors = _to_device(
        crops.device, kernels[blurred], jitter.radians, *jitter.before, *jitter.after
    )
    weights = [crops.new_full((), weight) for weight in _GRAY_WEIGHTS]
    crops = crops.clamp(0, 1)
    if len(rows):
        pixels = crops.index_select(0, rows)
        for some in factors[: len(jitter.before)]:  # the first crops have the most to do
            _blend(pixels[: some.shape[1]], some, weights)
        if any(limits[_HUE]):
            pixels = enhance.adjust_hue(pixels, turns)
        for some in factors[len(jitter.before) :]:  # the last crops have the most left
            _blend(pixels[len(pixels) - some.shape[1] :], some, weights)
        crops.index_copy_(0, rows, pixels)
    if len(gray_rows):
        gray = _gray(crops.index_select(0, gray_rows), weights)
        crops.index_copy_(0, gray_rows, gray.expand(-1, 3, -1, -1))
    if len(blurred):
        pixels = crops.index_select(0, blurred_rows)
        crops.index_copy_(0, blurred_rows, filters.filter2d_separable(pixels, kernel, kernel))
    return crops.clamp_(0, 1)


class _Jitter(NamedTuple):
    """What to do with the crops that are jittered, on the CPU."""

    rows: Tensor  # (J,): crops, those with the most operations before their change of hue first
    radians: Tensor  # (J,): changes of hue
    before: list[Tensor]  # (3, n) of each round before the change of hue, for the first n crops
    after: list[Tensor]  # (3, n) of each round after it, for the last n crops


def _plan(
    draws: Tensor, rows: Tensor, limits: list[tuple[float, float, float]], dtype: torch.dtype
) -> _Jitter:
    """Sort the operations of the jittered crops into rounds.

    Args:
        draws (Tensor): Uniform draws of all crops, (N, :data:`COLOR_DRAWS`).
        rows (Tensor): Jittered crops, int64 (J,).
        limits (list[tuple]): Lowest, highest and neutral value of each operation.
        dtype (torch.dtype): Data type of the crops.
    """
    order = draws[rows, _ORDER].argsort(dim=1)  # (J, 4): operation of each step
    used = torch.tensor([not low == high == neutral for low, high, neutral in limits])
    blends = used.clone()
    blends[_HUE] = False
    hue_step = (order == _HUE).nonzero()[:, 1]
    is_blend = blends[order]
    is_before = is_blend & (torch.arange(4) < hue_step[:, None])
    num_before = is_before.sum(dim=1)
    by_number = num_before.argsort(descending=True, stable=True)
    rows, num_before = rows[by_number], num_before[by_number]
    # Each crop has the same number of blends.
    order = order[is_blend].view(len(rows), int(blends.sum()))[by_number]
    low = torch.tensor([low for low, _, _ in limits], dtype=draws.dtype)
    span = torch.tensor([high - low for low, high, _ in limits], dtype=draws.dtype)
    strengths = low + span * draws[rows, _STRENGTHS]
    numbers = strengths.to(dtype).gather(1, order)
    rest = 1 - numbers
    blend = torch.stack(
        [numbers, rest * (order == _SATURATION), rest * (order == _CONTRAST)]
    )  # (3, J, blends)
    total = order.shape[1]
    before = [blend[:, num_before > step, step] for step in range(total)]
    after = []
    for step in range(total):
        step_of = num_before + step
        some = step_of < total
        after.append(blend[:, some].gather(2, step_of[some].expand(3, -1)[..., None])[..., 0])
    radians = (strengths[:, _HUE] * 2 * math.pi).to(dtype)
    return _Jitter(
        rows,
        radians,
        [each for each in before if each.numel()],
        [each for each in after if each.numel()],
    )


def _gray(pixels: Tensor, weights: list[Tensor]) -> Tensor:
    """Convert to gray: (n, 3, h, w), weights of the colors -> (n, 1, h, w)."""
    red, green, blue = (pixels[:, channel, None] for channel in range(3))
    gray = red * weights[0]
    return gray.addcmul_(green, weights[1]).addcmul_(blue, weights[2])


def _blend(pixels: Tensor, numbers: Tensor, weights: list[Tensor]) -> None:
    """Blend each crop with its gray version and the mean of that, in place.

    Args:
        pixels (Tensor): Crops, (n, 3, h, w).
        numbers (Tensor): Factors of the crop, of its gray version and of the mean, (3, n). The
            last two are 0 for brightness.
        weights (list[Tensor]): Weights of the colors in gray, scalars.
    """
    factor, of_gray, of_mean = numbers[..., None, None, None]
    gray = _gray(pixels, weights)
    mean = gray.mean((-2, -1), keepdim=True)
    pixels.mul_(factor).add_(gray.mul_(of_gray).add_(mean.mul_(of_mean))).clamp_(0, 1)


def _to_device(device: torch.device, *parts: Tensor) -> list[Tensor]:
    """Copy CPU tensors of one data type to a device in one copy, without waiting for it."""
    together = pinned(torch.cat([part.flatten() for part in parts]))
    copied = together.to(device, non_blocking=True).split([part.numel() for part in parts])
    return [each.view(part.shape) for each, part in zip(copied, parts)]


def _limits(strength, neutral: float) -> tuple[float, float, float]:
    """Return the lowest and highest value, and the neutral one, which changes nothing."""
    if isinstance(strength, (int, float)):
        return max(neutral - strength, neutral - 1), neutral + strength, neutral
    low, high = strength
    return low, high, neutral
