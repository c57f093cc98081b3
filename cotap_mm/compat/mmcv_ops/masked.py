"""Columns of a convolution at the pixels of a mask only, for ``MaskedConv2d``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write what the kernel sees at some pixels to ``col``.

    Args:
        im (Tensor): One image, shape (1, C, H, W).
        mask_h_idx (Tensor): Rows of the pixels, shape (M,).
        mask_w_idx (Tensor): Columns of the pixels, shape (M,).
        col (Tensor): Output, shape (C * kernel_h * kernel_w, M).
        kernel_h (int): Height of the kernel in pixels.
        kernel_w (int): Width of the kernel in pixels.
        pad_h (int): Rows of zeros above and below the image.
        pad_w (int): Columns of zeros on both sides of the image.
    """
    # A pixel outside of the output would see pixels after the padding: kernel - 1 more zeros.
    padded = functional.pad(im[0], (pad_w, pad_w + kernel_w - 1, pad_h, pad_h + kernel_h - 1))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]  # (kh, 1, M)
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]  # (kw, M)
    col.copy_(padded[:, rows, columns].view_as(col))  # (C, kh, kw, M)


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Write columns, shape (channels, M), to pixels of ``im``, shape (1, channels, H, W)."""
    im.view(channels, height, width)[:, mask_h_idx, mask_w_idx] = col.to(im.dtype)
