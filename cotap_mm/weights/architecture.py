"""Infer the architecture of a checkpoint from its tensors and its metadata."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch
from torch import Tensor

from cotap_mm.files.config_text import assignment
from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD

from .content import check_network

_HEAD_CHANNELS = 64  # in the ViTs of DINO, iBOT, Mugs, Leopart, timm and Hugging Face


def architecture_of(
    tensors: dict[str, Tensor], meta: Optional[dict] = None, num_heads: Optional[int] = None
) -> dict[str, Any]:
    """Infer the arguments of a :class:`cotap_mm.models.CoTAPViT` that fits a checkpoint.

    The shapes of the tensors give all sizes except two. The number of attention heads is
    ``num_heads``, or else the one in the config or architecture in ``meta``, or else
    follows from 64 channels per head, as in the ViTs of the literature. The grid of the position
    embeddings follows from the image size in ``meta``, or else is square.

    Args:
        tensors (dict[str, Tensor]): In the layout of the algorithm (``backbone.*``, ``neck.*``).
        meta (dict, optional): ``meta`` of the checkpoint.
        num_heads (int, optional): Number of attention heads.

    Returns:
        dict: ``arch``, ``patch_size``, ``in_channels``, ``img_size``, ``qkv_bias``,
        ``use_filter``, and ``num_prototypes`` if there is a filter.

    Raises:
        ValueError: If the number of heads or the grid is unknown, or the network is incomplete.
    """
    check_network(tensors)
    patch = tensors['backbone.patch_embed.projection.weight']  # (d, channels, p, p)
    width, channels, size = patch.shape[:3]
    blocks = {name.split('.')[2] for name in tensors if name.startswith('backbone.layers.')}
    hidden = tensors['backbone.layers.0.ffn.layers.0.0.weight'].shape[0]
    rows, columns = stated_grid(tensors, meta) or _square_grid(tensors['backbone.pos_embed'])
    heads = _checked_heads(num_heads or _heads_in_meta(meta or {}) or _usual_heads(width), width)
    prototypes = tensors.get('neck.prototypes')
    arguments: dict[str, Any] = dict(
        arch=dict(
            embed_dims=width, num_layers=len(blocks), num_heads=heads, feedforward_channels=hidden
        ),
        patch_size=size,
        in_channels=channels,
        img_size=rows * size if rows == columns else (rows * size, columns * size),
        qkv_bias='backbone.layers.0.attn.qkv.bias' in tensors,
        use_filter=prototypes is not None,
    )
    scale = tensors.get('backbone.layers.0.attn.gamma1.weight')
    if scale is not None:
        arguments['layer_scale_init_value'] = 1e-5  # any value: the file's replaces it
    if prototypes is not None:
        arguments['num_prototypes'] = len(prototypes)
    return arguments


def stated_grid(
    tensors: dict[str, Tensor], meta: Optional[dict] = None, with_cls: bool = True
) -> Optional[tuple[int, int]]:
    """Compute the grid of the position embeddings from the ``img_size`` in ``meta``.

    Args:
        tensors (dict[str, Tensor]): In the layout of the algorithm.
        meta (dict, optional): ``meta`` of the checkpoint, with a config or an architecture.
        with_cls (bool): Whether the first position belongs to CLS. Defaults to True.

    Returns:
        tuple[int, int] | None: Rows and columns; None if no size is stated, or if it gives
        another number of patches.
    """
    patch, positions = (
        tensors.get(f'backbone.{name}') for name in ('patch_embed.projection.weight', 'pos_embed')
    )
    if patch is None or positions is None or patch.ndim != 4 or positions.ndim != 3:
        return None
    stated = _stated_backbone(meta or {}).get('img_size')
    sides = [stated] * 2 if isinstance(stated, int) else stated
    if not isinstance(sides, (list, tuple)) or [type(side) for side in sides] != [int, int]:
        return None
    if min(*sides, patch.shape[2]) < 1:
        return None
    rows, columns = (-(-side // patch.shape[2]) for side in sides)  # sides are padded to patches
    return (rows, columns) if with_cls + rows * columns == positions.shape[1] else None


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
    count = positions.shape[1]
    stated = stated_grid(tensors, meta, with_cls=False)
    if stated is None and (
        stated_grid(tensors, meta) is not None or round(count**0.5) ** 2 != count
    ):
        return tensors
    zeros = positions.new_zeros(1, 1, positions.shape[2])
    return {**tensors, 'backbone.pos_embed': torch.cat([zeros, positions], dim=1)}


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


def _square_grid(positions: Tensor) -> tuple[int, int]:
    count = positions.shape[1] - 1
    side = round(max(count, 0) ** 0.5)
    if not side or side**2 != count:
        raise ValueError(
            f'the {count} position embeddings are not a square grid, and the checkpoint does '
            'not state img_size; give a checkpoint saved by MMEngine, whose meta has the config'
        )
    return side, side


def _usual_heads(width: int) -> int:
    if width % _HEAD_CHANNELS:
        raise ValueError(
            f'the number of attention heads of a ViT of width {width} cannot be inferred '
            'from its weights; pass num_heads=...'
        )
    return width // _HEAD_CHANNELS


def _checked_heads(heads: Any, width: int) -> int:
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or width % heads:
        raise ValueError(
            f'num_heads must divide the width {width}, got {heads!r}; pass num_heads=...'
        )
    return heads


def _heads_in_meta(meta: dict) -> Optional[int]:
    arch = _stated_backbone(meta).get('arch')
    if isinstance(arch, dict):
        return arch.get('num_heads')
    if isinstance(arch, str):
        from mmpretrain.models import VisionTransformer

        return VisionTransformer.arch_zoo.get(arch, {}).get('num_heads')
    return None


def _stated_backbone(meta: dict) -> dict:
    """Return the arguments of the backbone that a training config or an exported file states."""
    if isinstance(meta.get('architecture'), dict):
        return meta['architecture']
    text = meta.get('cfg', '')
    backbone = assignment(text if isinstance(text, str) else '', 'model').get('backbone')
    return backbone if isinstance(backbone, dict) else {}
