"""Infer the architecture of a checkpoint from its tensors and its metadata."""

from __future__ import annotations

from typing import Any, Optional

from torch import Tensor

from cotap_mm.files.config_text import assignment

from .content import check_network
from .zoo import architectures

DINOV3_THETA = 100.0
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
        ``use_filter``, and, if the network has them, ``num_prototypes``, ``num_registers``,
        ``rope`` and ``layer_scale_init_value``.

    Raises:
        ValueError: If the number of heads or the grid is unknown, or the network is incomplete.
    """
    check_network(tensors)
    patch = tensors['backbone.patch_embed.projection.weight']  # (d, channels, p, p)
    width, channels, size = patch.shape[:3]
    blocks = {name.split('.')[2] for name in tensors if name.startswith('backbone.layers.')}
    stated = stated_arch(meta or {})
    positions, periods = (tensors.get(f'backbone.{name}') for name in ('pos_embed', 'rope.periods'))
    rows, columns = (
        _stated_or_usual_size(size, meta)
        if positions is None
        else stated_grid(tensors, meta) or _square_grid(positions)
    )
    heads = _checked_heads(num_heads or heads_of(tensors, meta), width)
    prototypes, registers = tensors.get('neck.prototypes'), tensors.get('backbone.register_tokens')
    arch: dict[str, Any] = dict(
        embed_dims=width, num_layers=len(blocks), num_heads=heads, feedforward_channels=0
    )
    gated = tensors.get('backbone.layers.0.ffn.w3.weight')
    plain = tensors.get('backbone.layers.0.ffn.layers.1.weight')
    if gated is not None:
        arch.update(feedforward_channels=gated.shape[1], ffn='swiglu')
    elif plain is not None:
        arch['feedforward_channels'] = plain.shape[1]
    if 'backbone.layers.0.attn.q_norm.weight' in tensors:
        arch['qk_norm'] = True
    # Without a stated arch, rotary positions are those of DINOv3.
    eps = stated.get('norm_eps', 1e-6 if periods is None or 'embed_dims' in stated else 1e-5)
    if eps != 1e-6:
        arch['norm_eps'] = eps
    if stated.get('key_bias') is not None:
        arch['key_bias'] = stated['key_bias']
    _check_stated(stated, arch, 0 if registers is None else registers.shape[1])
    arguments: dict[str, Any] = dict(
        arch=arch,
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
    if registers is not None:
        arguments['num_registers'] = registers.shape[1]
    if periods is not None:
        arguments['rope'] = dict(theta=_theta(periods))
    return arguments


def heads_of(tensors: dict[str, Tensor], meta: Optional[dict] = None) -> int:
    """Infer the number of attention heads: as stated, by the periods, or 64 channels each.

    Raises:
        ValueError: If the width is not a multiple of 64, and nothing is stated.
    """
    width = tensors['backbone.patch_embed.projection.weight'].shape[0]
    stated = stated_arch(meta or {}).get('num_heads')
    periods = tensors.get('backbone.rope.periods')
    if stated is None and periods is not None and width % (4 * len(periods)) == 0:
        return width // (4 * len(periods))  # two angles for each period, each for two channels
    return stated or _usual_heads(width)


def _theta(periods: Tensor) -> float:
    """Infer the base of periods, theta ** (i / count); 100 if it is so up to bfloat16."""
    count = len(periods)
    if count < 2:
        return DINOV3_THETA
    theta = float(periods[-1].double()) ** (count / (count - 1))
    theta = float(f'{theta:.6g}')  # the rest is the rounding of float32
    return DINOV3_THETA if abs(theta / DINOV3_THETA - 1) < 0.02 else max(theta, 1.0 + 1e-6)


def _stated_or_usual_size(patch_size: int, meta: Optional[dict]) -> tuple[int, int]:
    """Return the grid of the stated image size, or of 224 pixels."""
    stated = _stated_backbone(meta or {}).get('img_size')
    sides = stated if isinstance(stated, (list, tuple)) else [stated] * 2
    if [type(side) for side in sides] != [int, int] or min(sides) < patch_size:
        sides = [224, 224]
    return tuple(max(1, side // patch_size) for side in sides)  # type: ignore[return-value]


def _check_stated(stated: dict[str, Any], arch: dict[str, Any], num_registers: int) -> None:
    """Reject a file that lacks parts which its config states.

    Raises:
        ValueError: If registers or the gates of the MLPs are missing.
    """
    wanted = stated.get('num_registers')
    if isinstance(wanted, int) and wanted != num_registers:
        raise ValueError(
            f'the config states {wanted} registers, but the file has {num_registers}; without its '
            'registers, a network computes other features. Use the complete file'
        )
    if stated.get('ffn') not in (None, arch.get('ffn', 'mlp')):
        raise ValueError(
            f'the config states an MLP of type {stated["ffn"]}, but the file has one of type '
            f'{arch.get("ffn", "mlp")}; use the complete file'
        )


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


def stated_arch(meta: dict) -> dict[str, Any]:
    """Return what ``meta`` states about the architecture.

    Args:
        meta (dict): ``meta`` of a checkpoint, with a training config or an ``architecture``.

    Returns:
        dict: Keys of :data:`cotap_mm.weights.zoo.OPTIONS` and of the four
        sizes, as far as they are stated.
    """
    backbone = _stated_backbone(meta)
    arch = backbone.get('arch')
    if isinstance(arch, str):
        arch = architectures().get(arch.lower())
    found = dict(arch) if isinstance(arch, dict) else {}
    for key in ('num_registers', 'rope', 'pos_resize', 'added'):
        if backbone.get(key) is not None:
            found[key] = backbone[key]
    return found


def _stated_backbone(meta: dict) -> dict:
    """Return the arguments of the backbone that a training config or an exported file states."""
    if isinstance(meta.get('architecture'), dict):
        return meta['architecture']
    text = meta.get('cfg', '')
    backbone = assignment(text if isinstance(text, str) else '', 'model').get('backbone')
    return backbone if isinstance(backbone, dict) else {}
