"""Rename tensors of other projects to our names.

Our layout is the one of :class:`cotap_mm.models.CoTAP`: ``backbone.*`` with
MMPretrain's ViT names, ``neck.*``, ``head.patch.*``, ``head.cls.*``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from .joining import BLOCK, join_parts
from .unsupported import INSTEAD, check_not_quantized, check_supported

_BLOCK = {  # without .weight and .bias
    'norm1': 'ln1',
    'norm2': 'ln2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
    'mlp.w12': 'ffn.w12',
    'mlp.w3': 'ffn.w3',
    'attn.q_norm': 'attn.q_norm',
    'attn.k_norm': 'attn.k_norm',
    'layernorm_before': 'ln1',
    'layernorm_after': 'ln2',
    'attention.output.dense': 'attn.proj',
    'intermediate.dense': 'ffn.layers.0.0',
    'output.dense': 'ffn.layers.1',
    'attention.o_proj': 'attn.proj',  # transformers 5, in memory only; its files have the old names
}
_CHUNKED = re.compile(r'^blocks\.\d+\.(\d+)\.')
_LAYER_SCALE = {
    'ls1.gamma': 'attn.gamma1.weight',
    'ls2.gamma': 'ffn.gamma2.weight',
    'gamma_1': 'attn.gamma1.weight',
    'gamma_2': 'ffn.gamma2.weight',
    'layer_scale1.lambda1': 'attn.gamma1.weight',
    'layer_scale2.lambda1': 'ffn.gamma2.weight',
}
_TRUNK = {
    'cls_token': 'cls_token',
    'pos_embed': 'pos_embed',
    'patch_embed.proj.weight': 'patch_embed.projection.weight',
    'patch_embed.proj.bias': 'patch_embed.projection.bias',
    'norm.weight': 'ln1.weight',
    'norm.bias': 'ln1.bias',
    'norm_pre.weight': 'pre_norm.weight',
    'norm_pre.bias': 'pre_norm.bias',
    'embeddings.cls_token': 'cls_token',
    'embeddings.position_embeddings': 'pos_embed',
    'embeddings.patch_embeddings.projection.weight': 'patch_embed.projection.weight',
    'embeddings.patch_embeddings.projection.bias': 'patch_embed.projection.bias',
    'layernorm.weight': 'ln1.weight',
    'layernorm.bias': 'ln1.bias',
    'register_tokens': 'register_tokens',  # DINOv2
    'storage_tokens': 'register_tokens',  # DINOv3
    'reg_token': 'register_tokens',  # timm
    'embeddings.register_tokens': 'register_tokens',  # transformers
    'embeddings.patch_embeddings.weight': 'patch_embed.projection.weight',  # its DINOv3
    'embeddings.patch_embeddings.bias': 'patch_embed.projection.bias',
    'rope_embed.periods': 'rope.periods',
}
_FILTER = {'norm_in': 'norm_prototypes', 'norm_out_patch': 'norm_patch', 'norm_out_cls': 'norm_cls'}
_HEADS = ('patch', 'cls')
# Parts of other methods that CoTAP does not use.
_FOREIGN = re.compile(
    r'(head|head_dist|fc|fc_norm|classifier|decoder|decoder_.*|predictor|projection_head'
    r'|projection_heads|projector|prototypes|masked_embed|mask_token|last_layer|pooler'
    r'|local_cls_norm|projectors|rasa_head|embeddings\.mask_token|relation_blocks|queue.*|center.*)(\.|$)'
)
# LoRA of a run that can be resumed; the weights beside it are merged.
_ADAPTER = re.compile(r'\.lora_(base|down|up)$')
# Unknown tensors with these names change the output of a ViT, so they must not be skipped.
_COMPUTING = re.compile(
    r'(embeddings\.|model\.)?(blocks|layers?|encoder|patch_embed|patch_embeddings|norm_pre|pos_embed'
    r'|\w+_tokens?|rope|rel_pos)'
)


# Name segments of wrapper modules: torch.compile, FSDP, activation checkpointing, DDP and
# DataParallel, DeepSpeed, fairscale.
_WRAPPERS = frozenset(
    (
        '_orig_mod',
        '_checkpoint_wrapped_module',
        '_fsdp_wrapped_module',
        '_fpw_module',
        '_forward_module',
        '_module',
        'module',
    )
)


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Remove the segments that wrapper modules add to names.

    Args:
        names (Iterable[str]): Names in the file.

    Returns:
        dict[str, str]: New name -> name in the file.

    Raises:
        ValueError: If two names become equal, or FSDP's flattened weights are among them.
    """
    plain: dict[str, str] = {}
    for name in names:
        segments = name.split('.')
        if any(part.startswith('_flat_param') or part == 'flat_param' for part in segments):
            raise ValueError(
                f'{name!r} is a flattened shard of FSDP; save a full state dict '
                '(FullStateDictConfig, or get_model_state_dict with '
                'full_state_dict=True)'
            )
        new = '.'.join(part for part in segments if part not in _WRAPPERS)
        if new in plain:
            raise ValueError(
                f'{plain[new]!r} and {name!r} differ only in wrapper segments '
                '(torch.compile, FSDP, DDP); save the state dict of one of them'
            )
        plain[new] = name
    return plain


class Renamed(NamedTuple):
    """Renamed tensors, and the names of all others.

    Attributes:
        tensors (dict[str, Tensor]): Tensors by our names.
        unexpected (list[str]): Unknown names.
        dropped (list[str]): Names of tensors that CoTAP does not use.
        lacks_periods (bool): Whether the network has rotary positions, whose periods are not
            in the file.
    """

    tensors: dict[str, Tensor]
    unexpected: list[str]
    dropped: list[str]
    lacks_periods: bool = False


