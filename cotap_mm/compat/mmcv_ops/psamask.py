"""Masks of point-wise spatial attention (PSANet)."""

from __future__ import annotations

import torch
from torch import Tensor

_COLLECT = 0


def _positions(
    height: int, width: int, h_mask: int, w_mask: int, half_h: int, half_w: int, device: object
) -> tuple[Tensor, Tensor]:
    """Channel of the mask for each pair of pixels, shape (H * W, H, W), and whether there is one.

    The mask of pixel (h, w) is centered on it: its element (i, j) belongs to the pixel
    (h + i - half_h, w + j - half_w).
    """
    y = torch.arange(height, device=device)  # type: ignore[call-overload]
    x = torch.arange(width, device=device)  # type: ignore[call-overload]
    row = y[:, None] - y + half_h  # (H', H)
    column = x[:, None] - x + half_w  # (W', W)
    row, column = row[:, None, :, None], column[None, :, None, :]
    inside = (row >= 0) & (row < h_mask) & (column >= 0) & (column < w_mask)
    channel = (row * w_mask + column).where(inside, torch.zeros_like(inside, dtype=row.dtype))
    return channel.flatten(0, 1), inside.flatten(0, 1)  # (H', W', H, W) -> (H' * W', H, W)


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the attention between all pairs of pixels to ``output``.

    Args:
        input (Tensor): Masks, shape (B, h_mask * w_mask, H, W).
        output (Tensor): Output, shape (B, H * W, H, W).
        psa_type (int): 0 collects: output[:, p, q] is what the mask of q gives to p. 1
            distributes: output[:, p, q] is what the mask of p gives to q.
        num_ (int): B.
        h_feature (int): H.
        w_feature (int): W.
        h_mask (int): Height of the mask.
        w_mask (int): Width of the mask.
        half_h_mask (int): Row of the mask's center.
        half_w_mask (int): Column of the mask's center.
    """
    channel, inside = _positions(
        h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, input.device
    )
    given = input.gather(1, channel.expand(num_, -1, -1, -1)) * inside  # (B, H * W, H, W)
    if psa_type != _COLLECT:
        given = given.flatten(2).transpose(1, 2)
    output.copy_(given.reshape(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the gradient of the masks to ``grad_input``."""
    channel, inside = _positions(
        h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, grad_output.device
    )
    if psa_type != _COLLECT:
        pixels = h_feature * w_feature
        square = grad_output.reshape(num_, pixels, pixels).transpose(1, 2)
        grad_output = square.reshape(num_, pixels, h_feature, w_feature)
    index = channel.expand(num_, -1, -1, -1)
    grad_input.copy_(torch.zeros_like(grad_input).scatter_add(1, index, grad_output * inside))
