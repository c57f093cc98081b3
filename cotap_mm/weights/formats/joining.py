"""Join tensors that other projects store in parts: query, key and value, gate and value."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

#: Names of the blocks in files: timm and the authors; transformers.
BLOCK = re.compile(r'((?:blocks|encoder\.layer|layers|(?:model\.)?layer)\.\d+)\.(.+)$')
_QKV = re.compile(r'attention\.(?:attention\.(query|key|value)|(q|k|v)_proj)\.(\w+)$')
_SHORT = dict(q='query', k='key', v='value')
_PARTS = ('query', 'key', 'value')
# Gate, value and output of a gated MLP; the first two may be one tensor, gate first.
_GATED = (
    ('mlp.w1', 'mlp.w2', 'mlp.w3'),  # DINOv3
    ('mlp.fc1_g', 'mlp.fc1_x', 'mlp.fc2'),  # timm
    ('mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj'),  # transformers
)
_RENAMED = {  # transformers: a gated MLP of DINOv2, an MLP of DINOv3
    'mlp.weights_in': 'mlp.w12',
    'mlp.weights_out': 'mlp.w3',
    'mlp.up_proj': 'mlp.fc1',
    'mlp.down_proj': 'mlp.fc2',
}
_PACKED = {'mlp.fc1': 'mlp.w12', 'mlp.fc2': 'mlp.w3'}  # timm: gate and value in one tensor
_BIASES = ('attn.q_bias', 'attn.v_bias')  # timm, without a bias of the keys


def join_parts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the parts of each block, under the names of DINOv2 (``attn.qkv``, ``mlp.w12``).

    Biases of query and value without one of the key get zeros for it.

    Args:
        tensors (Mapping[str, Tensor]): Tensors of a network by name without prefix.

    Returns:
        dict[str, Tensor]: All tensors; those outside of blocks are unchanged.

    Raises:
        ValueError: If a part is missing.
    """
    joined: dict[str, Tensor] = {}
    blocks: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        match = BLOCK.match(name)
        if match:
            blocks.setdefault(match[1], {})[match[2]] = value
        else:
            joined[name] = value
    # Only DINOv3 has no bias for keys; elsewhere, it has been lost.
    without_key_bias = 'embeddings.patch_embeddings.weight' in tensors and not any(
        name.endswith('attention.k_proj.bias') for name in tensors
    )
    for start, block in blocks.items():
        block = _join_biases(_join_qkv(start, block, without_key_bias))
        block = _join_gate(start, _mask_key_bias(block))
        joined.update({f'{start}.{name}': value for name, value in block.items()})
    return joined


def part_of(name: str, gated: bool) -> tuple[str, int, int]:
    """Return which part of which joined tensor a tensor of a block is.

    Args:
        name (str): Name in the block, e.g. ``'attention.q_proj.weight'``.
        gated (bool): Whether the MLP is gated.

    Returns:
        tuple[str, int, int]: Name of the joined tensor as in :func:`join_parts`, index of the part,
        number of parts.
    """
    match = _QKV.match(name)
    if match:
        part = _PARTS.index(match[1] or _SHORT[match[2]])
        return f'attn.qkv.{match[3]}', part, len(_PARTS)
    if name in _BIASES:
        return 'attn.qkv.bias', 2 * _BIASES.index(name), len(_PARTS)
    part_name, _, kind = name.rpartition('.')
    for parts in _GATED if gated else ():
        if part_name in parts[:2]:
            return f'mlp.w12.{kind}', parts.index(part_name), 2
        if part_name == parts[2]:
            return f'mlp.w3.{kind}', 0, 1
    return _with({**_RENAMED, **(_PACKED if gated else {})}, name), 0, 1


def _join_qkv(start: str, block: dict[str, Tensor], without_key_bias: bool) -> dict[str, Tensor]:
    """Join query, key and value, which transformers stores separately."""
    joined: dict[str, Tensor] = {}
    apart: dict[str, dict[str, Tensor]] = {}
    for name, value in block.items():
        match = _QKV.match(name)
        if match:
            apart.setdefault(match[3], {})[match[1] or _SHORT[match[2]]] = value
        else:
            joined[name] = value
    for kind, parts in apart.items():
        if kind == 'bias' and set(parts) == {'query', 'value'} and without_key_bias:
            parts['key'] = torch.zeros_like(parts['query'])
        lacking = [part for part in _PARTS if part not in parts]
        if lacking:
            raise ValueError(
                f'{start}.attn.qkv.{kind} consists of query, key and value, but the file lacks its '
                f'{" and ".join(lacking)}'
            )
        joined[f'attn.qkv.{kind}'] = torch.cat([parts[part] for part in _PARTS])
    return joined


def _join_biases(block: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the biases of query and value, which timm stores apart from the joint weight."""
    if not all(name in block for name in _BIASES):
        return block
    query, value = (block[name] for name in _BIASES)
    bias = torch.cat([query, torch.zeros_like(query), value])
    rest = {name: value for name, value in block.items() if name not in _BIASES}
    return {**rest, 'attn.qkv.bias': bias}


def _mask_key_bias(block: dict[str, Tensor]) -> dict[str, Tensor]:
    """Apply the mask that DINOv3 stores, which sets the bias of the keys to zero."""
    mask, bias = block.get('attn.qkv.bias_mask'), block.get('attn.qkv.bias')
    if mask is None or bias is None or mask.shape != bias.shape:
        return block
    rest = {name: value for name, value in block.items() if name != 'attn.qkv.bias_mask'}
    return {**rest, 'attn.qkv.bias': torch.where(mask == 0, torch.zeros_like(bias), bias)}


def _join_gate(start: str, block: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join gate and value of a gated MLP."""
    for gate, value, out in _GATED:
        if f'{gate}.weight' not in block:
            continue
        rest = {
            name: tensor
            for name, tensor in block.items()
            if name.rpartition('.')[0] not in (gate, value, out)
        }
        for kind in ('weight', 'bias'):
            found = [block.get(f'{part}.{kind}') for part in (gate, value, out)]
            if all(tensor is None for tensor in found):
                continue
            if any(tensor is None for tensor in found):
                raise ValueError(
                    f'{start}.mlp is gated by {gate}, {value} and {out}, but the file lacks the '
                    f'{kind} of one of them'
                )
            rest[f'mlp.w12.{kind}'] = torch.cat(found[:2])
            rest[f'mlp.w3.{kind}'] = found[2]
        return rest
    first, second = (block.get(f'mlp.{part}.weight') for part in ('fc1', 'fc2'))
    renamed = dict(_RENAMED)
    shapes = [() if tensor is None else tuple(tensor.shape) for tensor in (first, second)]
    if list(map(len, shapes)) == [2, 2] and shapes[0][0] == 2 * shapes[1][1]:
        renamed.update(_PACKED)
    return {_with(renamed, name): value for name, value in block.items()}


def _with(renamed: dict[str, str], name: str) -> str:
    part, _, kind = name.rpartition('.')
    return f'{renamed[part]}.{kind}' if part in renamed else name
