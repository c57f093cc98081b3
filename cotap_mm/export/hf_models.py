"""Networks of transformers: which of its models fits, its config, and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cotap_mm.weights.formats.writing import Layout, hf_dinov2, hf_dinov3, hf_vit, rename_to

from .state_dicts import (
    check_parts,
    check_periods,
    has_key_bias,
    is_gated,
    with_plain_norm,
    with_unit_scales,
)

_LARGEST_RATIO = 64


class HfModel(NamedTuple):
    """A model of transformers.

    Attributes:
        name (str): Its class.
        model_type (str): Its name in ``config.json``.
        norm (str): Attribute of the final norm.
        rule (str): How it resizes position embeddings, see
            :data:`cotap_mm.ops.position.RESIZE_RULES`.
    """

    name: str
    model_type: str
    norm: str = 'layernorm'
    rule: str = 'size'


_VIT = HfModel('ViTModel', 'vit')
_DINOV2 = HfModel('Dinov2Model', 'dinov2')
_REGISTERS = HfModel('Dinov2WithRegistersModel', 'dinov2_with_registers', rule='antialias')
_DINOV3 = HfModel('DINOv3ViTModel', 'dinov3_vit', norm='norm')


def hf_model(architecture: dict[str, Any]) -> HfModel:
    """Choose the model of transformers that has all parts of a network.

    Args:
        architecture (dict): See :func:`cotap_mm.weights.architecture.architecture_of`.

    Returns:
        HfModel: The one with the fewest other parts.
    """
    if 'rope' in architecture:
        return _DINOV3
    if 'num_registers' in architecture:
        return _REGISTERS
    gated = architecture['arch'].get('ffn') == 'swiglu'
    return _DINOV2 if gated or 'layer_scale_init_value' in architecture else _VIT


def to_hf(vit: Mapping[str, Tensor], architecture: dict[str, Any]) -> dict[str, Tensor]:
    """Rename tensors to the names in files of transformers.

    Args:
        vit (Mapping[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.
        architecture (dict): See :func:`cotap_mm.weights.architecture.architecture_of`.

    Returns:
        dict[str, Tensor]: By their new names, with a final norm, and the mask token and LayerScale
        that the model requires.

    Raises:
        ValueError: If transformers has no such network.
    """
    check_parts(vit, 'hf')
    model, width = hf_model(architecture), architecture['arch']['embed_dims']
    full, extra = with_plain_norm(vit), {}
    if model is not _VIT:
        full = with_unit_scales(full)
        shape = (1, 1, width) if model is _DINOV3 else (1, width)
        extra = {'embeddings.mask_token': torch.zeros(shape)}
    if model is _DINOV3:
        check_periods(vit, architecture['rope']['theta'], 'transformers')
        del full['rope.periods']
        if 'register_tokens' not in vit:
            extra['embeddings.register_tokens'] = torch.zeros(1, 0, width)
    return {**rename_to(_layout(model, vit), full), **extra}


def hf_config(architecture: dict[str, Any], key_bias: bool = False) -> dict[str, Any]:
    """Build the content of ``config.json`` of a model of transformers.

    Args:
        architecture (dict): See :func:`cotap_mm.weights.architecture.architecture_of`.
        key_bias (bool): Whether the keys have a bias; only read with rotary positions. Defaults to
            False.

    Returns:
        dict: Can be written as JSON.

    Raises:
        ValueError: If the model has no such MLP, or no position embeddings of such a grid.
    """
    model, arch = hf_model(architecture), architecture['arch']
    config: dict[str, Any] = dict(
        architectures=[model.name],
        model_type=model.model_type,
        hidden_size=arch['embed_dims'],
        num_hidden_layers=arch['num_layers'],
        num_attention_heads=arch['num_heads'],
        hidden_act='gelu',
        layer_norm_eps=arch.get('norm_eps', 1e-6),
        image_size=architecture['img_size'],
        patch_size=architecture['patch_size'],
        num_channels=architecture['in_channels'],
    )
    gated, bias = arch.get('ffn') == 'swiglu', architecture['qkv_bias']
    if model is _DINOV3:
        return dict(
            config,
            hidden_act='silu' if gated else 'gelu',
            intermediate_size=arch['feedforward_channels'],
            use_gated_mlp=gated,
            num_register_tokens=architecture.get('num_registers', 0),
            rope_theta=architecture['rope']['theta'],
            **dict(query_bias=bias, key_bias=key_bias, value_bias=bias),
            **_layer_scale(architecture),
        )
    config.update(qkv_bias=bias, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if model is _VIT:
        return dict(config, intermediate_size=arch['feedforward_channels'])
    _check_square(model, architecture)
    if model is _REGISTERS:
        config['num_register_tokens'] = architecture['num_registers']
    config.update(mlp_ratio=_ratio(arch, model, gated), use_swiglu_ffn=gated)
    return {**config, **_layer_scale(architecture)}


def _layout(model: HfModel, vit: Mapping[str, Tensor]) -> Layout:
    if model is _DINOV3:
        return hf_dinov3(is_gated(vit), has_key_bias(vit))
    return hf_vit() if model is _VIT else hf_dinov2(is_gated(vit))


def _layer_scale(architecture: dict[str, Any]) -> dict[str, Any]:
    return dict(layerscale_value=architecture.get('layer_scale_init_value', 1.0))


def _check_square(model: HfModel, architecture: dict[str, Any]) -> None:
    size = architecture['img_size']
    if not isinstance(size, int):
        raise ValueError(
            f'{model.name} of transformers requires a square grid of position embeddings, got '
            f'those of {size[0]} x {size[1]} pixels; use --to timm, safetensors, onnx or '
            'torchscript'
        )


def _ratio(arch: dict[str, Any], model: HfModel, gated: bool) -> int:
    """Find the integer from which the model computes the hidden channels of its MLP."""
    width, hidden = arch['embed_dims'], arch['feedforward_channels']
    for ratio in range(1, _LARGEST_RATIO):
        channels = width * ratio
        if hidden == ((int(channels * 2 / 3) + 7) // 8 * 8 if gated else channels):
            return ratio
    kind = 'two thirds of a multiple of the width, rounded up to 8' if gated else 'a multiple of it'
    raise ValueError(
        f'{model.name} of transformers has MLPs of {kind} for a width of {width}, got '
        f'{hidden} channels; use --to timm, safetensors, onnx or torchscript'
    )
