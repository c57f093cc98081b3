"""Recognize networks that are not supported by the names of their tensors, to say why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor


class _Family(NamedTuple):
    """A family of networks that is not supported.

    Attributes:
        name (str): Name of the family.
        marks (tuple[str, ...]): Regular expressions; each must be found in the names.
        reason (str): Why it is not supported, and what to use instead if there is something.
        absent (str): Regular expression that no name matches; '' for none.
    """

    name: str
    marks: tuple[str, ...]
    reason: str
    absent: str = ''


_NO_CLS = 'it has no CLS token, which foreground and filter need'
# Sources: the public repositories of the authors and transformers; see docs/starting_weights.md.
_WITHOUT_ANCHOR = (  # no tensor has the name of a patch embedding that we know
    _Family(
        'CAPI',
        (r'\.residual1\.fn\.rope\.freqs$',),
        f'{_NO_CLS}, and its norms and positions are others',
    ),
    _Family(
        'the RASA head of Franca',
        (r'(^|\.)pre_pos_layers\.\d+\.weight$', r'(^|\.)pos_pred\.weight$'),
        'its backbone is in another file, without _rasa in the name',
    ),
    _Family(
        'AIMv2',
        (r'embeddings\.rms_norm\.weight$',),
        f'{_NO_CLS}, and its norms are others',
    ),
    _Family(
        'CLIP',
        (r'embeddings\.patch_embedding\.weight$', r'class_embedding$'),
        'it has a norm before the first block and another activation',
    ),
    _Family(
        'SigLIP or SigLIP 2',
        (r'embeddings\.patch_embedding\.weight$',),
        f'{_NO_CLS}; its pooled token is computed after the last block',
    ),
    _Family(
        'CLIP or Perception Encoder (PE)',
        (r'(^|\.)conv1\.weight$', r'transformer\.resblocks\.0\.'),
        'it has a norm before the first block and, in PE, rotary positions of another form',
    ),
    _Family(
        'a language model',
        (r'(word_embeddings|embed_tokens|token_embedding|wte|^shared)(\.weight)?$',),
        'it embeds words and not patches',
    ),
)
_WITH_ANCHOR = (  # in timm's names, whose files do not contain the rotary positions
    _Family(
        'Perception Encoder (PE)',
        (r'^norm_pre\.weight$', r'^attn_pool\.latent$'),
        'it has rotary positions of another form, which are not in the file',
    ),
    _Family(
        'Perception Encoder (PE)',
        (r'^norm_pre\.weight$', r'^blocks\.0\.'),
        'it has rotary positions of another form, which are not in the file',
        absent=r'^norm\.weight$',
    ),
    _Family(
        'EVA',
        (r'^pos_embed$', r'^blocks\.0\.attn\.q_bias$'),
        'its rotary positions, or norms after the layers, are not in the file',
    ),
)
#: What to use instead.
INSTEAD = 'use a ViT as in DINO, iBOT, DINOv2, DINOv3, Franca, Mugs, Leopart or MAE'
_USUAL_ROPE = (('rope_type', 'default'), ('partial_rotary_factor', 1.0))
# bitsandbytes, GPTQ and AWQ, compressed-tensors and float8, PyTorch.
_QUANTIZED = re.compile(
    r'\.(SCB|weight_format|weight\.(absmax|quant_map|quant_state\..*|nested_.*)|qweight|qzeros'
    r'|weight_scale(_inv)?|weight_packed|_packed_params.*)$'
)


def unknown_network(names: Iterable[str]) -> str:
    """Describe the network of a file in which no ViT has been found.

    Args:
        names (Iterable[str]): All names in the file.

    Returns:
        str: What it is and why it is not supported; ``''`` if it is not recognized.
    """
    family = _find(_WITHOUT_ANCHOR, list(names))
    return f'this is {family.name}: {family.reason}' if family else ''


def check_supported(tensors: Mapping[str, Tensor]) -> None:
    """Reject networks that compute more than the names of their tensors tell.

    Args:
        tensors (Mapping[str, Tensor]): Tensors of a network by timm's names, without prefix.

    Raises:
        ValueError: If the network is recognized as one of them.
    """
    family = _find(_WITH_ANCHOR, list(tensors))
    if family:
        raise ValueError(f'this is not a plain ViT: {family.name}: {family.reason}; {INSTEAD}')


def check_config(config: Mapping[str, Any]) -> None:
    """Reject a network by what its ``config.json`` states, if its tensors do not tell.

    Args:
        config (Mapping): Of transformers or timm.

    Raises:
        ValueError: If it has rotary positions of another form than those of DINOv3, or another
            activation than GELU and the SiLU of gated MLPs.
    """
    name = str(config.get('architecture', ''))
    arguments = config.get('model_args')  # an EVA with them may be a DINOv3
    is_like_dinov3 = isinstance(arguments, dict) and arguments.get('rope_type') == 'dinov3'
    if re.search(r'_rope_|^vit_pe_|^eva', name) and not is_like_dinov3:
        raise ValueError(
            f'this is not a plain ViT: {name} of timm has rotary positions of another form than '
            f'those of DINOv3; {INSTEAD}'
        )
    activation = config.get('hidden_act', 'gelu')
    gated = config.get('use_gated_mlp', config.get('use_swiglu_ffn')) is True
    if activation not in ('gelu', 'gelu_python', 'silu' if gated else 'gelu'):
        raise ValueError(
            f'config.json: hidden_act must be gelu, or silu with a gated MLP, got {activation!r}; '
            f'{INSTEAD}'
        )
    if config.get('model_type') == 'dinov3_vit':
        _check_rope(config)


def _check_rope(config: Mapping[str, Any]) -> None:
    """Reject options of rotary positions that are unknown or have another effect than ours."""
    inner = config.get('rope_parameters')
    stated = [item for item in config.items() if item[0].startswith('rope_')]
    if isinstance(inner, dict):
        stated = [item for item in stated if item[0] != 'rope_parameters'] + list(inner.items())
    for key, value in stated:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key == 'rope_theta' and value is not None:
            is_fine = is_number and value > 1
        else:
            is_fine = value is None or (key, value) in _USUAL_ROPE
        if not is_fine:
            raise ValueError(
                'config.json: of the rotary positions, only rope_theta (a number above 1) can be '
                f'chosen, got {key}={value!r}; use a network with the positions of DINOv3'
            )


def check_not_quantized(tensors: Mapping[str, Tensor]) -> None:
    """Reject quantized weights.

    Args:
        tensors (Mapping[str, Tensor]): Tensors of a network by their names.

    Raises:
        ValueError: If a weight consists of integers, or a tensor of a quantizer is present.
    """
    for name, value in tensors.items():
        is_integer = name.endswith('.weight') and value.dtype in (torch.int8, torch.uint8)
        if is_integer or _QUANTIZED.search(name):
            kind = str(value.dtype).split('.')[-1]
            raise ValueError(
                f'the weights are quantized ({name}, {kind}), but training and features need '
                'weights of 16 or 32 bits; use the file that is not quantized'
            )


def _find(families: Iterable[_Family], names: list[str]) -> Optional[_Family]:
    def some(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    for family in families:
        if all(map(some, family.marks)) and not (family.absent and some(family.absent)):
            return family
    return None
