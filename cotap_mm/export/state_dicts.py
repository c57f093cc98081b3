"""What the networks of other libraries can hold, and how their tensors are named.

Other libraries have a final layer norm after the last block; CoTAP does not. Where a library
requires one, it gets weight 1 and bias 0, and its features *before* that norm equal ours. Where one
requires LayerScale, it gets ones, which change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from cotap_mm.weights.adapting import rope_periods

_PARTS = {
    'register_tokens': 'registers',
    'rope.periods': 'rotary positions',
    'layers.0.attn.q_norm.weight': 'norms of queries and keys',
    'layers.0.ffn.w12.weight': 'gated MLPs',
    'layers.0.attn.gamma1.weight': 'LayerScale',
    'pre_norm.weight': 'norm before the blocks',
}
_MODERN = tuple(_PARTS)[:4]
#: Parts that no network of a library has.
_LACKING: dict[str, tuple[str, ...]] = {
    'timm': ('pre_norm.weight',),
    'hf': ('layers.0.attn.q_norm.weight', 'pre_norm.weight'),
    'mmpretrain': _MODERN,
    'mmseg': tuple(_PARTS),
}
#: Relative error of a number that is rounded to bfloat16.
_ROUNDING = 2.0**-8


def check_parts(vit: Mapping[str, Tensor], library: str) -> None:
    """Reject a network with parts that the ViTs of another library do not have.

    Args:
        vit (Mapping[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.
        library (str): ``'timm'``, ``'hf'``, ``'mmpretrain'`` or ``'mmseg'``.

    Raises:
        ValueError: With the parts and the formats that have them.
    """
    lacking = [_PARTS[name] for name in _LACKING[library] if name in vit]
    if lacking:
        others = [
            other for other, names in _LACKING.items() if not any(name in vit for name in names)
        ]
        name = 'transformers' if library == 'hf' else library
        raise ValueError(
            f'the ViTs of {name} have no {_either(lacking)}, which this network has; use '
            f'--to {_either([*others, "safetensors", "onnx", "torchscript"])}'
        )


def _either(words: list[str]) -> str:
    """Join words: ``'a, b or c'``."""
    return ' or '.join([', '.join(words[:-1]), words[-1]] if len(words) > 1 else words)


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


def is_gated(vit: Mapping[str, Tensor]) -> bool:
    """Tell whether the MLPs are gated."""
    return 'layers.0.ffn.w12.weight' in vit


def has_key_bias(vit: Mapping[str, Tensor]) -> bool:
    """Tell whether the keys have a bias that is not zero."""
    biases = (value for name, value in vit.items() if name.endswith('.attn.qkv.bias'))
    return any(bool(bias.chunk(3)[1].any()) for bias in biases)


def with_plain_norm(vit: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add a final norm of weight 1 and bias 0, unless there is one."""
    width = vit['cls_token'].shape[-1]
    return {'ln1.weight': torch.ones(width), 'ln1.bias': torch.zeros(width), **vit}


def with_unit_scales(vit: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add LayerScale of 1, unless there is LayerScale."""
    blocks = {name.split('.')[1] for name in vit if name.startswith('layers.')}
    ones = torch.ones(vit['cls_token'].shape[-1])
    names = ('attn.gamma1', 'ffn.gamma2')
    scales = {f'layers.{i}.{name}.weight': ones for i in sorted(blocks, key=int) for name in names}
    return {**scales, **vit}


def check_periods(vit: Mapping[str, Tensor], theta: float, library: str) -> None:
    """Reject rotary positions whose periods another library does not compute.

    Args:
        vit (Mapping[str, Tensor]): Tensors by the names of ``mmpretrain.VisionTransformer``.
        theta (float): Base of the periods.
        library (str): Name for the message.

    Raises:
        ValueError: If a period differs by more than the rounding to bfloat16.
    """
    periods = vit['rope.periods'].float()
    wanted = rope_periods(len(periods), theta)
    error = ((periods - wanted) / wanted).abs()
    if error.max() > _ROUNDING:
        index = int(error.argmax())
        raise ValueError(
            f'{library} computes the periods of rotary positions as theta ** (i / n), which gives '
            f'{float(wanted[index]):.4g} for i={index}, n={len(periods)} and theta={theta:g}, got '
            f'{float(periods[index]):.4g}; use --to safetensors, onnx or torchscript'
        )


def stored_periods(vit: Mapping[str, Tensor], theta: float) -> Optional[list[float]]:
    """Periods that a file must state, since they are not exactly those of ``theta``.

    DINOv3's own files have periods that are rounded to bfloat16.
    """
    periods = vit.get('rope.periods')
    if periods is None or torch.equal(periods.float(), rope_periods(len(periods), theta)):
        return None
    return periods.tolist()


def added(vit: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> list[str]:
    """List the parts of a written network that change nothing, which our reader removes.

    Args:
        vit (Mapping[str, Tensor]): The network.
        written (Mapping[str, Tensor]): Tensors by the names of the other library.

    Returns:
        list[str]: ``'final_norm'``, ``'layer_scale'``, both or none.
    """
    has_norm = any(name in written for name in ('norm.weight', 'layernorm.weight'))
    has_scale = any(name.endswith('.lambda1') for name in written)
    parts = dict(
        final_norm=has_norm and 'ln1.weight' not in vit,
        layer_scale=has_scale and 'layers.0.attn.gamma1.weight' not in vit,
    )
    return [part for part, is_added in parts.items() if is_added]


def with_periods(architecture: dict[str, Any], vit: Mapping[str, Tensor]) -> dict[str, Any]:
    """Add to an architecture the periods that :func:`stored_periods` returns."""
    rope = architecture.get('rope')
    periods = None if rope is None else stored_periods(vit, rope['theta'])
    if rope is None or periods is None:
        return architecture
    return {**architecture, 'rope': {**rope, 'periods': periods}}


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
