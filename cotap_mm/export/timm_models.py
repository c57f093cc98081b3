"""Networks of timm: which of its models fits, its config, and its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Optional

from torch import Tensor

from cotap_mm.ops.imagenet import IMAGENET_MEAN, IMAGENET_STD
from cotap_mm.weights.formats.writing import rename_to, timm_eva, timm_vit

from .state_dicts import check_parts, check_periods, has_key_bias, is_gated, with_plain_norm

#: How timm resizes position embeddings.
TIMM_RULE = 'antialias'
#: timm's name of a ViT by its width; all its sizes are in ``model_args``.
_SIZES = {192: 'tiny', 384: 'small', 768: 'base', 1024: 'large'}
_DINOV3_SIZES = {384: 'small', 1024: 'large'}
_EPS = 1e-6  # of timm's ViTs; config.json cannot state it


def to_timm(
    vit: Mapping[str, Tensor], architecture: Optional[dict[str, Any]] = None
) -> dict[str, Tensor]:
    """Rename tensors to the names of timm's ``VisionTransformer``, or ``Eva`` for rotary positions.

    With registers, the position of CLS is added to CLS, since timm's models with registers have
    positions for patches only (``no_embed_class``).

    Args:
        vit (Mapping[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.
        architecture (dict, optional): See
            :func:`cotap_mm.weights.architecture.architecture_of`; only the base of the periods of
            rotary positions is read, which is 100 by default.

    Returns:
        dict[str, Tensor]: By their new names, with a final norm.

    Raises:
        ValueError: If timm has no such network.
    """
    check_parts(vit, 'timm')
    full = with_plain_norm(vit)
    if 'rope.periods' in vit:
        rope = (architecture or {}).get('rope', {})
        check_periods(vit, rope.get('theta', 100.0), 'timm')
        del full['rope.periods']
        return rename_to(timm_eva(is_gated(vit), has_key_bias(vit)), full)
    if 'register_tokens' in vit:
        of_cls, of_patches = vit['pos_embed'][:, :1], vit['pos_embed'][:, 1:]
        full.update(cls_token=vit['cls_token'] + of_cls, pos_embed=of_patches)
    return rename_to(timm_vit(is_gated(vit)), full)


def timm_config(
    architecture: dict[str, Any], final_norm: bool, key_bias: bool = False
) -> dict[str, Any]:
    """Build the content of ``config.json`` of a model of timm.

    Args:
        architecture (dict): See :func:`cotap_mm.weights.architecture.architecture_of`.
        final_norm (bool): Whether there is a norm after the last block.
        key_bias (bool): Whether the keys have a bias; only read with rotary positions. Defaults to
            False.

    Returns:
        dict: Can be written as JSON.

    Raises:
        ValueError: If timm has no model with such norms.
    """
    arch, width = architecture['arch'], architecture['arch']['embed_dims']
    height, columns = sides(architecture)
    is_eva, channels = 'rope' in architecture, architecture['in_channels']
    arguments: dict[str, Any] = dict(
        img_size=[height, columns],
        patch_size=architecture['patch_size'],
        embed_dim=width,
        depth=arch['num_layers'],
        num_heads=arch['num_heads'],
        qkv_bias=architecture['qkv_bias'],
        init_values=architecture.get('layer_scale_init_value'),
        global_pool='token',
        dynamic_img_size=True,
        **(_eva if is_eva else _vit)(architecture, final_norm, key_bias),
    )
    if arch.get('qk_norm'):
        arguments['qk_norm'] = True
    return dict(
        architecture=_entry(architecture),
        num_classes=0,
        num_features=width,
        global_pool='token',
        layer_norm_eps=arch.get('norm_eps', _EPS),  # for cotap_mm.load
        model_args=arguments if channels == 3 else dict(arguments, in_chans=channels),
        pretrained_cfg=dict(
            input_size=[channels, height, columns],
            fixed_input_size=False,
            interpolation='bicubic',
            crop_pct=1.0,
            num_classes=0,
            first_conv='patch_embed.proj',
            classifier='head',
            mean=list(IMAGENET_MEAN),
            std=list(IMAGENET_STD),
        ),
    )


def _vit(architecture: dict[str, Any], final_norm: bool, key_bias: bool) -> dict[str, Any]:
    """Arguments of a ``VisionTransformer``."""
    arch = architecture['arch']
    # The hidden channels of a packed MLP are those of gate and value.
    hidden = arch['feedforward_channels'] * (2 if arch.get('ffn') == 'swiglu' else 1)
    arguments: dict[str, Any] = dict(
        final_norm=final_norm, mlp_ratio=_ratio(hidden, arch['embed_dims'])
    )
    if 'num_registers' in architecture:
        arguments.update(reg_tokens=architecture['num_registers'], no_embed_class=True)
    return arguments


def _eva(architecture: dict[str, Any], final_norm: bool, key_bias: bool) -> dict[str, Any]:
    """Arguments of an ``Eva``, whose other attention is for keys with a bias."""
    arch, gated = architecture['arch'], architecture['arch'].get('ffn') == 'swiglu'
    return dict(
        mlp_ratio=_ratio(arch['feedforward_channels'], arch['embed_dims']),
        swiglu_mlp=gated,
        swiglu_align_to=int(gated),  # 1 aligns to nothing, but selects the MLP whose parts we write
        attn_type='rope' if key_bias else 'eva',
        num_reg_tokens=architecture.get('num_registers', 0),
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type='dinov3',
        rope_temperature=architecture['rope']['theta'],
        rope_rotate_half=True,
        use_fc_norm=False,
        use_post_transformer_norm=final_norm,
    )


def _entry(architecture: dict[str, Any]) -> str:
    """Choose a model of timm for what its arguments cannot state: eps, and packed MLPs."""
    arch, is_eva = architecture['arch'], 'rope' in architecture
    eps = arch.get('norm_eps', _EPS)
    if eps > _EPS and not (is_eva and eps == 1e-5):
        raise ValueError(
            f'timm has no {"ViT" if is_eva else "ViT without rotary positions"} whose norms have '
            f'eps={eps:g}, only {_EPS:g}{" and 1e-05" if is_eva else ""}; use --to hf, '
            'safetensors, onnx or torchscript'
        )
    width = arch['embed_dims']
    if is_eva and eps <= _EPS:
        return 'eva02_tiny_patch14_224'
    if is_eva:
        return f'vit_{_DINOV3_SIZES.get(width, "base")}_patch16_dinov3_qkvb'
    if arch.get('ffn') == 'swiglu':
        return 'vit_giant_patch14_dinov2'
    return f'vit_{_SIZES.get(width, "base")}_patch16_224'


def _ratio(hidden: int, width: int) -> float:
    """Ratio that gives ``hidden`` when it is multiplied by ``width`` and rounded down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def sides(architecture: dict[str, Any]) -> tuple[int, int]:
    """Height and width in pixels of the images that the position embeddings are made for."""
    size = architecture['img_size']
    return (size, size) if isinstance(size, int) else (size[0], size[1])
