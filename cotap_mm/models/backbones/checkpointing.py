"""Activation checkpointing of transformer blocks: whole, the MLPs only, or all but the products."""

from __future__ import annotations

import functools
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as torch_checkpoint

from cotap_mm.ops import Rotation

#: Values of ``with_cp``.
MODES = (False, True, 'mlp', 'products')


def check_mode(mode: Any) -> None:
    """Raise an error if a value of ``with_cp`` is unknown or not supported.

    Raises:
        ValueError: If the value is unknown, or PyTorch is too old for it.
    """
    if mode not in MODES:
        raise ValueError(f"with_cp must be False, True, 'mlp' or 'products', got {mode!r}")
    if mode == 'products' and not hasattr(torch_checkpoint, 'CheckpointPolicy'):
        raise ValueError(
            "with_cp='products' requires PyTorch 2.4, this is "
            f"{torch.__version__}; use with_cp='mlp' or True"
        )


def run_block(
    mode: Union[bool, str], block: nn.Module, tokens: Tensor, rotation: Optional[Rotation]
) -> Tensor:
    """Run a block on tokens (B, P + N, d); parts are recomputed in the backward pass.

    Args:
        mode (bool | str): ``with_cp``, see :class:`.DINOViT`.
        block (nn.Module): With ``ln1``, ``attn``, ``ln2`` and ``ffn``.
        tokens (Tensor): Shape (B, P + N, d).
        rotation (Rotation, optional): Rotary positions.
    """
    if not mode or not tokens.requires_grad:
        return block(tokens, rotation)
    if mode == 'mlp':
        tokens = tokens + block.attn(block.ln1(tokens), rotation)
        return _recomputed(lambda x: block.ffn(block.ln2(x), identity=x), tokens)
    if mode == 'products':
        contexts = functools.partial(torch_checkpoint.create_selective_checkpoint_contexts, _policy)
        return _recomputed(block, tokens, rotation, context_fn=contexts)
    return _recomputed(block, tokens, rotation)


def _recomputed(part: Any, *inputs: Any, **options: Any) -> Tensor:
    return torch_checkpoint.checkpoint(part, *inputs, use_reentrant=False, **options)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Keep the results of matrix products and attention, which take the time."""
    kinds = torch_checkpoint.CheckpointPolicy
    return kinds.MUST_SAVE if operator in _products() else kinds.PREFER_RECOMPUTE


@functools.cache
def _products() -> frozenset:
    aten = torch.ops.aten
    names = (
        *('mm', 'addmm', 'bmm', 'baddbmm', '_scaled_dot_product_flash_attention'),
        *('_scaled_dot_product_efficient_attention', '_scaled_dot_product_cudnn_attention'),
        '_scaled_dot_product_flash_attention_for_cpu',
    )
    return frozenset(getattr(aten, name).default for name in names if hasattr(aten, name))
