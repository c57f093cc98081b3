"""Color augmentation of crops, determined by random numbers that the caller draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from cotap_mm.compat.compiled import can_compile, compiled
from cotap_mm.rules import Rule, any_of, number, ordered_pair

from .sampling import copy_together

#: Number of uniform draws in [0, 1) per crop: whether to jitter, four strengths, the order of the
#: four, whether to convert to gray, whether to blur, and the width of the blur.
COLOR_DRAWS = 12
_JITTER, _STRENGTHS, _ORDER, _GRAY, _BLUR, _SIGMA = 0, slice(1, 5), slice(5, 9), 9, 10, 11
_BLUR_KERNEL = 7
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Sixths of a turn, for red, green and blue, see _shift_hue.
_RISING, _FALLING = (1, 3, 5), (5, 1, 3)
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


_FACTORS = any_of(number(0), ordered_pair('numbers >= 0', number(0)))
_SHARE = number(0, 1)
#: What the settings may be.
COLOR_RULES: dict[str, Rule] = dict(
    brightness=_FACTORS,
    contrast=_FACTORS,
    saturation=_FACTORS,
    hue=any_of(number(0, 0.5), ordered_pair('numbers in [-0.5, 0.5]', number(-0.5, 0.5))),
    jitter_prob=_SHARE,
    gray_prob=_SHARE,
    blur_prob=_SHARE,
    blur_sigma=ordered_pair('numbers > 0', number(0, above=True)),
)


class ColorPlan(NamedTuple):
    """What to do with the colors of N crops, see :func:`plan_color`.

    Attributes:
        numbers (dict[str, Tensor]): By name, all on one device: ``jittered``, ``gray`` and
            ``blurred``, rows of the crops, int64; ``radians`` (J,), changes of hue; ``blends``
            (3, R), see :func:`_blend`, those of one round after those of another; ``kernels``
            (3 * blurred, 7), one for each channel; ``constants`` (9,).
        before (list[int]): Blended crops of each round before the changes of hue.
        after (list[int]): Blended crops of each round after them.
        shifts_hue (bool): Whether hues change at all.
    """

    numbers: dict[str, Tensor]
    before: list[int]
    after: list[int]
    shifts_hue: bool


def augment_color(crops: Tensor, draws: Tensor, *settings: Any, **named: Any) -> Tensor:
    """Apply color jitter, grayscale and blur to each crop with its own parameters.

    Args:
        crops (Tensor): Images in [0, 1], float32 or float64 (N, 3, h, w). Not changed.
        draws (Tensor): Uniform draws in [0, 1), on the CPU, (N, :data:`COLOR_DRAWS`).
        *settings: From ``brightness`` on, see :func:`plan_color`.
        **named: The same by name.

    Returns:
        Tensor: Images in [0, 1], shape (N, 3, h, w).

    Raises:
        ValueError: If ``draws`` has another shape.
    """
    if draws.shape != (len(crops), COLOR_DRAWS):
        raise ValueError(
            f'draws must have shape ({len(crops)}, {COLOR_DRAWS}), got {tuple(draws.shape)}'
        )
    plan = plan_color(draws, crops.dtype, *settings, **named)
    numbers = copy_together(dict(color=plan.numbers), crops.device)['color']
    return apply_color(crops, plan._replace(numbers=numbers))


def plan_color(
    draws: Tensor,
    dtype: torch.dtype = torch.float32,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    jitter_prob: float = 0.8,
    gray_prob: float = 0.2,
    blur_prob: float = 0.5,
    blur_sigma: tuple[float, float] = (0.1, 2.0),
) -> ColorPlan:
    """Decide on the CPU what :func:`apply_color` does with each crop.

    The result for a crop depends on its row of ``draws`` alone, not on the rest of the batch. Once
    ``numbers`` are on the device, host and device are never synchronized, and each operation
    computes only the crops that it applies to.

    Brightness, contrast and saturation are one operation with other numbers, :func:`_blend`. So
    crops with different orders run together: each does what it has before its change of hue, in
    as many rounds as it needs, then all change their hue, then each does the rest.

    Source: CoTAP, https://arxiv.org/abs/2509.09429; the operations are kornia's equivalents of
    torchvision's ``ColorJitter``.

    Args:
        draws (Tensor): Uniform draws in [0, 1), on the CPU, (N, :data:`COLOR_DRAWS`).
        dtype (torch.dtype): Type of the crops. Defaults to float32.
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
        ColorPlan: On the CPU.
    """
    from kornia.filters import get_gaussian_kernel1d  # slow to import, not needed downstream

    limits = [_limits(brightness, 1), _limits(contrast, 1), _limits(saturation, 1), _limits(hue, 0)]
    low, high = blur_sigma
    kernels = get_gaussian_kernel1d(
        _BLUR_KERNEL, (low + (high - low) * draws[:, _SIGMA, None]).to(dtype)
    )  # (N, 7)
    blurred = (draws[:, _BLUR] < blur_prob).nonzero()[:, 0]
    jitter = _plan_jitter(draws, (draws[:, _JITTER] < jitter_prob).nonzero()[:, 0], limits, dtype)
    rounds = [*jitter.before, *jitter.after]
    numbers = dict(
        jittered=jitter.rows,
        gray=(draws[:, _GRAY] < gray_prob).nonzero()[:, 0],
        blurred=blurred,
        radians=jitter.radians,
        blends=torch.cat([kernels.new_empty(3, 0), *rounds], dim=1),
        kernels=kernels[blurred].repeat_interleave(3, dim=0),
        constants=torch.tensor([*_GRAY_WEIGHTS, *_RISING, *_FALLING], dtype=dtype),
    )
    before, after = ([some.shape[1] for some in part] for part in (jitter.before, jitter.after))
    return ColorPlan(numbers, before, after, any(limits[_HUE]))


@torch.no_grad()
def apply_color(crops: Tensor, plan: ColorPlan) -> Tensor:
    """Change the colors of crops as planned.

    On a GPU, ``torch.compile`` fuses blends and changes of hue, if it works there; then pixels
    differ by about 1e-6.

    Args:
        crops (Tensor): Images in [0, 1], float32 or float64 (N, 3, h, w). Not changed.
        plan (ColorPlan): Of N crops, on their device.

    Returns:
        Tensor: Images in [0, 1], shape (N, 3, h, w).
    """
    numbers = plan.numbers
    weights, rising, falling = numbers['constants'].split(3)
    crops = crops.clamp(0, 1)
    if len(numbers['jittered']):
        blend, shift_hue = _operations(crops.is_cuda and can_compile())
        pixels = crops.index_select(0, numbers['jittered'])
        rounds = iter(numbers['blends'].split([*plan.before, *plan.after], dim=1))
        for count in plan.before:  # the first crops have the most to do
            blend(pixels[:count], next(rounds), weights)
        if plan.shifts_hue:
            pixels = shift_hue(pixels, numbers['radians'], rising, falling)
        for count in plan.after:  # the last crops have the most left
            blend(pixels[len(pixels) - count :], next(rounds), weights)
        crops.index_copy_(0, numbers['jittered'], pixels)
    if len(numbers['gray']):
        gray = _gray(crops.index_select(0, numbers['gray']), weights)
        crops.index_copy_(0, numbers['gray'], gray.expand(-1, 3, -1, -1))
    if len(numbers['blurred']):
        blurred = _blur(crops.index_select(0, numbers['blurred']), numbers['kernels'])
        crops.index_copy_(0, numbers['blurred'], blurred)
    return crops.clamp_(0, 1)


class _Jitter(NamedTuple):
    """What to do with the crops that are jittered, on the CPU."""

    rows: Tensor  # (J,): crops, those with the most operations before their change of hue first
    radians: Tensor  # (J,): changes of hue
    before: list[Tensor]  # (3, n) of each round before the change of hue, for the first n crops
    after: list[Tensor]  # (3, n) of each round after it, for the last n crops


def _plan_jitter(
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
    is_mean = order == _CONTRAST
    of_added = (1 - numbers) * (is_mean | (order == _SATURATION))
    blend = torch.stack([numbers, of_added, is_mean.to(dtype)])  # (3, J, blends)
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


def _gray(pixels: Tensor, weights: Tensor) -> Tensor:
    """Convert to gray: (n, 3, h, w), weights of the colors (3,) -> (n, 1, h, w)."""
    red, green, blue = (pixels[:, channel, None] for channel in range(3))
    gray = red * weights[0]
    return gray.addcmul_(green, weights[1]).addcmul_(blue, weights[2])


def _blend(pixels: Tensor, numbers: Tensor, weights: Tensor) -> None:
    """Blend each crop with its gray version and the mean of that, in place.

    Args:
        pixels (Tensor): Crops, (n, 3, h, w).
        numbers (Tensor): Factor of the crop; factor of what is added, 0 for brightness; 0 to add
            its gray version or 1 to add the mean of that; (3, n).
        weights (Tensor): Weights of the colors in gray, (3,).
    """
    factor, of_added, is_mean = numbers[..., None, None, None]
    gray = _gray(pixels, weights)
    mean = gray.mean((-2, -1), keepdim=True)
    added = gray.lerp_(mean, is_mean).mul_(of_added)
    pixels.mul_(factor).add_(added).clamp_(0, 1)


def _blended(pixels: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
    """As :func:`_blend`, but not in place: compiled code must not write into parts of a tensor."""
    pixels = pixels.clone()
    _blend(pixels, numbers, weights)
    return pixels


def _operations(is_fused: bool) -> tuple[Callable[..., None], Callable[..., Tensor]]:
    """Return :func:`_blend` and :func:`_shift_hue`, or the same with two or three kernels each."""
    if not is_fused:
        return _blend, _shift_hue

    def blend(pixels: Tensor, *args: Tensor) -> None:
        pixels.copy_(compiled(_blended)(pixels, *args))

    return blend, compiled(_shift_hue)


def _shift_hue(pixels: Tensor, radians: Tensor, rising: Tensor, falling: Tensor) -> Tensor:
    """Rotate hues, to the same bits as kornia's ``adjust_hue`` with fewer operations.

    A channel is value * (1 - saturation * w), where w depends on the hue in sixths of a turn and
    is piecewise linear: it rises from 0 to 1 from ``rising`` on and falls to 0 until ``falling``,
    around the circle.

    Args:
        pixels (Tensor): Crops, (n, 3, h, w).
        radians (Tensor): Angle of each crop, (n,).
        rising (Tensor): Where w starts to rise, for red, green and blue, (3,).
        falling (Tensor): Where w has fallen to 0, (3,).

    Returns:
        Tensor: Shape (n, 3, h, w).
    """
    turn = 2 * math.pi
    value = pixels.amax(1, keepdim=True)  # (n, 1, h, w)
    chroma = value - pixels.amin(1, keepdim=True)
    saturation = chroma / (value + 1e-8)
    chroma.masked_fill_(chroma == 0, 1)
    missing = value - pixels  # (n, 3, h, w)
    is_largest = missing == 0
    red, green, blue = missing.split(1, dim=1)
    from_green = (red - blue).add_(chroma, alpha=2)
    from_blue = (green - red).add_(chroma, alpha=4)
    hue = torch.where(is_largest[:, 1:2], from_green, from_blue)
    hue = torch.where(is_largest[:, :1], blue - green, hue).div_(chroma)  # sixths of a turn
    hue = hue.div_(6).remainder_(1).mul_(turn)
    # Rounding may give the whole turn instead of 0.
    hue.masked_fill_(hue >= turn, 0).add_(radians[:, None, None, None]).remainder_(turn)
    hue.masked_fill_(hue >= turn, 0).div_(turn).mul_(6)
    weights = hue - rising[:, None, None]  # (n, 3, h, w)
    until = falling[:, None, None] - hue
    # Red is full at both ends of the circle, so its w has one piece, the others' w has two.
    weights[:, :1].clamp_(max=until[:, :1])
    weights[:, 1:].clamp_(min=until[:, 1:])
    return (1 - weights.clamp_(0, 1).mul_(saturation)).mul_(value)


def _blur(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Filter each channel with its own kernel, along x and y.

    Args:
        pixels (Tensor): Crops, (n, 3, h, w).
        kernels (Tensor): Shape (3 * n, 7).

    Returns:
        Tensor: Shape (n, 3, h, w).
    """
    margin = _BLUR_KERNEL // 2
    wide = F.pad(pixels, [margin] * 4, mode='reflect')
    planes = wide.reshape(1, -1, *wide.shape[-2:])  # (1, 3 * n, h + 6, w + 6)
    planes = F.conv2d(planes, kernels[:, None, None, :], groups=len(kernels))
    planes = F.conv2d(planes, kernels[:, None, :, None], groups=len(kernels))
    return planes.view_as(pixels)


def _limits(strength, neutral: float) -> tuple[float, float, float]:
    """Return the lowest and highest value, and the neutral one, which changes nothing."""
    if isinstance(strength, (int, float)):
        return max(neutral - strength, neutral - 1), neutral + strength, neutral
    low, high = strength
    return low, high, neutral
