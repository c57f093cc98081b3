"""Deformable convolution by torchvision, deformable attention by PyTorch's ``grid_sample``.

The height comes before the width in offsets: channels (groups, kernel height, kernel width, 2).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Callable, Optional

import torch
import torchvision
from torch import Tensor

from .precision import gradients, working_dtype, write


def _convolution(
    input: Tensor, offset: Tensor, weight: Tensor, *more: Tensor, **settings: Sequence[int]
) -> Tensor:
    """Deformable convolution; ``more`` is the mask, then the bias, if there are any."""
    mask, bias = (*more, None, None)[:2]
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, mask=mask, **settings)


def _check(input: Tensor, offset: Tensor, weight: Tensor, groups: int, offset_groups: int) -> None:
    """Verify what torchvision derives from the shapes and MMCV passes in numbers.

    Raises:
        RuntimeError: If both disagree.
    """
    if input.size(1) != weight.size(1) * groups:
        raise RuntimeError(
            f'a deformable convolution with groups={groups} and a weight of shape '
            f'{tuple(weight.shape)} needs {weight.size(1) * groups} input channels, '
            f'got {input.size(1)}'
        )
    expected = 2 * offset_groups * weight.size(2) * weight.size(3)
    if offset.size(1) != expected:
        raise RuntimeError(
            f'a deformable convolution with deform_groups={offset_groups} and a weight of shape '
            f'{tuple(weight.shape)} needs offsets of {expected} channels, got {offset.size(1)}'
        )


def _plain(
    kW: int, kH: int, dW: int, dH: int, padW: int, padH: int, dilationW: int, dilationH: int
) -> Callable[..., Tensor]:
    """Deformable convolution with the settings of MMCV's operators; kernel sizes are ignored."""
    return functools.partial(
        _convolution, stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW)
    )


def _modulated(
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
) -> Callable[..., Tensor]:
    return functools.partial(
        _convolution,
        stride=(stride_h, stride_w),
        padding=(pad_h, pad_w),
        dilation=(dilation_h, dilation_w),
    )


def _without_border(
    grad: Optional[Tensor], offset: Tensor, weight: Tensor, convolve: Callable[..., Tensor]
) -> Optional[Tensor]:
    """Gradient of the offset as MMCV defines it, where a sample is exactly at -1.

    There the interpolated value begins to differ from 0, so that the derivative is one-sided:
    torchvision takes that of the inner side, MMCV 0. With offsets of 0, the usual initial value,
    all samples in a padding of one pixel are there.
    """
    if grad is None:
        return None
    settings = convolve.keywords  # type: ignore[attr-defined]
    kernel, size = weight.shape[2:], offset.shape[2:]
    positions = offset.unflatten(1, (-1, *kernel, 2))  # (B, groups, kH, kW, 2, H', W')
    inner = torch.ones_like(positions, dtype=torch.bool)
    for axis in (0, 1):
        taps = torch.arange(kernel[axis], device=offset.device) * settings['dilation'][axis]
        steps = torch.arange(size[axis], device=offset.device) * settings['stride'][axis]
        start = taps[:, None] + steps - settings['padding'][axis]  # (k, size)
        start = start[:, None, :, None] if axis == 0 else start[None, :, None, :]
        inner[..., axis, :, :] = positions[..., axis, :, :] + start != -1
    return grad * inner.view_as(grad)