def rename(family: str, tensors: dict[str, Tensor]) -> Renamed:
    """Rename the tensors of a network to our names.

    Args:
        family (str): See :class:`cotap_mm.weights.formats.detection.DetectedViT`.
        tensors (dict[str, Tensor]): Tensors by name without prefix.

    Returns:
        Renamed: Tensors in our layout, unexpected and dropped names.

    Raises:
        ValueError: If a released head's gain is not 1 (its scores would not be
            cosines), or the network computes more than a plain ViT.
    """
    check_not_quantized(tensors)
    if family in ('cotap_mm', 'mmpretrain'):
        start = 'backbone.' if family == 'mmpretrain' else ''
        ours = {start + _from_mmseg(name): value for name, value in tensors.items()}
        dropped = [
            name
            for name in ours
            if name.startswith('backbone.')
            and (_FOREIGN.match(name[len('backbone.') :]) or _ADAPTER.search(name))
        ]
        return Renamed({n: v for n, v in ours.items() if n not in dropped}, [], dropped)
    tensors = _without_chunks(tensors)
    check_supported(tensors)
    tensors = join_parts(tensors)
    depth = 1 + max(
        (int(m.group(1)) for m in map(re.compile(r'blocks\.(\d+)\.').match, tensors) if m),
        default=-1,
    )
    renamed = Renamed({}, [], [])
    has_filter = 'neck.prototypes' in tensors  # a folder that has been published from CoTAP
    for name, value in tensors.items():
        is_ours = has_filter and name.startswith('neck.')
        new = name if is_ours else rename_released(name, depth)
        if family == 'cotap' and name.endswith('last_layer.weight_g'):
            _check_gain(name, value)
        if new is None:
            renamed.dropped.append(name)
        elif new == 'backbone.register_tokens' and not value.numel():
            renamed.dropped.append(name)  # transformers' DINOv3 without registers
        elif new:
            renamed.tensors[new] = value
        else:
            renamed.unexpected.append(name)
    surplus = [name for name in renamed.unexpected if _COMPUTING.match(name)]
    if surplus:
        raise ValueError(
            f'this is not a plain ViT: {len(surplus)} tensors affect its output and are not '
            f'supported: {", ".join(surplus[:3])}; {INSTEAD}'
        )
    return renamed._replace(lacks_periods=_lacks_periods(tensors))


def _without_chunks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the number of the chunk from ``blocks.CHUNK.INDEX.*``; index counts all blocks.

    The training code of DINOv2, also that of Franca, saves such names.

    Raises:
        ValueError: If two names become equal.
    """
    plain = {_CHUNKED.sub(r'blocks.\1.', name): value for name, value in tensors.items()}
    if len(plain) < len(tensors):
        raise ValueError(
            f'{len(tensors) - len(plain)} tensors of blocks have the same number in several '
            'chunks; save the network with its blocks numbered from 0, or download the file again'
        )
    return plain


def _lacks_periods(tensors: dict[str, Tensor]) -> bool:
    """Recognize DINOv3 in transformers' or timm's names, which have no positions at all."""
    if any(name in tensors for name in ('pos_embed', 'rope_embed.periods')):
        return False
    of_transformers = 'embeddings.patch_embeddings.weight' in tensors
    return of_transformers or ('reg_token' in tensors and 'blocks.0.gamma_1' in tensors)


def rename_released(name: str, depth: int = 12) -> Optional[str]:
    """Rename one parameter of a timm-like, released CoTAP, or Hugging Face network.

    Args:
        name (str): Name without prefix.
        depth (int): Number of blocks; only the filter norms of the last block are used.

    Returns:
        str | None: Our name; ``''`` if unknown; None if CoTAP does not use the parameter.
    """
    if name == 'kernel':
        return 'neck.prototypes'
    if name in _TRUNK:
        return 'backbone.' + _TRUNK[name]
    match = re.match(
        r'projection_heads\.([01])\.(?:projection_head\.(.+)|last_layer\.weight_v)$', name
    )
    if match:
        inner = 'mlp.' + match.group(2) if match.group(2) else 'centers'
        return f'head.{_HEADS[int(match.group(1))]}.{inner}'
    match = BLOCK.match(name)
    if match:
        index, rest = match[1].rpartition('.')[2], match[2]
        if rest in _LAYER_SCALE:
            return f'backbone.layers.{index}.{_LAYER_SCALE[rest]}'
        part, _, kind = rest.rpartition('.')
        if kind not in ('weight', 'bias'):
            return ''
        if part in _FILTER:
            return f'neck.{_FILTER[part]}.{kind}' if int(index) == depth - 1 else None
        return f'backbone.layers.{index}.{_BLOCK[part]}.{kind}' if part in _BLOCK else ''
    return None if _FOREIGN.match(name) else ''


def _from_mmseg(name: str) -> str:
    """Rename MMSegmentation's attention, the only difference to MMPretrain's names."""
    return re.sub(
        r'^(layers\.\d+\.attn)\.attn\.(in_proj_|out_proj\.)',
        lambda match: match[1] + {'in_proj_': '.qkv.', 'out_proj.': '.proj.'}[match[2]],
        name,
    )


def _check_gain(name: str, gain: Tensor) -> None:
    if not torch.allclose(gain.float(), torch.ones_like(gain, dtype=torch.float32)):
        raise ValueError(
            f'{name} must be all 1, got values from {float(gain.min()):g} to '
            f'{float(gain.max()):g}; with another gain the scores of this head would '
            'not be cosines'
        )
