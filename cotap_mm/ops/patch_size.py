"""Resizing of patch embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32


def resize_patch_embedding(weight: Tensor, size: int) -> Tensor:
    """Resize the kernels of a patch embedding, so that resized patches give the same tokens.

    Patches x of p x p pixels become B x when they are resized to q x q pixels. The new kernel is
    the pseudo-inverse of B^T applied to the old one: then (B x) . w' = x . w for every x if
    q >= p, and as nearly as possible for random x otherwise. (Resizing the kernels themselves would
    change the size of the tokens.)

    Source: FlexiViT, https://arxiv.org/abs/2212.08013, section 3.4.

    Args:
        weight (Tensor): Kernels, shape (d, channels, p, p).
        size (int): q, new side in pixels.

    Returns:
        Tensor: Kernels, shape (d, channels, q, q).
    """
    old = weight.shape[-1]
    if size == old:
        return weight
    eye = torch.eye(old * old, dtype=torch.double).view(old * old, 1, old, old)
    resize = F.interpolate(eye, (size, size), mode='bicubic', antialias=size < old)
    matrix = torch.linalg.pinv(resize.flatten(1))  # (p*p, q*q): B^T -> its pseudo-inverse
    kernels = at_least_float32(weight).double().flatten(2).cpu()  # (d, channels, p*p)
    resized = kernels @ matrix.T
    return resized.unflatten(2, (size, size)).to(weight)
