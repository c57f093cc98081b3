"""Rename tensors to the names of other libraries.

Other libraries have a final layer norm after the last block; CoTAP does not. Where a library
requires one, it gets weight 1 and bias 0, and its features *before* that norm equal ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

_TIMM = {
    'patch_embed.projection': 'patch_embed.proj',
    'ln1': 'norm1',
    'ln2': 'norm2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'ffn.layers.0.0': 'mlp.fc1',
    'ffn.layers.1': 'mlp.fc2',
    'attn.gamma1': 'ls1',
    'ffn.gamma2': 'ls2',
}
_HF = {
    'patch_embed.projection': 'embeddings.patch_embeddings.projection',
    'ln1': 'layernorm_before',
    'ln2': 'layernorm_after',
    'attn.proj': 'attention.output.dense',
    'ffn.layers.0.0': 'intermediate.dense',
    'ffn.layers.1': 'output.dense',
}


def to_mmseg(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the names of ``mmseg.VisionTransformer``.

    Build it with ``patch_bias=True`` and ``norm_cfg=dict(type='LN', eps=1e-6)``, which are not
    its defaults.

    Args:
        vit (dict[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.

    Returns:
        dict[str, Tensor]: The same tensors by their new names.
    """
    renamed = {}
    for name, value in vit.items():
        name = name.replace('.attn.qkv.', '.attn.attn.in_proj_').replace(
            '.attn.proj.', '.attn.attn.out_proj.'
        )
        renamed[name] = value
    return renamed


def to_timm(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the names of timm's VisionTransformer, DINO and iBOT.

    Args:
        vit (dict[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.

    Returns:
        dict[str, Tensor]: By their new names, with a final norm.

    Raises:
        ValueError: If timm has no such parameter.
    """
    renamed = {}
    for name, value in vit.items():
        if name in ('cls_token', 'pos_embed'):
            renamed[name] = value
            continue
        where, inner, kind = _split(name)
        theirs = 'norm' if _is_final_norm(name) else _known(inner, _TIMM, name, 'timm')
        kind = 'gamma' if theirs in ('ls1', 'ls2') else kind
        renamed[f'{where}{theirs}.{kind}'] = value
    return {**_plain_norm('norm', vit), **renamed}


def to_hf(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the names of Hugging Face's ``ViTModel``, and split query, key and value.

    Args:
        vit (dict[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.

    Returns:
        dict[str, Tensor]: By their new names, with a final norm.

    Raises:
        ValueError: If ``ViTModel`` has no such parameter.
    """
    renamed = {
        'embeddings.cls_token': vit['cls_token'],
        'embeddings.position_embeddings': vit['pos_embed'],
    }
    for name, value in vit.items():
        if name in ('cls_token', 'pos_embed'):
            continue
        where, inner, kind = _split(name)
        where = where.replace('blocks.', 'encoder.layer.')
        if inner == 'attn.qkv':
            for part, piece in zip(('query', 'key', 'value'), value.chunk(3)):
                renamed[f'{where}attention.attention.{part}.{kind}'] = piece
        else:
            theirs = (
                'layernorm'
                if _is_final_norm(name)
                else _known(inner, _HF, name, 'Hugging Face ViT')
            )
            renamed[f'{where}{theirs}.{kind}'] = value
    return {**_plain_norm('layernorm', vit), **renamed}


def _is_final_norm(name: str) -> bool:
    return name.startswith('ln1.')


def _split(name: str) -> tuple[str, str, str]:
    """Split ``'layers.3.attn.qkv.weight'`` into ``'blocks.3.', 'attn.qkv', 'weight'``."""
    inner, kind = name.rsplit('.', 1)
    if not inner.startswith('layers.'):
        return '', inner, kind
    _, index, inner = inner.split('.', 2)
    return f'blocks.{index}.', inner, kind


def _known(inner: str, names: dict[str, str], name: str, library: str) -> str:
    if inner not in names:
        raise ValueError(f'{library} has no parameter for {name}')
    return names[inner]


def _plain_norm(name: str, vit: dict[str, Tensor]) -> dict[str, Tensor]:
    width = vit['cls_token'].shape[-1]
    return {f'{name}.weight': torch.ones(width), f'{name}.bias': torch.zeros(width)}


_NOT_PLAIN = (
    ('register_tokens', 'registers'),
    ('rope.periods', 'rotary positions'),
    ('layers.0.attn.q_norm.weight', 'norms of queries and keys'),
    ('layers.0.ffn.w12.weight', 'a gated MLP'),
)


def check_plain(vit: Mapping[str, Tensor], library: str) -> None:
    """Reject a network that the plain ViT of another library cannot compute.

    Args:
        vit (Mapping[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.
        library (str): Name for the message.

    Raises:
        ValueError: If the network has parts that the library's ViT does not have.
    """
    parts = [what for name, what in _NOT_PLAIN if name in vit]
    if parts:
        raise ValueError(
            f'the ViT of {library} has no {" and no ".join(parts)}; write it for this package, '
            'with --to safetensors, onnx or torchscript'
        )


def check_out(out: Path, endings: Sequence[str], overwrite: bool) -> None:
    """Reject an output path with a wrong suffix, or one that exists.

    Args:
        out (Path): File to write.
        endings (Sequence[str]): Valid suffixes.
        overwrite (bool): Whether ``out`` may exist.

    Raises:
        FileExistsError: If ``out`` exists and ``overwrite`` is False.
        ValueError: If ``out`` has another suffix.
    """
    if out.suffix not in endings:
        raise ValueError(f'the output must be named *{" or *".join(endings)}, got {out.name}')
    if out.exists() and not overwrite:
        raise FileExistsError(
            f'{out} exists; give another name, or replace it (overwrite=True, --overwrite)'
        )
