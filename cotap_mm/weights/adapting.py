"""Adapt renamed tensors to what our networks compute with: positions, periods, normalization."""

from __future__ import annotations

import math
import re
from typing import Any, Optional

import torch
from torch import Tensor

from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD

from .architecture import DINOV3_THETA, heads_of, stated_arch, stated_grid

# Parts that a file can state as added, see cotap_mm.export.state_dicts.added.
_ADDED = {
    'final_norm': re.compile(r'backbone\.ln1\.'),
    'layer_scale': re.compile(r'backbone\.layers\.\d+\.(attn\.gamma1|ffn\.gamma2)\.'),
}


def add_periods(tensors: dict[str, Tensor], meta: Optional[dict] = None) -> dict[str, Tensor]:
    """Add the periods of rotary positions, which transformers and timm do not store.

    Args:
        tensors (dict[str, Tensor]): In the layout of the algorithm.
        meta (dict, optional): ``meta`` of the checkpoint, which may state the periods, or their
            base; by default it is 100, as in DINOv3.

    Returns:
        dict[str, Tensor]: The tensors with ``backbone.rope.periods``, float32.

    Raises:
        ValueError: If the stated periods are invalid.
    """
    width = tensors['backbone.patch_embed.projection.weight'].shape[0]
    count = width // heads_of(tensors, meta) // 4
    rope = stated_arch(meta or {}).get('rope')
    rope = rope if isinstance(rope, dict) else {}
    stated, theta = rope.get('periods'), rope.get('theta', DINOV3_THETA)
    if stated is None:
        periods = rope_periods(count, theta if isinstance(theta, (int, float)) else DINOV3_THETA)
    else:
        periods = _stated_periods(stated, count)
    return {**tensors, 'backbone.rope.periods': periods}


def rope_periods(count: int, theta: float) -> Tensor:
    """Compute the periods of rotary positions, theta ** (i / count), shape (count,), float32."""
    exponents = torch.arange(count, dtype=torch.float32) / max(count, 1)
    return theta**exponents


def _stated_periods(stated: Any, count: int) -> Tensor:
    is_valid = isinstance(stated, list) and len(stated) == count
    if not (is_valid and all(type(value) in (int, float) and 0 < value < 1e9 for value in stated)):
        raise ValueError(
            f'the config must state {count} positive periods of rotary positions, one for 4 '
            f'channels of a head, got {str(stated)[:40]}; use the config of the file'
        )
    return torch.tensor(stated, dtype=torch.float32)


def without_added(tensors: dict[str, Tensor], meta: Optional[dict] = None) -> dict[str, Tensor]:
    """Remove what our export has added because another library requires it.

    Args:
        tensors (dict[str, Tensor]): In the layout of the algorithm.
        meta (dict, optional): ``meta`` of the checkpoint, which may state the added parts.

    Returns:
        dict[str, Tensor]: The tensors without an added final norm and LayerScale, unless they have
        been trained since.
    """
    stated = stated_arch(meta or {}).get('added')
    for part, pattern in _ADDED.items():
        if not isinstance(stated, list) or part not in stated:
            continue
        values = {name: value for name, value in tensors.items() if pattern.match(name)}
        if all(bool((v == float(n.endswith('weight'))).all()) for n, v in values.items()):
            tensors = {name: value for name, value in tensors.items() if name not in values}
    return tensors


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
    if stated_grid(tensors, meta) is not None:
        return tensors
    if stated_grid(tensors, meta, with_cls=False) is None:
        tensors = _fold_register_positions(tensors)
        positions = tensors['backbone.pos_embed']
        if not _is_square(positions.shape[1]):
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
