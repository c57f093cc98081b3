"""Features of regions of interest, given as rows (image index, x1, y1, x2, y2)."""

from __future__ import annotations

import functools
import math
from typing import Any, Callable

import torch
import torchvision
from torch import Tensor

from .bilinear import sample
from .precision import gradients, working_dtype, write

_AVERAGE = 1


def _align(
    pool_mode: int,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Callable[[Tensor, Tensor], Tensor]:
    if pool_mode != _AVERAGE:
        raise NotImplementedError(
            "RoIAlign with pool_mode='max' has no stand-in in cotap_mm: use pool_mode='avg', or "
            'install mmcv with compiled operators (see docs/operators.md)'
        )
    return functools.partial(
        torchvision.ops.roi_align,
        output_size=(aligned_height, aligned_width),
        spatial_scale=spatial_scale,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    pool_mode: int,
    **settings: Any,
) -> None:
    """Write averages of interpolated features to ``output``.

    Args:
        input (Tensor): Shape (B, C, H, W).
        rois (Tensor): Shape (R, 5).
        output (Tensor): Output, shape (R, C, aligned_height, aligned_width).
        argmax_y (Tensor): Unused, as is ``argmax_x``: they belong to maximum pooling.
        argmax_x (Tensor): Unused.
        pool_mode (int): 1, the average.
        **settings: aligned_height, aligned_width, spatial_scale, sampling_ratio (0 derives it
            from the size of a region) and aligned (whether to shift by half a pixel).

    Raises:
        NotImplementedError: For maximum pooling.
    """
    dtype = working_dtype(input, rois)
    output.copy_(_align(pool_mode, **settings)(input.to(dtype), rois.to(dtype)))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    pool_mode: int,
    **settings: Any,
) -> None:
    """Write the gradient of the features to ``grad_input``."""
    dtype = working_dtype(grad_output, rois)
    align, rois = _align(pool_mode, **settings), rois.to(dtype)
    # The gradient does not depend on the value of the features.
    blank = torch.zeros_like(grad_input, dtype=dtype)
    write(grad_input, gradients(lambda features: align(features, rois), [blank], grad_output)[0])


