"""Adapt renamed tensors to what our networks compute with: positions, periods, normalization."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch
from torch import Tensor

from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD

from .architecture import DINOV3_THETA, heads_of, stated_arch, stated_grid


def add_periods(tensors: dict[str, Tensor], meta: Optional[dict] = None) -> dict[str, Tensor]:
    """Add the periods of rotary positions, which transformers and timm do not store.

    Args:
        tensors (dict[str, Tensor]): In the layout of the algorithm.
        meta (dict, optional): ``meta`` of the checkpoint, which may state the base of the periods;
            by default it is 100, as in DINOv3.

    Returns:
        dict[str, Tensor]: The tensors with ``backbone.rope.periods``, float32.
    """
    width = tensors['backbone.patch_embed.projection.weight'].shape[0]
    count = width // heads_of(tensors, meta) // 4
    theta = (stated_arch(meta or {}).get('rope') or {}).get('theta', DINOV3_THETA)
    exponents = torch.arange(count, dtype=torch.float32) / max(count, 1)
    return {**tensors, 'backbone.rope.periods': theta**exponents}


def check_key_bias(tensors: dict[str, Tensor], meta: Optional[dict] = None) -> None:
    """Reject a network with rotary positions whose keys have a bias, unless it is stated.

    DINOv3's files contain a bias for the keys and a mask that sets it to zero.

    Raises:
        ValueError: If a bias of keys is not zero.
    """
    if 'backbone.rope.periods' not in tensors or stated_arch(meta or {}).get('key_bias'):
        return
    for name, bias in tensors.items():
        if name.endswith('.attn.qkv.bias') and bias.numel() >= 3 and bias.chunk(3)[1].any():
            raise ValueError(
                f'{name} has a bias for keys, which DINOv3 sets to zero by attn.qkv.bias_mask; the '
                'file lacks these tensors. Use the complete file'
            )


def add_cls_position(tensors: dict[str, Tensor], meta: Optional[dict] = None) -> dict[str, Tensor]:
    """Prepend zeros for CLS to position embeddings that cover the patches only.

    DeiT III and timm's ``no_embed_class`` have such embeddings; the output does not change. A
    square number of positions is a grid without CLS, a square plus one is a grid with CLS.

    Args:
        tensors (dict[str, Tensor]): In the layout of the algorithm.
        meta (dict, optional): ``meta`` of the checkpoint, which may state the image size.

    Returns:
        dict[str, Tensor]: The tensors, with position embeddings of shape (1, 1 + N, d).
    """
    positions = tensors.get('backbone.pos_embed')
    if positions is None or positions.ndim != 3:
        return tensors
    tensors = _fold_register_positions(tensors)
    positions = tensors['backbone.pos_embed']
    count = positions.shape[1]
    stated = stated_grid(tensors, meta, with_cls=False)
    if stated is None and (stated_grid(tensors, meta) is not None or not _is_square(count)):
        return tensors
    zeros = positions.new_zeros(1, 1, positions.shape[2])
    return {**tensors, 'backbone.pos_embed': torch.cat([zeros, positions], dim=1)}


def _fold_register_positions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the positions of registers, which some ViTs of timm have, to the registers."""
    positions, registers = (tensors.get(f'backbone.{n}') for n in ('pos_embed', 'register_tokens'))
    if positions is None or registers is None or positions.shape[2:] != registers.shape[2:]:
        return tensors
    extra, count = registers.shape[1], positions.shape[1]
    if _is_square(count - 1) or _is_square(count) or not _is_square(count - 1 - extra):
        return tensors
    of_registers = positions[:, 1 : 1 + extra]
    return {
        **tensors,
        'backbone.register_tokens': registers + of_registers,
        'backbone.pos_embed': torch.cat([positions[:, :1], positions[:, 1 + extra :]], dim=1),
    }


def _is_square(count: int) -> bool:
    return count > 0 and round(count**0.5) ** 2 == count


def for_imagenet(tensors: dict[str, Tensor], normalization: Any) -> dict[str, Tensor]:
    """Adapt the patch embedding to images that are normalized with ImageNet's statistics.

    Everything here normalizes images that way. Some networks expect others (Google's ViTs: 0.5 for
    all channels); with the scaled patch embedding they compute the same features.

    Args:
        tensors (dict[str, Tensor]): In the layout of the algorithm.
        normalization (object): ``mean`` and ``std`` of the RGB channels, as a file states them, in
            units of 0 to 1; ignored if they are not 3 numbers each.

    Returns:
        dict[str, Tensor]: The tensors, with another patch embedding if the statistics differ.
    """
    stated = normalization if isinstance(normalization, dict) else {}
    values = [stated.get('mean'), stated.get('std')]
    weight = tensors.get('backbone.patch_embed.projection.weight')  # (d, 3, p, p)
    is_valid = all(
        isinstance(numbers, (list, tuple))
        and len(numbers) == 3
        and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        for numbers in values
    )
    if weight is None or weight.ndim != 4 or weight.shape[1] != 3 or not is_valid:
        return tensors
    mean, std = (torch.tensor(list(numbers), dtype=torch.double) for numbers in values)
    imagenet_mean, imagenet_std = (
        torch.tensor(numbers, dtype=torch.double) for numbers in (IMAGENET_MEAN, IMAGENET_STD)
    )
    if std.min() <= 0 or (torch.equal(mean, imagenet_mean) and torch.equal(std, imagenet_std)):
        return tensors
    name = 'backbone.patch_embed.projection.bias'
    bias = tensors.get(name, weight.new_zeros(len(weight))).double()
    shift = torch.einsum('dcpq,c->d', weight.double(), (imagenet_mean - mean) / std)
    scaled = weight.double() * (imagenet_std / std)[:, None, None]
    return {
        **tensors,
        'backbone.patch_embed.projection.weight': scaled.to(weight.dtype),
        name: (bias + shift).to(weight.dtype),
    }
