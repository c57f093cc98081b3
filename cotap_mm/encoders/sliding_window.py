"""Compute fine patch maps from enlarged images and overlapping windows."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .encoder import Encoder, EncoderOutput
from .images import Size


def encode_large(
    encoder: Encoder,
    images: Tensor,
    scale: float = 1.0,
    window: Optional[Size] = None,
    stride: Optional[Size] = None,
) -> EncoderOutput:
    """Encode enlarged images, optionally in overlapping windows.

    Enlarging makes each patch cover a smaller part of the scene. Windows keep the input of the
    network close to the size of training. A patch in several windows gets the mean of its
    features, weighted by its distance to the edge of each window, where the network has the
    least context; with equal weights the windows would be visible as squares. Windows start at
    whole patches, so features are not interpolated.

    Args:
        encoder (Encoder): Computes the features.
        images (Tensor): ImageNet-normalized RGB, float, shape (B, 3, H, W).
        scale (float): Factor by which both sides are enlarged (bilinear), > 0. Defaults to 1.
        window (int | tuple, optional): Side, or (height, width), of a window in pixels of
            the enlarged image, rounded to whole patches and cropped to the image. Defaults
            to None (the whole image at once).
        stride (int | tuple, optional): Distance between windows in pixels, rounded to whole
            patches; the last window ends at the edge of the image. Defaults to None (half
            a window).

    Returns:
        EncoderOutput: Mean of CLS over the windows, shape (B, C), and the patch map of the
        enlarged image, shape (B, C, h, w).

    Raises:
        ValueError: If ``scale`` is not positive, a window is smaller than a patch, or
            windows would leave gaps.
    """
    if not scale > 0:
        raise ValueError(f'scale must be positive, got {scale}')
    rows, columns = encoder.grid(round(images.shape[2] * scale), round(images.shape[3] * scale))
    size = (rows * encoder.patch_size, columns * encoder.patch_size)
    if size != tuple(images.shape[2:]):
        images = F.interpolate(images, size, mode='bilinear', align_corners=False, antialias=True)
    if window is None:
        return encoder(images)
    height, width = _in_patches('window', window, encoder.patch_size)
    steps = (
        (max(1, height // 2), max(1, width // 2))
        if stride is None
        else _in_patches('stride', stride, encoder.patch_size)
    )
    for side, step in ((height, steps[0]), (width, steps[1])):
        if step > side:
            raise ValueError(
                f'stride must not exceed the window, which is {side} patches of '
                f'{encoder.patch_size} pixels, got {step}; patches between windows would have '
                'no features'
            )
    height, width = min(height, rows), min(width, columns)
    corners = [
        (top, left)
        for top in window_starts(rows, height, steps[0])
        for left in window_starts(columns, width, steps[1])
    ]
    return _encode_windows(encoder, images, corners, (height, width))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Compute the first patch of each window along a side of ``length`` patches."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _encode_windows(
    encoder: Encoder, images: Tensor, corners: list[tuple[int, int]], window: tuple[int, int]
) -> EncoderOutput:
    """Average the features over windows at ``corners`` (top, left); all units are patches."""
    side = encoder.patch_size
    rows, columns = images.shape[2] // side, images.shape[3] // side
    total = torch.zeros(rows, columns, device=encoder.device)
    weights = torch.outer(*(_edge_distance(length) for length in window)).to(encoder.device)
    cls_sum, patch_sum = None, None
    for top, left in corners:
        inside = (slice(top, top + window[0]), slice(left, left + window[1]))
        cls, patches = encoder(
            images[
                :, :, top * side : (top + window[0]) * side, left * side : (left + window[1]) * side
            ]
        )
        if cls_sum is None or patch_sum is None:
            cls_sum = torch.zeros_like(cls)
            patch_sum = patches.new_zeros(*patches.shape[:2], rows, columns)
        patch_sum[..., inside[0], inside[1]] += weights * patches
        total[inside] += weights
        cls_sum += cls
    assert cls_sum is not None and patch_sum is not None, 'windows cover the image'
    return EncoderOutput(cls_sum / len(corners), patch_sum / total)


def _edge_distance(length: int) -> Tensor:
    """Weights 1, 2, 3, ..., 3, 2, 1 along a window; none is 0."""
    steps = torch.arange(length)
    return torch.minimum(steps, length - 1 - steps) + 1.0


def _in_patches(name: str, size: Size, patch_size: int) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else (size[0], size[1])
    if min(pair) < patch_size:
        raise ValueError(
            f'{name} must be at least a patch of {patch_size} pixels, got {pair[0]} x {pair[1]}'
        )
    return round(pair[0] / patch_size), round(pair[1] / patch_size)
