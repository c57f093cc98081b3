"""Content-aware reassembly of features (CARAFE): upsampling with a kernel for every output pixel.

All kernels of one channel group are equal. One product per element of the kernel needs less memory
than unfolding the features, which multiplies them by the squared kernel size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from .precision import working_dtype


def _padded(features: Tensor, kernel_size: int, group_size: int) -> Tensor:
    """Zero-padded features, shape (B, C, H, W) -> (B, G, C / G, H + k - 1, W + k - 1)."""
    half = (kernel_size - 1) // 2
    return functional.pad(features, (half,) * 4).unflatten(1, (group_size, -1))


def _split(maps: Tensor, channels: tuple[int, int], scale_factor: int) -> Tensor:
    """Output pixels of each input pixel: (B, G * N, sH, sW) -> (B, G, N, s * s, H, W)."""
    maps = functional.pixel_unshuffle(maps, scale_factor)
    return maps.unflatten(1, (*channels, scale_factor**2))


def _kernel_elements(kernel_size: int) -> Iterator[tuple[int, int, int]]:
    for index in range(kernel_size * kernel_size):
        yield index, *divmod(index, kernel_size)


def _forward(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    height, width = features.shape[2:]
    dtype = working_dtype(features, masks)
    padded = _padded(features.to(dtype), kernel_size, group_size)
    kernels = _split(masks.to(dtype), (group_size, kernel_size**2), scale_factor)
    output = padded.new_zeros(*padded.shape[:3], scale_factor**2, height, width)
    for index, row, column in _kernel_elements(kernel_size):
        seen = padded[:, :, :, None, row : row + height, column : column + width]
        output.addcmul_(seen, kernels[:, :, index, None])
    return functional.pixel_shuffle(output.flatten(1, 3), scale_factor)  # (B, C, sH, sW)


def _backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of features and masks."""
    height, width = features.shape[2:]
    dtype = working_dtype(features, masks, top_grad)
    padded = _padded(features.to(dtype), kernel_size, group_size)
    kernels = _split(masks.to(dtype), (group_size, kernel_size**2), scale_factor)
    grad = _split(top_grad.to(dtype), (group_size, padded.size(2)), scale_factor)
    grad_padded, grad_kernels = torch.zeros_like(padded), torch.zeros_like(kernels)
    for index, row, column in _kernel_elements(kernel_size):
        window = (..., slice(row, row + height), slice(column, column + width))
        grad_padded[window] += (grad * kernels[:, :, index, None]).sum(dim=3)
        grad_kernels[:, :, index] = (grad * padded[window][:, :, :, None]).sum(dim=2)
    half = (kernel_size - 1) // 2
    inner = grad_padded[..., half : half + height, half : half + width]
    grad_masks = functional.pixel_shuffle(grad_kernels.flatten(1, 3), scale_factor)
    return inner.reshape(features.shape), grad_masks


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the upsampled features to ``output``.

    Args:
        features (Tensor): Shape (B, C, H, W).
        masks (Tensor): Kernels, shape (B, group_size * kernel_size ** 2, sH, sW).
        output (Tensor): Output, shape (B, C, sH, sW).
        kernel_size (int): Side of the kernels in input pixels, odd.
        group_size (int): Number of channel groups.
        scale_factor (int): s.
    """
    output.copy_(_forward(features, masks, kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of features and masks to ``bottom_grad`` and ``mask_grad``."""
    settings = (kernel_size, group_size, scale_factor)
    for target, value in zip(
        (bottom_grad, mask_grad), _backward(top_grad, features, masks, *settings)
    ):
        target.copy_(value)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As ``carafe_naive_forward``; keeps the features in ``rfeatures`` for the backward pass."""
    rfeatures.copy_(features)
    output.copy_(_forward(features, masks, kernel_size, group_size, scale_factor))


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As ``carafe_naive_backward``, with the features of the forward pass in ``rfeatures``."""
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor
    )