def _cast(*tensors: Tensor) -> list[Tensor]:
    dtype = working_dtype(*tensors)
    return [tensor.to(dtype) for tensor in tensors]


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    group: int,
    deformable_group: int,
    im2col_step: int,
    **settings: int,
) -> None:
    """Write the deformable convolution to ``output``.

    Args:
        input (Tensor): Shape (B, C, H, W).
        weight (Tensor): Shape (D, C / group, kH, kW).
        offset (Tensor): Shape (B, 2 * deformable_group * kH * kW, H', W').
        output (Tensor): Output, shape (B, D, H', W').
        columns (Tensor): Unused, as are ``ones`` and ``im2col_step``.
        ones (Tensor): Unused.
        group (int): Groups of input channels.
        deformable_group (int): Groups of input channels with offsets of their own.
        im2col_step (int): Unused.
        **settings (int): kW, kH, strides dW and dH, padW, padH, dilationW, dilationH.
    """
    _check(input, offset, weight, group, deformable_group)
    output.copy_(_plain(**settings)(*_cast(input, offset, weight)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    *,
    group: int,
    deformable_group: int,
    im2col_step: int,
    **settings: int,
) -> None:
    """Write the gradients of input and offset to ``gradInput`` and ``gradOffset``."""
    input, offset, weight = _cast(input, offset, weight)

    convolve = _plain(**settings)

    def forward(input: Tensor, offset: Tensor) -> Tensor:
        return convolve(input, offset, weight)

    grad_input, grad_offset = gradients(forward, [input, offset], gradOutput)
    write(gradInput, grad_input)
    write(gradOffset, _without_border(grad_offset, offset, weight, convolve))


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
    **settings: int,
) -> None:
    """Write the gradient of the weight, multiplied by ``scale``, to ``gradWeight``."""
    input, offset, weight = _cast(input, offset, gradWeight)

    def forward(weight: Tensor) -> Tensor:
        return _plain(**settings)(input, offset, weight)

    # The gradient does not depend on the value of the weight.
    (value,) = gradients(forward, [weight], gradOutput)
    write(gradWeight, value if value is None or scale == 1 else value * scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    group: int,
    deformable_group: int,
    with_bias: bool,
    **settings: int,
) -> None:
    """Write the modulated deformable convolution to ``output``.

    Args:
        input (Tensor): Shape (B, C, H, W).
        weight (Tensor): Shape (D, C / group, kernel_h, kernel_w).
        bias (Tensor): Shape (D,); unused without bias.
        ones (Tensor): Unused.
        offset (Tensor): Shape (B, 2 * deformable_group * kernel_h * kernel_w, H', W').
        mask (Tensor): Shape (B, deformable_group * kernel_h * kernel_w, H', W').
        output (Tensor): Output, shape (B, D, H', W').
        columns (Tensor): Unused.
        group (int): Groups of input channels.
        deformable_group (int): Groups of input channels with offsets of their own.
        with_bias (bool): Whether to add the bias.
        **settings (int): kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h and
            dilation_w.
    """
    _check(input, offset, weight, group, deformable_group)
    arguments = _cast(input, offset, weight, mask, *([bias] if with_bias else []))
    output.copy_(_modulated(**settings)(*arguments))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    group: int,
    deformable_group: int,
    with_bias: bool,
    **settings: int,
) -> None:
    """Write the gradients of input, weight, bias, offset and mask."""
    arguments = _cast(input, offset, weight, mask, *([bias] if with_bias else []))
    convolve = _modulated(**settings)
    found = list(gradients(convolve, arguments, grad_output))
    found[1] = _without_border(found[1], arguments[1], weight, convolve)
    for target, value in zip((grad_input, grad_offset, grad_weight, grad_mask, grad_bias), found):
        write(target, value)


def _attention(shapes: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """MMCV's own form of deformable attention in PyTorch, which it uses on CPU."""
    # Not at the top: mmcv.ops imports this stand-in.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    sizes: list[list[int]] = shapes.tolist()

    def forward(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return multi_scale_deformable_attn_pytorch(value, sizes, locations, weights)

    return forward


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: Optional[int] = None,
) -> Tensor:
    """Multi-scale deformable attention.

    Args:
        value (Tensor): Shape (B, keys, heads, width).
        value_spatial_shapes (Tensor): Height and width of each level, shape (levels, 2).
        value_level_start_index (Tensor): Unused; levels follow each other.
        sampling_locations (Tensor): x and y in [0, 1], shape (B, queries, heads, levels, points,
            2).
        attention_weights (Tensor): Shape (B, queries, heads, levels, points).
        im2col_step (int): Unused.

    Returns:
        Tensor: Shape (B, queries, heads * width).
    """
    arguments = _cast(value, sampling_locations, attention_weights)
    return _attention(value_spatial_shapes)(*arguments).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: Optional[int] = None,
) -> None:
    """Write the gradients of values, sampling locations and attention weights."""
    arguments = _cast(value, sampling_locations, attention_weights)
    targets = [grad_value, grad_sampling_loc, grad_attn_weight]
    forward = _attention(value_spatial_shapes)
    for target, found in zip(targets, gradients(forward, arguments, grad_output)):
        write(target, found)
