"""Rename our tensors to the names of other libraries, as the reading tables understand them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from .joining import part_of
from .naming import rename_released

_START = 'backbone.'


class Layout(NamedTuple):
    """Names in the files of a model of another library.

    Only lists them: what they mean is in the tables of :mod:`.naming` and :mod:`.joining`, which
    read such files.

    Attributes:
        model (str): Name of the model, for messages.
        blocks (str): Names of the blocks without their index.
        trunk (tuple[str, ...]): Names outside of the blocks.
        block (tuple[str, ...]): Names in a block, where ``.weight`` and ``.bias`` may be omitted.
        gated (bool): Whether the MLP is gated.
    """

    model: str
    blocks: str
    trunk: tuple[str, ...]
    block: tuple[str, ...]
    gated: bool = False


def rename_to(layout: Layout, vit: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a ViT, and split those that the library stores in parts.

    Args:
        layout (Layout): Names of the library.
        vit (Mapping[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.

    Returns:
        dict[str, Tensor]: By their new names.

    Raises:
        ValueError: If the library has no name for a tensor.
    """
    indices = {name.split('.')[1] for name in vit if name.startswith('layers.')}
    renamed, used = {}, set()
    for theirs, ours, index, count in _names(layout, sorted(indices, key=int)):
        if ours in vit:
            renamed[theirs] = vit[ours].chunk(count)[index]
            used.add(ours)
    unknown = [name for name in vit if name not in used]
    if unknown:
        raise ValueError(
            f'{layout.model} has no parameter for {unknown[0]}; write the network with '
            '--to safetensors'
        )
    return renamed


def _names(layout: Layout, indices: list[str]) -> Iterator[tuple[str, str, int, int]]:
    """Iterate over their names, our names, and which of how many parts of our tensor it is."""
    for theirs in layout.trunk:
        yield theirs, (rename_released(theirs) or '')[len(_START) :], 0, 1
    for part in layout.block:
        for inner in (part, f'{part}.weight', f'{part}.bias'):
            joined, index, count = part_of(inner, layout.gated)
            ours = rename_released(f'blocks.0.{joined}')
            for block in indices if ours else ():
                name = str(ours)[len(_START) :].replace('layers.0.', f'layers.{block}.', 1)
                yield f'{layout.blocks}.{block}.{inner}', name, index, count


_TIMM_TRUNK = (
    'cls_token',
    'pos_embed',
    'reg_token',
    'patch_embed.proj.weight',
    'patch_embed.proj.bias',
    'norm.weight',
    'norm.bias',
)
_TIMM_BLOCK = ('norm1', 'norm2', 'attn.proj', 'attn.q_norm', 'attn.k_norm')
_HF_TRUNK = ('embeddings.cls_token', 'embeddings.register_tokens')
_HF_PATCHES = 'embeddings.patch_embeddings.'
_HF_VIT_TRUNK = (
    *_HF_TRUNK,
    'embeddings.position_embeddings',
    f'{_HF_PATCHES}projection.weight',
    f'{_HF_PATCHES}projection.bias',
    'layernorm.weight',
    'layernorm.bias',
)
_HF_VIT_ATTENTION = (
    'attention.attention.query',
    'attention.attention.key',
    'attention.attention.value',
    'attention.output.dense',
)


def timm_vit(gated: bool) -> Layout:
    """Names of timm's ``VisionTransformer``, whose gated MLPs are packed."""
    block = (*_TIMM_BLOCK, 'attn.qkv', 'ls1.gamma', 'ls2.gamma', 'mlp.fc1', 'mlp.fc2')
    return Layout('the ViT of timm', 'blocks', _TIMM_TRUNK, block, gated)


def timm_eva(gated: bool, key_bias: bool) -> Layout:
    """Names of timm's ``Eva``, its network for DINOv3."""
    qkv = ('attn.qkv',) if key_bias else ('attn.qkv.weight', 'attn.q_bias', 'attn.v_bias')
    mlp = ('mlp.fc1_g', 'mlp.fc1_x', 'mlp.fc2') if gated else ('mlp.fc1', 'mlp.fc2')
    block = (*_TIMM_BLOCK, *qkv, 'gamma_1', 'gamma_2', *mlp)
    return Layout('Eva of timm', 'blocks', _TIMM_TRUNK, block, gated)


def hf_vit() -> Layout:
    """Names of transformers' ``ViTModel``, as in its files."""
    block = ('layernorm_before', 'layernorm_after', 'intermediate.dense', 'output.dense')
    return Layout('ViTModel', 'encoder.layer', _HF_VIT_TRUNK, (*_HF_VIT_ATTENTION, *block))


def hf_dinov2(gated: bool) -> Layout:
    """Names of transformers' ``Dinov2Model`` and ``Dinov2WithRegistersModel``, as in its files."""
    mlp = ('mlp.weights_in', 'mlp.weights_out') if gated else ('mlp.fc1', 'mlp.fc2')
    block = ('norm1', 'norm2', 'layer_scale1.lambda1', 'layer_scale2.lambda1', *mlp)
    names = (*_HF_VIT_ATTENTION, *block)
    return Layout('Dinov2Model', 'encoder.layer', _HF_VIT_TRUNK, names, gated)


def hf_dinov3(gated: bool, key_bias: bool) -> Layout:
    """Names of transformers' ``DINOv3ViTModel``, as in its files."""
    trunk = (f'{_HF_PATCHES}weight', f'{_HF_PATCHES}bias', 'norm.weight', 'norm.bias')
    key = 'attention.k_proj' if key_bias else 'attention.k_proj.weight'
    attention = ('attention.q_proj', key, 'attention.v_proj', 'attention.o_proj')
    mlp = ('mlp.gate_proj',) if gated else ()
    block = ('norm1', 'norm2', 'layer_scale1.lambda1', 'layer_scale2.lambda1', *mlp)
    names = (*attention, *block, 'mlp.up_proj', 'mlp.down_proj')
    return Layout('DINOv3ViTModel', 'layer', (*_HF_TRUNK, *trunk), names, gated)