def _bins(start: Tensor, size: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """First pixel, and first pixel after the end, of each bin; both (R, count)."""
    edges = torch.arange(count + 1, device=start.device) * (size / count)[:, None] + start[:, None]
    return (
        edges[:, :-1].floor().clamp(0, limit).long(),
        edges[:, 1:].ceil().clamp(0, limit).long(),
    )


def _indices(first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels of each bin, shape (count, largest bin), and which of them are in it."""
    length = max(int((end - first).max()), 1)
    found = first[:, None] + torch.arange(length)
    inside = found < end[:, None]
    return found.where(inside, torch.zeros_like(found)), inside


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the largest feature of each bin to ``output``.

    torchvision's RoIPool rounds the corners of regions to pixels, MMCV's does not.

    Args:
        input (Tensor): Shape (B, C, H, W).
        rois (Tensor): Shape (R, 5).
        output (Tensor): Output, shape (R, C, pooled_height, pooled_width); 0 for empty bins.
        argmax (Tensor): Output of the same shape: row * W + column, or -1 for empty bins.
        pooled_height (int): Bins of a column.
        pooled_width (int): Bins of a row.
        spatial_scale (float): Feature pixels per unit of ``rois``.
    """
    height, width = input.shape[2:]
    output.zero_()
    argmax.fill_(-1)
    corners = (rois[:, 1:].float() + rois.new_tensor([0, 0, 1, 1]).float()) * spatial_scale
    size = corners[:, 2:] - corners[:, :2]
    first_x, end_x = (each.cpu() for each in _bins(corners[:, 0], size[:, 0], pooled_width, width))
    first_y, end_y = (
        each.cpu() for each in _bins(corners[:, 1], size[:, 1], pooled_height, height)
    )
    for index, image in enumerate(rois[:, 0].tolist()):
        rows, in_row = _indices(first_y[index], end_y[index])
        columns, in_column = _indices(first_x[index], end_x[index])
        pixels = rows[:, None, :, None] * width + columns[None, :, None, :]  # (PH, PW, h, w)
        inside = in_row[:, None, :, None] & in_column[None, :, None, :]
        pixels = pixels.flatten(2).to(input.device)
        inside = inside.flatten(2).to(input.device)
        features = input[int(image)].flatten(1)[:, pixels]  # (C, PH, PW, h * w)
        best, where = features.masked_fill(~inside, -math.inf).max(dim=-1)
        filled = inside.any(dim=-1) & bool((size[index] > 0).all())  # (PH, PW)
        output[index] = best.masked_fill(~filled, 0)
        found = pixels.expand_as(features).gather(-1, where[..., None]).squeeze(-1)
        argmax[index] = found.masked_fill(~filled, -1).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the gradient of the features to ``grad_input``."""
    count, channels = grad_input.shape[:2]
    pixels = grad_input.shape[2] * grad_input.shape[3]
    planes = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    place = planes[:, :, None] * pixels + argmax.flatten(2)  # (R, C, bins)
    chosen = argmax.flatten(2) >= 0
    total = grad_input.new_zeros(count * channels * pixels, dtype=working_dtype(grad_output))
    total.index_add_(0, place[chosen], grad_output.flatten(2)[chosen].to(total.dtype))
    write(grad_input, total)


def _deformed(
    input: Tensor,
    rois: Tensor,
    *offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """Averages of interpolated features in bins that are shifted by ``offset``."""
    starts = rois[:, [2, 1]] * spatial_scale - 0.5  # (R, 2): y, x
    sides = rois[:, [4, 3]] * spatial_scale - 0.5 - starts
    bins = torch.tensor([pooled_height, pooled_width], device=rois.device)
    samples = (sides / bins).ceil().clamp(min=0).long()
    if sampling_ratio > 0:
        samples = torch.full_like(samples, sampling_ratio)
    output = input.new_zeros(len(rois), input.size(1), pooled_height, pooled_width)
    # Regions of one image with equally many samples are computed together.
    groups, members = torch.cat([rois[:, :1].long(), samples], dim=1).unique(
        dim=0, return_inverse=True
    )
    for group, (image, *counts) in enumerate(groups.tolist()):
        if 0 in counts:
            continue
        chosen = (members == group).nonzero().squeeze(1)
        points = []
        for axis, (bin_count, count) in enumerate(zip((pooled_height, pooled_width), counts)):
            steps = (torch.arange(count, device=rois.device) + 0.5) / count
            grid = torch.arange(bin_count, device=rois.device)[:, None] + steps
            side = sides[chosen, axis, None, None]  # (r, 1, 1)
            position = starts[chosen, axis, None, None] + grid * (side / bin_count)
            # (r, PH, h) -> (r, PH, 1, h, 1), and (r, PW, w) -> (r, 1, PW, 1, w)
            position = position[:, :, None, :, None] if axis == 0 else position[:, None, :, None]
            if offset:
                shift = gamma * side * offset[0][chosen, 1 - axis]  # x comes first
                position = position + shift[..., None, None]
            points.append(position)
        y, x = torch.broadcast_tensors(*points)  # (r, PH, PW, h, w)
        found = sample(input[image], y, x).flatten(4).mean(dim=-1)  # (C, r, PH, PW)
        output = output.index_copy(0, chosen, found.transpose(0, 1))
    return output


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    **settings: Any,
) -> None:
    """Write averages of interpolated features in shifted bins to ``output``.

    Args:
        input (Tensor): Shape (B, C, H, W).
        rois (Tensor): Shape (R, 5).
        offset (Tensor): Shifts in x and y as a share ``1 / gamma`` of the region's size, shape
            (R, 2, pooled_height, pooled_width), or empty.
        output (Tensor): Output, shape (R, C, pooled_height, pooled_width).
        **settings: pooled_height, pooled_width, spatial_scale, sampling_ratio (0 derives
            it from the size of a region) and gamma.
    """
    input, rois, *shifts = _float_arguments(input, rois, offset)
    output.copy_(_deformed(input, rois, *shifts, **settings))


def _float_arguments(input: Tensor, rois: Tensor, offset: Tensor) -> list[Tensor]:
    dtype = working_dtype(input)
    shifts = [offset.view(len(rois), 2, *offset.shape[-2:])] if offset.numel() else []
    return [each.to(dtype) for each in (input, rois, *shifts)]


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    **settings: Any,
) -> None:
    """Write the gradients of features and offsets to ``grad_input`` and ``grad_offset``."""
    input, rois, *shifts = _float_arguments(input, rois, offset)

    def forward(features: Tensor, *shifts: Tensor) -> Tensor:
        return _deformed(features, rois, *shifts, **settings)

    found = gradients(forward, [input, *shifts], grad_output)
    for target, value in zip((grad_input, grad_offset), found):
        write(target, value)
